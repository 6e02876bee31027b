"""Runs programs on hostile files; watches their processes, opened files, connections and changed folders."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import json
import os
import pathlib
import re
import resource
import secrets
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

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
    """The result of a process that has exited or was killed.

    command: the process's command line.
    status: exit status as in subprocess.Popen; None if the process was killed after `limit_secs`.
    stdout, stderr: text that the process wrote.
    limit_secs: seconds that the process was allowed to run.
    processes: command lines of child processes that it left running.
    temporary: paths of files that it left in its TMPDIR, relative to that folder.
    """

    command: Sequence[str]
    status: int | None
    stdout: str
    stderr: str
    limit_secs: float
    processes: tuple[str, ...]
    temporary: tuple[str, ...]


def environment_for(scratch: pathlib.Path, mark: str) -> dict[str, str]:
    """Returns environment variables for a process to watch.

    Args:
      scratch: the folder in which a folder for TMPDIR is made.
      mark: text in a variable that child processes inherit, by which they are found.
    """
    temporary = scratch / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        _MARK: mark,
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(REPOSITORY),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "COLUMNS": "100",
    }


def run(
    command: Sequence[str], scratch: pathlib.Path, limit_secs: float, *, cwd=REPOSITORY, stdin: str = ""
) -> Ended:
    """Runs a command until it exits or `limit_secs` have passed, then kills all processes that it left.

    Args:
      command: the command line.
      scratch: folder for the command's output and its TMPDIR.
      limit_secs: seconds after which the command is killed.
      cwd: the command's current folder.
      stdin: text of its standard input.
    """
    mark = secrets.token_hex(8)
    environment = environment_for(scratch, mark)
    output, errors = scratch / "stdout", scratch / "stderr"
    with open(output, "wb") as out, open(errors, "wb") as err:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=err, process_group=0
        )
        try:
            for limit, num_bytes in _LIMITS.items():
                resource.prlimit(process.pid, limit, (num_bytes, resource.RLIM_INFINITY))
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin.encode("utf-8", "surrogateescape"))
                process.stdin.close()
            status = process.wait(limit_secs)
        except subprocess.TimeoutExpired:
            status = None
            _kill_marked(mark)
            process.wait()
        except BaseException:
            _kill_marked(mark)
            process.wait()
            raise
    left = _processes_left(mark)
    _kill_marked(mark)
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
    """Returns the problems that a process's exit shows, such as a crash, a traceback or files left.

    Args:
      ended: result of the process.
      statuses: exit statuses that are right for its input.
    """
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
    """Returns the command lines of marked processes that still run after _GRACE_SECS.

    mark: text that environment_for put into their environment.
    """
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
    """A process that answers each question, a line of JSON, with a line of JSON.

    The process is started by the first question, and again by the first question after a crash.

    Args:
      module: module that `python -m` runs and that calls `serve`.
      scratch: folder for the process's standard error and TMPDIR.
      **environment: further environment variables.
    """

    def __init__(self, module: str, scratch: pathlib.Path, **environment: str):
        scratch.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", module]
        self._scratch, self._more = scratch, environment
        self._process: subprocess.Popen | None = None
        self._rest = b""

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def errors(self) -> str:
        """Returns the end of the text that the process wrote to standard error."""
        return (self._scratch / "stderr").read_text(errors="replace").strip()[-_SHOWN:]

    def ask(self, question: Any, limit_secs: float) -> Any:
        """Sends a question, a JSON value, to the process and returns its answer, also a JSON value.

        Raises:
          Silent: if the process exits, or does not answer within `limit_secs`; it is then stopped.
        """
        if self._process is None:
            self._start()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        deadline = time.monotonic() + limit_secs
        answers = select.poll()  # select.select fails for file descriptors above 1023
        answers.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._rest:
            if not answers.poll(1000 * max(0.0, deadline - time.monotonic())):
                self.stop()
                raise Silent(f"no answer after {limit_secs:.0f} s", timed_out=True)
            content = os.read(self._process.stdout.fileno(), 1 << 16)
            if not content:
                status = self._process.wait()
                self.stop()
                raise Silent(f"its process exited with status {status}", timed_out=False)
            self._rest += content
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _start(self) -> None:
        with open(self._scratch / "stderr", "ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=environment_for(self._scratch, "helper") | self._more,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                process_group=0,
            )
        self._rest = b""

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        self._process = None


def serve(answer) -> None:
    """Runs the main loop of a Helper's process: answers each line of JSON on standard input with one.

    What libraries print to standard output goes to standard error instead.

    Args:
      answer: function from a question to its answer, both JSON values.
    """
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        replies.write(json.dumps(answer(json.loads(line))).encode() + b"\n")


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
    """Returns a dictionary from the path of each file to its size, modification time and inode.

    Args:
      folder: folder of the files, with its subfolders.
      still: another folder of files, which must not change at all. It and its subfolders are entries too, so
        that even a temporary file that was made and removed shows, by the folder's modification time.
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
