"""Runs Python programs in forks of a process that has loaded TensorFlow, to save the seconds that this takes.

All processes of pytest share that process.

Each program still runs in a process of its own, with its own entry point, flags, signals and exit status. Use
the functions of the same names in tests.conftest for programs whose start or last moments are tested or that
do not load TensorFlow.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping
from typing import NamedTuple, TextIO

# The environment variable that names the folder of the process that forks, with its socket and its errors.
_FOLDER = "UCF50_TESTS_WARM"
# What most programs import. Entry points are left out, since their flags exclude each other, and so is what loads
# PyArrow: it starts a thread, and a fork of a process with threads may crash.
_LOADED = (
    "tensorflow",
    "ucf50_tfrecord.job",
    "ucf50_tfrecord.report.build",
)


def start_module(module: str, *arguments: str | os.PathLike, **options) -> Process:
    """Starts `python -m <module> <arguments>` in the repository. Options: env and errors."""
    return Process(["-m", module, *map(str, arguments)], **options)


def start_code(code: str, *arguments: str | os.PathLike, **options) -> Process:
    """Starts `python -c <code> <arguments>` in the repository. Options: env and errors."""
    return Process(["-c", code, *map(str, arguments)], **options)


def run_module(module: str, *arguments: str | os.PathLike, **options) -> subprocess.CompletedProcess:
    """Runs `python -m <module> <arguments>` in the repository. Options: env, timeout, check and errors."""
    return _run(["-m", module, *map(str, arguments)], **options)


def run_code(code: str, *arguments: str | os.PathLike, **options) -> subprocess.CompletedProcess:
    """Runs `python -c <code> <arguments>` in the repository. Options: env, timeout, check and errors."""
    return _run(["-c", code, *map(str, arguments)], **options)


def run_script(
    path: str | os.PathLike, *arguments: str | os.PathLike, **options
) -> subprocess.CompletedProcess:
    """Runs `python <path> <arguments>` in the repository. Options: env, timeout, check and errors."""
    return _run([str(path), *map(str, arguments)], **options)


class Process:
    """A program that runs in a fork, with the methods of subprocess.Popen that tests need.

    Its outputs go to files, so that a test can read them while the program runs.
    """

    def __init__(self, arguments: list[str], *, env: Mapping[str, str] | None = None, errors: str = "strict"):
        """Starts Python with command-line arguments.

        Variables of `env` that Python or TensorFlow read when they start have no effect, apart from PYTHONPATH:
        both have started.
        """
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self._errors = errors
        self._outputs = [tempfile.NamedTemporaryFile() for _ in range(2)]
        self.pid = _ask(
            arguments=arguments,
            outputs=[file.name for file in self._outputs],
            environment=dict(env or os.environ),
        )

    @property
    def stdout(self) -> str:
        """The standard output so far."""
        return self._text(0)

    @property
    def stderr(self) -> str:
        """The standard error so far."""
        return self._text(1)

    def _text(self, number: int) -> str:
        return pathlib.Path(self._outputs[number].name).read_bytes().decode(errors=self._errors)

    def poll(self) -> int | None:
        """Returns the exit status, or None if the program still runs."""
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid, timeout=0.0)
        return self.returncode

    def wait(self, timeout: float = 250.0) -> int:
        """Waits until the program exits; returns its exit status as subprocess.Popen does.

        Kills it after `timeout` seconds.

        Raises:
          subprocess.TimeoutExpired: if it was killed.
        """
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid, timeout=timeout)
        if self.returncode is None:
            self.kill()
            self.returncode = _ask(wait=self.pid, timeout=60.0)
            raise subprocess.TimeoutExpired(self.args, timeout, self.stdout, self.stderr)
        return self.returncode

    def communicate(self, timeout: float = 250.0) -> tuple[str, str]:
        """Waits until the program exits; returns what it wrote to standard output and to standard error."""
        self.wait(timeout)
        return self.stdout, self.stderr

    def send_signal(self, signum: int) -> None:
        """Sends a signal, unless the program is known to have exited."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: list[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 250.0,
    check: bool = False,
    errors: str = "strict",
) -> subprocess.CompletedProcess:
    """Runs Python with command-line arguments; the options are those of subprocess.run and of Process."""
    process = Process(arguments, env=env, errors=errors)
    done = subprocess.CompletedProcess(process.args, process.wait(timeout), process.stdout, process.stderr)
    # Neither the exception nor a test that fails shows all of it. A crash is rare, so nothing of it may be lost.
    if done.returncode in (-signal.SIGSEGV, -signal.SIGABRT) or (check and done.returncode):
        print(done.stderr, file=sys.stderr)
    if check:
        done.check_returncode()
    return done


def start() -> None:
    """Starts the process that forks, for this process and those that it starts.

    It loads TensorFlow when the first of them asks, and exits when this process does, since its standard input
    then ends.
    """
    folder = pathlib.Path(tempfile.mkdtemp())
    with socket.socket(socket.AF_UNIX) as listener, open(folder / "errors", "w") as errors:
        listener.bind(str(folder / "socket"))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(listener.fileno())],
            cwd=pathlib.Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    os.environ[_FOLDER] = str(folder)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)


def _ask(**request) -> int | None:
    """Sends a request to the process that forks; returns its answer."""
    server = _server()
    print(json.dumps(request), file=server.stream, flush=True)
    try:
        return json.loads(server.stream.readline())
    except BaseException:  # such as a test's timeout: the answer must not be taken for the next request's
        os.killpg(server.pid, signal.SIGKILL)
        _server.cache_clear()
        raise


class _Server(NamedTuple):
    """The process that forks for this process alone.

    pid: its id and that of its process group, to which the programs belong too.
    stream: requests to it, and its answers.
    """

    pid: int
    stream: TextIO


@functools.cache
def _server() -> _Server:
    """Connects to the process that forks."""
    if _FOLDER not in os.environ:
        start()
    folder = pathlib.Path(os.environ[_FOLDER])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / "socket"))
    stream = connection.makefile("rw")
    if not (pid := stream.readline()):
        raise RuntimeError((folder / "errors").read_text())
    return _Server(int(pid), stream)


def _serve(listener: socket.socket) -> list[str] | None:
    """Accepts connections and answers each in a fork, until standard input ends.

    Returns:
      In a fork that runs a program, its command line. In all others, None once requests end.
    """
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        for name in _LOADED:
            importlib.import_module(name)
        gc.freeze()  # so that no fork copies all objects when it collects garbage
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork stays as a zombie
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            listener.close()
            with connection, connection.makefile("rw") as stream:
                return _answer(stream)
        connection.close()
    return None


def _answer(stream: TextIO) -> list[str] | None:
    """Answers requests, lines of JSON; the first line to the client is this process's id.

    The answer to a command line is the id of a fork that runs it, and the answer to the id of a fork is its
    exit status.

    Returns:
      In a fork, the command line of its request. In the process itself, None once requests end.
    """
    print(os.getpid(), file=stream, flush=True)
    for line in stream:
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], request["timeout"])
        elif (answer := os.fork()) == 0:
            for number, path in enumerate([os.devnull, *request["outputs"]]):
                os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
            os.environ.clear()
            os.environ.update(request["environment"])
            sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
            tempfile.tempdir = None  # so that the folder is determined again, from TMPDIR
            return request["arguments"]
        print(json.dumps(answer), file=stream, flush=True)
    return None


def _wait(pid: int, timeout: float) -> int | None:
    """Waits until a fork exits; returns its exit status, or None if it still runs after `timeout` seconds."""
    process = os.pidfd_open(pid)
    in_time = select.select([process], [], [], timeout)[0]
    os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if in_time else None


def _become(arguments: list[str]) -> None:
    """Runs the module, code or script that a Python command line names as this interpreter's main program."""
    sys.orig_argv[1:] = arguments
    match arguments:
        case "-m", module, *rest:
            sys.argv[:] = ["-m", *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case "-c", code, *rest:
            sys.argv[:] = ["-c", *rest]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
        case _:
            sys.argv[:] = arguments
            runpy.run_path(arguments[0], run_name="__main__")


def _run_and_exit(arguments: list[str]) -> None:
    """Runs a Python command line and exits with its status; after an uncaught error, returns by raising it.

    Python would also free all modules at its end. To free TensorFlow takes 0.2 s, most of it to copy the pages
    that are shared with the process that forks.
    """
    status = 0
    try:
        _become(arguments)
    except SystemExit as done:
        if not isinstance(done.code, int | None):
            raise
        status = done.code or 0
    threading._shutdown()  # waits for the threads that Python itself would wait for
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connections:
        # A fork returns from _serve, so that it runs as any program does.
        command = _serve(connections)
    if command:
        _run_and_exit(command)
