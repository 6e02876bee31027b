"""Augmentation: random changes of training clips, made on the device inside the training step.

All random numbers follow from the seed, the step and the clip's position in the global batch. So they depend
neither on the number of replicas nor on the step at which a run was resumed. Every change is the same for all
frames of a clip and for their neighbours (ClipFormat.motion_frames), so that augmentation adds no motion.

Clips are uint8 [B, T, H, W, C]: C is 3, or 3 * (1 + k) with k neighbours of each frame.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.dataset import randaugment
from ucf50_tfrecord.dataset.per_clip import draw_rows, per_clip, per_picture, to_grey, to_uint8
from ucf50_tfrecord.specs import AugmentSpec

# These separate the random numbers for the order of frames, and those of RandAugment, from all others.
_ORDER_STREAM, _RANDAUGMENT_STREAM = 1 << 40, 1 << 43
# Ranges of the width to height ratio of rectangles, and of the erased fraction of a frame. Sources:
# Inception's crops (as in torchvision) for crops, and "Random Erasing Data Augmentation" (Zhong et al. 2017)
# for erased rectangles.
_CROP_RATIOS = (3 / 4, 4 / 3)
_ERASED_RATIOS = (0.3, 1 / 0.3)
_ERASED_AREAS = (0.02, 1 / 3)


class Draws(NamedTuple):
    """The random numbers of a batch of clips: each field is float32 [B], one number in [0, 1) per clip.

    Do not add a field: it would change the numbers of all fields, and so the weights that every seed trains.
    A new augmentation needs a stream of random numbers of its own, like the order of frames (_ORDER_STREAM).
    """

    shift: tf.Tensor
    flip: tf.Tensor
    crop_area: tf.Tensor
    crop_ratio: tf.Tensor
    crop_top: tf.Tensor
    crop_left: tf.Tensor
    brightness: tf.Tensor
    contrast: tf.Tensor
    saturation: tf.Tensor
    erase_area: tf.Tensor
    erase_ratio: tf.Tensor
    erase_top: tf.Tensor
    erase_left: tf.Tensor
    erase_red: tf.Tensor
    erase_green: tf.Tensor
    erase_blue: tf.Tensor
    erase: tf.Tensor


def augment(
    video: tf.Tensor,
    position: tf.Tensor,
    *,
    spec: AugmentSpec,
    batch_size: int,
    seed: int | tf.Tensor,
    step: tf.Tensor,
) -> tf.Tensor:
    """Applies to each clip of a batch the random changes that `spec` names.

    Args:
      video: the clips of a global batch that one replica (device) processes, uint8 [B, T, H, W, C]. Or the
        features of these clips, float16 [B, T, ...]; then `spec` may change only the order of frames.
      position: the clips' positions in the global batch, int64 [B].
      spec: the changes and their strengths.
      batch_size: number of clips in the global batch.
      seed: the run's seed, an int or int64 [] on the host.
      step: index of the training step, counted from the run's start, int64 [].

    Returns:
      The changed clips or features, of the shape and dtype of `video`.
    """
    draw = functools.partial(draw_rows, position=position, batch_size=batch_size, seed=seed, step=step)
    if spec.frame_order != FrameOrder.KEPT:
        keys = draw(video.shape[1], stream=_ORDER_STREAM)
        video = arrange_frames(video, keys, spec.frame_order)
    draws = Draws(*tf.unstack(draw(len(Draws._fields)), axis=1))
    if spec.temporal_shift:
        video = shift_frames(video, draws, spec.temporal_shift)
    if spec.horizontal_flip:
        video = tf.where(per_clip(draws.flip) < 0.5, tf.reverse(video, axis=[3]), video)
    if spec.crop_area < 1:
        video = resized_crop(video, draws, spec.crop_area)
    if spec.brightness or spec.contrast or spec.saturation:
        video = jitter_color(video, draws, spec)
    if spec.randaugment_ops:
        rows = draw(2 * spec.randaugment_ops, stream=_RANDAUGMENT_STREAM)
        video = randaugment.randaugment(video, rows, spec.randaugment_magnitude)
    if spec.erase:
        video = erase(video, draws, spec.erase)
    return video


def arrange_frames(video: tf.Tensor, keys: tf.Tensor, frame_order: str) -> tf.Tensor:
    """Arranges the frames of each clip in a random order, or repeats a random frame.

    Args:
      video: the clips, uint8 [B, T, H, W, 3].
      keys: random numbers, float32 [B, T]. Sorting them gives each clip's random order of frames.
      frame_order: SHUFFLED puts the frames in the random order; SINGLE repeats the first frame of the random
        order T times.

    Returns:
      The changed clips, uint8 [B, T, H, W, 3].
    """
    order = tf.cast(tf.argsort(keys, axis=1), tf.int64)
    if frame_order == FrameOrder.SINGLE:
        order = tf.repeat(order[:, :1], video.shape[1], axis=1)
    return take_frames(video, order)


def shift_frames(video: tf.Tensor, draws: Draws, max_shift: int) -> tf.Tensor:
    """Shifts each clip in time by a random number of frames, at most max_shift in either direction.

    The first or the last frame is repeated to fill the gap.
    """
    num_frames = video.shape[1]
    shift = tf.floor(draws.shift * (2 * max_shift + 1)) - max_shift  # [B], whole numbers
    source = tf.range(num_frames, dtype=tf.float32) + shift[:, tf.newaxis]  # [B, T]
    source = tf.cast(tf.clip_by_value(source, 0, num_frames - 1), tf.int64)
    return take_frames(video, source)


def take_frames(video: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
    """Picks frames of each clip by their indices.

    Args:
      video: the clips, uint8 [B, T, H, W, 3], or their frames' features, floating [B, T, ...].
      source: the indices of the frames to pick, int64 [B, K].

    Returns:
      The picked frames, [B, K, ...], of the same dtype.
    """
    # TensorFlow does not gather uint8 on GPUs; float16 holds 0 to 255 exactly.
    values = tf.cast(video, tf.float16) if video.dtype == tf.uint8 else video
    return tf.cast(tf.gather(values, source, axis=1, batch_dims=1), video.dtype)


def resized_crop(video: tf.Tensor, draws: Draws, min_area: float) -> tf.Tensor:
    """Cuts a random rectangle out of the frames of each clip and scales it to the frame's size (bilinear).

    The rectangle covers a random fraction, from min_area to 1, of the frame's area.
    """
    _, num_frames, height, width, channels = video.shape
    area = min_area + (1 - min_area) * draws.crop_area
    # The ratio is limited so that no side of the rectangle is longer than the frame's.
    low, high = tf.maximum(_CROP_RATIOS[0], area), tf.minimum(_CROP_RATIOS[1], 1 / area)
    ratio = _log_uniform(draws.crop_ratio, low, high)
    crop_height, crop_width = tf.sqrt(area / ratio), tf.sqrt(area * ratio)  # fractions of the frame's sides
    top, left = draws.crop_top * (1 - crop_height), draws.crop_left * (1 - crop_width)
    boxes = tf.stack([top, left, top + crop_height, left + crop_width], axis=1)  # [B, 4]
    frames = tf.cast(tf.reshape(video, (-1, height, width, channels)), tf.float32)  # as GPUs want it
    cropped = tf.image.crop_and_resize(
        frames,
        tf.repeat(boxes, num_frames, axis=0),
        box_indices=tf.range(tf.shape(frames)[0]),
        crop_size=(height, width),
    )
    return tf.reshape(to_uint8(cropped), tf.shape(video))


def jitter_color(video: tf.Tensor, draws: Draws, spec: AugmentSpec) -> tf.Tensor:
    """Scales the brightness, contrast and saturation of each clip, each by a random factor around 1.

    Contrast is scaled about the mean grey of the whole clip, so that no frame flickers. Saturation is scaled
    about the grey of each pixel. Neighbours are left out of the mean, so that frames change as without them.
    """

    def factor(strength: float, draw: tf.Tensor) -> tf.Tensor:
        return per_clip(1 - strength + 2 * strength * draw)

    bright = tf.cast(video, tf.float32) * factor(spec.brightness, draws.brightness)
    mean = tf.reduce_mean(to_grey(bright[..., :3]), axis=[1, 2, 3, 4], keepdims=True)
    contrast = factor(spec.contrast, draws.contrast)
    saturation = factor(spec.saturation, draws.saturation)

    def jitter(pixels: tf.Tensor) -> tf.Tensor:
        grey = mean + contrast * (to_grey(pixels) - mean)
        pixels = mean + contrast * (pixels - mean)
        return to_uint8(grey + saturation * (pixels - grey))

    return per_picture(jitter, bright)


def erase(video: tf.Tensor, draws: Draws, fraction: float) -> tf.Tensor:
    """Paints a random rectangle in one color over a clip's frames, with probability `fraction` per clip."""
    _, _, height, width, channels = video.shape
    area = _ERASED_AREAS[0] + (_ERASED_AREAS[1] - _ERASED_AREAS[0]) * draws.erase_area
    ratio = _log_uniform(draws.erase_ratio, *_ERASED_RATIOS)

    def span(size: int, part: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        """Returns a mask, bool [B, size]: True for about size * part neighboring pixels of each clip."""
        length = tf.clip_by_value(tf.round(size * part), 1, size)
        first = tf.floor(draw * (size - length + 1))
        pixel = tf.range(size, dtype=tf.float32)
        return (pixel >= first[:, tf.newaxis]) & (pixel < (first + length)[:, tf.newaxis])

    rows = span(height, tf.sqrt(area / ratio), draws.erase_top)[:, tf.newaxis, :, tf.newaxis, tf.newaxis]
    columns = span(width, tf.sqrt(area * ratio), draws.erase_left)[:, tf.newaxis, tf.newaxis, :, tf.newaxis]
    rgb = [draws.erase_red, draws.erase_green, draws.erase_blue]
    color = tf.stack(rgb * (channels // 3), axis=1)
    color = tf.cast(256 * color, tf.uint8)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(rows & columns & (per_clip(draws.erase) < fraction), color, video)


def _log_uniform(draw: tf.Tensor, low: tf.Tensor | float, high: tf.Tensor | float) -> tf.Tensor:
    low, high = tf.math.log(low), tf.math.log(high)
    return tf.exp(low + (high - low) * draw)
