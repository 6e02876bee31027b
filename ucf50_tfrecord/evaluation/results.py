"""The results of a comparison of models: logits for every test clip, and the files that hold them.

A comparison trains several models on the same data and tests them under interventions (changes of the test
clips, such as shuffled frames). All numbers of its report are computed from these results.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from ucf50_tfrecord import parsing, record, storage
from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.choices import FoldBy, FrameOrder, Precision
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import interventions, statistics
from ucf50_tfrecord.evaluation.audit import NearestClips
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED, SHUFFLES
from ucf50_tfrecord.evaluation.recurrence import Recurrence
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.parsing import Count, Finite, Int64, Name
from ucf50_tfrecord.settings import read_choices
from ucf50_tfrecord.specs import to_json

LOGIT_DECIMALS = 4  # decimals of stored logits; with all digits, the files would be twice as long
_MAX_CELL_BYTES, _MAX_RESULTS_BYTES = 1 << 30, 8 << 30  # UCF50's logits take 40 MB per cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a comparison, and the part of the clips that its model is tested on.

    model: name of the model in the comparison; the recipe of the model has the same name.
    training: arrangement of the frames in training clips; a value of choices.FrameOrder.
    split: whether clips are held out by recording group or by video; a value of choices.FoldBy.
    part: index, from 0, of the part of the split that is held out and tested on.
    seed: seed of the training.
    """

    model: Name
    training: str = FrameOrder.KEPT
    split: str = FoldBy.GROUP
    part: Count = 0
    seed: Count = 0

    def __post_init__(self):
        read_choices(self)

    def __str__(self) -> str:
        words = [self.model, f"part{self.part + 1}", f"seed{self.seed}"]
        words += [self.training] if self.training != FrameOrder.KEPT else []
        words += ["by_video"] if self.split == FoldBy.VIDEO else []
        return "-".join(words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """The predictions for one cell's test clips, by the model that the cell trained.

    cell: the training and the part of the clips that is tested on.
    architecture: name of the model's architecture in ModelSpec.
    clips: indices of the M test clips in Results.ids, int64 [M].
    logits: dictionary from the name of an intervention to the test clips' logits, float32 [M, C].
    recurrence: evaluation.recurrence.Recurrence as JSON; None if no recurrent layer was inspected.
    run_dir: folder of the model's weights.
    precision: floating-point precision that the model computes in.
    """

    cell: Cell
    architecture: str
    clips: np.ndarray
    logits: dict[str, np.ndarray]
    recurrence: dict[str, Any] | None
    run_dir: str
    precision: str


class Condition(NamedTuple):
    """A condition that scores are computed for: a model, its training, its split, and an intervention.

    The defaults are the usual training and test: frames in order, a split by recording group, unchanged
    clips.

    model: name of the model in the comparison.
    training: arrangement of the frames in training clips; a value of choices.FrameOrder.
    split: whether test clips were held out by recording group or by video; a value of choices.FoldBy.
    intervention: change of the test clips; SHUFFLED means all SHUFFLES (permutations of the frames) together.
    """

    model: str
    training: str = FrameOrder.KEPT
    split: str = FoldBy.GROUP
    intervention: str = PLAIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """A comparison's clips and all predictions for them.

    name: name of the data set.
    classes: names of the C classes.
    num_frames: frames per clip.
    ids: ids of the N clips.
    labels: class of each clip, int64 [N].
    groups: recording group of each clip, int64 [N]; record.UNKNOWN_GROUP for clips without one.
    folds: fold of each clip, int64 [N].
    cells: predictions of each cell, that is, of each training and its test clips.
    audit: dictionary from split to evaluation.audit.NearestClips as JSON; None without an audit.
    """

    name: str
    classes: tuple[str, ...]
    num_frames: int
    ids: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray
    cells: tuple[CellResult, ...]
    audit: dict[str, Any] | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the compared models, in the order of the request."""
        return tuple(self.architectures)

    @functools.cached_property
    def architectures(self) -> dict[str, str]:
        """Dictionary from each model's name to its architecture's name in ModelSpec."""
        return {result.cell.model: result.architecture for result in self.cells}

    @property
    def order_blind(self) -> tuple[str, ...]:
        """Names of the models whose logits are the same for every order of a clip's frames."""
        return tuple(model for model in self.models if model_traits(self.architectures[model]).is_order_blind)

    @functools.cached_property
    def units(self) -> np.ndarray:
        """The index of each clip's independent unit (its group, or its video), int64 [N]; see units_of."""
        return units_of(self.ids, self.groups)

    def cells_of(self, condition: Condition) -> list[CellResult]:
        """Lists the results of all cells that have the model, training and split of `condition`."""
        wanted = condition.model, condition.training, condition.split
        return [r for r in self.cells if (r.cell.model, r.cell.training, r.cell.split) == wanted]

    def interventions(self, model: str) -> tuple[str, ...]:
        """Lists the names of the interventions that a model with the usual training was tested under."""
        return tuple(dict.fromkeys(name for r in self.cells_of(Condition(model)) for name in r.logits))

    def logits(self, condition: Condition) -> np.ndarray:
        """Returns all clips' logits under a condition, float32 [S, N, C], one row per seed.

        Logits are NaN for clips that a seed's model was not tested on. SHUFFLED stands for several
        permutations of the frames; there, each seed has a row per permutation, [S * permutations, N, C].
        """
        names = SHUFFLES if condition.intervention == SHUFFLED else (condition.intervention,)
        found = [result for result in self.cells_of(condition) if names[0] in result.logits]
        seeds = sorted({result.cell.seed for result in found})
        table = np.full((len(seeds), len(names), len(self.ids), len(self.classes)), np.nan, np.float32)
        for result in found:
            for number, name in enumerate(names):
                if name in result.logits:
                    table[seeds.index(result.cell.seed), number, result.clips] = result.logits[name]
        return table.reshape(-1, *table.shape[2:])

    def predictions(self, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        """Returns the predicted classes under a condition, and the clips that all seeds were tested on.

        Returns:
          A tuple: the predicted classes, int64 [S, N], one row per seed; and a mask, bool [N], which is True
          for clips that the models of all seeds were tested on. Predictions for other clips are -1.
        """
        logits = self.logits(condition)
        tested = ~np.isnan(logits).any(axis=(0, 2)) & bool(len(logits))
        return np.where(tested, np.nan_to_num(logits).argmax(axis=2), -1), tested

    def correct(self, condition: Condition) -> np.ndarray:
        """Returns the fraction of seeds that predict each clip's class under a condition, float64 [N].

        The fraction is NaN for clips that not all seeds were tested on.
        """
        if condition not in self._correct:
            predictions, tested = self.predictions(condition)
            fractions = (predictions == self.labels).mean(axis=0) if len(predictions) else np.nan
            self._correct[condition] = np.where(tested, fractions, np.nan)
        return self._correct[condition]

    def mean(self, values: np.ndarray) -> Estimate | None:
        """Computes the mean of values, one per clip, float [N], and its interval by a bootstrap over units.

        Clips whose value is NaN are left out. Returns None if all values are NaN.
        """
        kept = ~np.isnan(values)
        return statistics.mean_interval(values[kept], self.units[kept]) if kept.any() else None

    @functools.cached_property
    def _correct(self) -> dict[Condition, np.ndarray]:
        """Cache of the results of `correct` by condition, because verdicts and tables need the same results."""
        return {}


def video_of(clip_id: str) -> str:
    """Returns a clip's video: the clip's id without #<number> at its end, which numbers a video's clips."""
    video, _, number = clip_id.rpartition("#")
    return video if video and number.isdigit() else clip_id


def units_of(ids: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """Numbers the units of N clips: the recording groups (or videos) that count as independent observations.

    A clip's unit is its group, or its video if it has no group. Clips with the same group number are of one
    unit even if their classes differ, because they are held out together.

    Args:
      ids: ids of the clips.
      groups: recording group of each clip, int64 [N]; record.UNKNOWN_GROUP for clips without one.

    Returns:
      The index of each clip's unit, from 0, int64 [N].
    """
    known = [
        f"group {group}" if group != record.UNKNOWN_GROUP else f"video {video_of(clip_id)}"
        for group, clip_id in zip(groups.tolist(), ids)
    ]
    return np.unique(known, return_inverse=True)[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CellFile(Cell):
    """The format of cell.json, and of each cell in results.json: a cell and its predictions."""

    architecture: Name
    clips: tuple[Count, ...]
    logits: dict[Name, tuple[tuple[Finite, ...], ...]]
    recurrence: Recurrence | None
    run_dir: str
    precision: Precision

    def __post_init__(self):
        super().__post_init__()
        model_traits(self.architecture)  # refuses unknown names
        expect(
            len(set(self.clips)) == len(self.clips) > 0,
            "at least 1 clip, and each clip once",
            clips=len(self.clips),
        )
        expect(PLAIN in self.logits, f"logits for unchanged clips ({PLAIN!r})", logits=sorted(self.logits))
        for name, rows in self.logits.items():
            expect(
                len(rows) == len(self.clips) and len({len(row) for row in rows}) == 1,
                f"equally long rows of logits of {name!r}, one for each of {len(self.clips)} clips",
                rows=len(rows),
            )
        widths = {len(rows[0]) for rows in self.logits.values()}
        expect(len(widths) == 1, "logits of the same number of classes in all tests", classes=sorted(widths))

    @property
    def cell(self) -> Cell:
        """The cell without its predictions."""
        return Cell(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Cell)})

    def check(self, num_clips: int, num_classes: int, num_frames: int) -> None:
        """Raises UserError unless the cell fits a comparison with these numbers; `num_frames` is per clip."""
        expect(max(self.clips) < num_clips, f"indices of clips below {num_clips}", clips=max(self.clips))
        width = len(self.logits[PLAIN][0])
        expect(width == num_classes, f"logits of {num_classes} classes", classes=width)
        known = interventions.names(num_frames)
        unknown = [name for name in self.logits if name not in known]
        expect(not unknown, f"logits of known interventions ({', '.join(known)})", logits=unknown)
        if self.recurrence:  # its curves are equally long
            length = len(self.recurrence.loss_gradient)
            expect(length == num_frames, f"loss_gradient of {num_frames} frames", loss_gradient=length)

    def to_result(self) -> CellResult:
        """Converts the cell to a CellResult, with NumPy arrays."""
        return CellResult(
            cell=self.cell,
            architecture=self.architecture,
            clips=np.array(self.clips, np.int64),
            logits={name: np.array(rows, np.float32) for name, rows in self.logits.items()},
            recurrence=to_json(self.recurrence),
            run_dir=self.run_dir,
            precision=self.precision,
        )


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

    def __post_init__(self):
        num_clips, num_classes = len(self.clips.id), len(self.classes)
        expect(len(set(self.classes)) == num_classes >= 2, "2 or more distinct classes", classes=num_classes)
        expect(
            max(self.clips.label) < num_classes, f"labels below {num_classes}", label=max(self.clips.label)
        )
        kinds: dict[str, str] = {}
        for number, cell in enumerate(self.cells):
            cell.check(num_clips, num_classes, self.num_frames)
            kind = kinds.setdefault(cell.model, cell.architecture)
            expect(
                kind == cell.architecture,
                f"the same architecture in all cells of {cell.model!r}",
                architecture=cell.architecture,
            )
        num_cells, num_distinct = len(self.cells), len({file.cell for file in self.cells})
        expect(
            num_distinct == num_cells > 0,
            "at least 1 cell, and each cell once",
            cells=num_cells,
            distinct=num_distinct,
        )
        for split, nearest in (self.audit or {}).items():
            last = max((index for pair in nearest.pairs for index in pair[:2]), default=0)
            expect(last < num_clips, f"pairs of clips below {num_clips} in audit", **{split: last})


def save(path: pathlib.Path, results: Results) -> None:
    """Writes results.json: the clips, then each cell, with one row of logits per intervention and clip."""
    head = {
        "name": results.name,
        "classes": list(results.classes),
        "num_frames": results.num_frames,
        "clips": {
            "id": list(results.ids),
            "label": results.labels.tolist(),
            "group": results.groups.tolist(),
            "fold": results.folds.tolist(),
        },
        "audit": results.audit,
    }
    with storage.atomic_write(path) as file:  # cell by cell, because all cells as lists may take gigabytes
        file.write(json.dumps(head)[:-1].encode() + b', "cells": [')
        for number, result in enumerate(results.cells):
            file.write(b",\n" * bool(number) + json.dumps(cell_to_json(result)).encode())
        file.write(b"]}\n")


def load(path: pathlib.Path) -> Results:
    """Reads a comparison's results from results.json.

    Raises:
      UserError: if the file does not hold a comparison's results.
    """
    file = parsing.read(path, _ResultsFile, "a comparison's results", max_bytes=_MAX_RESULTS_BYTES)
    return Results(
        name=file.name,
        classes=file.classes,
        num_frames=file.num_frames,
        ids=file.clips.id,
        labels=np.array(file.clips.label, np.int64),
        groups=np.array(file.clips.group, np.int64),
        folds=np.array(file.clips.fold, np.int64),
        cells=tuple(cell.to_result() for cell in file.cells),
        audit=to_json(file.audit),
    )


def save_cell(path: pathlib.Path, result: CellResult) -> None:
    """Writes one cell's predictions to cell.json."""
    storage.write_json(path, cell_to_json(result), indent=None)


def load_cell(path: pathlib.Path, *, num_clips: int, num_classes: int, num_frames: int) -> CellResult:
    """Reads one cell's predictions from cell.json.

    Args:
      path: path of the file.
      num_clips, num_classes: numbers of the comparison's clips and classes.
      num_frames: frames per clip.

    Raises:
      UserError: if the file does not hold a cell's result of a comparison with these numbers.
    """
    file = parsing.read(path, _CellFile, "a cell's result", max_bytes=_MAX_CELL_BYTES)
    try:
        file.check(num_clips, num_classes, num_frames)
    except UserError as error:
        raise UserError(f"{path} is not a cell's result of this comparison: {error}") from error
    return file.to_result()


def cell_to_json(result: CellResult) -> dict[str, Any]:
    """Converts one cell's predictions to the JSON object of cell.json, with rounded logits."""
    return to_json(result.cell) | {
        "architecture": result.architecture,
        "clips": result.clips.tolist(),
        "logits": {name: _rounded(rows) for name, rows in result.logits.items()},
        "recurrence": result.recurrence,
        "run_dir": result.run_dir,
        "precision": result.precision,
    }


def _rounded(rows: np.ndarray) -> list[list[float]]:
    return [[round(x, LOGIT_DECIMALS) for x in row] for row in rows.tolist()]
