"""Writes and reads the results of a comparison, and of each of its cells (trainings).

<folder>/predictions.parquet   all predictions; see evaluation.predictions
<folder>/costs.json            the costs of the trainings, which depend on the processes that ran them; the
                               other two files do not
<folder>/results.json          the clips, and what else is known of each cell

A cell's folder holds the predictions and the cost (cost.json) of the cell alone, and cell.json in place of
results.json. The last file is written last in both folders.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.choices import FoldBy, Precision
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import predictions
from ucf50_tfrecord.evaluation.attribution import Attribution
from ucf50_tfrecord.evaluation.audit import NearestClips
from ucf50_tfrecord.evaluation.failures import Reason
from ucf50_tfrecord.evaluation.predictions import Predictions
from ucf50_tfrecord.evaluation.recurrence import Recurrence
from ucf50_tfrecord.evaluation.results import (
    Cell,
    CellResult,
    ComparedClips,
    Results,
    TrainingCost,
    incomplete,
)
from ucf50_tfrecord.parsing import Count, Int64, Name
from ucf50_tfrecord.specs import to_json

_DISTANCE_DECIMALS = 9  # kept of neighbor_distances; further ones depend on the order of sums
CELL_FILENAME, RESULTS_FILENAME = "cell.json", "results.json"
COST_FILENAME, COSTS_FILENAME = "cost.json", "costs.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ExtendedCell(Cell):
    """A cell with further fields."""

    @property
    def cell(self) -> Cell:
        """The cell without the other fields."""
        return Cell(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Cell)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CellFile(_ExtendedCell):
    """The format of cell.json, and of each cell in results.json: a cell without its predictions."""

    architecture: Name
    recurrence: Recurrence | None
    run_dir: str
    precision: Precision
    attributions: tuple[Attribution, ...] = ()
    neighbor_distances: tuple[Annotated[float, msgspec.Meta(ge=0, le=3)], ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        model_traits(self.architecture)  # refuses unknown names
        expect(
            bool(self.held_out) == (self.neighbor_distances is not None),
            "neighbor_distances just if there are held_out classes",
            held_out=self.held_out,
        )

    def check(self, num_frames: int, num_clips: int, num_classes: int) -> None:
        """Raises UserError unless the cell fits a comparison of clips of `num_classes` classes.

        Args:
          num_frames: frames per clip.
          num_clips: number of clips.
          num_classes: number of classes.
        """
        most = max(self.held_out, default=-1)
        expect(most < num_classes, f"classes below {num_classes} in held_out", held_out=most)
        known = num_classes - len(self.held_out)
        expect(known >= 2, "at least 2 classes that are not in held_out", others=known)
        if self.recurrence:  # its curves are equally long
            length = len(self.recurrence.loss_gradient)
            expect(length == num_frames, f"loss_gradient of {num_frames} frames", loss_gradient=length)
        for found in self.attributions:
            length = len(found.contributions)
            expect(length == num_frames, f"contributions of {num_frames} frames", contributions=length)
            expect(found.clip < num_clips, f"clips below {num_clips} in attributions", clip=found.clip)

    def to_result(self, found: Predictions) -> CellResult:
        """Returns the cell's result, with its predictions.

        Raises:
          UserError: unless there is a distance for each prediction, if there are any.
        """
        distances = None
        if self.neighbor_distances is not None:
            distances = np.array(self.neighbor_distances)
            num_clips, num_distances = len(found.clips), len(distances)
            expect(
                num_distances == num_clips,
                f"{num_clips} neighbor_distances of {self.cell}, as many as predictions",
                neighbor_distances=num_distances,
            )
        return CellResult(
            cell=self.cell,
            architecture=self.architecture,
            clips=found.clips,
            logits=found,
            recurrence=to_json(self.recurrence),
            run_dir=self.run_dir,
            precision=self.precision,
            attributions=self.attributions,
            neighbor_distances=distances,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FailedFile(_ExtendedCell):
    """The format of each failed cell in results.json."""

    reason: Reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CostFile(_ExtendedCell):
    """The format of each cell in costs.json."""

    cost: TrainingCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ClipsFile:
    id: tuple[Name, ...]
    label: tuple[Count, ...]
    group: tuple[Int64, ...]
    fold: tuple[Count, ...]

    def __post_init__(self):
        lengths = {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}
        expect(len(set(lengths.values())) == 1 and self.id, "an entry for each clip", **lengths)
        expect(
            len(set(self.id)) == len(self.id),
            "distinct ids of clips",
            id=len(self.id),
            distinct=len(set(self.id)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ResultsFile:
    """The format of results.json: the fields of Results, with the clips in one object."""

    name: str
    classes: tuple[Name, ...]
    num_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    clips: _ClipsFile
    audit: dict[FoldBy, NearestClips] | None
    cells: tuple[_CellFile, ...]
    failed: tuple[_FailedFile, ...] = ()  # earlier versions wrote neither this nor the next field
    left_out: tuple[Cell, ...] = ()
    of_features: bool | None = None

    def __post_init__(self):
        num_clips, num_classes = len(self.clips.id), len(self.classes)
        expect(len(set(self.classes)) == num_classes >= 2, "2 or more distinct classes", classes=num_classes)
        expect(
            max(self.clips.label) < num_classes, f"labels below {num_classes}", label=max(self.clips.label)
        )
        kinds: dict[str, str] = {}
        for cell in self.cells:
            cell.check(self.num_frames, num_clips, num_classes)
            kind = kinds.setdefault(cell.model, cell.architecture)
            expect(
                kind == cell.architecture,
                f"the same architecture in all cells of {cell.model!r}",
                architecture=cell.architecture,
            )
        self._check_cells()
        for split, nearest in (self.audit or {}).items():
            last = max((index for pair in nearest.pairs for index in pair[:2]), default=0)
            expect(last < num_clips, f"pairs of clips below {num_clips} in audit", **{split: last})

    def _check_cells(self) -> None:
        finished, failed = [file.cell for file in self.cells], [file.cell for file in self.failed]
        listed = [*finished, *failed, *self.left_out]
        num_cells, num_distinct = len(listed), len(set(listed))
        expect(
            finished and num_distinct == num_cells,
            "at least 1 cell, and each cell once",
            cells=num_cells,
            distinct=num_distinct,
        )
        partial = incomplete(finished, failed)
        expect(not partial, "no cells of seeds of which a part failed", cells=list(map(str, partial[:1])))


def save(folder: pathlib.Path, results: Results) -> None:
    """Writes a comparison's results into its folder."""
    predictions.write(folder / predictions.FILENAME, results, results.cells)
    content = {
        "name": results.name,
        "classes": list(results.classes),
        "num_frames": results.num_frames,
        "of_features": results.of_features,
        "clips": {
            "id": list(results.ids),
            "label": results.labels.tolist(),
            "group": results.groups.tolist(),
            "fold": results.folds.tolist(),
        },
        "audit": results.audit,
        "cells": [_cell_to_json(result) for result in results.cells],
        "failed": [to_json(cell) | {"reason": reason} for cell, reason in results.failed.items()],
        "left_out": [to_json(cell) for cell in results.left_out],
    }
    costs = [to_json(r.cell) | {"cost": to_json(r.cost)} for r in results.cells if r.cost]
    storage.write_json(folder / COSTS_FILENAME, costs, indent=None)
    storage.write_json(folder / RESULTS_FILENAME, content, indent=None)


def load(path: pathlib.Path) -> Results:
    """Reads a comparison's results from results.json, and the predictions from the file beside it.

    Raises:
      UserError: if the files do not hold a comparison's results.
    """
    _check_version(path)
    file = parsing.read(path, _ResultsFile, "a comparison's results")
    clips = ComparedClips(
        name=file.name,
        classes=file.classes,
        num_frames=file.num_frames,
        of_features=file.of_features,
        ids=file.clips.id,
        labels=np.array(file.clips.label, np.int64),
        groups=np.array(file.clips.group, np.int64),
        folds=np.array(file.clips.fold, np.int64),
    )
    found = predictions.read(path.with_name(predictions.FILENAME), clips, [cell.cell for cell in file.cells])
    costs = _load_costs(path.with_name(COSTS_FILENAME), [cell.cell for cell in file.cells])
    return Results(
        **vars(clips),
        cells=tuple(
            dataclasses.replace(_to_result(path, cell, found), cost=costs.get(cell.cell))
            for cell in file.cells
        ),
        audit=to_json(file.audit),
        failed={cell.cell: cell.reason for cell in file.failed},
        left_out=file.left_out,
    )


def _load_costs(path: pathlib.Path, cells: Sequence[Cell]) -> dict[Cell, TrainingCost]:
    """Reads costs.json; returns an empty dictionary if there is none, as in comparisons of earlier versions.

    Raises:
      UserError: if the file does not hold the costs of some of the cells.
    """
    if not path.exists():
        return {}
    files = parsing.read(path, tuple[_CostFile, ...], "the costs of a comparison's trainings")
    costs = {file.cell: file.cost for file in files}
    unknown = [str(cell) for cell in costs if cell not in set(cells)]
    expect(
        len(costs) == len(files) and not unknown,
        f"each of the comparison's cells at most once in {path}",
        cells=len(files),
        distinct=len(costs),
        unknown=unknown[:1],
    )
    return costs


def save_cost(folder: pathlib.Path, cost: TrainingCost) -> None:
    """Writes the cost of one cell's training into the cell's folder."""
    storage.write_json(folder / COST_FILENAME, to_json(cost))


def load_cost(folder: pathlib.Path) -> TrainingCost | None:
    """Reads the cost of one cell's training; returns None if it is unknown.

    Raises:
      UserError: if the cell's file of it holds something else.
    """
    path = folder / COST_FILENAME
    try:
        return parsing.read(path, TrainingCost, "a training's cost") if path.exists() else None
    except UserError as error:
        raise UserError(
            f"{error}. Without this file, the cost is unknown, and all else stays: remove it"
        ) from error


def save_cell(folder: pathlib.Path, clips: ComparedClips, result: CellResult) -> None:
    """Writes one cell's result, except for its cost, into its folder.

    Args:
      folder: the cell's folder.
      clips: the clips of the comparison.
      result: the result.
    """
    path = folder / CELL_FILENAME
    path.unlink(missing_ok=True)  # of an earlier version; the cell is finished when this file is there again
    predictions.write(folder / predictions.FILENAME, clips, [result])
    storage.write_json(path, _cell_to_json(result))


def has_cell(folder: str | os.PathLike) -> bool:
    """Returns whether a cell's folder holds the cell's result.

    Earlier versions stored predictions in cell.json; such a cell has to be tested again.
    """
    return all(os.path.exists(os.path.join(folder, name)) for name in (CELL_FILENAME, predictions.FILENAME))


def load_cell(folder: pathlib.Path, clips: ComparedClips) -> CellResult:
    """Reads one cell's result, except for its cost, from its folder.

    Args:
      folder: the cell's folder.
      clips: the clips of the comparison.

    Raises:
      UserError: if the folder does not hold a cell's result of this comparison.
    """
    path = folder / CELL_FILENAME
    file = parsing.read(path, _CellFile, "a cell's result")
    try:
        file.check(clips.num_frames, len(clips.ids), len(clips.classes))
    except UserError as error:
        raise UserError(f"{path} is not a cell's result of this comparison: {error}") from error
    found = predictions.read(folder / predictions.FILENAME, clips, [file.cell])
    return _to_result(path, file, found)


def _to_result(path: pathlib.Path, file: _CellFile, found: dict[Cell, Predictions]) -> CellResult:
    """Returns the result of a cell that was read from `path`, with its predictions out of `found`."""
    try:
        return file.to_result(found[file.cell])
    except UserError as error:
        raise UserError(f"{path} does not fit {predictions.FILENAME} beside it: {error}") from error


def _check_version(path: pathlib.Path) -> None:
    """Raises UserError for results.json of a version that stored all predictions in it, up to gigabytes."""
    beside = path.with_name(predictions.FILENAME)
    if path.is_file() and not beside.exists():
        raise UserError(
            f"Expected {beside.name} beside {path}. Received: no such file. If {path.name} holds the predictions "
            "itself, a version before 2026-11-27 wrote it, and this version cannot read it: run the comparison again "
            "with the same command; its trainings are kept"
        )


def _cell_to_json(result: CellResult) -> dict[str, Any]:
    distances = result.neighbor_distances
    return to_json(result.cell) | {
        "architecture": result.architecture,
        "recurrence": result.recurrence,
        "run_dir": result.run_dir,
        "precision": result.precision,
        "attributions": [to_json(found) for found in result.attributions],
        "neighbor_distances": None if distances is None else distances.round(_DISTANCE_DECIMALS).tolist(),
    }
