"""Writes to the terminal; no other module does. Each line that it prints stays one line of plain text.

Names of files, classes and videos, values of flags and errors of other libraries may hold escape sequences,
line breaks or characters that reverse the direction of writing; this module escapes them. It imports no
third-party package, because tools.doctor uses it even if packages are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

from pipelines import remedies
from ucf50_tfrecord.specs import printable

WIDTH = 80  # columns


def say(*lines: str, flush: bool = False) -> None:
    """Prints lines to standard output, without disturbing a progress bar."""
    _write(sys.stdout, map(printable, lines))
    if flush:
        sys.stdout.flush()


def note(*lines: str) -> None:
    """Prints lines to standard error, without disturbing a progress bar."""
    _write(sys.stderr, map(printable, lines))


def warn(text: str) -> None:
    """Prints a warning and the commands that fix its cause, as one line, to standard error."""
    note(f"warning: {remedies.message(text)}")


def say_wrapped(text: str, *, width: int = WIDTH, flush: bool = False, **options) -> None:
    """Prints a text in lines of at most `width` columns, broken at spaces; `options` are textwrap.wrap's."""
    say(*textwrap.wrap(printable(text), width, **options), flush=flush)


def rewrite(text: str) -> None:
    """Prints a line to standard output, a terminal, in place of the one that `rewrite` printed last.

    The line is not ended: end it by say(""). It is cut to the terminal's width, since a longer one could not be
    replaced.
    """
    columns, cut = shutil.get_terminal_size().columns - 1, ""
    for character in printable(text):
        columns -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns < 0:
            break
        cut += character
    _write(sys.stdout, [cut], start="\r", end="\x1b[K")
    sys.stdout.flush()


def say_drawing(drawing: str) -> None:
    """Prints a drawing made of text without escaping it; it may hold colour codes, but must hold no names."""
    _write(sys.stdout, drawing.split("\n"))


def note_exception(error: BaseException) -> None:
    """Prints an exception's traceback to standard error; indents all lines of its message but the first."""
    for part in traceback.format_exception(error):
        first, *others = part.rstrip("\n").split("\n")
        indent = "" if first.startswith("  File ") else "    "
        note(first, *(f"{indent}{line}" for line in others))


def escape_unknown_characters() -> None:
    """Makes standard output escape the characters that its encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that prints an error as one line after the usage."""

    def error(self, message: str) -> None:
        super().error(printable(message))


def _write(file: TextIO, lines: Iterator[str] | Sequence[str], *, start: str = "", end: str = "\n") -> None:
    text = "".join(f"{start}{line}{end}" for line in lines)
    tqdm = sys.modules.get("tqdm")  # if tqdm is not loaded, there are no progress bars
    if tqdm:
        tqdm.tqdm.get_lock()  # made here: a signal while external_write_mode makes it would raise AttributeError
    with tqdm.tqdm.external_write_mode(file=file) if tqdm else contextlib.nullcontext():
        file.write(text)
