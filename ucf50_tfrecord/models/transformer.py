"""A video transformer, factored: attention over space within each frame, then over time.

Source: Arnab et al. 2021, "ViViT: A Video Vision Transformer", the factorised encoder (model 2), but with
pre-norm blocks, means instead of class tokens, and a convolutional stem. Without the stem, transformers learn
poorly from few clips (Xiao et al. 2021, "Early Convolutions Help Transformers See Better").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers, ops

from ucf50_tfrecord.models import dropout, frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.encoders import frame_features
from ucf50_tfrecord.models.frames import Tensor, normalize
from ucf50_tfrecord.specs import ModelSpec

STEM_FILTERS = (32, 64)
WIDTH = 128
NUM_HEADS = 4
NUM_BLOCKS = 2  # attention blocks over space, and as many over time
# Most tokens along each side of a frame: the cost of attention grows with the 4th power of this number.
MAX_TOKENS = 8


def transformer(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Conv stem, patches, attention over space and then over time, mean, dropout, classifier.

    For stored features, a projection replaces the stem and the attention over space. Stochastic depth
    (ModelSpec.stochastic_depth) drops a residual for a whole clip; in the attention over space, for a whole frame.
    """
    streams = itertools.count()
    num_residuals = 2 * NUM_BLOCKS * (1 if spec.feature_shape else 2)
    residuals = (dropout.drop_residual(spec, i, num_residuals, dtype) for i in range(num_residuals))
    video = frames.clip_input(spec)

    def over_space(x: Tensor) -> Tensor:  # [B * T, N, D] to [B * T, D]
        return ops.mean(_blocks(x, spec, dtype, streams, residuals), axis=1)

    if spec.feature_shape:
        moments = layers.Dense(WIDTH, dtype=dtype)(frame_features(video, spec, dtype))  # [B, T, D]
    else:
        tokens = frames.encode_frames(frames.pixels(video, spec, dtype), lambda x: _patches(x, dtype))
        moments = frames.mark_frames(frames.encode_frames(tokens, over_space), spec)  # [B, T, D]
    summary = ops.mean(_blocks(moments, spec, dtype, streams, residuals), axis=1)  # [B, D]
    dropped = Dropout(spec.dropout, stream=next(streams), dtype=dtype)(summary)
    return keras.Model(video, frames.classify(dropped, spec), name=spec.name)


def _patches(image: Tensor, dtype: keras.DTypePolicy) -> Tensor:
    """Turns images [N, H, W, C] into tokens [N, L, D]: one token for each of an image's L <= 64 patches."""
    x = image
    for filters in STEM_FILTERS:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(x)
        x = layers.MaxPooling2D(2, padding="same", dtype=dtype)(x)
        x = layers.ReLU(dtype=dtype)(normalize(x, dtype))
    size = tuple(-(-side // MAX_TOKENS) for side in x.shape[1:3])
    x = layers.Conv2D(WIDTH, size, strides=size, padding="same", dtype=dtype)(x)
    return ops.reshape(x, (-1, x.shape[1] * x.shape[2], WIDTH))


def _blocks(
    x: Tensor,
    spec: ModelSpec,
    dtype: keras.DTypePolicy,
    streams: Iterator[int],
    residuals: Iterator[Callable[[Tensor], Tensor]],
) -> Tensor:
    """Adds learned position vectors, then applies NUM_BLOCKS attention blocks: [N, L, D] to [N, L, D].

    Args:
      x: the tokens.
      spec, dtype: as of the model.
      streams: the streams of the model's dropout layers.
      residuals: what drops the model's residuals, one after another; see dropout.drop_residual.
    """

    def drop(values: Tensor) -> Tensor:
        return next(residuals)(Dropout(spec.dropout, stream=next(streams), dtype=dtype)(values))

    x = Positions(dtype=dtype)(x)
    for _ in range(NUM_BLOCKS):
        y = layers.LayerNormalization(dtype=dtype)(x)
        y = layers.MultiHeadAttention(NUM_HEADS, WIDTH // NUM_HEADS, dtype=dtype)(y, y)
        x = x + drop(y)
        y = layers.LayerNormalization(dtype=dtype)(x)
        y = layers.Dense(2 * WIDTH, activation="gelu", dtype=dtype)(y)
        x = x + drop(layers.Dense(WIDTH, dtype=dtype)(y))
    return layers.LayerNormalization(dtype=dtype)(x)


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class Positions(keras.layers.Layer):
    """A layer that adds a learned vector [D] to each of the L positions of [N, L, D]."""

    def get_config(self) -> dict[str, Any]:
        # Without this method Keras guesses the configuration, and fails for a dtype policy.
        return super().get_config()

    def build(self, shape):
        self._table = self.add_weight(
            shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, x):
        return x + ops.cast(self._table, x.dtype)
