"""Measures a training's loss and accuracy, its speed, and the time that it spends waiting for input."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.errors import Advice, expect
from ucf50_tfrecord.training.step import StepResult

# A training gets a warning if it waits for input for more than this fraction of the time, at this many points
# of the curves in a row, and for at least this many seconds in all.
_MAX_WAIT_FRACTION = 0.05
_WAITS_BEFORE_WARNING = 3
_MIN_WAIT_SECS = 1.0
# Most calls of training steps that the device has left to do: one runs, one is ready to follow.
MAX_QUEUED_CALLS = 2


@dataclasses.dataclass
class Times:
    """The time that some training steps took.

    secs: seconds of training.
    wait_secs: seconds of training that were spent waiting for input.
    clips: number of clips trained on.
    """

    secs: float = 0.0
    wait_secs: float = 0.0
    clips: float = 0.0

    def add(self, other: Times) -> None:
        self.secs += other.secs
        self.wait_secs += other.wait_secs
        self.clips += other.clips

    def rates(self) -> dict[str, float]:
        """Returns the points of the input's curves, by tag."""
        return {"clips_per_sec": self.clips / self.secs, "wait_share": self.wait_secs / self.secs}


class Meter:
    """Collects the results of training steps without waiting for the device, and measures the steps' time.

    In one call the host makes the device take one or more steps. The host runs at most one call ahead of the
    device. The wait for input is the time in which the device has no work: from the end of its last call to
    the arrival of the next batch. Between the steps of one call, the host's wait is measured instead; on a
    GPU it is an upper bound, because the device may still be busy. The first call is not timed, because it
    compiles. The time between calls (evaluation, saving) is not counted.

    last: the times of the steps between the last two calls of `read`.
    """

    def __init__(self):
        self._rows: list[tf.Tensor] = []  # results of the calls since the last read, [N, K] each
        self._epoch_sums = np.zeros(len(StepResult._fields))
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "step")
        self._queued: collections.deque[concurrent.futures.Future] = collections.deque()  # calls' end times
        self._times, self._total = Times(), Times()
        self.last = Times()  # times of the steps between the last two reads
        self._untimed_clips: float | None = None  # clips of the first call, once it is done
        self._started = 0.0

    def start_call(self) -> None:
        """Marks the start of a call; waits until the device has at most one earlier call left to do."""
        self._started = time.perf_counter()
        if len(self._queued) == MAX_QUEUED_CALLS:
            self._queued.popleft().result()

    def end_call(self, rows: tf.Tensor, times: tf.Tensor) -> None:
        """Marks the end of a call, and stores its results; see step.make_train_steps.

        Args:
          rows: the steps' results, float32 [N, K].
          times: the times at which each step asked for its batch and received it, float64 [N, 2].
        """
        waits = self._waits(times.numpy())
        self._rows.append(rows)
        self._queued.append(self._watcher.submit(_time_of_end, rows))
        if self._untimed_clips is None:
            self._untimed_clips = float(StepResult.of(rows.numpy()).clips.sum())
        else:
            self._times.secs += time.perf_counter() - self._started
            self._times.wait_secs += waits

    def _waits(self, times: np.ndarray) -> float:
        """Returns the seconds in which the device lacked input during a call.

        Args:
          times: the times at which each step of the call asked for its batch and received it, float64 [N, 2].
        """
        waits = times[:, 1] - times[:, 0]
        if self._queued:
            last = self._queued[-1]
            ended = last.result() if last.done() else np.inf
            waits[0] = times[0, 1] - max(times[0, 0], ended)
        return float(np.maximum(waits, 0).sum())

    def read(self) -> np.ndarray:
        """Waits for the device, and returns the results of all steps since the last call of `read`.

        Returns:
          A row per step, float64 [N, K]; the columns are the fields of StepResult.
        """
        started = time.perf_counter()
        rows = np.concatenate(
            [tensor.numpy() for tensor in self._rows] or [np.zeros((0, len(StepResult._fields)))]
        )
        rows = rows.astype(np.float64)
        self._times.secs += time.perf_counter() - started
        self._times.clips = float(StepResult.of(rows).clips.sum()) - (self._untimed_clips or 0.0)
        if self._times.clips:
            self._total.add(self._times)
        self._epoch_sums += rows.sum(axis=0)
        self.last = self._times
        self._rows, self._times, self._untimed_clips = [], Times(), 0.0
        return rows

    def read_epoch_loss(self) -> dict[str, float]:
        """Returns the mean training loss since the last call of this method. Call it after `read`.

        Returns:
          {"train_loss": …}; an empty dictionary if no step was taken, for example in a run that resumes after
          the last step of an epoch.

        Raises:
          UserError: if no clip could be read.
        """
        epoch = StepResult(*self._epoch_sums)
        self._epoch_sums = np.zeros(len(StepResult._fields))
        if self._untimed_clips is not None:  # there was a call since the start
            expect(epoch.clips > 0, "at least 1 clip that can be read", clips=int(epoch.clips))
        return {"train_loss": float(epoch.loss / epoch.clips)} if epoch.clips else {}

    def total(self) -> dict[str, float | None]:
        """Returns {"clips_per_sec": …, "wait_share": …} of all steps; both are None if no step was timed."""
        rates = self._total.rates() if self._total.clips else {}
        return {name: rates.get(name) for name in ("clips_per_sec", "wait_share")}


def curves(rows: np.ndarray, times: Times) -> dict[str, float]:
    """Returns the points of the training curves for some steps, as a dictionary by tag.

    Args:
      rows: the results of the steps, [N, K], see StepResult.
      times: the time that the steps took.
    """
    points = StepResult.total(rows).curves()
    if times.clips:
        points |= {f"input/{name}": value for name, value in times.rates().items()}
    return {name: float(value) for name, value in points.items()}


def _time_of_end(rows: tf.Tensor) -> float:
    """Waits for the results of a call, and returns the time when they arrived, in seconds since 1970."""
    rows.numpy()
    return time.time()


class WaitAlarm:
    """Warns once if a training keeps waiting for its input.

    Args:
      advice: called before the warning; returns advice on how to feed clips faster.
      warn: called with the warning, which ends with the advice.
    """

    def __init__(self, advice: Callable[[], Advice], warn: Callable[[str], None]):
        self._advice, self._warn = advice, warn
        self._waits: list[Times] = []
        self._warned = False

    def note(self, times: Times) -> None:
        """Records the times of the steps since the last call; warns if training keeps waiting for input."""
        waits = times.secs and times.wait_secs / times.secs > _MAX_WAIT_FRACTION
        self._waits = [*self._waits, times] if waits else []
        secs, wait_secs = (sum(getattr(t, name) for t in self._waits) for name in ("secs", "wait_secs"))
        if self._warned or len(self._waits) < _WAITS_BEFORE_WARNING or wait_secs < _MIN_WAIT_SECS:
            return
        self._warned = True
        advice = self._advice()
        text = f"training waits {wait_secs / secs:.0%} of its time for input"
        self._warn(Advice(f"{text}. {advice}", *advice.remedies))
