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
from ucf50_tfrecord.specs import ModelSpec

NUM_UNITS = 256


def rnn(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, plain RNN (tanh) of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, layers.SimpleRNN, NUM_UNITS)


def lstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, LSTM of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, ProjectingLSTM if spec.feature_shape else layers.LSTM, NUM_UNITS)


def gru(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, GRU of 256 units, mean over time, dropout, classifier."""
    return _build(spec, dtype, layers.GRU, NUM_UNITS)


def bilstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, LSTMs of 128 units over both directions of time, mean, dropout, classifier."""

    def both_ways(units: int, **options) -> layers.Layer:
        return layers.Bidirectional(layers.LSTM(units, **options), dtype=options["dtype"])

    return _build(spec, dtype, both_ways, NUM_UNITS // 2)


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class ProjectingLSTM(layers.LSTM):
    """keras.layers.LSTM that multiplies all frames by the input kernel in one product on CPUs.

    Keras's own loop multiplies one frame at a time, and adds up one gradient of the kernel per frame. With
    the wide features of image models, this takes most of a training's time. If cuDNN is used, this layer
    behaves as Keras's.
    """

    def call(self, sequences, initial_state=None, mask=None, training=False):
        takes_cudnn = self.use_cudnn and bool(tf.config.list_logical_devices("GPU"))
        if takes_cudnn or initial_state is not None or mask is not None or not self.return_sequences:
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        kernel, recurrent, bias = (
            ops.cast(weight, self.compute_dtype)
            for weight in (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)
        )
        projected = ops.unstack(ops.matmul(sequences, kernel) + bias, axis=1)  # T times [B, 4 U]
        hidden = cell = ops.zeros((ops.shape(sequences)[0], self.units), self.compute_dtype)
        outputs = []
        for inputs in projected:
            take, keep, new, show = ops.split(inputs + ops.matmul(hidden, recurrent), 4, axis=-1)
            cell = ops.sigmoid(keep) * cell + ops.sigmoid(take) * ops.tanh(new)
            hidden = ops.sigmoid(show) * ops.tanh(cell)
            outputs.append(hidden)
        return ops.stack(outputs, axis=1)


def _build(
    spec: ModelSpec, dtype: keras.DTypePolicy, layer: Callable[..., layers.Layer], num_units: int
) -> keras.Model:
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)  # [B, T, F]
    outputs = layer(num_units, return_sequences=True, dtype=dtype)(features)  # [B, T, 256]
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(outputs, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
