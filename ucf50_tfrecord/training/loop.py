"""The training loop, the whole step visible. Read `train` from top to bottom.

Keras's `fit` is not used: it does not run under MultiWorkerMirroredStrategy, and what
it restores after an interruption is the epoch, not the step.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.dataset import augment, pipeline
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, UserError, expect
from ucf50_tfrecord.training.checkpoint import Checkpoints
from ucf50_tfrecord.training.logs import TensorBoardLog
from ucf50_tfrecord.training.strategy import keras_policy

_NUM_STRIPS = 4
# Training that waits longer for input, at so many points of the curve in a row, should be told.
_MAX_WAIT_SHARE = 0.05
_WAITS_BEFORE_WARNING = 3
_MIN_WAIT_SECS = 1.0
# Steps that may be queued on the device: one runs, one is ready to follow.
_MAX_QUEUED_STEPS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands, for a progress display. Epochs count from 1.

    `scores` holds the epoch's validation scores at its end and the latest training
    values between, if there are new ones.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    epoch_done: bool = False
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls and does not decide itself.

    make_evaluator: given the model, returns what scores it after each epoch: a function
      without arguments, which returns an object with `scores` (dict of str to float, with
      "macro_f1") and `confusion` (counts [C, C]).
    report: is told after each step.
    warn: is told, in a sentence, what the user should know but need not stop for.
    should_stop: asked after each step; True saves a checkpoint and ends the loop.
    """

    make_evaluator: Callable[[keras.Model], Callable[..., Any]]
    report: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    evaluate: what Hooks.make_evaluator returned.
    wait_share: the share of the training time spent waiting for input. Like
      `clips_per_sec` it is None if no step was left to do.
    num_skipped: training clips that could not be read and were left out.
    """

    model: keras.Model
    evaluate: Callable[..., Any]
    finished: bool
    step: int
    clips_per_sec: float | None
    wait_share: float | None
    num_skipped: int
    best_macro_f1: float
    best_epoch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is logged and saved. None of it changes the trained weights."""

    run_dir: str
    log_every_steps: int = 20
    checkpoint_secs: float = 300.0


def train(
    feed: Feed,
    model_spec: ModelSpec,
    spec: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    options: RunOptions,
    hooks: Hooks,
    log: TensorBoardLog,
) -> Trained:
    """Trains a model, going on from the run's last checkpoint if it has one.

    Args:
      feed: the training clips.
      model_spec: which model.
      spec: how to train; its precision must be resolved, see strategy.choose_precision.
      strategy: the devices.
      options: where to save and how often.
      hooks: evaluation, progress and interruption.
      log: the run's TensorBoard files, closed at the end.

    Raises:
      UserError: if the checkpoint does not fit, a clip cannot be read, or the loss becomes NaN.
    """
    clips = feed.clips
    # Model and state.
    keras.utils.set_random_seed(spec.seed)
    policy = keras_policy(spec.precision)
    steps_per_epoch = pipeline.num_steps(len(clips), spec.batch_size)
    num_steps = spec.epochs * steps_per_epoch
    with strategy.scope():
        model = models.build_model(model_spec, dtype=policy)
        optimizer = make_optimizer(spec, steps_per_epoch, policy)
        optimizer.build(model.trainable_variables)
        checkpoints = Checkpoints(options.run_dir, model, optimizer)
    checkpoints.restore_last()
    first_step = step = int(checkpoints.step.numpy())

    # Input: the stream starts at the very batch that comes next.
    batches = feed.batches(batch_size=spec.batch_size, seed=spec.seed, start_step=first_step)
    train_step = make_train_step(model, optimizer, spec, strategy=strategy, frames=feed.frames)
    evaluate = hooks.make_evaluator(model)
    if first_step == 0:
        log.clips("training clips", feed.sample(min(_NUM_STRIPS, len(clips))))

    # Steps.
    meter, wait_alarm = _Meter(), _WaitAlarm(feed, hooks.warn)
    last_save = time.monotonic()
    stopped = False
    while step < num_steps and not stopped:
        epoch = step // steps_per_epoch
        meter.start_step()
        batch = next(batches)
        meter.input_arrived()
        with tf.device("CPU:0"):  # where the seeds that come of it are wanted
            step_number = tf.constant(step, tf.int64)
        meter.end_step(train_step(batch, step_number))
        step += 1
        checkpoints.step.assign(step)

        epoch_done = step % steps_per_epoch == 0
        stopped = hooks.should_stop()
        save = epoch_done or stopped or time.monotonic() - last_save > options.checkpoint_secs
        scores = {}
        if save or step % options.log_every_steps == 0:  # what is saved is always checked first
            scores = meter.read()
            if scores and not np.isfinite(scores["loss"]):
                raise UserError(
                    f"The loss is {scores['loss']} at step {step} (epoch {epoch + 1}); the last good "
                    "checkpoint is kept. A smaller --learning_rate or --precision=float32 may help."
                )
            wait_alarm.note(meter.last)
            log.scalars(
                "train",
                scores | {"learning_rate": float(tf.convert_to_tensor(optimizer.learning_rate))},
                step,
            )
        if epoch_done:
            if feed.skipped:
                log.scalars("train", {"input/skipped_clips": len(feed.skipped)}, step)
                hooks.warn(feed.describe_skipped())
            evaluation = evaluate()
            log.scalars("validation", evaluation.scores, step)
            log.confusion(evaluation.confusion, clips.manifest.classes, step)
            log.flush()
            checkpoints.save_best(evaluation.scores["macro_f1"], epoch + 1)
            scores = {"train_loss": meter.read_epoch_loss()} | evaluation.scores
        if save:
            checkpoints.save_last()
            last_save = time.monotonic()
        hooks.report(
            Progress(
                step=step,
                num_steps=num_steps,
                epoch=epoch + 1,
                num_epochs=spec.epochs,
                epoch_done=epoch_done,
                scores=scores,
            )
        )

    log.close()
    return Trained(
        model=model,
        evaluate=evaluate,
        finished=step >= num_steps,
        step=step,
        **meter.total(),
        num_skipped=len(feed.skipped),
        best_macro_f1=float(checkpoints.best_macro_f1.numpy()),
        best_epoch=int(checkpoints.best_epoch.numpy()),
    )


def make_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    spec: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    frames: Callable[[dict[str, tf.Tensor]], tf.Tensor],
) -> Callable[[Any, tf.Tensor], tf.Tensor]:
    """Returns the compiled step: (a distributed batch, step int64 [] on the host) to float32 [3].

    `frames` makes a replica's batch uint8 [B, T, H, W, 3], as Feed.frames does.

    The result is summed over the global batch: loss, correct predictions, clips.
    """

    def replica_step(batch: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        label = batch["label"]  # [B]
        counts = tf.cast(batch["mask"], tf.float32)  # [B], 0 for fillers
        video = augment.augment(  # [B, T, H, W, 3]
            frames(batch),
            batch["position"],
            spec=spec.augment,
            batch_size=spec.batch_size,
            seed=spec.seed,
            step=step,
        )
        replica = tf.distribute.get_replica_context()
        global_count = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(counts))
        global_count = tf.maximum(global_count, 1.0)  # none counts if all had to be skipped
        with tf.GradientTape() as tape:
            logits = model(video, training=True)  # float32 [B, C]
            losses = counts * _cross_entropy(label, logits, spec.label_smoothing)
            # The optimizer sums gradients over replicas, so this is the global batch's mean.
            loss = optimizer.scale_loss(tf.reduce_sum(losses) / global_count)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        correct = tf.cast(tf.argmax(logits, axis=1, output_type=label.dtype) == label, tf.float32)
        return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(correct * counts), tf.reduce_sum(counts)])

    @tf.function
    def train_step(batch: Any, step: tf.Tensor) -> tf.Tensor:
        sums = strategy.run(replica_step, args=(batch, step))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    return train_step


def make_optimizer(spec: TrainSpec, steps_per_epoch: int, policy: str) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its schedule, and loss scaling for float16."""
    learning_rate = spec.learning_rate
    if spec.schedule == "cosine":
        warmup_steps = round(spec.warmup_epochs * steps_per_epoch)
        learning_rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else spec.learning_rate,
            decay_steps=max(1, spec.epochs * steps_per_epoch - warmup_steps),
            warmup_target=spec.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    if spec.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=spec.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = keras.optimizers.Adam(learning_rate)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _cross_entropy(label: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Cross entropy with label smoothing: int32 [B], float32 [B, C] to float32 [B]."""
    num_classes = logits.shape[-1]
    target = tf.one_hot(
        label, num_classes, 1.0 - smoothing + smoothing / num_classes, smoothing / num_classes
    )
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


class _Meter:
    """Sums what the steps return, on their device, and the time that they take.

    The host runs at most a step ahead of the device. The wait for input is the time that the
    device is without work: from the end of its last step, however far ahead the host was, to the
    next batch. The first step, which compiles, is not timed, and neither is what happens between
    steps (evaluation, saving).
    """

    def __init__(self):
        self._sums = tf.zeros([3])  # since the last read: loss, correct, clips
        self._epoch_sums = np.zeros(3)
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "step")
        self._queued: collections.deque[concurrent.futures.Future] = collections.deque()  # ends of steps
        self._times, self._total = _Times(), _Times()
        self.last = _Times()  # between the last two reads
        self._untimed_clips: float | None = None  # those of the first step, once it is done
        self._started = self._asked = self._wait_secs = 0.0

    def start_step(self) -> None:
        self._started = time.perf_counter()
        if len(self._queued) == _MAX_QUEUED_STEPS:
            self._queued.popleft().result()
        self._asked = time.perf_counter()

    def input_arrived(self) -> None:
        arrived, self._wait_secs = time.perf_counter(), 0.0
        if not self._queued:
            self._wait_secs = arrived - self._asked
        elif self._queued[-1].done():
            self._wait_secs = max(0.0, arrived - max(self._asked, self._queued[-1].result()))

    def end_step(self, sums: tf.Tensor) -> None:
        self._sums += sums
        self._queued.append(self._watcher.submit(_time_of_end, sums))
        if self._untimed_clips is None:
            self._untimed_clips = float(sums[2])
        else:
            self._times.secs += time.perf_counter() - self._started
            self._times.wait_secs += self._wait_secs

    def read(self) -> dict[str, float]:
        """Returns the means since the last read, after waiting for the device.

        There are none if no clip counted, as where all had to be skipped.
        """
        started = time.perf_counter()
        sums = self._sums.numpy()
        self._times.secs += time.perf_counter() - started
        self._times.clips = float(sums[2]) - (self._untimed_clips or 0.0)
        scores = {}
        if sums[2]:
            scores = {"loss": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}
        if self._times.clips:
            scores |= {f"input/{name}": value for name, value in self._times.rates().items()}
            self._total.add(self._times)
        self._epoch_sums += sums
        self.last = self._times
        self._sums, self._times, self._untimed_clips = tf.zeros([3]), _Times(), 0.0
        return scores

    def read_epoch_loss(self) -> float:
        """Returns the mean loss since the last call; call it after `read`.

        Raises:
          UserError: if no clip of the epoch could be read.
        """
        expect(self._epoch_sums[2] > 0, "at least 1 clip that can be read", clips=int(self._epoch_sums[2]))
        loss = float(self._epoch_sums[0] / self._epoch_sums[2])
        self._epoch_sums = np.zeros(3)
        return loss

    def total(self) -> dict[str, float | None]:
        """Returns clips_per_sec and wait_share over all that was read, None if nothing was timed."""
        return self._total.rates() if self._total.clips else {"clips_per_sec": None, "wait_share": None}


def _time_of_end(sums: tf.Tensor) -> float:
    """Waits for a step's result; returns when it was there."""
    sums.numpy()
    return time.perf_counter()


@dataclasses.dataclass
class _Times:
    secs: float = 0.0
    wait_secs: float = 0.0
    clips: float = 0.0

    def add(self, other: _Times) -> None:
        self.secs += other.secs
        self.wait_secs += other.wait_secs
        self.clips += other.clips

    def rates(self) -> dict[str, float]:
        return {"clips_per_sec": self.clips / self.secs, "wait_share": self.wait_secs / self.secs}


class _WaitAlarm:
    """Warns, once, when training keeps waiting for its input."""

    def __init__(self, feed: Feed, warn: Callable[[str], None]):
        self._feed, self._warn = feed, warn
        self._waits: list[_Times] = []
        self._warned = False

    def note(self, times: _Times) -> None:
        """Takes the times since the last call."""
        waits = times.secs and times.wait_secs / times.secs > _MAX_WAIT_SHARE
        self._waits = [*self._waits, times] if waits else []
        secs, wait_secs = (sum(getattr(t, name) for t in self._waits) for name in ("secs", "wait_secs"))
        if self._warned or len(self._waits) < _WAITS_BEFORE_WARNING or wait_secs < _MIN_WAIT_SECS:
            return
        self._warned = True
        self._warn(f"training waits {wait_secs / secs:.0%} of its time for input. {self._feed.advice()}")
