"""Runs Python programs in forks of a process that has loaded TensorFlow, to save the seconds that this takes.

Each program still runs in a process of its own, with its own modules, flags, signals and exit status. Use
the functions of the same names in tests.conftest for programs whose start is tested or that do not load
TensorFlow.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping


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


def _run(
    arguments: list[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 250.0,
    check: bool = False,
    errors: str = "strict",
) -> subprocess.CompletedProcess:
    """Runs Python with command-line arguments; the options are those of subprocess.run.

    Variables of `env` that Python or TensorFlow read when they start have no effect: both have started.
    """
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        request = {"arguments": arguments, "outputs": [stdout.name, stderr.name], "timeout": timeout}
        server = _server()
        server.stdin.write(json.dumps(request | {"environment": dict(env or os.environ)}) + "\n")
        server.stdin.flush()
        try:
            status = json.loads(server.stdout.readline())
        except BaseException:  # such as a test's timeout: the answer must not be taken for the next program's
            os.killpg(server.pid, signal.SIGKILL)
            _server.cache_clear()
            raise
        texts = [file.read().decode(errors=errors) for file in (stdout, stderr)]
    if status is None:
        raise subprocess.TimeoutExpired(arguments, timeout, *texts)
    done = subprocess.CompletedProcess([sys.executable, *arguments], status, *texts)
    if check:
        done.check_returncode()
    return done


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
    """Forks for each request, a line of JSON on standard input, and answers with the fork's exit status.

    Returns:
      In a fork, the command line of its request. In the process itself, None once requests end.
    """
    import tensorflow  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            for number, path in enumerate([os.devnull, *request["outputs"]]):
                os.dup2(os.open(path, os.O_RDWR), number)
            os.environ.clear()
            os.environ.update(request["environment"])
            tempfile.tempdir = None  # so that the folder is determined again, from TMPDIR
            return request["arguments"]
        print(json.dumps(_wait(pid, request["timeout"])), flush=True)
    return None


def _wait(pid: int, timeout: float) -> int | None:
    """Waits until a fork exits; returns its exit status as subprocess.Popen does.

    After `timeout` seconds, kills the fork and returns None.
    """
    process = os.pidfd_open(pid)
    in_time = select.select([process], [], [], timeout)[0]
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    os.close(process)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if in_time else None


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


if __name__ == "__main__":
    # A fork returns from _serve, so that it exits as any program does.
    if arguments := _serve():
        _become(arguments)
