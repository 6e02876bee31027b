"""How training goes: its loss and accuracy, how fast it is, and how long it waits for input."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.errors import Advice, expect
from ucf50_tfrecord.training.step import COLUMNS

# Training that waits longer for input, at so many points of the curve in a row, should be told.
_MAX_WAIT_SHARE = 0.05
_WAITS_BEFORE_WARNING = 3
_MIN_WAIT_SECS = 1.0
# Calls that may be queued on the device: one runs, one is ready to follow.
MAX_QUEUED_CALLS = 2


@dataclasses.dataclass
class Times:
    """Seconds of training, those of them spent waiting for input, and clips trained on."""

    secs: float = 0.0
    wait_secs: float = 0.0
    clips: float = 0.0

    def add(self, other: Times) -> None:
        self.secs += other.secs
        self.wait_secs += other.wait_secs
        self.clips += other.clips

    def rates(self) -> dict[str, float]:
        return {"clips_per_sec": self.clips / self.secs, "wait_share": self.wait_secs / self.secs}


class Meter:
    """Gathers what the steps return, without waiting for the device, and the time that they take.

    The host runs at most a call ahead of the device. The wait for input is the time that the device
    is without work: from the end of its last call, however far ahead the host was, to the next
    batch. Within a call of several steps it is the time that the host waited, which on a GPU may
    pass while the device is busy: at most that long. The first call, which compiles, is not timed,
    and neither is what happens between calls (evaluation, saving).
    """

    def __init__(self):
        self._rows: list[tf.Tensor] = []  # since the last read, [N, 5] each
        self._epoch_sums = np.zeros(len(COLUMNS))
        self._watcher = concurrent.futures.ThreadPoolExecutor(1, "step")
        self._queued: collections.deque[concurrent.futures.Future] = collections.deque()  # ends of calls
        self._times, self._total = Times(), Times()
        self.last = Times()  # between the last two reads
        self._untimed_clips: float | None = None  # those of the first call, once it is done
        self._started = 0.0

    def start_call(self) -> None:
        """Waits until the device has no more than a call left to do."""
        self._started = time.perf_counter()
        if len(self._queued) == MAX_QUEUED_CALLS:
            self._queued.popleft().result()

    def end_call(self, rows: tf.Tensor, times: tf.Tensor) -> None:
        """Takes what step.make_train_steps' function returns."""
        waits = self._waits(times.numpy())
        self._rows.append(rows)
        self._queued.append(self._watcher.submit(_time_of_end, rows))
        if self._untimed_clips is None:
            self._untimed_clips = float(rows.numpy()[:, 2].sum())
        else:
            self._times.secs += time.perf_counter() - self._started
            self._times.wait_secs += waits

    def _waits(self, times: np.ndarray) -> float:
        """Returns for how long the device lacked input, of float64 [N, 2]: batches asked for, and come."""
        waits = times[:, 1] - times[:, 0]
        if self._queued:
            last = self._queued[-1]
            ended = last.result() if last.done() else np.inf
            waits[0] = times[0, 1] - max(times[0, 0], ended)
        return float(np.maximum(waits, 0).sum())

    def read(self) -> np.ndarray:
        """Waits for the device; returns the steps' COLUMNS since the last read, float64 [N, 5]."""
        started = time.perf_counter()
        rows = np.concatenate([tensor.numpy() for tensor in self._rows] or [np.zeros((0, len(COLUMNS)))])
        rows = rows.astype(np.float64)
        self._times.secs += time.perf_counter() - started
        self._times.clips = float(rows[:, 2].sum()) - (self._untimed_clips or 0.0)
        if self._times.clips:
            self._total.add(self._times)
        self._epoch_sums += rows.sum(axis=0)
        self.last = self._times
        self._rows, self._times, self._untimed_clips = [], Times(), 0.0
        return rows

    def read_epoch_loss(self) -> dict[str, float]:
        """Returns train_loss, the mean loss since the last call; call it after `read`.

        It is missing where no step was taken, as by a run that goes on after an epoch's last one.

        Raises:
          UserError: if no clip could be read.
        """
        loss, _, clips, *_ = self._epoch_sums
        self._epoch_sums = np.zeros(len(COLUMNS))
        if self._untimed_clips is not None:  # a call was taken
            expect(clips > 0, "at least 1 clip that can be read", clips=int(clips))
        return {"train_loss": float(loss / clips)} if clips else {}

    def total(self) -> dict[str, float | None]:
        """Returns clips_per_sec and wait_share over all that was read, None if nothing was timed."""
        return self._total.rates() if self._total.clips else {"clips_per_sec": None, "wait_share": None}


def curves(rows: np.ndarray, times: Times) -> dict[str, float]:
    """Returns the points of the training curves for some steps' COLUMNS, [N, 5].

    There is no loss if no clip counted, as where all had to be skipped, and no gradient norm
    if none was finite, as in float16's first steps.
    """
    loss, correct, clips, norm, num_finite = rows.sum(axis=0)
    points = {}
    if clips:
        points = {"loss": loss / clips, "accuracy": correct / clips}
    if num_finite:
        points["gradient_norm"] = norm / num_finite
    if times.clips:
        points |= {f"input/{name}": value for name, value in times.rates().items()}
    return {name: float(value) for name, value in points.items()}


def _time_of_end(rows: tf.Tensor) -> float:
    """Waits for a call's result; returns when it was there, in seconds since 1970."""
    rows.numpy()
    return time.time()


class WaitAlarm:
    """Warns, once, when training keeps waiting for its input."""

    def __init__(self, advice: Callable[[], Advice], warn: Callable[[str], None]):
        self._advice, self._warn = advice, warn
        self._waits: list[Times] = []
        self._warned = False

    def note(self, times: Times) -> None:
        """Takes the times since the last call."""
        waits = times.secs and times.wait_secs / times.secs > _MAX_WAIT_SHARE
        self._waits = [*self._waits, times] if waits else []
        secs, wait_secs = (sum(getattr(t, name) for t in self._waits) for name in ("secs", "wait_secs"))
        if self._warned or len(self._waits) < _WAITS_BEFORE_WARNING or wait_secs < _MIN_WAIT_SECS:
            return
        self._warned = True
        advice = self._advice()
        text = f"training waits {wait_secs / secs:.0%} of its time for input"
        self._warn(Advice(f"{text}. {advice}", *advice.remedies))
