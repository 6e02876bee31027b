"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from ucf50_tfrecord.specs import UserError

_LOCK_POLL_SECS = 0.1


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path` by rename once the block ends well.

    The temporary file lies beside `path` (a rename is atomic within a file system
    only), is flushed to disk before the rename, and is removed if the block fails.

    Raises:
      UserError: if the file cannot be written (no space, no permission, …).
    """
    path = pathlib.Path(path)
    # Random: writers on other hosts may have the same process id.
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
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


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, names: Collection[str], mark: str) -> Iterator[pathlib.Path]:
    """Opens a new folder that appears at `path` by rename once the block ends well.

    What is there before is replaced if it is an empty folder, or one that this wrote: it holds the
    file `mark`, and nothing but `names`. As in atomic_write the new folder lies beside it, and is
    removed if the block fails.

    Args:
      path: the folder to be.
      names: all that may be in it.
      mark: the one of them that tells a folder that this wrote.

    Raises:
      UserError: if something else is there, or the folder cannot be written.
    """
    path = pathlib.Path(path).resolve()
    _check_replaceable(path, names, mark)
    make_folder(path.parent)
    temporary, old = (path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}") for _ in range(2))
    try:
        temporary.mkdir()
        yield temporary
        _check_replaceable(path, names, mark)  # the block may have taken long
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        # As in atomic_write, an error about another file is not ours to explain.
        if error.filename is None or str(error.filename).startswith((str(temporary), str(path))):
            raise UserError(f"Cannot write the folder {path}: {error.strerror or error}") from error
        raise
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(path: pathlib.Path, names: Collection[str], mark: str) -> None:
    try:
        found = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"Cannot write the folder {path}: {error.strerror}") from error
    foreign = [name for name in found if name not in names]
    if found and (foreign or mark not in found):
        what = foreign[0] if foreign else f"no {mark}"
        raise UserError(
            f"Expected a folder that is new, empty or written by this before. Received: {path}, which holds {what}"
        )


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what processes left that were killed in atomic_write. For who holds the folder's lock."""
    for path in pathlib.Path(folder).iterdir():
        if re.match(r"\.tmp-[0-9a-f]{8}-", path.name):
            path.unlink(missing_ok=True)


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


class LockedError(UserError):
    """Another process holds a folder's lock."""


@contextlib.contextmanager
def folder_lock(
    folder: str | os.PathLike, name: str = ".lock", *, shared: bool = False, wait_secs: float = 0.0
) -> Iterator[None]:
    """Holds a folder's lock while the block runs; the system frees it when the process ends.

    Args:
      folder: what is locked.
      name: the lock's file in it.
      shared: whether others may hold it too, if they share it as well.
      wait_secs: how long to wait for another process that holds it.

    Raises:
      LockedError: if another process holds it.
      UserError: if it cannot be made.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = time.monotonic() + wait_secs
    with contextlib.ExitStack() as stack:
        try:
            # For reading too: over NFS a shared lock needs it.
            file = stack.enter_context(open(pathlib.Path(folder, name), "a+b"))
            while True:
                try:
                    fcntl.flock(file, mode)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise
                time.sleep(_LOCK_POLL_SECS)
        except BlockingIOError as error:
            raise LockedError(f"Another process is writing {folder}; wait until it has finished") from error
        except OSError as error:
            raise UserError(f"Cannot lock the folder {folder}: {error.strerror}") from error
        yield


def sha256(path: str | os.PathLike) -> str:
    """Returns the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = 1) -> None:
    """Writes JSON atomically, with sorted keys so that equal values give equal bytes.

    `indent` None puts all on one line, which suits long tables of numbers.

    Names that are not UTF-8 (lone surrogates in Python) survive the way to JSON and back.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=indent, sort_keys=True).encode() + b"\n")


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
