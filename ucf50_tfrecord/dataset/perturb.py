"""Interventions on evaluation clips: what a model loses shows what it used."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def shuffle_frames(
    dataset: tf.data.Dataset, *, num_clips: int, num_frames: int, seed: int
) -> tf.data.Dataset:
    """Puts each clip's frames into a random order drawn from (seed, clip index).

    Args:
      dataset: batches as make_dataset yields them, with video [B, T, H, W, 3].
      num_clips: clip indices are below this.
      num_frames: T.
      seed: another seed gives other orders; the batch a clip is in does not matter.

    Returns:
      The same batches, each clip's frames permuted.
    """
    generator = np.random.default_rng(seed)
    orders = np.argsort(generator.random((num_clips, num_frames)), axis=1)  # [N, T]
    table = tf.constant(orders, tf.int32)

    def shuffle(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        order = tf.gather(table, batch["index"])  # [B, T]
        return batch | {"video": tf.gather(batch["video"], order, axis=1, batch_dims=1)}

    return dataset.map(shuffle, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
