"""Measures how much a trained recurrent model remembers of each frame, by gradients and by linear probes.

The gradient of an output with respect to an early frame is a product with one factor per step. In a
plain RNN, each factor is the recurrent weights times the slope of tanh: the product vanishes or
explodes with the number of steps. In an LSTM, the factors are its forget gates, which can stay near 1.
Sources: Bengio et al. 1994, "Learning Long-Term Dependencies with Gradient Descent is Difficult";
Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Pascanu et al. 2013, "On the Difficulty
of Training Recurrent Neural Networks".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.parsing import Finite, Fraction

GRADIENTS = ("loss_gradient", "logit_gradient", "memory_gradient")
GATES = ("input", "forget", "output")
_RECURRENT_LAYERS = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recurrence:
    """Measurements of how much a recurrent layer remembers of each frame.

    Every sequence has T entries, one per frame, in order of time. Gradients and gates are means over the test
    clips.

    loss_gradient: norm of the gradient of a clip's cross entropy with respect to each frame's features.
    logit_gradient: norm of the gradient of the true class's logit with respect to each frame's features.
    memory_gradient: like logit_gradient, but with the last hidden state as the classifier's only input. In
      models that average the hidden states over time, every frame has a direct path to the logit. In
      logit_gradient this path hides how much the recurrence forgets. In other models memory_gradient equals
      logit_gradient.
    memory_frames: effective length of the memory, sum(memory_gradient) / max(memory_gradient). It is 1 if
      only one frame has a gradient, T if all gradients are equal, and 0 if all gradients are 0.
    probe_accuracy: accuracy of a linear classifier per step, on the test clips. Each classifier is fitted to
      the hidden states of the training clips at its step.
    gates: for an LSTM, a dictionary from each name in GATES to the gate's activity at each step, from 0
      (closed) to 1 (open); means over the clips and the layer's outputs. Empty for other layers.
    """

    loss_gradient: tuple[Finite, ...]
    logit_gradient: tuple[Finite, ...]
    memory_gradient: tuple[Finite, ...]
    memory_frames: Finite
    probe_accuracy: tuple[Fraction, ...]
    gates: dict[Literal[GATES], tuple[Fraction, ...]]  # type: ignore[valid-type]

    def __post_init__(self):
        curves = (self.loss_gradient, self.logit_gradient, self.memory_gradient, self.probe_accuracy)
        lengths = {len(curve) for curve in (*curves, *self.gates.values())}
        expect(
            len(lengths) == 1 and lengths != {0},
            "curves of the same number of frames",
            frames=sorted(lengths),
        )


def inspect(
    stepwise: StepwiseModel,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    batch_size: int = 32,
) -> Recurrence:
    """Measures what a model's recurrent layer remembers; the model is not changed.

    Args:
      stepwise: the stepwise copy of the model. It may be an earlier copy: its weights are copied anew.
      train: tuple of clips, uint8 [N, T, H, W, 3] or features, float16 [N, T, ...], and their labels, int
        [N]. The linear probes are fitted to these.
      test: tuple of clips and labels like `train`. All measurements are made on these clips.
      batch_size: clips per step.

    Raises:
      UserError: if the clips do not fit the model, all training clips are of one class, or a hidden state is
        not finite.
    """
    expect(batch_size >= 1, "a batch of at least 1 clip", batch_size=batch_size)
    for clips in (train, test):
        _expect_clips(stepwise.model, *clips)
    _expect_classes(train[1])
    stepwise.copy_weights()
    train_states = _in_batches(stepwise.states, train[:1], batch_size)
    measured = _in_batches(stepwise.measure, test, batch_size)
    means = {name: values.mean(axis=0) for name, values in measured.items() if name != "states"}
    curves = {name: tuple(values.tolist()) for name, values in means.items()}
    return Recurrence(
        **{name: curves[name] for name in GRADIENTS},
        memory_frames=effective_frames(curves["memory_gradient"]),
        probe_accuracy=probe(train_states, train[1], measured["states"], test[1]),
        gates={name: curves[name] for name in GATES if name in curves},
    )


class StepwiseModel:
    """A copy of a recurrent model that returns the hidden state after each step.

    model: the original model.

    The original model's frame encoder computes the frames' features, in its own precision. The recurrent
    layer and the classifier are rebuilt with copies of the weights, so that they return the state at every
    step and compute in float32. Gradients through time may be smaller than the smallest number of float16
    (6e-8), and the 8 bits of bfloat16 would add noise.

    All layers run in inference mode. Gradients are with respect to the features in float32.
    """

    def __init__(self, model: keras.Model):
        """Copies the model; raises UserError unless it has exactly one SimpleRNN, LSTM or GRU layer."""
        layer, classifier = _recurrent_layer(model), model.get_layer("logits")
        self.model, self._originals = model, (layer, classifier)
        self._encoder = keras.Model(model.input, layer.input)
        self._averages = layer.return_sequences  # otherwise, the classifier gets the last state
        # [B, T, F] to [B, T, U]
        self._recurrent = _float32_copy(layer, layer.input.shape, return_sequences=True)
        self._classifier = _float32_copy(classifier, classifier.input.shape)  # [B, U] to [B, C]
        video = tf.TensorSpec(model.input.shape, model.input.dtype)
        labels = tf.TensorSpec([None], tf.int64)
        self.features = tf.function(self._features, input_signature=[video])
        self.states = tf.function(self._states, input_signature=[video])
        self.measure = tf.function(self._measure, input_signature=[video, labels])

    def copy_weights(self) -> None:
        """Copies the weights of the original's recurrent layer and classifier again; the encoder is shared."""
        for original, copy in zip(self._originals, (self._recurrent, self._classifier)):
            copy.set_weights(original.get_weights())

    def hidden(self, features: tf.Tensor) -> tf.Tensor:
        """Computes the hidden state after each step, float32 [B, T, U], from features, float32 [B, T, F]."""
        return self._recurrent(features, training=False)

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Computes the model's logits, float32 [B, C], from the hidden states, float32 [B, T, U]."""
        return self._classifier(tf.reduce_mean(states, axis=1) if self._averages else states[:, -1])

    def gates(self, features: tf.Tensor, states: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes an LSTM's gate activities, from 0 (closed) to 1 (open), at each step.

        Args:
          features: features of the frames, float32 [B, T, F].
          states: hidden states for these features, float32 [B, T, U], from `hidden`.

        Returns:
          A dictionary from the names of GATES to activities, float32 [B, T, U]; empty for other layers.
        """
        if not isinstance(self._recurrent, keras.layers.LSTM):
            return {}
        cell = self._recurrent.cell
        before = tf.pad(states[:, :-1], [[0, 0], [1, 0], [0, 0]])  # the first step starts from zeros
        sums = features @ cell.kernel + before @ cell.recurrent_kernel + cell.bias
        gate_in, forget, _, gate_out = tf.split(sums, 4, axis=-1)  # Keras's order: i, f, c, o
        opened = [cell.recurrent_activation(gate) for gate in (gate_in, forget, gate_out)]
        return dict(zip(GATES, opened, strict=True))

    def gradients(self, features: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the norms of the gradients with respect to each frame's features; see Recurrence.

        Args:
          features: features of the frames, float32 [B, T, F].
          labels: true classes of the clips, int64 [B].

        Returns:
          A dictionary from the names of GRADIENTS to norms, float32 [B, T].
        """
        # Three copies of the features, one per output, so that a single backward pass computes all gradients.
        copies = tf.concat([features] * len(GRADIENTS), axis=0)
        with tf.GradientTape() as tape:
            tape.watch(copies)
            for_loss, for_logit, for_memory = tf.split(self.hidden(copies), len(GRADIENTS))
            outputs = [
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(for_loss)),
                tf.gather(self.logits(for_logit), labels, batch_dims=1),
                tf.gather(self._classifier(for_memory[:, -1]), labels, batch_dims=1),
            ]
        # The tape sums the outputs, each [B], but a clip's features affect only the clip's own output.
        norms = tf.norm(tape.gradient(outputs, copies), axis=-1)
        return dict(zip(GRADIENTS, tf.split(norms, len(GRADIENTS)), strict=True))

    def _features(self, video: tf.Tensor) -> tf.Tensor:
        """Encodes frames: uint8 [B, T, H, W, 3] to features, float32 [B, T, F]."""
        return tf.cast(self._encoder(video, training=False), tf.float32)

    def _states(self, video: tf.Tensor) -> tf.Tensor:
        """Computes the hidden state after each step: uint8 [B, T, H, W, 3] to float32 [B, T, U]."""
        return self.hidden(self._features(video))

    def _measure(self, video: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Measures a batch of clips for `inspect`.

        Returns:
          A dictionary: "states" [B, T, U], the gradients' norms [B, T] by the names of GRADIENTS, and an
          LSTM's gate activities [B, T], means over the layer's U outputs, by the names of GATES.
        """
        features = self._features(video)
        states = self.hidden(features)
        gates = self.gates(features, states)
        means = {name: tf.reduce_mean(gate, axis=-1) for name, gate in gates.items()}
        return {"states": states, **self.gradients(features, labels), **means}


def effective_frames(gradient: Sequence[float]) -> float:
    """Returns the sum of T gradient norms divided by the largest, from 1 to T; 0 if all norms are 0."""
    largest = max(gradient)
    return float(sum(gradient) / largest) if largest else 0.0


def probe(
    train_states: np.ndarray, train_labels: np.ndarray, test_states: np.ndarray, test_labels: np.ndarray
) -> tuple[float, ...]:
    """Fits and scores linear classifiers, one per step, that predict a clip's class from its hidden state.

    The classifiers are multinomial logistic regressions with scikit-learn's default L2 penalty, on
    standardised states. A class without training clips is never predicted. Source: Alain and Bengio 2016,
    "Understanding Intermediate Layers Using Linear Classifier Probes".

    Args:
      train_states, train_labels: hidden states, float [N, T, U], and classes, int [N], of the training clips.
      test_states, test_labels: hidden states and classes of the test clips, as arrays of the same kinds.

    Returns:
      A tuple of T floats: the accuracy on the test clips at each step.

    Raises:
      UserError: if all training clips are of one class, or a state is not finite.
    """
    _expect_classes(train_labels)
    for states in (train_states, test_states):
        expect(bool(np.isfinite(states).all()), "a model with finite hidden states", shape=states.shape)
    accuracies = []
    # Such small products gain nothing from several threads. Where other processes use the cores, threads that wait
    # for each other take twenty times as long; and sums would depend on their number.
    with threadpoolctl.threadpool_limits(1):
        for step in range(train_states.shape[1]):
            # In float64: in float32 the solver's line search can fail before it has converged.
            fit_on, score_on = (states[:, step].astype(np.float64) for states in (train_states, test_states))
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
            accuracies.append(float(classifier.fit(fit_on, train_labels).score(score_on, test_labels)))
    return tuple(accuracies)


def _recurrent_layer(model: keras.Model) -> keras.layers.Layer:
    found = [layer for layer in model.layers if isinstance(layer, _RECURRENT_LAYERS)]
    expect(
        len(found) == 1,
        "a model with exactly one SimpleRNN, LSTM or GRU",
        model=model.name,
        recurrent_layers=[layer.name for layer in found],
    )
    return found[0]


def _float32_copy(layer: keras.layers.Layer, input_shape: tuple, **changes) -> keras.layers.Layer:
    """Copies a layer and its weights, with dtype float32; `changes` replace entries of its configuration."""
    copy = layer.__class__.from_config(layer.get_config() | {"dtype": "float32"} | changes)
    copy.build(input_shape)
    copy.set_weights(layer.get_weights())
    return copy


def _expect_clips(model: keras.Model, videos: np.ndarray, labels: np.ndarray) -> None:
    num_classes = model.output.shape[-1]
    fits = videos.dtype == model.input.dtype and videos.shape[1:] == model.input.shape[1:]
    expect(fits, f"clips {model.input.dtype} {model.input.shape}", dtype=videos.dtype, shape=videos.shape)
    expect(
        labels.shape == (len(videos),) and len(labels) > 0,
        "at least 1 clip, and a label for each clip",
        shape=labels.shape,
    )
    expect(
        0 <= labels.min() and labels.max() < num_classes,
        f"labels from 0 to {num_classes - 1}",
        labels=np.unique(labels).tolist(),
    )


def _expect_classes(train_labels: np.ndarray) -> None:
    classes = np.unique(train_labels)
    expect(len(classes) >= 2, "training clips of at least 2 classes", classes=classes.tolist())


def _in_batches(function: Callable, arrays: tuple[np.ndarray, ...], batch_size: int) -> Any:
    """Calls `function` on slices of `arrays`, each of `batch_size` rows, and concatenates the results."""
    outputs = []
    for start in range(0, len(arrays[0]), batch_size):
        batch = (array[start : start + batch_size] for array in arrays)
        outputs.append(tf.nest.map_structure(lambda value: value.numpy(), function(*batch)))
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *outputs)
