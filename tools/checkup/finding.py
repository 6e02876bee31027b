"""Findings, and calls that may crash or hang. Imports the standard library alone."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from pipelines import remedies

_KILL_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check.

    level: ok, warn or fail.
    fix: how to fix it, a sentence. command: the same as a shell command.
    """

    level: str
    text: str
    fix: str = ""
    command: str = ""


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warn(text: str, fix: str = "", *, command: str = "") -> Finding:
    return Finding("warn", text, fix, command)


def fail(text: str, fix: str = "", *, command: str = "") -> Finding:
    return Finding("fail", text, fix, command)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to check: a folder of shards, a folder of videos, a run. `speed_secs` of 0 measures nothing."""

    data: str | None = None
    videos: str | None = None
    run: str | None = None
    speed_secs: float = 0.0


def run_check(name: str, options: Options) -> Iterator[Finding]:
    """Yields the findings of tools.checkup.<name>.check. An exception, also of its import, becomes one."""
    try:
        yield from importlib.import_module(f"tools.checkup.{name}").check(options)
    except Exception as error:  # the doctor runs where things are broken
        text = " ".join(remedies.message(error).split())
        # A UserError is a message to the user. Its module may be what fails to import.
        if type(error).__name__ != "UserError":
            text = f"this could not be checked: {type(error).__name__}: {text}"
        yield fail(text)


class NoAnswer(Exception):
    """A process that crashed, failed or hung; the text says which."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a call in another process, and the text of its standard error."""

    value: Any
    notices: str


_BOOT = """
import importlib, json, sys
module, function, arguments, path = sys.argv[1:]
value = getattr(importlib.import_module(module), function)(*json.loads(arguments))
with open(path, "w", encoding="utf-8") as file:
    json.dump(value, file)
"""


def ask(module: str, function: str, *arguments: Any, timeout_secs: float) -> Answer:
    """Calls a function in a fresh interpreter. Arguments and result are JSON values.

    An interpreter that crashes after the call, as tensorflow-io can, still gives an answer.

    Raises:
      NoAnswer: if the call raises, crashes or takes too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "answer.json")
        command = [sys.executable, "-c", _BOOT, module, function, json.dumps(arguments), str(path)]
        result = run_bounded(command, timeout_secs)
        try:
            return Answer(json.loads(path.read_text(encoding="utf-8")), result.stderr)
        except (OSError, ValueError):
            raise NoAnswer(_explain(result)) from None


def run_bounded(command: list[str], timeout_secs: float) -> subprocess.CompletedProcess:
    """Runs a command and captures its output as text.

    subprocess.run would wait forever for a process that cannot be killed, such as one that waits for a GPU
    or a disk within the kernel.

    Raises:
      OSError: if the command cannot be started.
      NoAnswer: if it takes too long.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, errors = process.communicate(timeout=timeout_secs)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"no answer within {timeout_secs:.0f} s") from None
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECS)
        process.stdout.close()
        process.stderr.close()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _explain(result: subprocess.CompletedProcess) -> str:
    if result.returncode < 0:
        return f"its process crashed with {signal.Signals(-result.returncode).name}"
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process exited with status {result.returncode}"
