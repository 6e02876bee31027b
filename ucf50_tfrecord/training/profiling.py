"""Runs TensorFlow's profiler during some steps of a run, for TensorBoard's Profile page."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import tensorflow as tf

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.texts import tensorflow_reason


class Profiler:
    """Profiles a range of a run's training steps, and writes the profile into the run's TensorBoard folder.

    Use it as a context manager, or call `close`. If TensorFlow's profiler fails, `warn` is called, and
    training continues without a profile.
    """

    def __init__(
        self,
        run_dir: str,
        steps: tuple[int, int] | None,
        *,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """Sets the steps to profile.

        Args:
          run_dir: the run's folder.
          steps: the first and the last step to profile, counted from 1 like the steps of the curves; None
            profiles nothing.
          warn: called with one sentence for each problem.

        Raises:
          UserError: if the first step is less than 1 or greater than the last.
        """
        if steps is not None:
            expect(len(steps) == 2 and 1 <= steps[0] <= steps[1], "steps a,b with 1 <= a <= b", steps=steps)
        self._folder = str(pathlib.Path(run_dir, "tensorboard", "train"))
        self._steps, self._warn = steps, warn
        self._running = self._was_running = False
        self._marker: tf.profiler.experimental.Trace | None = None

    def step(self, number: int) -> None:
        """Marks the start of training step `number`. Call it before each step.

        On TensorBoard's Profile page, all time until the next call of this method counts as step `number`:
        waiting for input, the device's work and the rest of the loop. A run that resumes after the first step
        to profile starts profiling where it resumes. If no steps are profiled, this method costs nothing.
        """
        if self._steps is None:
            return
        self._end_marker()
        first, last = self._steps
        if number > last:
            self.close()
        elif number >= first:
            if not self._running:
                self._start()
            self._marker = tf.profiler.experimental.Trace("train", step_num=number, _r=1)
            self._marker.__enter__()

    def close(self) -> None:
        """Writes the profile if profiling was started, and stops profiling for good."""
        self._end_marker()
        if self._steps is not None and not self._was_running:
            self._warn(
                f"there is no profile: none of the steps {self._steps[0]} to {self._steps[1]} was taken"
            )
        self._steps = None
        if not self._running:
            return
        self._running = False
        try:
            tf.test.experimental.sync_devices()  # the last step's work may still be queued
            tf.profiler.experimental.stop()
        except (OSError, tf.errors.OpError) as error:
            self._warn(f"the profile could not be written: {tensorflow_reason(error)}")

    def _start(self) -> None:
        try:
            tf.test.experimental.sync_devices()  # keeps the work of earlier steps out of the profile
            tf.profiler.experimental.start(self._folder)
            self._running = self._was_running = True
        except (OSError, tf.errors.OpError) as error:  # for example if another profiler runs
            self._steps = None
            self._warn(f"there will be no profile: {tensorflow_reason(error)}")

    def _end_marker(self) -> None:
        if self._marker is not None:
            self._marker.__exit__(None, None, None)
            self._marker = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
