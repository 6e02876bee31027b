"""Functions that measure the rates, in clips/s, of decoding, of the input and of training steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ucf50_tfrecord.specs import ClipFormat, TrainSpec

_WARM_UP_BATCHES = 8
_WARM_UP_STEPS = 3


def per_second(act: Callable[[], int], secs: float) -> float:
    """Calls `act` repeatedly for `secs` seconds; returns the sum of its results per second."""
    started, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < secs:
        count += act()
    return count / taken


def of_decoding(paths: Sequence[str], clip_format: ClipFormat, *, secs: float) -> float:
    """Returns the clips/s at which this process decodes videos, as a conversion does. Loads PyAV."""
    from ucf50_tfrecord.convert import decode

    def count(path: str) -> int:
        try:
            return len(decode.decode_file(path, clip_format))
        except decode.VideoError:  # a conversion would quarantine the video
            return 0

    count(paths[0])  # not timed: imports packages and fills tables
    videos = itertools.cycle(paths)
    return per_second(lambda: count(next(videos)), secs)


def of_batches(batches: Iterator[Any], batch_size: int, *, secs: float) -> float:
    """Returns the clips/s of an endless iterator of batches, after a warm-up.

    If a batch is a dictionary, only clips whose `mask` is True are counted; the others are padding.
    """

    def take() -> int:
        batch = next(batches)
        return int(batch["mask"].numpy().sum()) if isinstance(batch, dict) else batch_size

    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    return per_second(take, secs)


def of_steps(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    spec: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    secs: float,
) -> float:
    """Returns the clips/s of training steps of a model on one batch of random clips in memory."""
    import tensorflow as tf

    from ucf50_tfrecord.training import step as step_lib

    train_step = step_lib.make_train_step(
        model, optimizer, spec, strategy=strategy, frames=lambda batch: batch["video"]
    )
    random, size = np.random.default_rng(0), spec.batch_size
    batch = {
        "video": tf.constant(random.integers(0, 256, (size, *model.input_shape[1:]), dtype=np.uint8)),
        "label": tf.constant(random.integers(0, model.output_shape[-1], size), tf.int32),
        "mask": tf.ones([size], tf.bool),
        "position": tf.range(size, dtype=tf.int64),
    }

    zero = tf.constant(0, tf.int64)

    def step() -> int:
        train_step(batch, zero, zero).numpy()
        return size

    for _ in range(_WARM_UP_STEPS):
        step()
    return per_second(step, secs)
