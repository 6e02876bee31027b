"""RandAugment for clips: a few random changes out of a fixed list, one after another, on the device.

Source: "RandAugment: Practical automated data augmentation with a reduced search space" (Cubuk et al. 2020). The list
of changes is the paper's, except Equalize: its histograms would be computed for all clips, for one change in 14. The
range of each change is that of torchvision's RandAugment, and so is the scale of magnitudes, up to 30.

A clip's change is the same for all of its frames, in kind, direction and strength. Contrast and AutoContrast take their
statistics from the whole clip, so that no frame flickers, but not from frames' neighbours, so that frames change as
without them.

Each clip may get another change. No device computes one branch per clip: all changes are computed for all clips, with
parameters that leave a clip as it is where its change is another one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import tensorflow as tf

from ucf50_tfrecord.dataset.per_clip import per_clip, per_picture, to_grey, to_uint8

_MAX_MAGNITUDE = 30.0
# Parameters at the largest magnitude: degrees, tangent, fraction of a frame's side, deviation of a factor from 1, and
# dropped bits.
_MAX_ROTATION, _MAX_SHEAR, _MAX_TRANSLATION, _MAX_FACTOR, _MAX_DROPPED_BITS = 30.0, 0.3, 150 / 331, 0.9, 4
_FILL = 128.0  # level of what comes into view from outside of the frame, as in AutoAugment


class Op(enum.IntEnum):
    """The changes of RandAugment."""

    IDENTITY = 0
    AUTO_CONTRAST = 1
    ROTATE = 2
    SOLARIZE = 3
    COLOR = 4
    POSTERIZE = 5
    CONTRAST = 6
    BRIGHTNESS = 7
    SHARPNESS = 8
    SHEAR_X = 9
    SHEAR_Y = 10
    TRANSLATE_X = 11
    TRANSLATE_Y = 12


def randaugment(video: tf.Tensor, draws: tf.Tensor, magnitude: float) -> tf.Tensor:
    """Applies N random changes to each clip, one after another. A change may come twice.

    Args:
      video: the clips, uint8 [B, T, H, W, C].
      draws: random numbers in [0, 1), float32 [B, 2 * N]: for each change, one for its kind and one for its direction.
      magnitude: strength of the changes, from 0 to 30.

    Returns:
      The changed clips, uint8 of the shape of `video`.
    """
    columns = tf.unstack(draws, axis=1)
    for kind, direction in zip(columns[::2], columns[1::2]):
        sign = tf.where(direction < 0.5, -1.0, 1.0)
        video = change(video, tf.floor(len(Op) * kind), sign, magnitude)
    return video


def change(video: tf.Tensor, ops: tf.Tensor, sign: tf.Tensor, magnitude: float) -> tf.Tensor:
    """Applies one change to each clip.

    Args:
      video: the clips, uint8 [B, T, H, W, C].
      ops: numbers of the clips' changes, as in Op, float32 [B].
      sign: direction of each change that has one, -1 or 1, float32 [B].
      magnitude: strength of the changes, from 0 to 30.

    Returns:
      The changed clips, uint8 of the shape of `video`.
    """
    strength = magnitude / _MAX_MAGNITUDE

    def parameter(op: Op, changed: tf.Tensor | float, unchanged: float) -> tf.Tensor:
        """Returns the parameter of a change: for clips with another change, the value that changes nothing."""
        return tf.where(ops == float(op), changed, unchanged)

    factor = 1 + _MAX_FACTOR * strength * sign
    video = _move(video, parameter, sign * strength)
    pixels = _sharpen(tf.cast(video, tf.float32), per_clip(parameter(Op.SHARPNESS, factor, 1.0)))
    scale, offset = _levels(pixels[..., :3], parameter, factor)
    threshold = per_clip(parameter(Op.SOLARIZE, 256 * (1 - strength), 256.0))
    step = per_clip(parameter(Op.POSTERIZE, 2.0 ** round(_MAX_DROPPED_BITS * strength), 1.0))
    saturation = per_clip(parameter(Op.COLOR, factor, 1.0))

    def recolor(picture: tf.Tensor) -> tf.Tensor:
        picture = tf.where(picture >= threshold, 255 - picture, picture)
        picture = scale * (tf.floor(picture / step) * step) + offset
        grey = to_grey(picture)
        return to_uint8(grey + saturation * (picture - grey))

    return per_picture(recolor, pixels)


_Parameter = Callable[[Op, tf.Tensor | float, float], tf.Tensor]


def _move(video: tf.Tensor, parameter: _Parameter, strength: tf.Tensor) -> tf.Tensor:
    """Rotates, shears and translates each clip's frames, by the nearest pixels; returns uint8 [B, T, H, W, C].

    Args:
      video: the clips, uint8 [B, T, H, W, C].
      parameter: as in `change`.
      strength: signed fraction of the largest change, float32 [B].
    """
    _, num_frames, height, width, channels = video.shape
    angle = parameter(Op.ROTATE, math.radians(_MAX_ROTATION) * strength, 0.0)
    # The matrix that maps a place in the changed frame, relative to the centre, to its source in the frame.
    xx, xy = tf.cos(angle), parameter(Op.SHEAR_X, _MAX_SHEAR * strength, 0.0) - tf.sin(angle)
    yx, yy = tf.sin(angle) + parameter(Op.SHEAR_Y, _MAX_SHEAR * strength, 0.0), tf.cos(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    to_x = parameter(Op.TRANSLATE_X, tf.round(_MAX_TRANSLATION * width * strength), 0.0) + x - xx * x - xy * y
    to_y = (
        parameter(Op.TRANSLATE_Y, tf.round(_MAX_TRANSLATION * height * strength), 0.0) + y - yx * x - yy * y
    )
    zero = tf.zeros_like(angle)
    transforms = tf.stack([xx, xy, to_x, yx, yy, to_y, zero, zero], axis=1)  # [B, 8]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.reshape(video, (-1, height, width, channels)),
        transforms=tf.repeat(transforms, num_frames, axis=0),
        output_shape=[height, width],
        fill_value=_FILL,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return tf.reshape(moved, tf.shape(video))


def _sharpen(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales each pixel's difference from its smoothed surroundings, but at the frame's border, as Pillow does.

    Args:
      pixels: the clips' 8-bit levels, float32 [B, T, H, W, C].
      factor: factors of the differences, float32 [B, 1, 1, 1, 1].
    """
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    around = rows[:, :, :, :-2] + rows[:, :, :, 1:-1] + rows[:, :, :, 2:]
    inside = pixels[:, :, 1:-1, 1:-1]
    smooth = (around + 4 * inside) / 13  # the centre counts 5, its eight neighbours 1 each
    difference = tf.pad(inside - smooth, [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
    return pixels + (factor - 1) * difference


def _levels(pixels: tf.Tensor, parameter: _Parameter, factor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and the offset of each clip's 8-bit levels, float32 that broadcasts over [B, T, H, W, 3].

    Args:
      pixels: the frames, without neighbours, float32 [B, T, H, W, 3].
      parameter: as in `change`.
      factor: factors of brightness or contrast, float32 [B].
    """
    contrast = parameter(Op.CONTRAST, factor, 1.0)
    scale = per_clip(contrast * parameter(Op.BRIGHTNESS, factor, 1.0))
    mean = tf.reduce_mean(to_grey(pixels), axis=[1, 2, 3, 4], keepdims=True)
    offset = per_clip(1 - contrast) * mean
    low = tf.reduce_min(pixels, axis=[1, 2, 3], keepdims=True)  # [B, 1, 1, 1, 3]
    span = tf.reduce_max(pixels, axis=[1, 2, 3], keepdims=True) - low
    stretched = (per_clip(parameter(Op.AUTO_CONTRAST, 1.0, 0.0)) > 0) & (span > 0)
    stretch = 255 / tf.maximum(span, 1.0)
    return tf.where(stretched, stretch, scale), tf.where(stretched, -low * stretch, offset)
