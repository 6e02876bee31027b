"""Gives each process a folder for its temporary files, and removes folders that killed processes left.

Libraries write temporary files, too: for example, TensorFlow's AutoGraph writes Python modules.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile

from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError

_PREFIX = "ucf50-scratch-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{16}}")
_MODE = 0o700


def use_own_folder() -> None:
    """Puts temporary files of this process and its children into a folder that is removed at exit.

    The folder lies in TMPDIR. The process holds the folder's lock until it exits, even if it is killed. If no
    process holds a folder's lock, a killed process has left the folder. Such folders are removed first.

    Raises:
      UserError: if the folder cannot be made.
    """
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(
            f"Cannot make temporary files: {error.strerror}. Set TMPDIR to a folder that can be written"
        ) from error
    _remove_abandoned(parent)
    with contextlib.ExitStack() as stack:
        while (folder := _make_locked(parent, stack)) is None:
            pass
        lock = stack.pop_all()
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    atexit.register(_remove_own, folder, lock, os.getpid())


def _make_locked(parent: str, stack: contextlib.ExitStack) -> str | None:
    """Makes a folder in `parent`, and locks it until `stack` is closed.

    Returns:
      The folder's path, or None if another process removed the folder before it was locked. Until then, the
      folder looks as if a killed process had left it.
    """
    folder = os.path.join(parent, f"{_PREFIX}{secrets.token_hex(8)}")
    try:
        os.mkdir(folder, _MODE)
    except OSError as error:
        raise UserError(f"Cannot make a temporary folder in {parent} (TMPDIR): {error.strerror}") from error
    try:
        stack.enter_context(storage.folder_lock(folder))
    except storage.LockedError:
        return None
    except UserError:
        if os.path.isdir(folder):  # locks do not work in this file system
            shutil.rmtree(folder, ignore_errors=True)
            raise
    # Another process may have locked the folder before this one, and removed it.
    return folder if os.path.isdir(folder) else None


def _remove_own(folder: str, lock: contextlib.ExitStack, pid: int) -> None:
    if os.getpid() == pid:  # not a fork of the process that made the folder
        shutil.rmtree(folder, ignore_errors=True)  # the next process tries again
        lock.close()


def _remove_abandoned(parent: str) -> None:
    """Removes the folders in `parent` that killed processes of this user left."""
    try:
        with os.scandir(parent) as entries:
            found = [entry for entry in entries if _NAME.fullmatch(entry.name)]
    except PermissionError:  # the folder cannot be listed
        return
    for entry in found:
        # The suppressed errors have two causes: the folder's process still runs, or another process removes
        # the folder.
        with contextlib.suppress(FileNotFoundError, UserError):
            if _is_own(entry.stat(follow_symlinks=False)):
                with storage.folder_lock(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_own(status: os.stat_result) -> bool:
    """Tells whether a folder's owner is this user and its mode is that of _make_locked's folders.

    The check is needed because any user may make folders with such names in /tmp.
    """
    return (
        stat.S_ISDIR(status.st_mode)
        and stat.S_IMODE(status.st_mode) == _MODE
        and status.st_uid == os.geteuid()
    )
