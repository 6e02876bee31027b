"""Parts that the random changes of training clips share: random numbers for each clip, and pixels.

Clips are uint8 [B, T, H, W, C]: C is 3, or 3 * (1 + k) with k neighbours of each frame.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in grey, after ITU-R BT.601


def draw_rows(
    count: int,
    *,
    position: tf.Tensor,
    batch_size: int,
    seed: int | tf.Tensor,
    step: tf.Tensor,
    stream: int = 0,
) -> tf.Tensor:
    """Draws random numbers for the clips of a replica, which follow from seed, step and position alone.

    Args:
      count: how many numbers each clip gets, K.
      position: the clips' positions in the global batch, int64 [B].
      batch_size: number of clips in the global batch.
      seed: the run's seed, an int or int64 [] on the host.
      step: index of the training step, counted from the run's start, int64 [].
      stream: separates these numbers from others of the same seed: 0, or at least 2**40, above all seeds.

    Returns:
      The numbers, uniform in [0, 1), float32 [B, K].
    """
    with tf.device("CPU:0"):  # TensorFlow expects seeds on the CPU, also for random numbers drawn on a GPU
        seeds = tf.stack([tf.convert_to_tensor(seed, tf.int64) + stream, step])
    return tf.gather(tf.random.stateless_uniform([batch_size, count], seed=seeds), position)


def per_clip(values: tf.Tensor, rank: int = 5) -> tf.Tensor:
    """Reshapes one value per clip, [B], so that it broadcasts over clips, [B, T, H, W, C], or others of that rank."""
    return tf.reshape(values, [-1, *[1] * (rank - 1)])


def per_picture(function: Callable[[tf.Tensor], tf.Tensor], video: tf.Tensor) -> tf.Tensor:
    """Applies a function of RGB frames to clips' frames, and separately to the neighbours of each place.

    Args:
      function: maps frames, [..., 3] of the dtype of `video`, to changed frames, uint8 of equal shape.
      video: the clips, uint8 or float32 [..., 3 * (1 + k)].

    Returns:
      The changed clips, uint8 of the shape of `video`.
    """
    if video.shape[-1] == 3:
        return function(video)
    # As in take_frames: not all kernels of GPUs take uint8, and float16 holds 0 to 255 exactly.
    values = tf.cast(video, tf.float16) if video.dtype == tf.uint8 else video
    pictures = [
        tf.cast(values[..., first : first + 3], video.dtype) for first in range(0, video.shape[-1], 3)
    ]
    changed = [tf.cast(function(picture), tf.float16) for picture in pictures]
    return tf.cast(tf.concat(changed, axis=-1), tf.uint8)


def to_grey(pixels: tf.Tensor) -> tf.Tensor:
    """Returns the grey level of RGB pixels, float32 [..., 1] of [..., 3]."""
    return tf.tensordot(pixels, tf.constant(LUMA), axes=1)[..., tf.newaxis]


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds 8-bit levels, float32, to uint8; cuts off what lies outside of 0 to 255."""
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0, 255)), tf.uint8)
