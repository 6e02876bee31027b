"""Models that copy published baselines layer by layer: a frame encoder, and an RNN or LSTM over its features.

The order-blind control of these models has the same encoder, and a mean over time in place of the RNN or
LSTM. A control is a model that others are compared with, to measure how much they gain from the order of
frames.

Per frame: three blocks of conv 3x3 (32, 64, 128 filters), ReLU and max-pool 2; flatten; dense 256 with ReLU.
Over time: one RNN or LSTM of 256 units, whose output for the last frame goes to the classifier. There is no
dropout and no normalization.

The published models are PyTorch models, so weights start from PyTorch's distributions. Recurrent layers have
only one bias vector here, because PyTorch's two have the same effect as one.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.encoders import BLOCK_FILTERS
from ucf50_tfrecord.models.frames import Encoder, Tensor
from ucf50_tfrecord.specs import ModelSpec

NUM_UNITS = 256


def seed_rnn(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """The published CNN + RNN (tanh)."""
    head = layers.SimpleRNN(
        NUM_UNITS, recurrent_initializer=_torch_uniform(NUM_UNITS), **_torch_init(NUM_UNITS), dtype=dtype
    )
    return _build(spec, dtype, head)


def seed_lstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """The published CNN + LSTM."""
    head = layers.LSTM(
        NUM_UNITS,
        recurrent_initializer=_torch_uniform(NUM_UNITS),
        unit_forget_bias=False,
        **_torch_init(NUM_UNITS),
        dtype=dtype,
    )
    return _build(spec, dtype, head)


def seed_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """The published CNN, mean over time, classifier: the control of seed_rnn and seed_lstm."""
    return _build(spec, dtype, lambda features: ops.mean(features, axis=1))


def seed_encoder(dtype: keras.DTypePolicy) -> Encoder:
    """Returns the frame encoder of the published baselines, which maps [B * T, H, W, 3] to [B * T, 256]."""

    def encoder(x: Tensor) -> Tensor:
        for filters in BLOCK_FILTERS:
            init = _torch_init(9 * x.shape[-1])
            x = frames.ConvReluPool(filters, 3, padding="same", dtype=dtype, **init)(x)
        x = layers.Flatten(dtype=dtype)(x)
        init = _torch_init(x.shape[-1])
        return layers.Dense(frames.NUM_FEATURES, activation="relu", dtype=dtype, **init)(x)

    return encoder


def _build(spec: ModelSpec, dtype: keras.DTypePolicy, head: Callable[[Tensor], Tensor]) -> keras.Model:
    video = frames.clip_input(spec)
    features = frames.encode_frames(frames.pixels(video, spec, dtype), seed_encoder(dtype))  # [B, T, 256]
    frames.mark_frames(features, spec)
    logits = frames.classify(head(features), spec, **_torch_init(NUM_UNITS))
    return keras.Model(video, logits, name=spec.name)


def _torch_init(fan: int) -> dict[str, keras.Initializer]:
    """Returns PyTorch's default initializers of a layer: kernel and bias uniform within ±1 / sqrt(fan).

    Source: reset_parameters of torch.nn.Linear, _ConvNd and RNNBase.

    Args:
      fan: the fan-in of a convolution or dense layer, or the number of units of a recurrent layer.
    """
    return {"kernel_initializer": _torch_uniform(fan), "bias_initializer": _torch_uniform(fan)}


def _torch_uniform(fan: int) -> keras.Initializer:
    # A new object for each variable: one object would give equal values to variables of equal shapes.
    return keras.initializers.RandomUniform(-(fan**-0.5), fan**-0.5)
