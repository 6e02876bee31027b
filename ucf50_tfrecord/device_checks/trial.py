"""A short training for a check: the steps, the feed and the meter of training.loop, without a run's folder."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import recipes
from ucf50_tfrecord.choices import Cache, Schedule
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.device_checks.outcomes import Options
from ucf50_tfrecord.training import loop
from ucf50_tfrecord.training import meter as meter_lib
from ucf50_tfrecord.training import step as step_lib

_NUM_WARM_UP_STEPS = 3
# Steps between two reads of the results in a measurement: as many as a training takes, but fewer if steps are long.
_GROUP_SECS = 0.5
_MAX_GROUP = 20


class Speed(NamedTuple):
    """The speed of some training steps.

    clips_per_sec: clips trained on per second, over all devices.
    wait_fraction: fraction of the time in which the devices wait for input.
    num_steps: number of steps that were measured.
    """

    clips_per_sec: float
    wait_fraction: float
    num_steps: int


class Trial:
    """A training of a recipe's model on the made-up clips.

    feed: the source of its batches.
    model: its model.
    spec: its settings: the recipe's, with a constant learning rate, as the number of steps is not fixed.
    """

    def __init__(
        self,
        options: Options,
        recipe: str,
        *,
        precision: str,
        strategy: tf.distribute.Strategy,
        cache: Cache = Cache.NONE,
        learning_rate: float | None = None,
    ):
        """Builds the model and the feed, and loads the clips that are kept in memory.

        Args:
          options: the clips and the batch size.
          recipe: the recipe's name, which is also the model's.
          precision: the precision of the computation; not AUTO.
          strategy: the devices that train.
          cache: where clips are kept; not AUTO.
          learning_rate: replaces the recipe's.
        """
        settings = recipes.load(recipe)
        manifest = manifest_lib.load(options.data_dir)
        clips = load_clips(manifest, manifest.folds)
        self.spec = dataclasses.replace(
            recipes.train_spec(settings),
            precision=precision,
            learning_rate=learning_rate or settings["learning_rate"],
            schedule=Schedule.CONSTANT,
            warmup_epochs=0.0,
            batch_size=options.batch_size or settings["batch_size"],
        )
        self.feed = Feed(clips, strategy=strategy, cache=cache)
        state = loop.build_state(
            recipes.model_spec(settings, manifest), self.spec, num_clips=len(clips), strategy=strategy
        )
        self.model = state.model
        self._train_steps = state.train_steps(self.feed.frames, frozen=False)
        self._batches = self.feed.iterator(batch_size=self.spec.batch_size, seed=self.spec.seed)
        self._meter = meter_lib.Meter()
        self._step = 0

    def take_steps(self, count: int) -> step_lib.StepResult:
        """Takes training steps, one per call of the device; returns one number per step for each field."""
        for _ in range(count):
            self._meter.start_call()
            with tf.device("CPU:0"):  # the host derives random seeds from the step
                arguments = tf.constant(self._step, tf.int64), tf.constant(1, tf.int32), tf.constant(0.0)
                seed = tf.constant(self.spec.seed, tf.int64)
            with self.feed.explained():
                rows, times, _ = self._train_steps(self._batches, *arguments, seed)
                self._meter.end_call(rows, times)
            self._step += 1
        return step_lib.StepResult.of(self._meter.read())

    def take_steps_within(self, secs: float, *, least: int, most: int) -> step_lib.StepResult:
        """Takes `least` training steps, and more, up to `most`, while fewer than `secs` seconds pass.

        The first steps, which compile, do not count in the time. Returns as take_steps does.
        """
        rows = [self.take_steps(least)]
        end = time.monotonic() + secs
        for _ in range(least, most):
            if time.monotonic() > end:
                break
            rows.append(self.take_steps(1))
        return step_lib.StepResult(*map(np.concatenate, zip(*rows)))

    def warm_up(self) -> None:
        """Takes the first steps, which compile and choose kernels, and the first timed one."""
        self.take_steps(_NUM_WARM_UP_STEPS)
        self._meter = meter_lib.Meter()

    def measure(self, secs: float) -> Speed:
        """Trains for about `secs` seconds, at least for two groups of steps. Call `warm_up` before."""
        self._meter = meter_lib.Meter()
        started = time.perf_counter()
        self.take_steps(2)  # the first one is not timed
        step_secs = (time.perf_counter() - started) / 2
        group = int(min(max(_GROUP_SECS / step_secs, 1), _MAX_GROUP))
        first = self._step - 1
        while time.perf_counter() - started < secs or self._step - first < 2 * group:
            self.take_steps(group)
        total = self._meter.total()
        return Speed(total["clips_per_sec"], total["wait_share"], self._step - first)
