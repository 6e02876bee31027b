"""Inspects a trained recurrent model: how much of each frame it remembers.

The gradient of an output with respect to an early frame is a product with one factor per step. A
plain RNN's factors are its recurrent weights times the slope of tanh: the product vanishes or
explodes with the number of steps. An LSTM's factors are its forget gates, which can stay near 1.
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
    """The memory of a recurrent layer.

    Every sequence has T entries, one per frame, in order of time. They are means over the test clips.

    loss_gradient: norm of the gradient of a clip's cross entropy with respect to each frame's features.
    logit_gradient: the same of the true class's logit.
    memory_gradient: the same of the true class's logit where the classifier gets the last hidden state
      alone. Models that average the outputs over time give every frame a direct path to the logit, which
      hides how much the recurrence forgets. For the others it equals logit_gradient.
    memory_frames: effective length of the memory, sum(memory_gradient) / max(memory_gradient): from 1,
      where a single frame counts, to T, where all count alike; 0 where none does.
    probe_accuracy: accuracy on the test clips of a linear classifier on the hidden state at each step,
      fitted on the training clips.
    gates: an LSTM's mean activity over clips and units at each step, by the names of GATES, from 0
      (closed) to 1 (open). Empty for other layers.
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
        expect(len(lengths) == 1 and lengths != {0}, "curves of equally many frames", frames=sorted(lengths))


def inspect(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    batch_size: int = 32,
) -> Recurrence:
    """Inspects a model without changing it.

    Args:
      model: with one recurrent layer, see ModelTraits.recurrent.
      train: clips uint8 [N, T, H, W, 3] and labels int [N], to fit the probes.
      test: the same, for all results.
      batch_size: clips per step.

    Raises:
      UserError: if the model has not exactly one recurrent layer, clips do not fit it, the training
        clips are of one class, or the hidden states are not finite.
    """
    expect(batch_size >= 1, "a batch of at least 1 clip", batch_size=batch_size)
    stepwise = StepwiseModel(model)
    for clips in (train, test):
        _expect_clips(model, *clips)
    _expect_classes(train[1])
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
    """A recurrent model that returns its hidden state after each step.

    The frames' features come from the model itself, in its own precision. The layers after them are rebuilt
    with copies of its weights, to return the state at every step and to compute in float32. Gradients through
    time span more powers of ten than float16 has (from 6e-8), and bfloat16's 8 bits would add noise that
    the model does not have.

    Everything runs as in inference. Gradients are with respect to the features in float32.
    """

    def __init__(self, model: keras.Model):
        """Raises UserError if the model has not exactly one SimpleRNN, LSTM or GRU."""
        layer, classifier = _recurrent_layer(model), model.get_layer("logits")
        self._encoder = keras.Model(model.input, layer.input)
        self._averages = layer.return_sequences  # else the classifier gets the last state
        # [B, T, F] to [B, T, U]
        self._recurrent = _float32_copy(layer, layer.input.shape, return_sequences=True)
        self._classifier = _float32_copy(classifier, classifier.input.shape)  # [B, U] to [B, C]
        video = tf.TensorSpec(model.input.shape, tf.uint8)
        labels = tf.TensorSpec([None], tf.int64)
        self.features = tf.function(self._features, input_signature=[video])
        self.states = tf.function(self._states, input_signature=[video])
        self.measure = tf.function(self._measure, input_signature=[video, labels])

    def hidden(self, features: tf.Tensor) -> tf.Tensor:
        """Runs the recurrent layer: float32 [B, T, F] to the state after each step, float32 [B, T, U]."""
        return self._recurrent(features, training=False)

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Classifies as the model does: states float32 [B, T, U] to float32 [B, C]."""
        return self._classifier(tf.reduce_mean(states, axis=1) if self._averages else states[:, -1])

    def gates(self, features: tf.Tensor, states: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns an LSTM's gates, float32 [B, T, U] by the names of GATES; an empty dict for other layers.

        Args:
          features: float32 [B, T, F].
          states: float32 [B, T, U], from `hidden`.
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
        """Computes norms of gradients with respect to each frame, float32 [B, T] by the names of GRADIENTS.

        Args:
          features: float32 [B, T, F].
          labels: int64 [B].
        """
        # Three copies of the clips, one per output: a single backward pass serves all.
        copies = tf.concat([features] * len(GRADIENTS), axis=0)
        with tf.GradientTape() as tape:
            tape.watch(copies)
            for_loss, for_logit, for_memory = tf.split(self.hidden(copies), len(GRADIENTS))
            outputs = [
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(for_loss)),
                tf.gather(self.logits(for_logit), labels, batch_dims=1),
                tf.gather(self._classifier(for_memory[:, -1]), labels, batch_dims=1),
            ]
        # The tape sums the outputs, each [B], but a clip's features affect its own output alone.
        norms = tf.norm(tape.gradient(outputs, copies), axis=-1)
        return dict(zip(GRADIENTS, tf.split(norms, len(GRADIENTS)), strict=True))

    def _features(self, video: tf.Tensor) -> tf.Tensor:
        """uint8 [B, T, H, W, 3] to float32 [B, T, F]."""
        return tf.cast(self._encoder(video, training=False), tf.float32)

    def _states(self, video: tf.Tensor) -> tf.Tensor:
        """uint8 [B, T, H, W, 3] to float32 [B, T, U]."""
        return self.hidden(self._features(video))

    def _measure(self, video: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns "states" [B, T, U], GRADIENTS [B, T], and GATES [B, T], the mean over units."""
        features = self._features(video)
        states = self.hidden(features)
        gates = self.gates(features, states)
        means = {name: tf.reduce_mean(gate, axis=-1) for name, gate in gates.items()}
        return {"states": states, **self.gradients(features, labels), **means}


def effective_frames(gradient: Sequence[float]) -> float:
    """Returns the sum of T norms over the largest, from 1 to T; 0 where all are 0."""
    largest = max(gradient)
    return float(sum(gradient) / largest) if largest else 0.0


def probe(
    train_states: np.ndarray, train_labels: np.ndarray, test_states: np.ndarray, test_labels: np.ndarray
) -> tuple[float, ...]:
    """Scores a linear classifier on the hidden state at each step.

    The classifier is multinomial logistic regression with scikit-learn's default L2 penalty, on standardised
    units. A class without training clips is never predicted. Source: Alain and Bengio 2016, "Understanding
    Intermediate Layers Using Linear Classifier Probes".

    Args:
      train_states, train_labels: float [N, T, U] and int [N], to fit.
      test_states, test_labels: the same, to score.

    Returns:
      The accuracy on the test clips after each of the T steps.

    Raises:
      UserError: if the training clips are of one class, or a state is not finite.
    """
    _expect_classes(train_labels)
    for states in (train_states, test_states):
        expect(bool(np.isfinite(states).all()), "a model with finite hidden states", shape=states.shape)
    accuracies = []
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
    """Copies a layer and its weights, with dtype float32 and `changes` to the configuration."""
    copy = layer.__class__.from_config(layer.get_config() | {"dtype": "float32"} | changes)
    copy.build(input_shape)
    copy.set_weights(layer.get_weights())
    return copy


def _expect_clips(model: keras.Model, videos: np.ndarray, labels: np.ndarray) -> None:
    num_classes = model.output.shape[-1]
    fits = videos.dtype == np.uint8 and videos.shape[1:] == model.input.shape[1:]
    expect(fits, f"clips uint8 {model.input.shape}", dtype=videos.dtype, shape=videos.shape)
    expect(
        labels.shape == (len(videos),) and len(labels) > 0,
        "a label for each clip, of 1 or more",
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
    """Calls a function of arrays [B, ...] on slices of arrays [N, ...], and concatenates the results."""
    outputs = []
    for start in range(0, len(arrays[0]), batch_size):
        batch = (array[start : start + batch_size] for array in arrays)
        outputs.append(tf.nest.map_structure(lambda value: value.numpy(), function(*batch)))
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *outputs)
