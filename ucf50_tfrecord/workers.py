"""Calls functions in worker processes, for work that may crash, hang, use too much memory or be taken over.

An item is the argument of one call, such as a video. A worker answers its items one by one, so the item that
kills the worker is known: the first one without an answer. That item is tried again, alone in a fresh
process, because an earlier item may have damaged the first process. If the item kills the fresh process too,
the item is at fault. All other items are unharmed. A stream, which can be read only once, is never tried again.

A worker reads untrusted files, so the worker is not trusted either. It receives its files open and runs in a
sandbox. Its answers are data of a stated type and size; a worker that sends anything else is killed.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, BinaryIO, Generic, TypeVar

import msgspec

from ucf50_tfrecord import parsing
from ucf50_tfrecord.choices import Sandbox
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.sandbox import Restrictions
from ucf50_tfrecord.specs import DecodeLimits
from ucf50_tfrecord.worker_process import ANSWERED, ENDED, FUNCTION, ITEM, LENGTH, STREAM, Failed, do_nothing

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

# The system sends SIGKILL when memory runs out; schedulers and users send the other signals.
_KILLED_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_START_SECS = 120
_MAX_FALSE_STARTS = 2
_WATCH_SECS = 0.05
_END_SECS = 5
# Largest number of items sent to a worker and not yet answered: one in work and one waiting.
_MAX_SENT = 2
# Largest message that is not an answer: a worker's state at its start, or a failed call.
_SMALL_BYTES = 1 << 14


@dataclasses.dataclass(frozen=True)
class Failure:
    """The reason why a call on an item has no result.

    cause: "crash", "timeout" or "memory" if the call crashed or exceeded a limit in two processes; "killed"
      if the system or a person killed the worker process, perhaps not because of the item;
      "unreadable" if the item's files could not be opened.
    reason: description for the user.
    """

    cause: str
    reason: str


class Cancelled(Exception):
    """Error: the pool of workers was closed during a call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call(Generic[Item, Answer, Result]):
    """A function that workers call on items, and the limits on its answers.

    function: runs in the worker with an item and the item's open files, and returns the answer, or yields the
      answers to a stream. It must be picklable. An exception counts as a crash.
    answer: the type of the answers, which msgspec checks: a Struct or a built-in type.
    parse: runs in the parent process; turns an item and its answer into the result. It raises ValueError if
      the answer is wrong.
    max_bytes: largest size of an answer.
    timeout_secs: returns the time limit for an item, in seconds.
    open_files: runs in the parent process; opens an item's files, the only data files that the worker can
      read. The parent closes them once they are sent. It raises OSError or UserError if a file cannot be
      opened.
    """

    function: Callable[..., Answer]
    answer: Any
    parse: Callable[[Item, Answer], Result]
    max_bytes: int
    timeout_secs: Callable[[Item], float]
    open_files: Callable[[Item], Sequence[BinaryIO]] = lambda item: ()


class IsolatedPool:
    """A pool of worker processes with limited memory and rights, which may die without harm to this process.

    Several threads may use a pool: each thread that runs `map` has its own worker during that time. The pool
    is a context manager; leaving it kills all workers, and running calls raise Cancelled. Workers exit when
    their parent process exits, even if it is killed.

    Args:
      memory_bytes: limit on a worker's memory, beyond what the worker uses once its modules are loaded.
      sandbox: whether workers give up the rights that they do not need; see sandbox.enter.
    """

    def __init__(self, memory_bytes: int, *, sandbox: bool = True):
        self._memory_bytes, self._sandbox = memory_bytes, sandbox
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    @classmethod
    def within(cls, limits: DecodeLimits) -> IsolatedPool:
        """Returns a pool whose workers decode videos within the given limits on memory and rights."""
        return cls(limits.memory_mib << 20, sandbox=limits.sandbox == Sandbox.AUTO)

    def __enter__(self) -> IsolatedPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all workers; calls that are running in other threads raise Cancelled."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        for worker in workers:
            worker.kill()

    def map(
        self, call: Call[Item, Answer, Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result | Failure]]:
        """Calls a function on each item in a worker.

        Args:
          call: the function, and the limits on its answers.
          items: the items.

        Yields:
          A tuple of item and result for each item, in the order of `items`. The result is a Failure if the
          call failed.

        Raises:
          UserError: if no worker can be started.
          Cancelled: if the pool is closed during the call.
        """
        position, has_failed, num_false_starts = 0, False, 0
        while position < len(items):
            batch = items[position : position + 1] if has_failed else items[position:]
            try:
                with self._worker(fresh=has_failed) as worker:
                    worker.begin(call.function)
                    num_false_starts = 0
                    for item, result in _answers(worker, call, batch):
                        yield item, result
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

    def stream(self, call: Call[Item, Answer, Result], item: Item) -> Generator[Result | Failure, None, None]:
        """Calls a generator function on one item in a fresh worker. The call is never repeated.

        Args:
          call: the function, a generator, and the limits on each of its answers. `timeout_secs` is the limit on the
            time until the first answer, and from each answer to the next one.
          item: the item. Its files are opened only once.

        Yields:
          The results of the answers as they arrive. If the call fails, the last one is a Failure.

        Raises:
          UserError: if no worker can be started.
          Cancelled: if the pool is closed during the call.
        """
        for num_false_starts in itertools.count(1):
            try:
                with self._worker(fresh=True) as worker:
                    worker.begin(call.function)
                    yield from _stream(worker, call, item)
                return
            except _NotStarted as error:
                if num_false_starts > _MAX_FALSE_STARTS:
                    raise UserError(f"A worker process did not start: {error}") from error
            except _Died as death:
                yield death.failure
                return

    def start(self) -> Restrictions:
        """Starts a worker, unless one is idle already.

        Returns:
          The restrictions that are in force in the worker.

        Raises:
          UserError: if the worker does not start.
        """
        try:
            with self._worker(fresh=False) as worker:
                return worker.begin(do_nothing)
        except _NotStarted as error:
            raise UserError(f"A worker process did not start: {error}") from error

    @contextlib.contextmanager
    def _worker(self, *, fresh: bool) -> Iterator[_Worker]:
        """Yields a worker for use while the block runs; kills the worker if the block raises an error.

        Args:
          fresh: whether to start a new worker even if one is idle.
        """
        with self._lock:
            self._check_open()
            worker = self._idle.pop() if self._idle and not fresh else None
            if worker is None:
                worker = _Worker(self._memory_bytes, self._sandbox)
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


def _answers(worker: _Worker, call: Call, items: Sequence) -> Iterator[tuple[Any, Any]]:
    """Sends items to a worker and yields a tuple of item and result (or Failure) for each, in order.

    While the worker is busy with one item, the next item is already sent.

    Raises:
      _Died: if the worker dies or sends a wrong answer.
    """
    decoder = parsing.decoder(call.answer)
    rest = iter(items)
    sent: collections.deque[tuple[Any, Any]] = collections.deque()
    while True:
        while len(sent) < _MAX_SENT and (item := next(rest, _END)) is not _END:
            sent.append((item, worker.send_item(item, call.open_files)))
        if not sent:
            return
        item, failure = sent.popleft()
        if failure is None:
            content = worker.receive(call.timeout_secs(item), call.max_bytes)
            result = _parse(call, decoder, item, content)
        yield item, failure or result


def _stream(worker: _Worker, call: Call, item: Any) -> Iterator[Any]:
    """Sends an item to a worker and yields the result of each of its answers, or a Failure without any.

    Raises:
      _Died: if the worker dies or sends a wrong answer.
    """
    if failure := worker.send_item(item, call.open_files, STREAM):
        yield failure
        return
    decoder = parsing.decoder(call.answer)
    while (content := worker.receive_or_end(call.timeout_secs(item), call.max_bytes)) is not None:
        yield _parse(call, decoder, item, content)


def _parse(call: Call, decoder: msgspec.msgpack.Decoder, item: Any, content: memoryview) -> Any:
    """Turns an answer into a result; raises _Died if it is a wrong one."""
    try:
        return call.parse(item, decoder.decode(content))
    except (msgspec.MsgspecError, ValueError) as error:
        raise _Died("crash", f"its process gave no answer of the expected form: {error}") from error


_END = object()


class _Died(Exception):
    """Error: a worker died or must be killed; `failure` states the cause."""

    def __init__(self, cause: str, reason: str):
        super().__init__(reason)
        self.failure = Failure(cause, reason)


class _NotStarted(Exception):
    """Error: a worker died before it received its first item; the text states the cause."""


class _Worker:
    """The parent's side of one worker process.

    The process runs a plain Python interpreter, because multiprocessing's spawn would import the parent's
    main module again.
    """

    def __init__(self, memory_bytes: int, sandbox: bool):
        arguments = [json.dumps(sys.path), str(memory_bytes), str(int(sandbox))]
        try:
            self._socket, theirs = socket.socketpair()
            # Nothing is written to the worker's standard input, which ends when this process exits.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), *arguments],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C reaches only the parent; the parent decides what happens
                # Threads that libraries start while loading would escape the sandbox.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise UserError(f"Cannot start a worker process: {error.strerror}") from error
        theirs.close()
        self._memory_bytes = memory_bytes
        self._base_bytes: int | None = None  # the worker's memory once its modules are loaded

    def begin(self, function: Callable) -> Restrictions:
        """Sends a function to the worker and waits until the function's modules are loaded there.

        Returns:
          The restrictions that are in force in the worker.

        Raises:
          _NotStarted: if the process dies before the modules are loaded, which is no item's fault.
        """
        try:
            self._send(FUNCTION + pickle.dumps(function))
            state = parsing.decoder(Restrictions).decode(self.receive(_START_SECS, _SMALL_BYTES))
        except (_Died, msgspec.MsgspecError) as death:
            raise _NotStarted(str(death)) from death
        if self._base_bytes is None:
            self._base_bytes = self._resident_bytes()
        return state

    def send_item(
        self, item: Any, open_files: Callable[[Any], Sequence[BinaryIO]], kind: bytes = ITEM
    ) -> Failure | None:
        """Sends an item, of the kind ITEM or STREAM, with its open files to the worker.

        Returns:
          A Failure if the item's files cannot be opened; otherwise None.
        """
        try:
            files = open_files(item)
        except OSError as error:
            return Failure("unreadable", f"{type(error).__name__}: {error.strerror or error}")
        except UserError as error:
            return Failure("unreadable", str(error))
        try:
            self._send(kind + pickle.dumps(item), [file.fileno() for file in files])
        finally:
            for file in files:
                file.close()
        return None

    def _send(self, message: bytes, files: Sequence[int] = ()) -> None:
        """Sends a message to the worker. If the worker is dead or stuck, the next `receive` reports that."""
        self._socket.settimeout(_END_SECS)
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [LENGTH.pack(len(message))], files)
            self._socket.sendall(message)

    def receive(self, timeout_secs: float, max_bytes: int) -> memoryview:
        """Returns the content of the worker's next answer.

        Raises:
          _Died: if no answer comes in time, the process is dead, the call failed, or the answer is too long.
        """
        return self._answer(*self._receive_message(timeout_secs, max_bytes))

    def receive_or_end(self, timeout_secs: float, max_bytes: int) -> memoryview | None:
        """Returns the content of the next answer to a stream; None at the end. Raises _Died as `receive` does.

        It also checks the worker's memory, as answers may follow each other without a wait.
        """
        kind, content = self._receive_message(timeout_secs, max_bytes)
        if kind == ENDED:
            return None
        self._check_memory()
        return self._answer(kind, content)

    def _receive_message(self, timeout_secs: float, max_bytes: int) -> tuple[int, memoryview]:
        """Returns the kind and the content of the worker's next message."""
        deadline = time.monotonic() + timeout_secs
        wait = f"it took longer than {timeout_secs:.0f} s"
        kind_and_length = self._receive(1 + LENGTH.size, deadline, wait)
        kind, num_bytes = kind_and_length[0], LENGTH.unpack(kind_and_length[1:])[0]
        if num_bytes > (max_bytes if kind == ANSWERED else _SMALL_BYTES):
            raise _Died("crash", f"its process gave an answer of {num_bytes} bytes, more than it may")
        return kind, memoryview(self._receive(num_bytes, deadline, wait))

    def _answer(self, kind: int, content: memoryview) -> memoryview:
        """Returns the content of an answer; raises _Died for a message of another kind."""
        if kind == ANSWERED:
            return content
        try:
            failed = parsing.decoder(Failed).decode(content)
        except msgspec.MsgspecError as error:
            raise _Died("crash", f"its process gave no answer of the expected form: {error}") from error
        reason = _over_memory(self._memory_bytes) if failed.cause == "memory" else failed.reason
        raise _Died(failed.cause, reason)

    def _receive(self, num_bytes: int, deadline: float, wait: str) -> bytearray:
        """Reads num_bytes from the worker.

        Raises:
          _Died: if the deadline passes (`wait` is then the reason), the worker uses too much memory, or it
            exits.
        """
        buffer = bytearray(num_bytes)
        unread = memoryview(buffer)
        poll = select.poll()  # select() is limited to file descriptors below 1024
        poll.register(self._socket, select.POLLIN)
        while unread:
            if not poll.poll(_WATCH_SECS * 1000):
                if time.monotonic() >= deadline:
                    raise _Died("timeout", wait)
                self._check_memory()
                continue
            try:
                count = self._socket.recv_into(unread)
            except OSError:
                count = 0
            if not count:
                self._join()
                raise _Died(*_explain_exit(self._process.returncode))
            unread = unread[count:]
        return buffer

    def _check_memory(self) -> None:
        """Raises _Died if the worker uses too much memory.

        The check is made from outside, because libraries may survive a failed allocation and return wrong
        results.
        """
        if self._base_bytes is not None and self._resident_bytes() > self._base_bytes + self._memory_bytes:
            raise _Died("memory", _over_memory(self._memory_bytes))

    def _resident_bytes(self) -> int:
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):  # it has just exited
            return 0

    def kill(self) -> None:
        self._process.kill()
        self._process.stdin.close()
        self._join()
        # The socket is shut down but not closed: this wakes a thread that waits for the socket.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _join(self) -> None:
        # With a time limit: a process that waits for a broken disk cannot die.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECS)


def _explain_exit(status: int | None) -> tuple[str, str]:
    """Explains a process's exit status: returns a tuple of cause and reason, as in Failure."""
    if status is not None and -status in _KILLED_BY_OTHERS:
        return (
            "killed",
            f"its process was killed with {signal.Signals(-status).name}, perhaps because memory ran out",
        )
    if status is not None and status < 0:
        return "crash", f"its process crashed with {signal.Signals(-status).name}"
    return "crash", f"its process exited with status {status}"


def _over_memory(memory_bytes: int) -> str:
    return f"it needed more than {memory_bytes / 2**20:.0f} MiB of memory"


_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from ucf50_tfrecord import worker_process
worker_process.serve(int(sys.argv[1]), memory_bytes=int(sys.argv[3]), sandbox=sys.argv[4] == "1")
"""
