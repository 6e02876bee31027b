"""Runs the cells of a comparison (its trainings) in several processes of this host side by side.

Each process loads TensorFlow once, and then runs the cells that the parent process sends it, one after
another.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from ucf50_tfrecord import texts
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import crew
from ucf50_tfrecord.training.listener import Listener

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonListener
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.results import Cell

# A process closes its connection a moment before it exits.
_EXIT_SECS = 0.2


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
      comparison, listener, task: as in crew.run.
      environments: for each process, environment variables that are set in addition to those of this process.
        They choose the process's device.
      prepare: called first in each process, before TensorFlow is loaded; None to do nothing. It must be picklable.

    Returns:
      As Comparison.run does.

    Raises:
      UserError: as crew.run does.
    """
    with tempfile.TemporaryDirectory(prefix="clips-") as shared_dir:
        return crew.run(
            dataclasses.replace(comparison, shared_dir=shared_dir),
            listener,
            place=_ThisHost(prepare),
            environments=environments,
            num_sharing=len(environments),
            task=task,
        )


class _ThisHost:
    """Starts processes on this host; the crew.Place of `run`."""

    def __init__(self, prepare: Callable[[], None] | None):
        self._prepare = prepare

    def start(self, environment: Mapping[str, str], payload: bytes) -> LocalProcess:
        return LocalProcess(environment, prepare=self._prepare, payload=payload)

    def wait(self, processes: Sequence[LocalProcess], timeout_secs: float) -> Collection[LocalProcess]:
        ready = wait([process.connection for process in processes], timeout=timeout_secs)
        return [process for process in processes if process.connection in ready]


class LocalProcess:
    """A process on this host that runs cells, as its parent process sees it; a crew.Process.

    Args:
      environment: environment variables that are set in addition to those of this process.
      prepare: as in `run`.
      payload: the pickled comparison.
    """

    is_ready = True

    def __init__(self, environment: Mapping[str, str], *, prepare: Callable[[], None] | None, payload: bytes):
        context = multiprocessing.get_context("spawn")
        self.environment = environment
        self.connection, its_end = context.Pipe()
        self.cell: Cell | None = None
        self._is_exiting = False
        self._crash = ""  # the exception that ended the process
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

    def receive(self) -> list[tuple[str, Any]] | None:
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            self._is_exiting = True
            return None
        if kind == "crash":  # the last message, for `end`
            self._crash = content
            return []
        return [(kind, content)]

    def end(self) -> str:
        if self._is_exiting:
            self._process.join(_EXIT_SECS)
        self._process.kill()
        self._process.join()
        self.connection.close()
        if self._crash:
            return f"its process raised {self._crash}"
        return texts.exit_clause(self._process.exitcode or 0)


def _serve(
    connection: Connection, environment: dict[str, str], prepare: Callable[[], None] | None, payload: bytes
) -> None:
    """Runs the cells that the parent process sends, and reports to it; exits when the parent exits.

    Args:
      connection: the connection to the parent. The parent sends cells, or None to stop the cell that is running.
        This process sends tuples of kind and content, which crew.run handles; before it exits because of an
        exception, the kind "crash" with the exception's text, which LocalProcess handles.
      environment: further environment variables.
      prepare: see `run`.
      payload: the pickled Comparison. It is unpickled here, after the environment variables are set, because
        unpickling loads TensorFlow, which reads the variables.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):  # these reach the parent, too, which then asks to stop
        signal.signal(signum, signal.SIG_IGN)
    os.environ.update(environment)
    send = functools.partial(_send, connection)
    listener = Listener(
        report=functools.partial(send, "report"),
        warn=functools.partial(send, "warn"),
        # While a cell is running, the parent sends nothing but the request to stop; the end of the connection
        # counts as one.
        should_stop=connection.poll,
    )
    try:
        if prepare is not None:
            prepare()
        comparison: Comparison = pickle.loads(payload)
        run_cell = comparison.on_one_device()
        while (cell := connection.recv()) is not None:
            outcome = run_cell(cell, listener=listener, on_start=functools.partial(send, "start", None))
            send("end", outcome)
    except UserError as error:
        send("error", error)
    except EOFError:
        pass  # the parent has exited
    except Exception as error:
        send("crash", f"{type(error).__name__}: {texts.tensorflow_reason(error)}")
        raise
    connection.close()
    atexit._run_exitfuncs()  # they remove temporary files
    os._exit(0)  # without destroying TensorFlow's objects, which may wait for reads


def _send(connection: Connection, kind: str, content: Any) -> None:
    try:
        connection.send((kind, content))
    except OSError:
        pass  # the parent has exited, which the next `recv` or `poll` notices
