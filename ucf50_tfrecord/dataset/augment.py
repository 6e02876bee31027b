"""Random changes to training clips, made on the device inside the training step."""

from __future__ import annotations

import tensorflow as tf


def horizontal_flip(
    video: tf.Tensor, index: tf.Tensor, *, num_clips: int, seed: int, epoch: tf.Tensor
) -> tf.Tensor:
    """Mirrors half of the clips, every frame of a clip alike.

    Whether a clip is mirrored is a function of (seed, epoch, clip index) alone, so it does
    not depend on the batch, the replica or where a run was resumed.

    Args:
      video: [B, T, H, W, 3], any dtype.
      index: int64 [B], the clips' indices, below num_clips.
      num_clips: clips in the training set.
      seed: the run's seed.
      epoch: int64 [].

    Returns:
      The same shape and dtype.
    """
    draws = tf.random.stateless_uniform([num_clips], seed=tf.stack([tf.cast(seed, tf.int64), epoch]))
    flip = (tf.gather(draws, index) < 0.5)[:, tf.newaxis, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(flip, tf.reverse(video, axis=[3]), video)
