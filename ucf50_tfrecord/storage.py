"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ucf50_tfrecord.specs import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path` by rename once the block ends well.

    The temporary file lies beside `path` (a rename is atomic within a file system
    only), is flushed to disk before the rename, and is removed if the block fails.

    Raises:
      UserError: if the file cannot be written (no space, no permission, …).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        try:
            make_folder(path.parent)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # An error about another file (a video that was being read) is not ours to explain.
        if error.filename in (None, str(temporary), str(path), str(path.parent)):
            raise UserError(f"Cannot write {path}: {error.strerror or error}") from error
        raise


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and its parents, if it is not there yet.

    Raises:
      UserError: if it cannot be made, or is not a folder to write in.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"Cannot write in the folder {path}: Permission denied")


@contextlib.contextmanager
def exclusive_lock(folder: str | os.PathLike) -> Iterator[None]:
    """Holds a folder's lock while the block runs; the system frees it when the process ends.

    Raises:
      UserError: if another process holds it, or it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(pathlib.Path(folder, ".lock"), "wb"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {folder}; wait until it has finished") from error
        except OSError as error:
            raise UserError(f"Cannot lock the folder {folder}: {error.strerror}") from error
        yield


def sha256(path: str | os.PathLike) -> str:
    """Returns the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, with sorted keys so that equal values give equal bytes.

    Names that are not UTF-8 (lone surrogates in Python) survive the way to JSON and back.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: if the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
