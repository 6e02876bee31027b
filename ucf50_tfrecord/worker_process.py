"""The worker's end of workers.IsolatedPool: what runs in each of its processes.

The parent sends a function, then items with their open files; both are pickled, as the parent is trusted. The
worker answers each with a message of msgpack, which says what kind it is and how long.
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
from ucf50_tfrecord.sandbox import Sandbox

# What the parent's messages begin with, and the worker's.
FUNCTION, ITEM = b"F", b"I"
ANSWERED, FAILED = b"A"[0], b"X"[0]
LENGTH = struct.Struct("<Q")
_MAX_FILES = 8  # of an item
_MAX_REASON = 2000  # characters
_ADDRESS_SPACE_FACTOR = 8


class Failed(msgspec.Struct, forbid_unknown_fields=True):
    """The message that a call failed."""

    cause: Literal["crash", "memory"]
    reason: str


def serve(connection_fd: int, *, memory_bytes: int, sandbox: bool) -> None:
    """Answers calls until the parent hangs up: what a worker process runs."""
    function, state = None, None
    encoder = msgspec.msgpack.Encoder()
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=connection_fd) as connection:
        while True:
            message, files = _receive_message(connection)
            if message[:1] == FUNCTION:
                function = pickle.loads(message[1:])
                if state is None:  # now that what the function needs is loaded
                    state = _restrict(memory_bytes, sandbox)
                _answer(connection, ANSWERED, encoder.encode(state))
                continue
            with contextlib.ExitStack() as stack:
                opened = [stack.enter_context(_open(file)) for file in files]
                _answer(connection, *_call(function, pickle.loads(message[1:]), opened, encoder))


def _restrict(memory_bytes: int, sandbox: bool) -> Sandbox:
    """Limits this process's memory and rights. Then its threads may start: no earlier one would be restricted."""
    _limit_address_space(_ADDRESS_SPACE_FACTOR * memory_bytes)
    state = sandbox_lib.enter() if sandbox else Sandbox()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
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
    except Exception as error:  # whatever it is, it costs this item alone; the reason is reported
        failed = Failed("crash", f"{type(error).__name__}: {error}"[:_MAX_REASON])
    return FAILED, encoder.encode(failed)


def _answer(connection: socket.socket, kind: int, content: bytes) -> None:
    connection.sendall(bytes([kind]) + LENGTH.pack(len(content)))
    connection.sendall(content)


def do_nothing(item: None) -> None:
    """Stands for a function where only the process is of interest."""


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
