"""Files that are either whole or not there. Those that are only read may be URLs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from ucf50_tfrecord import remote
from ucf50_tfrecord.specs import UserError

_LOCK_FILENAME = ".lock"
_LOCK_POLL_SECS = 0.1
_COPY_BYTES = 32 << 20


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
    folder: str | os.PathLike, name: str = _LOCK_FILENAME, *, shared: bool = False, wait_secs: float = 0.0
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


def is_locked(folder: str | os.PathLike) -> bool:
    """Tells whether a process writes a folder now; False where that cannot be told. Makes no file."""
    if not os.path.isfile(os.path.join(folder, _LOCK_FILENAME)):
        return False
    try:
        with folder_lock(folder, shared=True):
            return False
    except UserError as error:  # others: not ours to write in
        return isinstance(error, LockedError)


def join(folder: str | os.PathLike, name: str) -> str:
    """Returns the path of a file in a folder, or its URL where the folder has one."""
    if remote.is_remote(folder):
        return f"{str(folder).rstrip('/')}/{name}"
    return os.path.join(folder, name)


def absolute(folder: str | os.PathLike) -> str:
    """Returns a folder's path from the root; a URL as it is."""
    return str(folder) if remote.is_remote(folder) else os.path.abspath(folder)


def read_bytes(path: str | os.PathLike, start: int = 0, end: int | None = None) -> bytes:
    """Reads a file, or its bytes from start to before end.

    Raises:
      FileNotFoundError: if there is none.
      OSError, UserError: if it cannot be read: if it is here, or a URL.
    """
    if remote.is_remote(path):
        return remote.read(str(path), start, end)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(-1 if end is None else end - start)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading, unbuffered. Pipes and devices, at which a reader may wait for ever, are refused.

    Raises:
      OSError: if it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(descriptor, "rb", buffering=0)


def allocated_bytes(path: str | os.PathLike) -> int:
    """Returns how many bytes of a file are on disk, which are few of a sparse one; 0 if that cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def file_size(path: str | os.PathLike) -> int | None:
    """Returns a file's size in bytes, None if there is none. Errors are those of read_bytes."""
    try:
        if remote.is_remote(path):
            return remote.size(str(path))
        return os.stat(path).st_size if os.path.isfile(path) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file that can be opened: itself if it is here, else a copy that goes with the block.

    Errors are those of read_bytes.
    """
    if not remote.is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, os.path.basename(str(path)))
        num_bytes = remote.size(str(path))
        try:
            with open(copy, "wb") as file:
                while (start := file.tell()) < num_bytes:
                    end = min(start + _COPY_BYTES, num_bytes)
                    if not file.write(remote.read_or_all(str(path), start, end)):
                        break  # it has become shorter meanwhile
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"Cannot copy {path} to {folder} (TMPDIR): {error.strerror}") from error
        yield copy


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


class MissingError(UserError):
    """There is no such file."""


class NotJsonError(UserError):
    """A file holds something else than JSON."""


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file, which may be a URL.

    Raises:
      MissingError: if there is none.
      NotJsonError: if it holds something else.
      UserError: if it cannot be read.
    """
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"Cannot read {path}: {error.strerror or error}") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}") from error
    try:
        return json.loads(content)
    except (RecursionError, ValueError) as error:
        raise NotJsonError(f"{path} is not valid JSON: {error}") from error
