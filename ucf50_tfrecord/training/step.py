"""Makes the training step: a function that updates the weights from a batch of clips, on all replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset import augment, mixing, pretext, segments
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.models import dropout
from ucf50_tfrecord.specs import TrainSpec
from ucf50_tfrecord.training.optimizer import WeightAverages


class StepResult(NamedTuple):
    """The numbers that a training step returns for the training curves.

    A compiled function returns them as a row, float32 [K], in the order of these fields. To log another
    number, add a field here, its value in `replica_step`, and its curve in `curves`.

    loss: sum of the losses of the global batch's clips, each times the clip's weight if clips have weights. With
      teachers, a clip's loss is that for its label and for their probabilities. Padding clips and skipped clips do not
      count.
    correct: number of the counted clips that are classified correctly: of a mixture, as the class of its larger part;
      with several labels per clip, those of which all classes are.
    clips: number of the counted clips.
    gradient_norm: norm of the global batch's gradient; 0 if it is not finite.
    finite: 1 if the gradient is finite, else 0.
    """

    loss: Any
    correct: Any
    clips: Any
    gradient_norm: Any
    finite: Any

    @classmethod
    def of(cls, rows: np.ndarray) -> StepResult:
        """Splits the rows of several steps, [N, K], into one array [N] per field."""
        return cls(*rows.T)

    @classmethod
    def total(cls, rows: np.ndarray) -> StepResult:
        """Sums the rows of several steps, [N, K], into one number per field."""
        return cls(*rows.sum(axis=0))

    def curves(self) -> dict[str, float]:
        """Returns the points of the training curves by tag, from numbers that `total` has summed over steps.

        Loss and accuracy are left out if no clip was counted, for example because all were skipped. The
        gradient norm is left out if no gradient was finite, as in the first steps with float16.
        """
        points = {}
        if self.clips:
            points = {"loss": self.loss / self.clips, "accuracy": self.correct / self.clips}
        if self.finite:
            points["gradient_norm"] = self.gradient_norm / self.finite
        return points


TrainStep = Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor]


def make_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    spec: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    frames: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    averages: WeightAverages | None = None,
    variables: Sequence[keras.Variable] | None = None,
) -> TrainStep:
    """Returns the compiled function that takes one training step.

    The function maps (distributed batch, step, seed) to the step's row, float32 [K], whose entries are the
    fields of StepResult. Step and seed are int64 [] on the host. The seed is an argument, not a constant of the
    compiled function, so that trainings that differ in their seed alone can share the function.

    Args:
      model: the model to train, from uint8 [B, T, H, W, 3] to logits float32 [B, C].
      optimizer: the model's optimizer, as make_optimizer returns it.
      spec: the settings of the training; its seed is ignored.
      strategy: the devices that train.
      frames: maps a replica's batch to its frames, uint8 [B, T, H, W, 3], as Feed.frames does. If there are more than
        the model takes, segments.draw_frames draws some of them.
      averages: the moving averages of the model's weights to update after the step, or None.
      variables: the weights that the step trains; None for all trainable weights of the model. If an
        encoder's weights are not among them, its backward pass is left out, too.

    Raises:
      UserError: if XLA is asked for on several devices.
    """
    num_replicas = strategy.num_replicas_in_sync
    expect(not spec.xla or num_replicas == 1, "one device if XLA compiles the step", devices=num_replicas)

    variables = model.trainable_variables if variables is None else variables
    differentiate = _make_differentiate(model, optimizer, spec, variables)

    def replica_step(batch: dict[str, tf.Tensor], step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        counts = tf.cast(batch["mask"], tf.float32)  # [B], 0 for padding clips
        random_of = {"step": step, "seed": seed, "position": batch["position"]}
        video = segments.draw_frames(  # [B, T, H, W, 3]
            frames(batch), model.input_shape[1], batch_size=spec.batch_size, **random_of
        )
        if spec.has_pretext:
            video, label = pretext.draw(video, batch_size=spec.batch_size, **random_of)
            batch = batch | {"label": label}
        video = augment.augment(video, spec=spec.augment, batch_size=spec.batch_size, **random_of)
        targets = [_target(batch, counts)]
        if spec.mixes_clips:
            video, fraction = mixing.mix(video, counts, spec=spec, **random_of)
            targets = _mixed_targets(targets[0], fraction)
        global_count = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(counts))
        count = tf.maximum(global_count, 1.0)  # no clip counts if all were skipped
        weighted = [target._replace(weight=target.weight / count) for target in targets]
        soft_target = batch["soft_target"] if spec.distills else None
        losses, correct, gradients = differentiate(video, weighted, soft_target, random_of)
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        scale = optimizer.scale_loss(tf.constant(1.0))  # the loss scale for float16; otherwise 1
        norm = tf.linalg.global_norm(gradients) / scale
        if spec.clip_norm:
            factor = spec.clip_norm / tf.maximum(norm, spec.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, variables))
        finite = tf.math.is_finite(norm)
        result = StepResult(
            loss=tf.add_n([tf.reduce_sum(own * target.weight) for own, target in zip(losses, targets)]),
            correct=tf.reduce_sum(correct * counts),
            clips=tf.reduce_sum(counts),
            # The gradient is the same on all replicas, whose results are summed.
            gradient_norm=tf.where(finite, norm, 0.0) / num_replicas,
            finite=tf.cast(finite, tf.float32) / num_replicas,
        )
        return tf.stack(result)

    @tf.function
    def train_step(batch: Any, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        sums = strategy.run(replica_step, args=(batch, step, seed))
        if averages is not None:
            averages.update(strategy, step, variables)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


class _Target(NamedTuple):
    """The classes that a replica's clips are trained towards.

    label: the classes, int32 [B]; with several labels per clip, uint8 [B, C].
    weight: what the clips' losses for these classes count, float32 [B]; 0 for clips that do not count.
    """

    label: tf.Tensor
    weight: tf.Tensor


def _target(batch: dict[str, tf.Tensor], counts: tf.Tensor) -> _Target:
    """Returns the target of a batch's clips.

    The clips' weights come with the batch, as they depend on the training's clips: a constant would tie the compiled
    function to them.
    """
    return _Target(batch["label"], counts * batch["weight"] if "weight" in batch else counts)


def _mixed_targets(target: _Target, fraction: tf.Tensor) -> list[_Target]:
    """Returns the two targets of each mixture, that of its larger part first.

    As cross entropy is linear in the target, this is the loss for the mixed target. Each part counts by the weight of its
    own class, so that with balanced weights all classes still count alike.

    Args:
      target: the target of the clips before they were mixed.
      fraction: the fraction of the clip in its mixture, float32 [B].
    """
    own = target._replace(weight=fraction * target.weight)
    donor = _Target(mixing.of_donors(target.label), weight=(1 - fraction) * mixing.of_donors(target.weight))
    is_larger = fraction >= 0.5
    return [
        _Target(*(tf.where(is_larger, *values) for values in zip(*order)))
        for order in ((own, donor), (donor, own))
    ]


def _make_differentiate(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    spec: TrainSpec,
    variables: Sequence[keras.Variable],
) -> Callable[..., tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]]:
    """Returns a function for a replica's forward and backward pass, compiled by XLA if spec.xla is set."""

    def differentiate(
        video: tf.Tensor,
        targets: list[_Target],
        soft_target: tf.Tensor | None,
        random_of: dict[str, tf.Tensor],
    ) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """Returns the clips' losses for each target, float32 [B]; 1 for right ones and 0 for others; and gradients."""
        key = dropout.RandomKey(batch_size=spec.batch_size, **random_of)
        with tf.GradientTape(watch_accessed_variables=False) as tape, dropout.random_key(key):
            tape.watch([variable.value for variable in variables])
            logits = model(video, training=True)  # float32 [B, C]
            losses = [_cross_entropy(target.label, logits, spec.label_smoothing) for target in targets]
            if soft_target is not None:
                distance = _distillation(soft_target, logits, spec.temperature)
                losses = [(1 - spec.distillation) * own + spec.distillation * distance for own in losses]
            # Gradients are summed over replicas, so this is the global batch's mean, in which clips may have weights.
            # It is not divided by the sum of the weights, which would undo them in a batch of one class.
            sums = [tf.reduce_sum(target.weight * own) for target, own in zip(targets, losses)]
            loss = optimizer.scale_loss(tf.add_n(sums))
        return losses, _correct(targets[0].label, logits), tape.gradient(loss, variables)

    return tf.function(differentiate, jit_compile=True, autograph=False) if spec.xla else differentiate


def make_train_steps(
    train_step: TrainStep, strategy: tf.distribute.Strategy
) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns a compiled function that takes several training steps in one call from the host.

    The function's arguments:
      batches: a distributed iterator.
      first_step: the index of the first step, int64 [].
      num_steps: how many steps to take, N, int32 [].
      vote: this worker's vote to stop after the call, float32 [].
      seed: the run's seed, int64 [].

    The function returns a tuple:
      rows: the steps' results, float32 [N, K], see StepResult.
      times: the times at which each step asked for its batch and received it, in seconds since 1970; float64
        [N, 2] on the host.
      votes: the votes, summed over the replicas of all workers, float32 [].
    """

    @tf.function
    def train_steps(
        batches: Iterator, first_step: tf.Tensor, num_steps: tf.Tensor, vote: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums = tf.TensorArray(tf.float32, num_steps, element_shape=[len(StepResult._fields)])
        times = tf.TensorArray(tf.float64, num_steps, element_shape=[2])
        for i in tf.range(num_steps):
            with tf.device("CPU:0"):
                asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(batches)
            with tf.control_dependencies(strategy.experimental_local_results(batch["label"])):
                with tf.device("CPU:0"):
                    arrived = tf.timestamp()
            with tf.device("CPU:0"):  # the host derives random seeds from the step
                step = first_step + tf.cast(i, tf.int64)
                times = times.write(i, tf.stack([asked, arrived]))
            sums = sums.write(i, train_step(batch, step, seed))
        votes = strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(tf.identity, args=(vote,)), axis=None
        )
        return sums.stack(), times.stack(), votes

    return train_steps


def _cross_entropy(label: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Returns each clip's cross entropy with label smoothing, float32 [B].

    The labels decide between two losses: the softmax's for one label per clip, and the sum of the classes' sigmoid
    losses for several.

    Args:
      label: the clips' classes, int32 [B]; with several labels per clip uint8 [B, C], 1 for each of a clip's classes.
      logits: the model's outputs, float32 [B, C].
      smoothing: the fraction of the target that is spread over all classes; with several labels, evenly over yes and
        no.
    """
    if label.shape.rank == 2:
        target = tf.cast(label, logits.dtype) * (1.0 - smoothing) + smoothing / 2
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
        return tf.reduce_sum(losses, axis=1)
    num_classes = logits.shape[-1]
    target = tf.one_hot(
        label, num_classes, 1.0 - smoothing + smoothing / num_classes, smoothing / num_classes
    )
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


def _distillation(soft_target: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Returns each clip's loss of knowledge distillation, float32 [B]: T² * KL(soft_target || softmax(logits / T)).

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015). The gradients of softened
    probabilities shrink by 1 / T², so that the factor T² keeps the loss's influence for every temperature. The entropy
    of the soft target has no gradient; with it, the loss is 0 for a model that predicts as its teachers do.

    Args:
      soft_target: the teachers' probabilities at the temperature T, float32 [B, C].
      logits: the model's outputs, float32 [B, C].
      temperature: T.
    """
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits(soft_target, logits / temperature)
    entropy = -tf.reduce_sum(tf.math.xlogy(soft_target, soft_target), axis=1)
    return temperature**2 * (cross_entropy - entropy)


def _correct(label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns 1 for each clip that is classified correctly and 0 for others, float32 [B].

    With several labels per clip, all of its classes must have a probability of 0.5 or more, and no others.
    """
    if label.shape.rank == 2:
        return tf.cast(tf.reduce_all((logits >= 0) == (label > 0), axis=1), tf.float32)
    return tf.cast(tf.argmax(logits, axis=1, output_type=label.dtype) == label, tf.float32)
