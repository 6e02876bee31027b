"""Dropout whose random numbers follow from the seed, the step and the clip's position in the global batch.

Like augmentation, the dropout of a clip depends neither on the number of replicas nor on the step at which a
run was resumed. Keras's own dropout layer has a state that would have to be saved, and draws the same numbers
on every replica.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from ucf50_tfrecord.specs import ModelSpec

# The lowest `stream` of layers of stochastic depth, above those of dropout in this project's models and below those
# of models of keras.applications.
_FIRST_RESIDUAL_STREAM = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomKey:
    """The values from which dropout derives its random numbers in one training step.

    seed: the run's seed, an int or int64 [] on the host.
    step: the index of the step, counted from the run's start, int64 [] on the host.
    position: the positions of a replica's clips in the global batch, int64 [B].
    batch_size: clips per global batch.
    """

    seed: int | tf.Tensor
    step: tf.Tensor
    position: tf.Tensor
    batch_size: int


# Thread-local, because a MirroredStrategy traces each replica in its own thread.
_local = threading.local()


@contextlib.contextmanager
def random_key(key: RandomKey) -> Iterator[None]:
    """Sets the RandomKey of all Dropout layers while the block runs; training steps call their model in it."""
    _local.key = key
    try:
        yield
    finally:
        del _local.key


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class Dropout(keras.layers.Layer):
    """A dropout layer: sets a random fraction of the values to 0 and scales the others, in training only.

    Maps float [B * k, ...] to the same shape; each of the B clips has k consecutive rows. Training must call
    it within `random_key`.

    Args:
      rate: the fraction of the values that is set to 0.
      stream: a number that is unique among the model's dropout layers, so that they draw different random
        numbers.
      dtype: the layer's dtype policy.
      whole_rows: whether each of the B * k rows is either kept or dropped as a whole (stochastic depth).
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
        if not hasattr(_local, "key"):
            raise RuntimeError("Call a model with dropout for training within dropout.random_key(…).")
        key = _local.key
        rows = tf.shape(values)[0] // tf.shape(key.position)[0]  # rows per clip
        with tf.device("CPU:0"):  # TensorFlow expects seeds on the host, also for draws on a GPU
            seed = tf.convert_to_tensor(key.seed, tf.int64)
            seeds = tf.stack([seed * 1000 + self.stream + 1, key.step])
            each = [1] * (len(values.shape) - 1) if self.whole_rows else values.shape[1:]
            shape = tf.concat([[key.batch_size, rows], each], axis=0)
        draws = tf.gather(tf.random.stateless_uniform(shape, seed=seeds), key.position)
        kept = tf.reshape(draws, [-1, *each]) >= self.rate
        return tf.where(kept, values / (1 - self.rate), tf.zeros_like(values))


def drop_residual(
    spec: ModelSpec, number: int, count: int, dtype: keras.DTypePolicy
) -> Callable[[keras.KerasTensor], keras.KerasTensor]:
    """Returns what drops residuals, [B * k, ...], before they are added to a residual block's input.

    Each of the B * k rows is dropped as a whole, with a rate that grows linearly from spec.stochastic_depth / count in
    the first block to spec.stochastic_depth in the last.

    Args:
      spec: the model's specification.
      number: the number of the residual among those of the model, from 0.
      count: the number of residuals of the model.
      dtype: the layer's dtype policy.
    """
    if not spec.stochastic_depth:
        return lambda residual: residual
    rate = spec.stochastic_depth * (number + 1) / count
    return Dropout(rate, stream=_FIRST_RESIDUAL_STREAM + number, dtype=dtype, whole_rows=True)
