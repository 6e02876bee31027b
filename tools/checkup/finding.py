"""Findings, and how checks are kept from doing harm. Imports nothing outside the standard library."""

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

LEVELS = ("ok", "warn", "fail")
_END_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """A line of the report.

    level: one of LEVELS.
    mend: what to do, a sentence; command: the same as a command for the shell.
    """

    level: str
    text: str
    mend: str = ""
    command: str = ""


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warn(text: str, mend: str = "", *, command: str = "") -> Finding:
    return Finding("warn", text, mend, command)


def fail(text: str, mend: str = "", *, command: str = "") -> Finding:
    return Finding("fail", text, mend, command)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the doctor was asked to look at; None where nothing was said."""

    data: str | None = None
    videos: str | None = None
    run: str | None = None
    speed_secs: float = 0.0

    @property
    def local_data(self) -> str:
        """The folder whose disk and file system shards are on, or will be."""
        return self.data if self.data and "://" not in self.data else "data"


def run_check(name: str, options: Options) -> Iterator[Finding]:
    """Yields what tools.checkup.<name>.check finds. Whatever is raised, while it is imported too, becomes a finding."""
    try:
        yield from importlib.import_module(f"tools.checkup.{name}").check(options)
    except Exception as error:  # this is what one runs when things are broken
        told = " ".join(remedies.message(error).split())
        # Only a mistake that the user can mend has a text for them; its class may be what could not be imported.
        if type(error).__name__ != "UserError":
            told = f"this could not be checked: {type(error).__name__}: {told}"
        yield fail(told)


class NoAnswer(Exception):
    """A process gave no answer; the text says why."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a call in another process returned, and what that process wrote to its standard error."""

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
    """Calls a function in a fresh interpreter, which may crash or hang. Arguments and result are JSON values.

    An interpreter that breaks after the call, as tensorflow-io can, has answered.

    Raises:
      NoAnswer: if the call does not return, or not in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "answer.json")
        command = [sys.executable, "-c", _BOOT, module, function, json.dumps(arguments), str(path)]
        ended = run_bounded(command, timeout_secs)
        try:
            return Answer(json.loads(path.read_text(encoding="utf-8")), ended.stderr)
        except (OSError, ValueError):
            raise NoAnswer(_explain(ended)) from None


def run_bounded(command: list[str], timeout_secs: float) -> subprocess.CompletedProcess:
    """Runs a command, and captures what it writes, as text.

    subprocess.run would wait for ever for one that cannot be killed, as a GPU or a disk that hangs makes it.

    Raises:
      OSError: if it cannot be started.
      NoAnswer: if it does not end in time.
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
        process.kill()  # unless it has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECS)
        process.stdout.close()
        process.stderr.close()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _explain(ended: subprocess.CompletedProcess) -> str:
    if ended.returncode < 0:
        return f"its process crashed with {signal.Signals(-ended.returncode).name}"
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with status {ended.returncode}"
