"""Makes parts of messages: the part of TensorFlow's error messages that helps a user, and how a process exited."""

from __future__ import annotations

import errno
import os
import re
import signal

# Parts of TensorFlow's messages that are removed: names of graph nodes, ops and transformations (_NODES), and
# the Python lines where these were made (_FRAMES).
_NODES = re.compile(
    r"\[*\{\{.*?\}\}\]* ?|\s*\[Op:\w*\](?: name: \S*)?"
    r"|Error in user-defined function passed to \S+ transformation with iterator: \S+: ",
    re.DOTALL,
)
_FRAMES = re.compile(r"^ *File \".*\n(?: {4}.*\n)?", re.MULTILINE)
_NO_REASON = re.compile(
    r"Graph execution error|Detected at node|Node: |<stack traces unavailable>|\d+ root error|Hint: |\s*$"
)
# File errors for which TensorFlow raises the same exception class as for exhausted memory.
_FILE_PROBLEMS = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)))


def tensorflow_reason(error: Exception) -> str:
    """Returns the reason that a TensorFlow exception states: one line, without graph and source details."""
    text = _FRAMES.sub("", _NODES.sub("", getattr(error, "message", None) or str(error)))
    lines = [line for line in text.splitlines() if not _NO_REASON.match(line)]
    # If a message reports several errors, each begins with its number and its code.
    return re.sub(r"^\(\d+\) [A-Z_]+: *", "", lines[0].strip()) if lines else type(error).__name__


def file_problem(error: Exception) -> str | None:
    """Describes a file problem behind an exception that TensorFlow also raises when memory is exhausted.

    Returns:
      A text "<path>: <problem>" if the disk is full or too many files are open; otherwise None.
    """
    path, separator, problem = tensorflow_reason(error).rpartition("; ")
    return f"{path}: {problem}" if separator and problem in _FILE_PROBLEMS else None


def exit_clause(status: int) -> str:
    """Returns a clause that says how a process exited, from its status as multiprocessing gives it."""
    if status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process exited with status {status}"
