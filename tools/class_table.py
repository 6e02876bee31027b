"""Formats a dataset's number of clips per class and fold as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines import terminal
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import format_folds, printable, shorten

_MIN_NAME_WIDTH, _MAX_NAME_WIDTH, _TOTAL_WIDTH = 12, 24, 7


def format_table(manifest: Manifest) -> list[str]:
    """Returns the lines of a dataset's table of clips per class and fold, 80 columns wide.

    If the folds do not fit in 80 columns, each class's row lists its folds as ranges, without counts. A clip with
    several labels counts in each of its classes, and once in the row of all classes.
    """
    counts = np.array([manifest.clips_per_class[fold] for fold in manifest.folds]).T  # [classes, folds]
    names = [printable(name) for name in manifest.classes]
    longest = min(max(map(len, [*names, "class"])), _MAX_NAME_WIDTH)
    sums = counts.sum(axis=0)
    if manifest.multi_label:
        sums = np.array([manifest.clips_per_fold[fold] for fold in manifest.folds])
    # The sums need wider cells than the counts; they are dropped if the table does not fit.
    for rows in ([*zip(names, counts), ("all", sums)], [*zip(names, counts)]):
        cell_width = 1 + max(len(str(row.max())) for _, row in rows)
        width = min(longest, terminal.WIDTH - _TOTAL_WIDTH - len(manifest.folds) * cell_width)
        if width >= min(longest, _MIN_NAME_WIDTH):
            return _format_rows(rows, manifest.folds, width, cell_width)
    return _format_ranges(manifest, counts, names)


def _format_rows(
    rows: list[tuple[str, np.ndarray]], folds: Sequence[int], width: int, cell_width: int
) -> list[str]:
    height = len(str(max(folds)))
    lines = []
    for line in range(height):  # a fold's digits are written downwards: it may be wider than the counts
        name, total = ("class", "clips") if line == height - 1 else ("", "fold")
        digits = "".join(f"{f'{fold:>{height}}'[line]:>{cell_width}}" for fold in folds)
        lines.append(f"{name:<{width}}{total:>{_TOTAL_WIDTH}}{digits}")
    for name, row in rows:
        cells = "".join(f"{count or '.':>{cell_width}}" for count in row.tolist())
        lines.append(f"{shorten(name, width):<{width}}{row.sum():>{_TOTAL_WIDTH}}{cells}")
    return lines


def _format_ranges(manifest: Manifest, counts: np.ndarray, names: list[str]) -> list[str]:
    width = min(max(map(len, [*names, "class"])), _MAX_NAME_WIDTH)
    lines = [f"{'class':<{width}}{'clips':>{_TOTAL_WIDTH}}  in folds"]
    for name, row in zip(names, counts):
        held = format_folds(fold for fold, count in zip(manifest.folds, row) if count)
        room = terminal.WIDTH - width - _TOTAL_WIDTH - 2
        text = f"{shorten(name, width):<{width}}{row.sum():>{_TOTAL_WIDTH}}  {shorten(held, room)}"
        lines.append(text.rstrip())
    return lines
