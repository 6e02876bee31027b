"""The only module that writes to the terminal. Every line that it receives stays one line of plain text.

Names of files, classes and videos, values of flags and errors of other libraries may hold escape sequences, line
breaks or characters that reverse the direction of writing. They are escaped here. Imports no third-party
package: the doctor runs where packages are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from typing import TextIO

from pipelines import remedies
from ucf50_tfrecord.specs import printable

WIDTH = 80  # columns


def say(*lines: str, flush: bool = False) -> None:
    """Prints lines to standard output, without breaking a bar."""
    _write(sys.stdout, map(printable, lines))
    if flush:
        sys.stdout.flush()


def note(*lines: str) -> None:
    """Prints lines to standard error, without breaking a bar."""
    _write(sys.stderr, map(printable, lines))


def warn(text: str) -> None:
    """Prints a warning with its remedies, one line, to standard error."""
    note(f"warning: {remedies.message(text)}")


def say_wrapped(text: str, *, width: int = WIDTH, flush: bool = False, **options) -> None:
    """Prints a text in lines of `width` columns, broken at spaces; takes the options of textwrap.wrap."""
    say(*textwrap.wrap(printable(text), width, **options), flush=flush)


def say_drawing(drawing: str) -> None:
    """Prints a drawing of numbers, which may hold colour codes but no names."""
    _write(sys.stdout, drawing.split("\n"))


def note_exception(error: BaseException) -> None:
    """Prints an error's traceback to standard error; indents all lines of a message but the first."""
    for part in traceback.format_exception(error):
        first, *others = part.rstrip("\n").split("\n")
        indent = "" if first.startswith("  File ") else "    "
        note(first, *(f"{indent}{line}" for line in others))


class ArgumentParser(argparse.ArgumentParser):
    """Prints an error as one line after the usage."""

    def error(self, message: str) -> None:
        super().error(printable(message))


def _write(file: TextIO, lines: Iterator[str] | Sequence[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    tqdm = sys.modules.get("tqdm")  # without it there are no bars
    with tqdm.tqdm.external_write_mode(file=file) if tqdm else contextlib.nullcontext():
        file.write(text)
