"""The loop that runs in each worker process of workers.IsolatedPool, which calls functions in isolation.

The worker trusts its parent process, so the parent sends a pickled function, then pickled items (the
function's arguments) with their open files. The worker answers each of them with a msgpack message, which
begins with its kind and length. An item that is sent as a stream gets an answer for each value that the function,
a generator, yields.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

import msgspec

from ucf50_tfrecord import sandbox as sandbox_lib
from ucf50_tfrecord.sandbox import Restrictions

# The first byte of each message: the first three from the parent, the others from the worker.
FUNCTION, ITEM, STREAM = b"F", b"I", b"S"
ANSWERED, FAILED, ENDED = b"A"[0], b"X"[0], b"E"[0]
LENGTH = struct.Struct("<Q")
_MAX_FILES = 8  # files per item
_MAX_REASON = 2000  # characters of Failed.reason
_ADDRESS_SPACE_FACTOR = 8


class Failed(msgspec.Struct, forbid_unknown_fields=True):
    """The worker's message that a call failed.

    cause: "memory" if memory ran out, else "crash".
    reason: description of the exception; "" if memory ran out.
    """

    cause: Literal["crash", "memory"]
    reason: str


def serve(connection_fd: int, *, memory_bytes: int, sandbox: bool) -> None:
    """Answers the parent's calls until the parent closes the connection.

    Args:
      connection_fd: file descriptor of the socket to the parent.
      memory_bytes: the pool's limit on this process's memory; the limit on its address space is a multiple of
        it.
      sandbox: whether to give up the rights that calls do not need; see sandbox.enter.
    """
    function, state = None, None
    encoder = msgspec.msgpack.Encoder()
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=connection_fd) as connection:
        while True:
            message, files = _receive_message(connection)
            if message[:1] == FUNCTION:
                function = pickle.loads(message[1:])
                if state is None:  # the first function: its modules are loaded now
                    state = _restrict(memory_bytes, sandbox)
                _answer(connection, ANSWERED, encoder.encode(state))
                continue
            with contextlib.ExitStack() as stack:
                opened = [stack.enter_context(_open(file)) for file in files]
                call = _stream if message[:1] == STREAM else _call
                for kind, content in call(function, pickle.loads(message[1:]), opened, encoder):
                    _answer(connection, kind, content)


def _restrict(memory_bytes: int, sandbox: bool) -> Restrictions:
    """Limits this process's memory and rights, then starts the thread that watches the parent process.

    A thread that started before would stay unrestricted.

    Returns:
      The restrictions that are now in force.
    """
    _limit_address_space(_ADDRESS_SPACE_FACTOR * memory_bytes)
    state = sandbox_lib.enter() if sandbox else Restrictions()
    # The parent never writes to this process's standard input, so reading it returns when the parent exits.
    exit_after(lambda: os.read(sys.stdin.fileno(), 1))
    return state


def _receive_message(connection: socket.socket) -> tuple[bytes, list[int]]:
    header = b""
    files: list[int] = []
    while len(header) < LENGTH.size:
        part, received, _, _ = socket.recv_fds(connection, LENGTH.size - len(header), _MAX_FILES)
        if not part:
            raise EOFError
        header, files = header + part, files + received
    parts, left = [], LENGTH.unpack(header)[0]
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts), files


def _open(file: int) -> BinaryIO:
    is_writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    return open(file, "r+b" if is_writable else "rb", buffering=0)


def _call(
    function: Callable, item: Any, files: Sequence[BinaryIO], encoder: msgspec.msgpack.Encoder
) -> Iterator[tuple[int, bytes]]:
    """Yields the kind and the content of the answer to an item."""
    try:
        yield ANSWERED, encoder.encode(function(item, *files))
    except Exception as error:  # any error costs this item only; its reason is reported
        yield FAILED, encoder.encode(_failed(error))


def _stream(
    function: Callable, item: Any, files: Sequence[BinaryIO], encoder: msgspec.msgpack.Encoder
) -> Iterator[tuple[int, bytes]]:
    """Yields the kinds and the contents of the answers to an item, one for each value and one for the end."""
    try:
        for value in function(item, *files):
            yield ANSWERED, encoder.encode(value)
    except Exception as error:  # as in _call
        yield FAILED, encoder.encode(_failed(error))
    else:
        yield ENDED, b""


def _failed(error: Exception) -> Failed:
    if isinstance(error, MemoryError):
        return Failed("memory", "")
    return Failed("crash", f"{type(error).__name__}: {error}"[:_MAX_REASON])


def _answer(connection: socket.socket, kind: int, content: bytes) -> None:
    connection.sendall(bytes([kind]) + LENGTH.pack(len(content)))
    connection.sendall(content)


def do_nothing(item: None) -> None:
    """Does nothing. A parent that only needs a started worker process sends this function."""


def _limit_address_space(num_bytes: int) -> None:
    """Makes memory allocations fail that would exceed the current address space by more than num_bytes.

    num_bytes is far more than the memory limit. The parent checks that one from time to time; the limit set
    here stops processes that grow faster than these checks, or reserve memory without using it.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = now + num_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def exit_after(wait: Callable[[], object]) -> None:
    """Starts a thread that calls `wait` and exits this process when `wait` returns.

    With a `wait` that returns when the parent process exits, no process is left behind by a killed parent.
    """

    def run() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=run, daemon=True).start()
