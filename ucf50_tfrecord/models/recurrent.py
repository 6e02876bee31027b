"""Recurrent models: a frame encoder, and a recurrent layer whose outputs are averaged over time.

On NVIDIA GPUs Keras runs LSTM and GRU with cuDNN, if they have the default activations, a bias and no
recurrent dropout, and are not unrolled. cuDNN has a plain RNN, too, but TensorFlow does not offer it. So
`rnn` is a loop over time on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.encoders import frame_features
from ucf50_tfrecord.models.frames import Tensor
from ucf50_tfrecord.specs import ModelSpec

NUM_UNITS = 256


def rnn(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, plain RNN (tanh) of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, ProjectingRNN if spec.feature_shape else layers.SimpleRNN, NUM_UNITS)


def lstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, LSTM of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, ProjectingLSTM if spec.feature_shape else layers.LSTM, NUM_UNITS)


def gru(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, GRU of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, ProjectingGRU if spec.feature_shape else layers.GRU, NUM_UNITS)


def bilstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, LSTMs of 128 units over both directions of time, mean, dropout, classifier."""

    def both_ways(units: int, **options) -> layers.Layer:
        return layers.Bidirectional(layers.LSTM(units, **options), dtype=options["dtype"])

    return _build(spec, dtype, both_ways, NUM_UNITS // 2)


def shows_products(layer: layers.Layer) -> bool:
    """Tells whether the graph of a recurrent layer shows its products: it has no loop, and is not cuDNN's op."""
    return isinstance(layer, _ProjectingLayer) and not layer.may_use_cudnn


class _ProjectingLayer(layers.RNN):
    """A recurrent layer that multiplies all frames by the input kernel in one product on CPUs.

    Keras's own loop multiplies one frame at a time, and adds up one gradient of the kernel per frame. With
    the wide features of image models, this takes most of a training's time. If cuDNN is used, this layer
    behaves as Keras's.
    """

    @property
    def may_use_cudnn(self) -> bool:
        can_use_cudnn = getattr(self, "use_cudnn", False)  # SimpleRNN has no such attribute
        return can_use_cudnn and bool(tf.config.list_logical_devices("GPU"))

    def call(self, sequences, initial_state=None, mask=None, training=False):
        if self.may_use_cudnn or initial_state is not None or mask is not None or not self.return_sequences:
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        kernel, recurrent, bias = (
            ops.cast(weight, self.compute_dtype)
            for weight in (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)
        )
        # A GRU has a second bias, for the product with its state.
        bias, recurrent_bias = (bias[0], bias[1]) if len(bias.shape) == 2 else (bias, 0)
        projected = ops.unstack(ops.matmul(sequences, kernel) + bias, axis=1)  # T times [B, gates * U]
        states = [ops.zeros((ops.shape(sequences)[0], self.units), self.compute_dtype)] * 2
        outputs = []
        for inputs in projected:
            states = self._advance(inputs, ops.matmul(states[0], recurrent) + recurrent_bias, states)
            outputs.append(states[0])
        return ops.stack(outputs, axis=1)

    def _advance(self, inputs: Tensor, recalled: Tensor, states: list[Tensor]) -> list[Tensor]:
        """Computes the states after a frame.

        Args:
          inputs: the products of the frame and the input kernel, [B, gates * U].
          recalled: the products of the output and the recurrent kernel, [B, gates * U].
          states: the output before, and for an LSTM also the cell state; each [B, U].

        Returns:
          The states after the frame, the output first.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class ProjectingRNN(_ProjectingLayer, layers.SimpleRNN):
    """keras.layers.SimpleRNN as a _ProjectingLayer."""

    def _advance(self, inputs: Tensor, recalled: Tensor, states: list[Tensor]) -> list[Tensor]:
        return [ops.tanh(inputs + recalled)]


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class ProjectingGRU(_ProjectingLayer, layers.GRU):
    """keras.layers.GRU as a _ProjectingLayer."""

    def _advance(self, inputs: Tensor, recalled: Tensor, states: list[Tensor]) -> list[Tensor]:
        update, reset, new = ops.split(inputs, 3, axis=-1)
        recalled_update, recalled_reset, recalled_new = ops.split(recalled, 3, axis=-1)
        keep = ops.sigmoid(update + recalled_update)
        new = ops.tanh(new + ops.sigmoid(reset + recalled_reset) * recalled_new)
        return [keep * states[0] + (1 - keep) * new]


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class ProjectingLSTM(_ProjectingLayer, layers.LSTM):
    """keras.layers.LSTM as a _ProjectingLayer."""

    def _advance(self, inputs: Tensor, recalled: Tensor, states: list[Tensor]) -> list[Tensor]:
        take, keep, new, show = ops.split(inputs + recalled, 4, axis=-1)
        cell = ops.sigmoid(keep) * states[1] + ops.sigmoid(take) * ops.tanh(new)
        return [ops.sigmoid(show) * ops.tanh(cell), cell]


def _build(
    spec: ModelSpec, dtype: keras.DTypePolicy, layer: Callable[..., layers.Layer], num_units: int
) -> keras.Model:
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)  # [B, T, F]
    outputs = layer(num_units, return_sequences=True, dtype=dtype)(features)  # [B, T, 256]
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(outputs, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
