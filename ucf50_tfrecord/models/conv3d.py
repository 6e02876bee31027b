"""A 3D CNN with factored convolutions, (2+1)D: first over space, then over time.

Source: Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions for Action Recognition". The residual
connections are left out, because four blocks do not need them. Both convolutions are computed as 2D
convolutions: the first over frames, the second over arrays of (time, pixel). The result is the same, and
every device has fast kernels for 2D convolutions.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.frames import Tensor, normalize
from ucf50_tfrecord.specs import ModelSpec

BLOCK_FILTERS = (32, 64, 128, 256)


def conv3d(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """3D CNN: four blocks (conv 1x3x3, max-pool, conv 3x1x1), then mean, dropout and classifier."""
    video = frames.clip_input(spec)
    x = frames.pixels(video, spec, dtype)
    for filters in BLOCK_FILTERS:
        x = _over_time(_over_space(x, filters, dtype), filters, dtype)
    pooled = Dropout(spec.dropout, stream=0, dtype=dtype)(ops.mean(x, axis=(1, 2, 3)))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)


def _over_space(x: Tensor, filters: int, dtype: keras.DTypePolicy) -> Tensor:
    """Convolves and pools each frame, from [B, T, H, W, C] to [B, T, ceil(H / 2), ceil(W / 2), filters]."""

    def block(image: Tensor) -> Tensor:
        image = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(image)
        image = layers.MaxPooling2D(2, padding="same", dtype=dtype)(image)
        return layers.ReLU(dtype=dtype)(normalize(image, dtype))

    return frames.encode_frames(x, block)


def _over_time(x: Tensor, filters: int, dtype: keras.DTypePolicy) -> Tensor:
    """Convolves each pixel over 3 frames, from [B, T, H, W, C] to [B, T, H, W, filters]."""
    _, num_frames, height, width, channels = x.shape
    lines = ops.reshape(x, (-1, num_frames, height * width, channels))
    lines = layers.Conv2D(filters, (3, 1), padding="same", use_bias=False, dtype=dtype)(lines)
    lines = layers.ReLU(dtype=dtype)(normalize(lines, dtype))
    return ops.reshape(lines, (-1, num_frames, height, width, filters))
