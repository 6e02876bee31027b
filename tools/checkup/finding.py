"""The findings of tools.doctor's checks, and ways to call functions and programs that may crash or hang.

Imports no package outside the standard library, even indirectly, so that it works where packages are broken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
    """One result of a check of tools.doctor."""

    level: str  # "ok", "warn" or "fail"
    text: str
    fix: str = ""  # how to fix the problem, in words
    command: str = ""  # shell command that fixes the problem


# Findings of no problem, of a problem, and of one that makes tools.doctor exit with status 1. Text, fix and command
# follow.
ok, warn, fail = (functools.partial(Finding, level) for level in ("ok", "warn", "fail"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of tools.doctor."""

    data: str | None = None  # folder or URL of a set of shards; None for every set under data/
    videos: str | None = None  # folder for the speed test; None for the shards' videos, or demo videos
    run: str | None = None
    speed_secs: float = 0.0  # 0 skips the speed test


def run_check(name: str, options: Options) -> Iterator[Finding]:
    """Yields the findings of the module tools.checkup.<name>; its exceptions become findings too."""
    try:
        yield from importlib.import_module(f"tools.checkup.{name}").check(options)
    except Exception as error:  # the doctor runs where things are broken
        text = " ".join(remedies.message(error).split())
        # A UserError is a message to the user. Its module may be what fails to import.
        if type(error).__name__ != "UserError":
            text = f"this could not be checked: {type(error).__name__}: {text}"
        yield fail(text)


class NoAnswer(Exception):
    """Raised if a process crashes, fails or hangs instead of giving its answer; the text says which."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a function call in another process."""

    value: Any  # a JSON value
    notices: str  # what the process wrote to standard error


_BOOT = """
import importlib, json, sys
module, function, arguments, path = sys.argv[1:]
value = getattr(importlib.import_module(module), function)(*json.loads(arguments))
with open(path, "w", encoding="utf-8") as file:
    json.dump(value, file)
"""


def ask(module: str, function: str, *arguments: Any, timeout_secs: float) -> Answer:
    """Calls a function of a module with JSON values, in a new Python process, and returns its answer.

    The answer counts even if the process crashes after the call, as tensorflow-io can at exit.

    Raises:
      NoAnswer: if the function raises an error, or the process crashes or takes too long.
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
    """Runs a command for at most `timeout_secs` and captures its output as text.

    Unlike subprocess.run, it does not wait forever for a process that cannot be killed. A process that waits
    within the kernel, for a GPU or a disk, is one.

    Raises:
      OSError: if the command cannot be started.
      NoAnswer: if the command takes too long.
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
