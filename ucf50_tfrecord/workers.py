"""Calls in processes of their own, for work that may crash, hang or eat memory.

A worker process gets many items and answers one by one, so the item that ends it is
known: the first without an answer. That item gets a second chance, alone in a fresh
process (the one before it may have damaged the first); if it ends that one too, it is
at fault. All others are unharmed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing.connection
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ucf50_tfrecord.specs import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# The system sends SIGKILL when memory runs out, and schedulers send the others.
_ENDED_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_START_SECS = 120
_MAX_FALSE_STARTS = 2
_WATCH_SECS = 0.05
_ADDRESS_SPACE_FACTOR = 8
_END_SECS = 5


@dataclasses.dataclass(frozen=True)
class Failure:
    """How an item ended its process, twice.

    cause: "crash", "timeout", "memory", or "killed" (by the system or a person: not
    for sure the item's fault).
    """

    cause: str
    reason: str


class Cancelled(Exception):
    """The pool was closed while the call ran."""


class IsolatedPool:
    """Worker processes, each limited in memory, that may die without harm.

    Thread-safe: every thread that maps has a worker to itself meanwhile. Leaving the pool's
    context kills all workers and ends the calls that run with Cancelled. Workers end with
    their parent, however it ends.

    Args:
      memory_bytes: what a worker may take in memory beyond what it has once it is loaded.
    """

    def __init__(self, memory_bytes: int):
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all workers; calls that run end with Cancelled."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        for worker in workers:
            worker.kill()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        timeout_secs: Callable[[Item], float],
    ) -> Iterator[tuple[Item, Result | Failure]]:
        """Yields each item with the function's result, in order.

        Args:
          function: can be pickled. An exception of it counts as a crash.
          items: what it is called with.
          timeout_secs: how long the call with an item may take.

        Raises:
          UserError: if no worker can be started.
          Cancelled: if the pool is closed meanwhile.
        """
        position, has_failed, num_false_starts = 0, False, 0
        while position < len(items):
            batch = items[position : position + 1] if has_failed else items[position:]
            try:
                with self._worker(fresh=has_failed) as worker:
                    worker.begin(function, batch)
                    num_false_starts = 0
                    for item in batch:
                        yield item, worker.receive(timeout_secs(item))
                        position, has_failed = position + 1, False
            except _NotStarted as error:
                num_false_starts += 1
                if num_false_starts > _MAX_FALSE_STARTS:
                    raise UserError(f"A worker process did not start: {error}") from error
            except _Died as death:
                if has_failed:
                    yield items[position], death.failure
                    position += 1
                has_failed = not has_failed

    @contextlib.contextmanager
    def _worker(self, *, fresh: bool) -> Iterator[_Worker]:
        """Lends a worker; one that is not handed back in order is killed."""
        with self._lock:
            self._check_open()
            worker = self._idle.pop() if self._idle and not fresh else None
            if worker is None:
                worker = _Worker(self._memory_bytes)
                self._all.add(worker)
        try:
            yield worker
        except BaseException as error:
            worker.kill()
            with self._lock:
                self._all.remove(worker)
                if not isinstance(error, GeneratorExit):
                    self._check_open()
            raise
        with self._lock:
            self._idle.append(worker)

    def _check_open(self) -> None:
        if self._closed:
            raise Cancelled


class _Died(Exception):
    """A worker's end; `failure` says how."""

    def __init__(self, cause: str, reason: str):
        super().__init__(reason)
        self.failure = Failure(cause, reason)


class _NotStarted(Exception):
    """A worker ended before its first item; the text says how."""


class _Worker:
    """The parent's end of one worker process.

    A plain interpreter, not multiprocessing's spawn: that would import the parent's main module again.
    """

    def __init__(self, memory_bytes: int):
        try:
            ours, theirs = socket.socketpair()
            # The worker never reads from its standard input, which ends when this process does.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), str(memory_bytes)],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C reaches the parent alone, which decides what happens then
            )
        except OSError as error:
            raise UserError(f"Cannot start a worker process: {error.strerror}") from error
        theirs.close()
        self._connection = multiprocessing.connection.Connection(ours.detach())
        self._memory_bytes = memory_bytes
        self._base_bytes: int | None = None  # what it takes once all is loaded

    def begin(self, function: Callable, items: Sequence) -> None:
        """Sends a call, and waits until what the function needs is loaded: no item's fault.

        Raises:
          _NotStarted: if the process ends before.
        """
        with contextlib.suppress(OSError):  # it is dead: receive tells how
            self._connection.send((function, items))
        try:
            self.receive(_START_SECS)
        except _Died as death:
            raise _NotStarted(str(death)) from death
        if self._base_bytes is None:
            self._base_bytes = self._resident_bytes()

    def receive(self, timeout_secs: float) -> Any:
        """Returns the next answer.

        Raises:
          _Died: if none comes in time or none can come.
        """
        deadline = time.monotonic() + timeout_secs
        try:
            while not self._connection.poll(_WATCH_SECS):
                if time.monotonic() >= deadline:
                    raise _Died("timeout", f"it took longer than {timeout_secs:.0f} s")
                self._check_memory()
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._join()
            raise _Died(*_explain_exit(self._process.returncode)) from error
        if isinstance(answer, Failure):
            raise _Died(answer.cause, answer.reason)
        return answer

    def _check_memory(self) -> None:
        """Looks at the memory in use, from outside: libraries survive a failed allocation, and go on wrongly."""
        if self._base_bytes is not None and self._resident_bytes() > self._base_bytes + self._memory_bytes:
            raise _Died(*_over_memory(self._memory_bytes))

    def _resident_bytes(self) -> int:
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):  # it has just ended
            return 0

    def kill(self) -> None:
        self._process.kill()
        self._process.stdin.close()
        self._join()

    def _join(self) -> None:
        # Not for ever: a process that waits for a broken disk cannot die.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECS)


def _explain_exit(status: int | None) -> tuple[str, str]:
    """Returns the cause and the reason of a process's end."""
    if status is not None and -status in _ENDED_FROM_OUTSIDE:
        return (
            "killed",
            f"its process was ended with {signal.Signals(-status).name}, perhaps for want of memory",
        )
    if status is not None and status < 0:
        return "crash", f"its process crashed with {signal.Signals(-status).name}"
    return "crash", f"its process ended with status {status}"


_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from ucf50_tfrecord import workers
workers.serve(int(sys.argv[2]), int(sys.argv[3]))
"""


def _over_memory(memory_bytes: int) -> tuple[str, str]:
    return "memory", f"it needed more than {memory_bytes / 2**20:.0f} MiB of memory"


def serve(connection_fd: int, memory_bytes: int) -> None:
    """Answers calls until the parent hangs up: what a worker process runs."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection = multiprocessing.connection.Connection(connection_fd)
    is_limited = False
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, items = connection.recv()
            if not is_limited:  # now that what the function needs is loaded
                _limit_address_space(_ADDRESS_SPACE_FACTOR * memory_bytes)
                is_limited = True
            connection.send(None)
            for item in items:
                connection.send(_call(function, item, memory_bytes))


def _call(function: Callable[[Item], Result], item: Item, memory_bytes: int) -> Result | Failure:
    try:
        return function(item)
    except MemoryError:
        return Failure(*_over_memory(memory_bytes))
    except Exception as error:  # whatever it is, it costs this item alone; the reason is reported
        return Failure("crash", f"{type(error).__name__}: {error}")


def _limit_address_space(num_bytes: int) -> None:
    """Makes allocations fail beyond what the process has now and num_bytes more.

    Far more than the memory allowed: it only stops what allocates faster than the parent looks,
    or allocates without using it.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = now + num_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def _exit_with_parent() -> None:
    # A parent that is killed cannot end its workers.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
