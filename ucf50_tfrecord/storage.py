"""Writes files and folders that appear as a whole; reads files, local or behind URLs, up to a size limit."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, BinaryIO

from ucf50_tfrecord import remote
from ucf50_tfrecord.errors import UserError

_LOCK_FILENAME = ".lock"
_LOCK_POLL_SECS = 0.1
# Largest size of a JSON file. UCF50's manifest takes 40 KB and a sidecar 10 KB. The contents of a hostile
# file may take twenty times the file's size as Python objects.
MAX_JSON_BYTES = 64 << 20
# Pattern of the beginning of temporary files' names.
TEMPORARY = r"\.tmp-[0-9a-f]{8}-"
MARKER_FILENAME = ".ucf50-tfrecord"


def _temporary_path(path: pathlib.Path) -> pathlib.Path:
    # A random name, because writers on other hosts may have the same process id.
    return path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file for writing; the file appears at `path` once the block succeeds. See atomic_path."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, temporary_name: str | None = None) -> Iterator[pathlib.Path]:
    """Yields the path of a temporary file to write; renames the file to `path` after the block.

    If the block raises an error, the temporary file is removed instead. The temporary file
    is in the same folder as `path`, because a rename is atomic within a file system only. It is flushed to
    disk before the rename.

    Args:
      path: the final path of the file; its folder is made if it does not exist.
      temporary_name: name of the temporary file; by default a random name that ends with the file's name.

    Raises:
      UserError: if the file cannot be written (no space, no permission, …).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(temporary_name) if temporary_name else _temporary_path(path)
    try:
        try:
            make_folder(path.parent)
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # Errors of other files, such as a video that is read while the block runs, are explained elsewhere.
        if error.filename in (None, str(temporary), str(path), str(path.parent)):
            raise UserError(f"Cannot write {path}: {error.strerror or error}") from error
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, names: Collection[str], mark: str) -> Iterator[pathlib.Path]:
    """Yields a new temporary folder to fill; renames the folder to `path` after the block.

    If the block raises an error, the temporary folder is removed instead. The folder
    replaces an empty folder at `path`, or one that this function wrote before: a folder that holds the file
    `mark` and no other names than `names`.

    Args:
      path: the final path of the folder.
      names: all names of files that the folder may hold, `mark` among them.
      mark: name of the file that identifies a folder written by this function.

    Raises:
      UserError: if something else is at `path`, or the folder cannot be written.
    """
    path = pathlib.Path(path).resolve()
    _check_replaceable(path, names, mark)
    make_folder(path.parent)
    temporary, old = _temporary_path(path), _temporary_path(path)
    try:
        temporary.mkdir()
        yield temporary
        _check_replaceable(path, names, mark)  # again: it may have changed while the block ran
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        # Errors of other files are explained elsewhere.
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
    """Deletes the temporary files that killed processes left in a folder. The caller must hold its lock."""
    remove_files(folder, lambda name: re.match(TEMPORARY, name) is not None)


def remove_files(folder: str | os.PathLike, is_chosen: Callable[[str], bool]) -> None:
    """Deletes the files in a folder for whose names `is_chosen` returns True; never deletes subfolders."""
    with os.scandir(os.fspath(folder)) as entries:
        for entry in entries:
            if is_chosen(entry.name) and not entry.is_dir(follow_symlinks=False):
                pathlib.Path(entry.path).unlink(missing_ok=True)


def list_folder(folder: str | os.PathLike) -> set[str]:
    """Returns the names of all entries of a folder; an empty set if the folder does not exist.

    Raises:
      UserError: if the folder cannot be read.
    """
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}") from error


def check_own(folder: str | os.PathLike, kind: str, is_earlier: Callable[[set[str]], bool]) -> None:
    """Checks that a folder is new, empty, or marked by claim_folder as a folder for files of the given kind.

    Args:
      folder: path of the folder, which may not exist yet.
      kind: the folder's purpose, such as "a comparison".
      is_earlier: called with the names in a folder without a marker; tells whether an earlier version of this
        package, which wrote no markers, made the folder for the same purpose.

    Raises:
      UserError: if the folder holds other files, or cannot be read.
    """
    names = {name for name in list_folder(folder) if not re.match(TEMPORARY, name)}
    marked = _read_marker(folder) if MARKER_FILENAME in names else None
    if marked == kind:
        return
    if marked is not None or (names and not is_earlier(names)):
        first = min(names, key=lambda name: (name.startswith("."), name))
        what = f"other files, such as {first!r}" if marked is None else f"files of another kind: {marked!r}"
        raise UserError(
            f"Expected a folder for {kind}: new, empty or written as such before. Received: {folder}, "
            f"which holds {what}"
        )


def _read_marker(folder: str | os.PathLike) -> str:
    path = os.path.join(folder, MARKER_FILENAME)
    try:
        return read_bytes(path, max_bytes=1 << 10).decode(errors="replace").strip()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def claim_folder(folder: str | os.PathLike, kind: str, is_earlier: Callable[[set[str]], bool]) -> None:
    """Makes a folder unless it exists, and marks it as a folder for files of the given kind.

    Args:
      folder, kind, is_earlier: as in check_own.

    Raises:
      UserError: if the folder holds other files, or cannot be made, read or written.
    """
    check_own(folder, kind, is_earlier)
    make_folder(folder)
    marker = pathlib.Path(folder, MARKER_FILENAME)
    if not marker.exists():
        with atomic_write(marker) as file:
            file.write(f"{kind}\n".encode())


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and its parents unless it exists.

    Raises:
      UserError: if the folder cannot be made, or files cannot be written in it.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"Cannot write in the folder {path}: Permission denied")


class LockedError(UserError):
    """Error: another process holds a folder's lock."""


@contextlib.contextmanager
def folder_lock(
    folder: str | os.PathLike, name: str = _LOCK_FILENAME, *, shared: bool = False, wait_secs: float = 0.0
) -> Iterator[None]:
    """Holds the lock of a folder while the block runs. The system releases the lock if the process exits.

    Args:
      folder: the folder to lock.
      name: name of the lock's file in the folder.
      shared: whether other processes may hold the lock at the same time, provided they share it, too.
      wait_secs: how long to wait for another process that holds the lock.

    Raises:
      LockedError: if another process holds the lock.
      UserError: if the lock's file cannot be made or locked.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = time.monotonic() + wait_secs
    with contextlib.ExitStack() as stack:
        try:
            # Opened also for reading, because a shared lock over NFS needs it.
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
    """Tells whether a process holds a folder's lock; False if unknown. Does not create the lock's file."""
    if not os.path.isfile(os.path.join(folder, _LOCK_FILENAME)):
        return False
    try:
        with folder_lock(folder, shared=True):
            return False
    except UserError as error:  # another error: this process may not write in the folder
        return isinstance(error, LockedError)


def join(folder: str | os.PathLike, name: str) -> str:
    """Returns the path of a file in a folder, or its URL if the folder is a URL."""
    if remote.is_remote(folder):
        return f"{str(folder).rstrip('/')}/{name}"
    return os.path.join(folder, name)


def absolute(folder: str | os.PathLike) -> str:
    """Returns the absolute path of a folder, or the URL itself if the folder is a URL."""
    return str(folder) if remote.is_remote(folder) else os.path.abspath(folder)


def open_file(path: str | os.PathLike) -> io.FileIO:
    """Opens a local regular file for unbuffered reading. Never blocks at a named pipe or a device.

    Raises:
      FileNotFoundError: if the path does not exist.
      OSError: if the file cannot be opened.
      UserError: if the path is that of a folder, a named pipe or a device.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe"}
        raise UserError(
            f"Expected a regular file. Received: {path}, which is a {kinds.get(stat.S_IFMT(mode), 'device')}"
        )
    return os.fdopen(file, "rb", buffering=0)


def read_bytes(
    path: str | os.PathLike, start: int = 0, end: int | None = None, *, max_bytes: int = MAX_JSON_BYTES
) -> bytes:
    """Reads a file, local or behind a URL, or a range of its bytes.

    Args:
      path: the file's path or URL.
      start: first byte of the range.
      end: the byte after the range; None reads to the end of the file.
      max_bytes: largest number of bytes that may be read if `end` is None.

    Raises:
      FileNotFoundError: if the file does not exist.
      OSError: if a local file cannot be read.
      UserError: if a URL cannot be read, a file is not a regular file, or it has more than max_bytes.
    """
    if remote.is_remote(path):
        content = remote.read(str(path), start, end, max_bytes=max_bytes + 1 if end is None else end - start)
    else:
        with io.BufferedReader(open_file(path)) as file:
            # Limited by the file's size, so that no more memory is allocated than the file can fill.
            stop = min(os.fstat(file.fileno()).st_size, start + max_bytes + 1 if end is None else end)
            file.seek(start)
            content = file.read(max(0, stop - start))
    if end is None and len(content) > max_bytes:
        raise UserError(f"Expected a file of at most {max_bytes} bytes. Received: {path}, which has more")
    return content


def allocated_bytes(path: str | os.PathLike) -> int:
    """Returns the number of bytes that a file occupies on disk (few for a sparse file), or 0 if unknown."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)


def file_size(path: str | os.PathLike) -> int | None:
    """Returns the size of a file, local or behind a URL, in bytes; None if the file does not exist.

    Raises:
      OSError: if a local path cannot be examined.
      UserError: if a URL cannot be read.
    """
    try:
        if remote.is_remote(path):
            return remote.size(str(path))
        return os.stat(path).st_size if os.path.isfile(path) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a local path of a file: its own path, or that of a temporary copy if `path` is a URL.

    The temporary copy is deleted at the end of the block.

    Raises:
      FileNotFoundError: if a remote file does not exist.
      UserError: if a remote file cannot be read or copied.
    """
    if not remote.is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, os.path.basename(str(path)))
        num_bytes = remote.size(str(path))
        try:
            with open(copy, "wb") as file:
                file.writelines(remote.read_chunks(str(path), 0, num_bytes))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"Cannot copy {path} to {folder} (TMPDIR): {error.strerror}") from error
        yield copy


def sha256(path: str | os.PathLike) -> str:
    """Returns the hex sha256 of a file's bytes."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = 1) -> None:
    """Writes a value to a JSON file atomically, with sorted keys so that equal values give equal bytes.

    File names that are not UTF-8 (strings with lone surrogates in Python) are kept unchanged.

    Args:
      path: the file's path.
      value: the JSON value.
      indent: number of spaces per level; None writes one line, which suits long tables of numbers.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=indent, sort_keys=True).encode() + b"\n")


class MissingError(UserError):
    """Error: a file does not exist."""


class NotJsonError(UserError):
    """Error: a file does not hold valid JSON."""


def read_json(path: str | os.PathLike, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file, local or behind a URL. Refuses NaN and infinity, which JSON does not have.

    Args:
      path: the file's path or URL.
      max_bytes: largest size of the file, in bytes.

    Raises:
      MissingError: if the file does not exist.
      NotJsonError: if the file does not hold valid JSON.
      UserError: if the file cannot be read, is not a regular file, or has more than max_bytes.
    """
    try:
        content = read_bytes(path, max_bytes=max_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"Cannot read {path}: {error.strerror or error}") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}") from error
    try:
        return parse_json(content)
    except ValueError as error:
        raise NotJsonError(f"{path} is not valid JSON: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text.

    Raises:
      ValueError: if the text is not valid JSON, holds NaN or infinity, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
