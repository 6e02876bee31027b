"""TensorFlow's error messages, reduced to what a user can use."""

from __future__ import annotations

import errno
import os
import re

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
