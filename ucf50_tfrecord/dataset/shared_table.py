"""Shares a table of clips among the processes of one host, through a file that each process maps into memory."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable

import numpy as np

from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import format_bytes

_TABLE, _SKIPPED, _UNFINISHED = "clips", "skipped.json", "clips.unfinished"


def open_table(
    folder: str, shape: tuple[int, ...], dtype: str, fill: Callable[[np.ndarray], dict[int, str]]
) -> tuple[np.ndarray, dict[int, str]]:
    """Opens a folder's table; makes it first if no other process has made it.

    The processes share the memory of the table, because the system keeps one copy of a mapped file's pages.

    Args:
      folder: a folder for this table alone, which exists. The caller removes it once no process needs it.
      shape, dtype: shape and dtype of the table.
      fill: called with a new table, which it fills; other processes wait meanwhile. It returns the skipped rows,
        with reasons.

    Returns:
      A tuple of the table, which is read-only, and the skipped rows.

    Raises:
      UserError: if there is no space for the table.
    """
    path, unfinished = pathlib.Path(folder, _TABLE), pathlib.Path(folder, _UNFINISHED)
    with storage.folder_lock(folder, wait_secs=math.inf):
        if not path.exists():
            _reserve(unfinished, math.prod(shape) * np.dtype(dtype).itemsize)
            skipped = fill(np.memmap(unfinished, dtype, "r+", shape=shape))
            storage.write_json(
                path.with_name(_SKIPPED), {str(row): reason for row, reason in skipped.items()}
            )
            unfinished.rename(path)
    found = storage.read_json(path.with_name(_SKIPPED))
    return np.memmap(path, dtype, "r", shape=shape), {int(row): reason for row, reason in found.items()}


def _reserve(path: pathlib.Path, num_bytes: int) -> None:
    """Makes a file of a given size. Without reserved space, a full disk would kill the process that fills it."""
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"Cannot keep {format_bytes(num_bytes)} of clips in {path.parent}: {error.strerror}"
        ) from error
