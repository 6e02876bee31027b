"""3D CNNs with factored convolutions, (2+1)D: first over space, then over time.

Source: Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions for Action Recognition". conv3d leaves the
residual connections out, because four blocks do not need them. Both convolutions are computed as 2D
convolutions: the first over frames, the second over arrays of (time, pixel). The result is the same, and
every device has fast kernels for 2D convolutions.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from ucf50_tfrecord.models import dropout, frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.frames import Tensor, normalize
from ucf50_tfrecord.specs import ModelSpec

BLOCK_FILTERS = (32, 64, 128, 256)
# r2plus1d halves frames by more blocks, of FINE_FILTERS, until the first block of BLOCK_FILTERS has sides of at most
# MAX_CELLS. Few filters, because these blocks have most cells: each halving would cost four times as much as the next.
MAX_CELLS = 40
FINE_FILTERS = 16


def conv3d(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """3D CNN: four blocks (conv 1x3x3, max-pool, conv 3x1x1), then mean, dropout and classifier."""
    video = frames.clip_input(spec)
    x = frames.pixels(video, spec, dtype)
    for filters in BLOCK_FILTERS:
        x = _over_time(_over_space(x, filters, dtype), filters, dtype)
    pooled = Dropout(spec.dropout, stream=0, dtype=dtype)(ops.mean(x, axis=(1, 2, 3)))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)


def r2plus1d(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Residual (2+1)D CNN: stem, four or more residual blocks, then mean, dropout and classifier.

    The paper's networks, R(2+1)D, are made smaller: one block per stage, half the filters, as many filters between the
    convolutions over space and over time as after them, and all frames kept, as clips have few. The number of blocks
    grows with the resolution: four up to 80x80, five up to 160x160, six up to 320x320. Stochastic depth
    (Huang et al. 2016, "Deep networks with stochastic depth") drops a block's residual for a whole clip, with a rate
    that grows linearly up to ModelSpec.stochastic_depth in the last block.
    """
    video = frames.clip_input(spec)
    x = frames.pixels(video, spec, dtype)
    block_filters = _block_filters(spec)
    stem = frames.encode_frames(x, lambda image: _convolve(image, block_filters[0], 3, 2, dtype))
    x = _over_time(layers.ReLU(dtype=dtype)(stem), block_filters[0], dtype)
    for number, filters in enumerate(block_filters):
        drop = dropout.drop_residual(spec, number, len(block_filters), dtype)
        x = _residual_block(x, filters, 1 if number == 0 else 2, drop, dtype)
    pooled = Dropout(spec.dropout, stream=0, dtype=dtype)(ops.mean(x, axis=(1, 2, 3)))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)


def _block_filters(spec: ModelSpec) -> tuple[int, ...]:
    """Returns the filters of each residual block. The stem and each block but the first halve the frames."""
    cells = -(-max(spec.height, spec.width) // 2)
    fine = 0
    while cells > MAX_CELLS:
        cells, fine = -(-cells // 2), fine + 1
    return (FINE_FILTERS,) * fine + BLOCK_FILTERS


def _residual_block(
    x: Tensor, filters: int, stride: int, drop: Callable[[Tensor], Tensor], dtype: keras.DTypePolicy
) -> Tensor:
    """Adds two (2+1)D convolutions to their input, from [B, T, H, W, C] to [B, T, ceil(H / stride), …, filters]."""

    def over_space(x: Tensor, stride: int) -> Tensor:
        return frames.encode_frames(x, lambda image: _convolve(image, filters, 3, stride, dtype))

    residual = layers.ReLU(dtype=dtype)(over_space(x, stride))
    residual = _over_time(residual, filters, dtype)
    residual = layers.ReLU(dtype=dtype)(over_space(residual, 1))
    residual = _over_time(residual, filters, dtype, activate=False)
    if stride > 1 or x.shape[-1] != filters:
        x = frames.encode_frames(x, lambda image: _convolve(image, filters, 1, stride, dtype))
    return layers.ReLU(dtype=dtype)(x + drop(residual))


def _convolve(image: Tensor, filters: int, side: int, stride: int, dtype: keras.DTypePolicy) -> Tensor:
    """Convolves frames [N, H, W, C] over space, and normalizes the result."""
    convolution = layers.Conv2D(filters, side, strides=stride, padding="same", use_bias=False, dtype=dtype)
    return normalize(convolution(image), dtype)


def _over_space(x: Tensor, filters: int, dtype: keras.DTypePolicy) -> Tensor:
    """Convolves and pools each frame, from [B, T, H, W, C] to [B, T, ceil(H / 2), ceil(W / 2), filters]."""

    def block(image: Tensor) -> Tensor:
        image = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(image)
        image = layers.MaxPooling2D(2, padding="same", dtype=dtype)(image)
        return layers.ReLU(dtype=dtype)(normalize(image, dtype))

    return frames.encode_frames(x, block)


def _over_time(x: Tensor, filters: int, dtype: keras.DTypePolicy, *, activate: bool = True) -> Tensor:
    """Convolves each pixel over 3 frames, from [B, T, H, W, C] to [B, T, H, W, filters]; then ReLU, if `activate`."""
    _, num_frames, height, width, channels = x.shape
    lines = ops.reshape(x, (-1, num_frames, height * width, channels))
    lines = layers.Conv2D(filters, (3, 1), padding="same", use_bias=False, dtype=dtype)(lines)
    lines = normalize(lines, dtype)
    if activate:
        lines = layers.ReLU(dtype=dtype)(lines)
    return ops.reshape(lines, (-1, num_frames, height, width, filters))
