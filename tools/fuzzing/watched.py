"""Runs programs on hostile files; watches their processes, opened files, connections and changed folders."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import multiprocessing.process
import os
import pathlib
import re
import resource
import secrets
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tools import processes
from tools.fuzzing.findings import Counter, Problem
from tools.pins import REPOSITORY
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import printable

_MARK = "UCF50_FUZZ_MARK"
_GRACE_SECS = 3.0  # for children to exit after their parent
_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000
_SHOWN = 300  # characters
# Limits on memory, file sizes and core dumps. Hostile files may ask for any size; intact ones stay far below.
_LIMITS = {resource.RLIMIT_AS: 24 << 30, resource.RLIMIT_FSIZE: 2 << 30, resource.RLIMIT_CORE: 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """The result of a process that has exited or was killed."""

    command: Sequence[str]
    status: int | None  # as in subprocess.Popen; None if the process was killed after `limit_secs`
    stdout: str
    stderr: str
    limit_secs: float
    processes: tuple[str, ...]  # command lines of the child processes it left running
    temporary: tuple[str, ...]  # files left in its TMPDIR, as paths relative to TMPDIR


def _environment(scratch: pathlib.Path, mark: str) -> dict[str, str]:
    """Returns environment variables for a process to watch, with a TMPDIR within `scratch`.

    Child processes inherit the variable with `mark`, and are found by it.
    """
    temporary = scratch / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    ours = {_MARK: mark, "TMPDIR": str(temporary), "PYTHONPATH": str(REPOSITORY)}
    return os.environ | ours | {"TF_CPP_MIN_LOG_LEVEL": "2", "COLUMNS": "100"}


def run(
    command: Sequence[str], scratch: pathlib.Path, limit_secs: float, *, cwd=REPOSITORY, stdin: str = ""
) -> Ended:
    """Runs a command until it exits or `limit_secs` have passed, then kills all processes that it left.

    scratch: folder for the command's output and its TMPDIR.
    """
    mark = secrets.token_hex(8)
    environment = _environment(scratch, mark)
    output, errors = scratch / "stdout", scratch / "stderr"
    with open(output, "wb") as out, open(errors, "wb") as err:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=err, process_group=0
        )
        status = None
        try:
            for limit, num_bytes in _LIMITS.items():
                resource.prlimit(process.pid, limit, (num_bytes, resource.RLIM_INFINITY))
            process.communicate(stdin.encode("utf-8", "surrogateescape"), limit_secs)
            status = process.returncode
            left = _processes_left(mark)
        except subprocess.TimeoutExpired:
            left = []
        finally:
            _kill_marked(mark)
            process.wait()
    temporary = scratch / "tmp"
    return Ended(
        command=command,
        status=status,
        stdout=output.read_bytes().decode("utf-8", "surrogateescape"),
        stderr=errors.read_bytes().decode("utf-8", "surrogateescape"),
        limit_secs=limit_secs,
        processes=tuple(left),
        temporary=tuple(sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))),
    )


def problems_of(ended: Ended, statuses: Collection[int]) -> list[Problem]:
    """Returns the problems that a process's exit shows, such as a crash, or a status not in `statuses`."""
    found = []
    program = next((word for word in ended.command if "." in word and "/" not in word), ended.command[0])
    last = printable(ended.stderr.strip()[-_SHOWN:])
    if ended.status is None:
        found.append(Problem(Counter.HANG, f"still running after {ended.limit_secs:.0f} s", program))
    elif ended.status < 0:
        name = signal.Signals(-ended.status).name
        found.append(Problem(Counter.CRASH, f"ended by {name}: {last}", f"{program}: {name}"))
    elif "Traceback (most recent call last)" in ended.stderr + ended.stdout:
        line = printable(ended.stderr.strip().rpartition("\n")[2][:_SHOWN])
        found.append(Problem(Counter.TRACEBACK, last, f"{program}: {re.sub(r'[0-9]+', '0', line)[:100]}"))
    elif ended.status not in statuses:
        found.append(Problem(Counter.STATUS, f"status {ended.status}: {last}", f"{program}: {ended.status}"))
    if ended.processes:
        found.append(Problem(Counter.PROCESS, "; ".join(ended.processes), program))
    if ended.temporary:
        kind = re.sub(r"(?<=[-_])\w{8}\b", "…", ended.temporary[0])
        found.append(Problem(Counter.TEMPORARY, ", ".join(ended.temporary), f"{program}: {kind}"))
    if bad := control_characters(ended.stdout + ended.stderr):
        found.append(Problem(Counter.CONTROL, bad, program))
    return found


def control_characters(text: str) -> str:
    """Returns the first line of a text that has control characters, escaped; empty if no line has any."""
    lines = text.split("\n")
    return next((printable(line)[:_SHOWN] for line in lines if not line.isprintable()), "")


def _processes_left(mark: str) -> list[str]:
    """Returns the command lines of marked processes that still run after _GRACE_SECS."""
    deadline = time.monotonic() + _GRACE_SECS
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [command for _, command in left]


def _marked(mark: str) -> list[tuple[int, str]]:
    """Returns (process id, command line) of each process with a mark in its environment, except zombies."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{_MARK}={mark}".encode() in (path / "environ").read_bytes():
                words = (path / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                found.append((int(path.name), printable(shlex.join(words[:6])[:_SHOWN])))
    return found


def _kill_marked(mark: str) -> None:
    for pid, _ in _marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Silent(Exception):
    """Raised if a Helper's process hangs or exits instead of answering; the text says which."""

    def __init__(self, text: str, *, timed_out: bool):
        super().__init__(text)
        self.timed_out = timed_out


class Helper:
    """Calls a function in a process of its own, which may crash. The next call then starts another process.

    Args:
      function: function at the top level of a module. Its arguments and results must be picklable.
      scratch: folder for the process's output (the file `output`) and TMPDIR.
    """

    def __init__(self, function: Callable[..., Any], scratch: pathlib.Path):
        self._function, self._scratch = function, scratch
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def errors(self) -> str:
        """Returns the end of the text that the process printed."""
        return (self._scratch / "output").read_text(errors="replace").strip()[-_SHOWN:]

    def ask(self, limit_secs: float, *arguments: Any) -> Any:
        """Calls the function in the process, and returns its result.

        Raises:
          Silent: if the process exits, or does not answer within `limit_secs`; it is then stopped.
        """
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._function, self._scratch))
            self._process.start()
            theirs.close()
        try:
            self._connection.send(arguments)
            if not self._connection.poll(limit_secs):
                raise Silent(f"no answer after {limit_secs:.0f} s", timed_out=True)
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            text = f"its process exited with status {self._process.exitcode}"
            self.stop()
            raise Silent(text, timed_out=False) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.join(_GRACE_SECS)
            self._process.kill()
            self._process.join()
        self._process = None


def _serve(connection: Connection, function: Callable[..., Any], scratch: pathlib.Path) -> None:
    """Runs the main loop of a Helper's process, whose output goes to a file."""
    os.setpgrp()  # Ctrl-C reaches the parent only
    os.environ |= _environment(scratch, "helper")
    with open(scratch / "output", "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    processes.exit_with_parent()
    with contextlib.suppress(EOFError):  # the parent has closed the connection
        while True:
            connection.send(function(*connection.recv()))


class OpenedFiles:
    """Records each time that any process opens one of the watched files (through Linux inotify)."""

    def __init__(self):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise UserError(f"Opened files cannot be watched here: {os.strerror(ctypes.get_errno())}")
        self._paths: dict[int, pathlib.Path] = {}

    def watch(self, path: pathlib.Path) -> None:
        """Watches a file, or the files directly in a folder."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_OPEN)
        if number < 0:
            raise UserError(f"Cannot watch {path}: {os.strerror(ctypes.get_errno())}")
        self._paths[number] = path

    def take(self) -> list[str]:
        """Returns the paths of the watched files opened since the last call, once for each open."""
        opened = []
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._fd, 1 << 16):
                position = 0
                while position < len(content):
                    number, mask, _, length = struct.unpack_from("iIII", content, position)
                    name = content[position + 16 : position + 16 + length].rstrip(b"\0")
                    position += 16 + length
                    # Listing a folder opens it.
                    if mask & _IN_OPEN and not mask & _IN_ISDIR:
                        opened.append(str(self._paths[number] / os.fsdecode(name)))
        return opened

    def close(self) -> None:
        os.close(self._fd)


class Listener:
    """Listens on a free port of this machine, TCP and UDP; counts connections and closes them.

    port: number of the port.
    """

    def __init__(self):
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):  # the port is in use: only TCP is watched
            self._udp.bind(("127.0.0.1", self.port))
        self._udp.setblocking(False)
        self._called = 0
        threading.Thread(target=self._hang_up, daemon=True).start()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                self._tcp.accept()[0].close()
                self._called += 1

    def count(self) -> int:
        """Returns the number of TCP connections and UDP packets since the last call."""
        called, self._called = self._called, 0
        with contextlib.suppress(BlockingIOError):
            while self._udp.recvfrom(1 << 16):
                called += 1
        return called

    def close(self) -> None:
        # Closing alone does not wake the accepting thread.
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()
        self._udp.close()


def snapshot(folder: pathlib.Path, *, still: pathlib.Path | None = None) -> dict[str, tuple]:
    """Returns a dictionary from the path of each file in a folder to its size, modification time and inode.

    still: another folder, which must not change at all. The dictionary also holds this folder and its
      subfolders: even a temporary file that was made and removed changes their modification times.
    """
    found = {}
    for parent, _, names in itertools.chain(os.walk(folder), os.walk(still) if still else ()):
        paths = [os.path.join(parent, name) for name in names]
        for path in [*paths, *([parent] if str(parent).startswith(f"{still}") else [])]:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                found[path] = status.st_size, status.st_mtime_ns, status.st_ino
    return found


def changes(before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    """Compares two results of `snapshot`; returns lines "made <path>", "changed <path>", "removed <path>"."""
    found = [f"made {path}" for path in after.keys() - before.keys()]
    found += [f"removed {path}" for path in before.keys() - after.keys()]
    found += [f"changed {path}" for path in before.keys() & after.keys() if before[path] != after[path]]
    return sorted(found)
