"""Interventions on evaluation clips: what a model loses shows what it used."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def frame_orders(num_clips: int, num_frames: int, *, seed: int) -> tf.Tensor:
    """Draws a random order of frames for each clip: int32 [N, T]; another seed gives other orders."""
    generator = np.random.default_rng(seed)
    return tf.constant(np.argsort(generator.random((num_clips, num_frames)), axis=1), tf.int32)


def reorder_frames(video: tf.Tensor, index: tf.Tensor, orders: tf.Tensor) -> tf.Tensor:
    """Puts each clip's frames into its own order, whatever batch it is in.

    Args:
      video: [B, T, H, W, 3], any dtype.
      index: int64 [B], the clips' indices.
      orders: int32 [N, T], what frame_orders returns.

    Returns:
      The same shape and dtype.
    """
    return tf.gather(video, tf.gather(orders, index), axis=1, batch_dims=1)
