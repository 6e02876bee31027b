"""Runs Python programs in forks of a process that has loaded TensorFlow, to save the seconds that this takes.

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
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping

# What most programs import. Entry points are left out, since their flags exclude each other.
_LOADED = (
    "tensorflow",
    "ucf50_tfrecord.evaluation.compare",
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
    if check:
        done.check_returncode()
    return done


def _ask(**request) -> int | None:
    """Sends a request to the process that forks; returns its answer."""
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    try:
        return json.loads(server.stdout.readline())
    except BaseException:  # such as a test's timeout: the answer must not be taken for the next request's
        os.killpg(server.pid, signal.SIGKILL)
        _server.cache_clear()
        raise


@functools.cache
def _server() -> subprocess.Popen:
    """Starts the process that loads TensorFlow and forks for each program, or returns the one started before.

    It exits when this process does, since its standard input then ends.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=pathlib.Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> list[str] | None:
    """Answers requests, lines of JSON on standard input.

    The answer to a command line is the id of a fork that runs it, and the answer to the id of a fork is its
    exit status.

    Returns:
      In a fork, the command line of its request. In the process itself, None once requests end.
    """
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()  # so that no fork copies all objects when it collects garbage
    for line in sys.stdin:
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
        print(json.dumps(answer), flush=True)
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
    # A fork returns from _serve, so that it runs as any program does.
    if arguments := _serve():
        _run_and_exit(arguments)
