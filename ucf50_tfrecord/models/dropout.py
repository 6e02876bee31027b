"""Dropout whose chance is derived, never stored: from (seed, step, position in the global batch).

So a clip's dropout depends neither on how many replicas share a batch nor on where a run was
resumed, as is so for its augmentation. Keras's own layer advances a state that would have to be
saved, and draws the same numbers on every replica.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chance:
    """What a training step's dropout is drawn from.

    seed: the run's seed.
    step: int64 [], counted from the run's start, on the host.
    position: int64 [B], the clips' places in the global batch.
    batch_size: clips in the global batch.
    """

    seed: int
    step: tf.Tensor
    position: tf.Tensor
    batch_size: int


# Each replica of a MirroredStrategy is traced in a thread of its own.
_local = threading.local()


@contextlib.contextmanager
def chance(value: Chance) -> Iterator[None]:
    """Sets what dropout is drawn from while a model is called for training."""
    _local.chance = value
    try:
        yield
    finally:
        del _local.chance


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class Dropout(keras.layers.Layer):
    """Sets a share of the values to 0 and scales the others, in training only.

    Takes float [B * k, ...] and returns the same shape; k values in a row belong to a clip.

    Args:
      rate: the share.
      stream: a number of the layer's own in its model, so that layers draw apart.
      whole_rows: whether each of the B * k is dropped as a whole (stochastic depth).
    """

    def __init__(
        self, rate: float, *, stream: int, dtype: keras.DTypePolicy, whole_rows: bool = False, **options
    ):
        super().__init__(dtype=dtype, **options)
        self.rate, self.stream, self.whole_rows = rate, stream, whole_rows

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "stream": self.stream, "whole_rows": self.whole_rows}
        return super().get_config() | own

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not self.rate:
            return values
        if not hasattr(_local, "chance"):
            raise RuntimeError("A model with dropout must be called for training within dropout.chance(…).")
        given = _local.chance
        rows = tf.shape(values)[0] // tf.shape(given.position)[0]  # of a clip
        with tf.device("CPU:0"):  # where TensorFlow wants a seed, also of a draw on a GPU
            seeds = tf.stack([tf.constant(given.seed * 1000 + self.stream + 1, tf.int64), given.step])
            each = [1] * (len(values.shape) - 1) if self.whole_rows else values.shape[1:]
            shape = tf.concat([[given.batch_size, rows], each], axis=0)
        draws = tf.gather(tf.random.stateless_uniform(shape, seed=seeds), given.position)
        kept = tf.reshape(draws, [-1, *each]) >= self.rate
        return tf.where(kept, values / (1 - self.rate), tf.zeros_like(values))
