"""The console script `ucf50`: runs the entry point that its first argument names, as `python -m` would."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import runpy
import sys

import pipelines
from pipelines import terminal

COMMANDS = (
    "fetch",
    "convert",
    "features",
    "train",
    "evaluate",
    "robustness",
    "predict",
    "monitor",
    "compare",
    "export",
    "verify",
    "launch",
    "check-gpu",
)


def main() -> int:
    """Runs the entry point that the first argument names, or prints help.

    Returns:
      The exit status: 2 if the first argument names no entry point, else 0.
    """
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        del sys.argv[1]
        runpy.run_module(module_of(command), run_name="__main__", alter_sys=True)
        return 0
    if command in ("--help", "-h", "help"):
        _print_help()
        return 0
    terminal.note(f"error: Expected a command out of {', '.join(COMMANDS)}. Received: {command}")
    return 2


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    terminal.say(f"{pipelines.CONSOLE_SCRIPT} <command> --<flag>=<value> …", "")
    for command in COMMANDS:
        indents = f"  {command:<{width}}  ", " " * (width + 4)
        terminal.say_wrapped(first_line(command), initial_indent=indents[0], subsequent_indent=indents[1])
    terminal.say("", f"{pipelines.CONSOLE_SCRIPT} <command> --helpshort lists a command's flags.")


def module_of(command: str) -> str:
    """Returns the module of a command's entry point."""
    return f"pipelines.{command.replace('-', '_')}"


def first_line(command: str) -> str:
    """Returns the first line of an entry point's docstring, without importing the entry point."""
    path = importlib.util.find_spec(module_of(command)).origin
    return ast.get_docstring(ast.parse(pathlib.Path(path).read_text(encoding="utf-8"))).partition("\n")[0]
