"""Hands out the cells of a comparison (its trainings) to processes, on this host or on others.

A process runs the cells that it is given, one after another. If a process crashes or is killed, its cell is
tried once more in another process. If that one is lost, too, the cell has failed, and the other cells go on.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import pickle
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import failures

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonListener
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.results import Cell

_MAX_TRIES = 2
_POLL_SECS = 0.2
# How long, and how often, a cell is given out again whose folder's lock the cell's lost process may still hold:
# a process without a parent saves a checkpoint first, and a file server keeps the locks of a lost host for a while.
_LOCK_SECS, _LOCK_POLL_SECS = 120.0, 1.0


class Outcome(enum.Enum):
    """The outcome of running a cell: it is finished, the listener stopped it, or another process runs it."""

    FINISHED = enum.auto()
    STOPPED = enum.auto()
    ELSEWHERE = enum.auto()


class Process(Protocol):
    """A process that runs cells, as the process that hands out the cells sees it.

    environment: the environment variables that the process was started with.
    cell: the cell that the process runs; None if it is idle.
    is_ready: whether the process takes cells; False while it waits to be started.
    """

    environment: Mapping[str, str]
    cell: Cell | None
    is_ready: bool

    def give(self, cell: Cell) -> None:
        """Has the process run a cell, which becomes `cell`. The process must be idle and ready."""

    def ask_to_stop(self) -> None:
        """Asks the process to save its training and to stop."""

    def receive(self) -> Sequence[tuple[str, Any]] | None:
        """Returns the process's next messages, each as (kind, content); None if the process has exited.

        Call this function only if Place.wait has returned the process.
        """

    def end(self) -> str:
        """Kills the process if it still runs; returns a clause that says how it exited."""


class Place(Protocol):
    """A place where processes run: this host or a cluster."""

    def start(self, environment: Mapping[str, str], payload: bytes) -> Process:
        """Starts a process for the cells of a comparison.

        Args:
          environment: environment variables that are set in addition to the place's own.
          payload: the pickled comparison.
        """

    def wait(self, processes: Sequence[Any], timeout_secs: float) -> Collection[Any]:
        """Waits until processes that `start` returned have sent messages or have exited.

        Returns:
          These processes; none after the timeout.
        """


def run(
    comparison: Comparison,
    listener: ComparisonListener,
    *,
    place: Place,
    environments: Sequence[Mapping[str, str]],
    num_sharing: int,
    task: tuple[int, int] = (0, 1),
) -> bool:
    """Trains and tests the cells of a comparison that are not finished yet, several at a time.

    Args:
      comparison: the comparison. The results do not depend on the place or the number of processes.
      listener: functions that receive the progress and may stop the comparison.
      place: the place where the processes run.
      environments: for each process, its environment variables; see Place.start.
      num_sharing: largest number of processes that share the memory of one host.
      task: as in Comparison.claimable.

    Returns:
      False if the listener stopped the comparison. True if all cells are finished, except cells that failed (see
      failures.load) and cells that other processes are running.

    Raises:
      UserError: as Comparison.run does. Also if processes cannot be started.
    """
    payload = pickle.dumps(dataclasses.replace(comparison, num_processes=num_sharing))
    failures.forget(comparison.folder, comparison.spec.cells())
    while wanted := _untried(comparison, task):
        with _Crew(comparison, wanted, listener, place, environments, payload) as crew:
            crew.run()
        if crew.is_stopping:
            return False
        if not crew.num_finished:  # processes of another parent were faster, or all have failed
            break
    return True


def _untried(comparison: Comparison, task: tuple[int, int]) -> list[Cell]:
    """Lists the cells that this process may run and that have not failed, here or in another process."""
    claimable = comparison.claimable(task)
    failed = failures.load(comparison.folder, claimable)
    return [cell for cell in claimable if cell not in failed]


class _Crew:
    """The processes that run some cells side by side. Leaving the `with` block kills running processes.

    num_finished: number of cells that the processes have finished.
    is_stopping: whether the listener has stopped the comparison.
    """

    def __init__(
        self,
        comparison: Comparison,
        wanted: Sequence[Cell],
        listener: ComparisonListener,
        place: Place,
        environments: Sequence[Mapping[str, str]],
        payload: bytes,
    ):
        self._waiting, self._folder = collections.deque(wanted), comparison.folder
        self._total = len(comparison.spec.cells())
        self._num_before = self._total - len(wanted)
        self._begun: set[Cell] = set()
        self._listener, self._place, self._payload = listener, place, payload
        self._free = list(environments[: len(wanted)])  # of no process
        self._num_false_starts, self._max_false_starts = 0, _MAX_TRIES * len(self._free)
        self._processes: list[Process] = []
        self._tries: collections.Counter[Cell] = collections.Counter()
        # Of cells whose process was lost: when to stop waiting for their locks, and when to try next.
        self._lock_deadlines: dict[Cell, float] = {}
        self._next_tries: dict[Cell, float] = {}
        self.num_finished, self.is_stopping = 0, False

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.end()

    def run(self) -> None:
        """Hands out the cells to the processes, until no cell is waiting and none is running."""
        while True:
            if not self.is_stopping and self._listener.should_stop():
                self.is_stopping = True
                self._waiting.clear()
                for process in self._processes:
                    process.ask_to_stop()
            self._give()
            if not self._waiting and not any(process.cell for process in self._processes):
                return
            for process in self._place.wait(self._processes, _POLL_SECS):
                self._handle(process)

    def _give(self) -> None:
        num_idle = sum(process.cell is None for process in self._processes)
        while self._free and num_idle < len(self._waiting):
            self._processes.append(self._place.start(self._free.pop(), self._payload))
            num_idle += 1
        for process in self._processes:
            if process.is_ready and process.cell is None and (cell := self._take()):
                process.give(cell)

    def _take(self) -> Cell | None:
        """Removes the next cell that may be tried now from the waiting ones, and returns it."""
        now = time.monotonic()
        while True:
            cell = next((cell for cell in self._waiting if self._next_tries.get(cell, now) <= now), None)
            if cell is None:
                return None
            self._waiting.remove(cell)
            if not failures.has(self._folder, cell):  # else, it failed in another process meanwhile
                return cell

    def _handle(self, process: Process) -> None:
        messages, cell = process.receive(), process.cell
        if messages is None:
            self._processes.remove(process)
            self._free.append(process.environment)
            reason = process.end()
            if not process.is_ready:
                self._num_false_starts += 1
                if self._num_false_starts > self._max_false_starts:
                    raise UserError(f"Cannot start a process for trainings: {reason}")
            if cell is not None and not self.is_stopping:
                self._try_again(cell, reason)
            return
        for kind, content in messages:
            if kind == "error":
                raise content
            if process.cell is not None:  # else, it was asked to stop when it had just become idle
                self._hear(process, process.cell, kind, content)

    def _hear(self, process: Process, cell: Cell, kind: str, content: Any) -> None:
        """Handles a message about the cell that a process runs."""
        match kind:
            case "start":
                self._begun.add(cell)  # a cell that is tried again may be there already
                self._listener.start(cell, self._num_before + len(self._begun) - 1, self._total)
            case "report":
                self._listener.report(cell, content)
            case "warn":
                self._listener.warn(content)
            case "end":
                process.cell = None
                if content == Outcome.FINISHED:
                    self.num_finished += 1
                    self._listener.finish(cell)
                elif content == Outcome.ELSEWHERE and not self.is_stopping:
                    self._wait_for_lock(cell)

    def _try_again(self, cell: Cell, reason: str) -> None:
        self._tries[cell] += 1
        if self._tries[cell] < _MAX_TRIES:
            self._listener.warn(f"{cell}: {reason}; it is tried again")
            self._waiting.appendleft(cell)
            self._lock_deadlines[cell] = time.monotonic() + _LOCK_SECS
        else:
            failures.save(self._folder, cell, reason)
            self._listener.fail(cell, reason)

    def _wait_for_lock(self, cell: Cell) -> None:
        """Has a cell tried later if its lock may be that of its lost process."""
        now = time.monotonic()
        if now < self._lock_deadlines.get(cell, now):
            self._waiting.append(cell)
            self._next_tries[cell] = now + _LOCK_POLL_SECS
