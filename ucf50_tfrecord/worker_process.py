"""The child's side of workers.IsolatedPool: the loop that runs in each worker process.

The parent is trusted, so it sends a pickled function, then pickled items with their open files. The worker answers
each with a msgpack message, which begins with its kind and length.
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
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Literal

import msgspec

from ucf50_tfrecord import sandbox as sandbox_lib
from ucf50_tfrecord.sandbox import Restrictions

# First bytes of the parent's messages and of the worker's.
FUNCTION, ITEM = b"F", b"I"
ANSWERED, FAILED = b"A"[0], b"X"[0]
LENGTH = struct.Struct("<Q")
_MAX_FILES = 8  # per item
_MAX_REASON = 2000  # characters
_ADDRESS_SPACE_FACTOR = 8


class Failed(msgspec.Struct, forbid_unknown_fields=True):
    """The message that a call failed."""

    cause: Literal["crash", "memory"]
    reason: str


def serve(connection_fd: int, *, memory_bytes: int, sandbox: bool) -> None:
    """Answers calls until the parent closes the connection."""
    function, state = None, None
    encoder = msgspec.msgpack.Encoder()
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=connection_fd) as connection:
        while True:
            message, files = _receive_message(connection)
            if message[:1] == FUNCTION:
                function = pickle.loads(message[1:])
                if state is None:  # the function's modules are loaded now
                    state = _restrict(memory_bytes, sandbox)
                _answer(connection, ANSWERED, encoder.encode(state))
                continue
            with contextlib.ExitStack() as stack:
                opened = [stack.enter_context(_open(file)) for file in files]
                _answer(connection, *_call(function, pickle.loads(message[1:]), opened, encoder))


def _restrict(memory_bytes: int, sandbox: bool) -> Restrictions:
    """Limits this process's memory and rights, then starts its first thread: earlier threads would stay unrestricted."""
    _limit_address_space(_ADDRESS_SPACE_FACTOR * memory_bytes)
    state = sandbox_lib.enter() if sandbox else Restrictions()
    # The parent never writes; the end of this process's standard input is the end of its parent.
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
) -> tuple[int, bytes]:
    try:
        return ANSWERED, encoder.encode(function(item, *files))
    except MemoryError:
        failed = Failed("memory", "")
    except Exception as error:  # any error costs this item only; its reason is reported
        failed = Failed("crash", f"{type(error).__name__}: {error}"[:_MAX_REASON])
    return FAILED, encoder.encode(failed)


def _answer(connection: socket.socket, kind: int, content: bytes) -> None:
    connection.sendall(bytes([kind]) + LENGTH.pack(len(content)))
    connection.sendall(content)


def do_nothing(item: None) -> None:
    """Does nothing, for callers that only need a process."""


def _limit_address_space(num_bytes: int) -> None:
    """Makes allocations fail beyond what the process has now and num_bytes more.

    This is far more than the memory limit. It stops allocations that are faster than the parent's checks, or that
    are never used.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = now + num_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def exit_after(wait: Callable[[], object]) -> None:
    """Exits this process once wait() returns, such as when its parent is killed and so cannot stop it."""

    def run() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=run, daemon=True).start()
