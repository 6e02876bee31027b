"""Words of others in messages: commands to paste, and what TensorFlow says of an error.

`specs.printable` escapes a name for people to read; entry points apply it to each line that they print.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Iterable

_LETTERS = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'"}
# Of TensorFlow's messages: names of graph nodes, ops and transformations; where in Python they were made.
_NODES = re.compile(
    r"\[*\{\{.*?\}\}\]* ?|\s*\[Op:\w*\](?: name: \S*)?"
    r"|Error in user-defined function passed to \S+ transformation with iterator: \S+: ",
    re.DOTALL,
)
_FRAMES = re.compile(r"^ *File \".*\n(?: {4}.*\n)?", re.MULTILINE)
_NO_REASON = re.compile(
    r"Graph execution error|Detected at node|Node: |<stack traces unavailable>|\d+ root error|Hint: |\s*$"
)
# Errors of files that TensorFlow gives the same class as exhausted memory.
_FILE_PROBLEMS = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)))


def shell_word(word: str) -> str:
    """Quotes a word for a shell. A word with characters that a terminal does not show becomes $'…'."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def shell_command(words: Iterable[str]) -> str:
    """Returns a command line that can be pasted into a shell, whatever its words hold."""
    return " ".join(map(shell_word, words))


def make_variable(name: str, value: str) -> str:
    """Returns the word of a shell's command line that sets one of make's variables."""
    return shell_word(
        f"{name}={value}".replace("$", "$$")
    )  # make reads a $ as the start of a variable's name


def install_command(extras: str) -> str:
    """Returns the command that installs extras, such as "convert,train", in the versions that are tested."""
    python = pathlib.Path(sys.executable)
    if python.is_relative_to(os.getcwd()):
        python = python.relative_to(os.getcwd())
    return f"{shell_word(str(python))} -m tools.install {extras}"


def _escaped(character: str) -> str:
    if character in _LETTERS:
        return _LETTERS[character]
    if character.isprintable():
        return character
    is_byte = "\udc80" <= character <= "\udcff"  # of a file name that is not UTF-8
    content = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in content)  # shells differ in where \x ends


def tensorflow_reason(error: Exception) -> str:
    """Returns what an error says, in one line, without what TensorFlow adds for its own developers."""
    text = _FRAMES.sub("", _NODES.sub("", getattr(error, "message", None) or str(error)))
    lines = [line for line in text.splitlines() if not _NO_REASON.match(line)]
    # Of several errors at once each has its number and its code before it.
    return re.sub(r"^\(\d+\) [A-Z_]+: *", "", lines[0].strip()) if lines else type(error).__name__


def file_problem(error: Exception) -> str | None:
    """Returns the file and its problem where TensorFlow ran out of room or files, not of memory; else None."""
    path, separator, problem = tensorflow_reason(error).rpartition("; ")
    return f"{path}: {problem}" if separator and problem in _FILE_PROBLEMS else None
