"""Finds and runs the programs that decompress RAR archives. They write to a pipe, and cannot write files.

The compression of RAR is not published, and what decompresses it is written in C++: so the program runs without
the right to write files or to use the network, as far as the kernel can take these away.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from ucf50_tfrecord import sandbox
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.texts import exit_clause

_CHECK_SECS = 20.0


class Unpacker(NamedTuple):
    """A program that writes the contents of all files in a RAR archive to its standard output.

    name: the program's name.
    arguments: its arguments before the archive's path.
    check: arguments with which it exits with status 0; a program of the same name with other abilities does not.
    reads_solid: whether it reads solid archives, in which each file's compression continues that of the one before.
    advice: the end of the message if it cannot unpack an archive.
    """

    name: str
    arguments: tuple[str, ...]
    check: tuple[str, ...]
    reads_solid: bool = True
    advice: str = ""


_UNPACKERS = (
    Unpacker("unrar", ("p", "-inul", "-p-", "-cfg-", "--"), ("-inul", "-?")),
    Unpacker("unar", ("-quiet", "-no-recursion", "-forks", "skip", "-output-directory", "-"), ("-version",)),
    Unpacker(
        "bsdtar",
        ("-x", "-O", "-f"),
        ("--version",),
        reads_solid=False,
        advice="; unar or unrar may be able to",
    ),
)


def find(*, solid: bool = False) -> Unpacker:
    """Returns the first unpacker that is installed.

    Args:
      solid: whether it must read solid archives.

    Raises:
      UserError: if there is none.
    """
    able = [tool for tool in _UNPACKERS if tool.reads_solid or not solid]
    found = next((tool for tool in able if _works(tool)), None)
    if found is None:
        *names, last = (tool.name for tool in able)
        kind = "solid RAR archives" if solid else "RAR archives"
        raise UserError(
            f"Expected a program that unpacks {kind}: {', '.join(names)} or {last}. Received: none of them on this machine. Install the "
            "package unar of Debian, Ubuntu, Fedora or Homebrew (p7zip cannot unpack RAR)"
        )
    return found


def _works(tool: Unpacker) -> bool:
    path = shutil.which(tool.name)
    if path is None:
        return False
    try:
        result = subprocess.run(
            [path, *tool.check],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_CHECK_SECS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False  # it cannot be run here
    return result.returncode == 0


@contextlib.contextmanager
def running(tool: Unpacker, archive: pathlib.Path) -> Iterator[Callable[[int], bytes]]:
    """Runs an unpacker while the block reads its output.

    Yields a function that returns the next bytes of the output, at most as many as its argument; b"" at the end. At
    the end it raises a UserError if the unpacker has failed.
    """
    program = [os.path.realpath(shutil.which(tool.name)), *tool.arguments, os.path.abspath(archive)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", sandbox.__file__, *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"LC_ALL": "C.UTF-8"},  # else bsdtar fails at names that are not ASCII
            start_new_session=True,  # so that Ctrl-C ends it here, and not before this process
        )

        def read(num_bytes: int) -> bytes:
            chunk = process.stdout.read(num_bytes)
            if not chunk and (status := process.wait()):
                raise UserError(
                    f"{tool.name} cannot unpack the archive {archive}: {_reason(errors, status)}{tool.advice}"
                )
            return chunk

        try:
            yield read
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _reason(errors: BinaryIO, status: int) -> str:
    """Returns the first line that a program wrote to the file of its errors; else its exit status."""
    errors.seek(0)
    lines = errors.read(1 << 16).decode(errors="replace").split("\n")
    written = [line.strip() for line in lines if line.strip()]
    return written[0] if written else exit_clause(status)
