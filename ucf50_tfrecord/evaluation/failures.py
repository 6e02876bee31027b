"""Notes of the cells of a comparison (its trainings) that failed: their processes crashed twice.

<folder>/failed/<cell>.json   the reason why a cell failed

The notes tell all processes that run the comparison to leave these cells out, and its report names them. Starting
the comparison again removes the notes, so that the cells are tried again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec

from ucf50_tfrecord import parsing, storage

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.results import Cell

_FOLDER = "failed"
_MAX_REASON = 1000  # characters

# A clause that says why a cell failed, such as "its process was killed by SIGKILL".
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_REASON)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Note:
    """The format of a note."""

    reason: Reason


def save(folder: str, cell: Cell, reason: str) -> None:
    """Notes that a cell has failed.

    Args:
      folder: the comparison's folder.
      cell: the cell.
      reason: a clause that says why it failed; it is cut if it is too long.
    """
    storage.write_json(_path(folder, cell), {"reason": reason[:_MAX_REASON]})


def has(folder: str, cell: Cell) -> bool:
    """Returns whether the comparison in `folder` has a note that a cell has failed."""
    return os.path.exists(_path(folder, cell))


def load(folder: str, cells: Iterable[Cell]) -> dict[Cell, str]:
    """Reads the notes of a comparison.

    Args:
      folder: the comparison's folder.
      cells: the cells whose notes are read.

    Returns:
      A dictionary from each of the cells that failed to the reason, in the order of `cells`.

    Raises:
      UserError: if a note is damaged.
    """
    found = {}
    for cell in _noted(folder, cells):
        with contextlib.suppress(
            storage.MissingError
        ):  # another process has just started the comparison again
            found[cell] = parsing.read(_path(folder, cell), _Note, "a note of a failed training").reason
    return found


def forget(folder: str, cells: Iterable[Cell]) -> None:
    """Removes the notes of cells, because these are tried again; `folder` is the comparison's."""
    for cell in _noted(folder, cells):
        with contextlib.suppress(FileNotFoundError):  # another process did the same
            os.remove(_path(folder, cell))


def _noted(folder: str, cells: Iterable[Cell]) -> list[Cell]:
    """Lists those of the cells that have a note; lists the folder once, as there may be thousands of cells."""
    names = storage.list_folder(os.path.join(folder, _FOLDER))
    return [cell for cell in cells if names and _name(cell) in names]


def _path(folder: str, cell: Cell) -> str:
    return os.path.join(folder, _FOLDER, _name(cell))


def _name(cell: Cell) -> str:
    return f"{cell}.json"
