"""Runs the cells of a comparison (its trainings) in several processes side by side.

Each process loads TensorFlow once, and then runs the cells that the parent process sends it, one after
another. If a process crashes or is killed, its cell is tried once more in a fresh process.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training.listener import Listener

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonListener
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.results import Cell


class Outcome(enum.Enum):
    """The outcome of running a cell: it is finished, the listener stopped it, or another process runs it."""

    FINISHED = enum.auto()
    STOPPED = enum.auto()
    ELSEWHERE = enum.auto()


_MAX_TRIES = 2
_POLL_SECS = 0.2


def run(
    comparison: Comparison,
    listener: ComparisonListener,
    *,
    environments: Sequence[Mapping[str, str]],
    prepare: Callable[[], None] | None = None,
    task: tuple[int, int] = (0, 1),
) -> bool:
    """Trains and tests the cells of a comparison that are not finished yet, several at a time.

    If this process exits, the processes that it started save checkpoints and exit.

    Args:
      comparison: the comparison. The results do not depend on the number of processes.
      listener: functions that receive the progress and may stop the comparison.
      environments: for each process, environment variables that are set in addition to those of this process.
        They choose the process's device.
      prepare: called first in each process, before TensorFlow is loaded; None to do nothing. It must be picklable.
      task: as in Comparison.claimable.

    Returns:
      As Comparison.run does.

    Raises:
      UserError: as Comparison.run does. Also if a cell's process crashed twice; this error is raised after
        all other cells are finished.
    """
    comparison = dataclasses.replace(comparison, num_processes=len(environments))
    payload = pickle.dumps(comparison)
    while wanted := comparison.claimable(task):
        start = functools.partial(_Process, prepare=prepare, payload=payload)
        with _Crew(wanted, len(comparison.spec.cells()), listener, environments, start) as crew:
            crew.run()
        if crew.is_stopping:
            return False
        if crew.failed:
            raise UserError(
                f"{len(crew.failed)} of {len(comparison.spec.cells())} trainings failed twice: "
                + "; ".join(f"{cell}: {reason}" for cell, reason in crew.failed.items())
                + ". The other trainings are kept; the same command tries the failed ones again"
            )
        if not crew.num_finished:  # processes of another parent were faster
            break
    return True


class _Process:
    """A process that runs cells, as its parent process sees it.

    cell: the cell that the process runs; None if it is idle.
    """

    def __init__(self, environment: Mapping[str, str], *, prepare: Callable[[], None] | None, payload: bytes):
        context = multiprocessing.get_context("spawn")
        self.environment = environment
        self.connection, its_end = context.Pipe()
        self.cell: Cell | None = None
        self._process = context.Process(target=_serve, args=(its_end, dict(environment), prepare, payload))
        self._process.start()
        its_end.close()

    def give(self, cell: Cell) -> None:
        self.cell = cell
        self._send(cell)

    def ask_to_stop(self) -> None:
        self._send(None)

    def _send(self, message: Cell | None) -> None:
        try:
            self.connection.send(message)
        except OSError:  # the process has just exited, which the next `receive` notices
            pass

    def receive(self) -> tuple[str, Any] | None:
        """Returns the process's next message as (kind, content); None if the process has exited."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """Kills the process if it still runs; returns a clause that says how it exited."""
        self._process.join(timeout=_POLL_SECS)  # a process closes its connection a moment before it exits
        self._process.kill()
        self._process.join()
        self.connection.close()
        code = self._process.exitcode or 0
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process exited with status {code}"


class _Crew:
    """The processes that run some cells side by side. Leaving the `with` block kills running processes.

    failed: dictionary from each cell whose process crashed twice to the reason.
    num_finished: number of cells that the processes have finished.
    is_stopping: whether the listener has stopped the comparison.
    """

    def __init__(
        self,
        wanted: Sequence[Cell],
        total: int,
        listener: ComparisonListener,
        environments: Sequence[Mapping[str, str]],
        start: Callable[[Mapping[str, str]], _Process],
    ):
        self._waiting = collections.deque(wanted)
        self._total, self._num_begun = total, total - len(wanted)
        self._listener, self._start = listener, start
        self._free = list(environments[: len(wanted)])  # of no process
        self._processes: list[_Process] = []
        self._tries: collections.Counter[Cell] = collections.Counter()
        self.failed: dict[Cell, str] = {}
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
            if not any(process.cell for process in self._processes):
                return
            ready = wait([process.connection for process in self._processes], timeout=_POLL_SECS)
            for process in [process for process in self._processes if process.connection in ready]:
                self._handle(process)

    def _give(self) -> None:
        for process in self._processes:
            if self._waiting and process.cell is None:
                process.give(self._waiting.popleft())
        while self._waiting and self._free:
            process = self._start(self._free.pop())
            self._processes.append(process)
            process.give(self._waiting.popleft())

    def _handle(self, process: _Process) -> None:
        message, cell = process.receive(), process.cell
        if message is None:
            self._processes.remove(process)
            self._free.append(process.environment)
            reason = process.end()
            if cell is not None and not self.is_stopping:
                self._try_again(cell, reason)
            return
        kind, content = message
        if cell is None:
            return  # it was asked to stop when it had just become idle
        match kind:
            case "start":
                if not self._tries[cell]:
                    self._num_begun += 1
                self._listener.start(cell, self._num_begun - 1, self._total)
            case "report":
                self._listener.report(cell, content)
            case "warn":
                self._listener.warn(content)
            case "error":
                raise content
            case "end":
                process.cell = None
                if content == Outcome.FINISHED:
                    self.num_finished += 1
                    self._listener.finish(cell)

    def _try_again(self, cell: Cell, reason: str) -> None:
        self._tries[cell] += 1
        if self._tries[cell] < _MAX_TRIES:
            self._listener.warn(f"{cell}: {reason}; it is tried again")
            self._waiting.appendleft(cell)
        else:
            self._listener.warn(f"{cell}: {reason}, twice")
            self.failed[cell] = reason


def _serve(
    connection: Connection, environment: dict[str, str], prepare: Callable[[], None] | None, payload: bytes
) -> None:
    """Runs the cells that the parent process sends, and reports to it; exits when the parent exits.

    Args:
      connection: the connection to the parent. The parent sends cells, or None to stop the cell that is running.
        This process sends the tuples that _Crew handles.
      environment: further environment variables.
      prepare: see `run`.
      payload: the pickled Comparison. It is unpickled here, after the environment variables are set, because
        unpickling loads TensorFlow, which reads the variables.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):  # these reach the parent, too, which then asks to stop
        signal.signal(signum, signal.SIG_IGN)
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    comparison: Comparison = pickle.loads(payload)
    run_cell = comparison.on_one_device()
    send = functools.partial(_send, connection)
    listener = Listener(
        report=functools.partial(send, "report"),
        warn=functools.partial(send, "warn"),
        # While a cell is running, the parent sends nothing but the request to stop; the end of the connection
        # counts as one.
        should_stop=connection.poll,
    )
    try:
        while (cell := connection.recv()) is not None:
            outcome = run_cell(cell, listener=listener, on_start=functools.partial(send, "start", None))
            send("end", outcome)
    except UserError as error:
        send("error", error)
    except EOFError:
        pass  # the parent has exited
    connection.close()
    os._exit(0)  # without destroying TensorFlow's objects, which may wait for reads


def _send(connection: Connection, kind: str, content: Any) -> None:
    try:
        connection.send((kind, content))
    except OSError:
        pass  # the parent has exited, which the next `recv` or `poll` notices
