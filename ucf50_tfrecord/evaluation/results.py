"""What a comparison found: every prediction, by clip, from which all of its numbers can be made again."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset.perturb import PLAIN, SHUFFLES
from ucf50_tfrecord.specs import FRAME_ORDERS, ORDER_BLIND_MODELS, UserError, expect, to_json

# What training and test clips have apart: recording groups, or only the videos.
SPLITS = ("group", "video")
# Logits are kept so exactly: files of large comparisons would be twice as long with all digits.
LOGIT_DECIMALS = 4
# All permutations together.
SHUFFLED = "shuffle"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a comparison, and on which part of the clips it is tested.

    model: its name in the comparison: that of a recipe.
    training: how its training clips' frames were arranged, of specs.FRAME_ORDERS.
    split: of SPLITS.
    part: which part of the clips is held out, from 0.
    """

    model: str
    training: str = FRAME_ORDERS[0]
    split: str = SPLITS[0]
    part: int = 0
    seed: int = 0

    def __post_init__(self):
        expect(self.training in FRAME_ORDERS, f"a training out of {FRAME_ORDERS}", training=self.training)
        expect(self.split in SPLITS, f"a split out of {SPLITS}", split=self.split)

    def __str__(self) -> str:
        words = [self.model, f"part{self.part + 1}", f"seed{self.seed}"]
        words += [self.training] if self.training != FRAME_ORDERS[0] else []
        words += ["by_video"] if self.split == "video" else []
        return "-".join(words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """What one training's model says of its test clips.

    clips: int64 [M], indices into the comparison's clips.
    logits: float32 [M, C] for each intervention.
    recurrence: evaluation.recurrence.Recurrence as JSON, of models that have one.
    run_dir: where its weights are.
    architecture: of specs.MODEL_NAMES. precision: of the computation.
    """

    cell: Cell
    architecture: str
    clips: np.ndarray
    logits: dict[str, np.ndarray]
    recurrence: dict[str, Any] | None
    run_dir: str
    precision: str


class Condition(NamedTuple):
    """Which predictions: of which model, trained how, tested how. SHUFFLED means all permutations."""

    model: str
    training: str = FRAME_ORDERS[0]
    split: str = SPLITS[0]
    perturbation: str = PLAIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """A comparison's predictions.

    name: the data set's. classes: C names.
    ids, labels int64 [N], groups int64 [N] (record.UNKNOWN_GROUP where there is none), folds int64 [N]: its clips.
    num_frames: of a clip.
    cells: what each training found.
    audit: what evaluation.audit found in the clips themselves, as JSON.
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
        """The models, in the order in which they were asked for."""
        return tuple(dict.fromkeys(result.cell.model for result in self.cells))

    @property
    def order_blind(self) -> tuple[str, ...]:
        """Those of the models that cannot see order."""
        kinds = {result.cell.model: result.architecture for result in self.cells}
        return tuple(model for model in self.models if kinds[model] in ORDER_BLIND_MODELS)

    @functools.cached_property
    def units(self) -> np.ndarray:
        """What is resampled, int64 [N]."""
        return units_of(self.ids, self.groups)

    def has(self, condition: Condition) -> bool:
        return bool(self._found(condition))

    def perturbations(self, model: str) -> tuple[str, ...]:
        """The interventions that a model was tested with."""
        return tuple(dict.fromkeys(name for r in self._found(Condition(model)) for name in r.logits))

    def logits(self, condition: Condition) -> np.ndarray:
        """Returns float32 [S, N, C], one row a seed; NaN for clips that are in no test part.

        The permutations of SHUFFLED count as seeds: [S * permutations, N, C].
        """
        names = SHUFFLES if condition.perturbation == SHUFFLED else (condition.perturbation,)
        found = self._found(condition)
        seeds = sorted({result.cell.seed for result in found})
        table = np.full((len(seeds), len(names), len(self.ids), len(self.classes)), np.nan, np.float32)
        for result in found:
            for number, name in enumerate(names):
                if name in result.logits:
                    table[seeds.index(result.cell.seed), number, result.clips] = result.logits[name]
        return table.reshape(-1, *table.shape[2:])

    def predictions(self, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        """Returns the predicted classes int64 [S, N], and bool [N]: which clips all seeds were tested on."""
        logits = self.logits(condition)
        tested = ~np.isnan(logits).any(axis=(0, 2)) & bool(len(logits))
        return np.where(tested, np.nan_to_num(logits).argmax(axis=2), -1), tested

    def correct(self, condition: Condition) -> np.ndarray:
        """Returns the share of seeds that are right about each clip, float64 [N]; NaN where it was not tested."""
        if condition not in self._correct:
            predictions, tested = self.predictions(condition)
            shares = (predictions == self.labels).mean(axis=0) if len(predictions) else np.nan
            self._correct[condition] = np.where(tested, shares, np.nan)
        return self._correct[condition]

    @functools.cached_property
    def _correct(self) -> dict[Condition, np.ndarray]:
        """What `correct` has been asked for: contrasts and tables ask again and again."""
        return {}

    def _found(self, condition: Condition) -> list[CellResult]:
        wanted = condition.perturbation
        return [
            result
            for result in self.cells
            if (result.cell.model, result.cell.training, result.cell.split) == condition[:3]
            and (SHUFFLES[0] if wanted == SHUFFLED else wanted) in result.logits
        ]


def video_of(clip_id: str) -> str:
    """A clip's video: several clips of a video have numbers after a #."""
    return clip_id.rsplit("#", 1)[0] if clip_id.rsplit("#", 1)[-1].isdigit() else clip_id


def units_of(ids: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """Numbers what clips are independent by, int64 [N]: a clip's group; where it has none its video.

    A group is its number, whatever the class: what was held out together belongs together.

    Args:
      ids: of N clips.
      groups: int64 [N], record.UNKNOWN_GROUP where there is none.
    """
    known = [
        f"group {group}" if group != record.UNKNOWN_GROUP else f"video {video_of(clip_id)}"
        for group, clip_id in zip(groups.tolist(), ids)
    ]
    return np.unique(known, return_inverse=True)[1]


def save(path: pathlib.Path, results: Results) -> None:
    """Writes results.json: the clips once, then by cell and intervention a row of logits a clip."""
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
    with storage.atomic_write(path) as file:  # cell by cell: all of them may take gigabytes as lists
        file.write(json.dumps(head)[:-1].encode() + b', "cells": [')
        for number, result in enumerate(results.cells):
            file.write(b",\n" * bool(number) + json.dumps(cell_to_json(result)).encode())
        file.write(b"]}\n")


def load(path: pathlib.Path) -> Results:
    """Reads what `save` wrote.

    Raises:
      UserError: if the file is not one of those.
    """
    value = storage.read_json(path)
    try:
        clips = value["clips"]
        return Results(
            name=value["name"],
            classes=tuple(value["classes"]),
            num_frames=value["num_frames"],
            ids=tuple(clips["id"]),
            **{f"{key}s": np.array(clips[key], np.int64) for key in ("label", "group", "fold")},
            cells=tuple(cell_from_json(cell) for cell in value["cells"]),
            audit=value["audit"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold a comparison's results: {error!r}") from error


def cell_to_json(result: CellResult) -> dict[str, Any]:
    return to_json(result.cell) | {
        "architecture": result.architecture,
        "clips": result.clips.tolist(),
        "logits": {name: _rounded(rows) for name, rows in result.logits.items()},
        "recurrence": result.recurrence,
        "run_dir": result.run_dir,
        "precision": result.precision,
    }


def cell_from_json(value: dict[str, Any]) -> CellResult:
    """Raises KeyError or TypeError if the value is not what cell_to_json made."""
    key = {field.name: value[field.name] for field in dataclasses.fields(Cell)}
    return CellResult(
        cell=Cell(**key),
        architecture=value["architecture"],
        clips=np.array(value["clips"], np.int64),
        logits={name: np.array(rows, np.float32) for name, rows in value["logits"].items()},
        recurrence=value["recurrence"],
        run_dir=value["run_dir"],
        precision=value["precision"],
    )


def _rounded(rows: np.ndarray) -> list[list[float]]:
    return [[round(x, LOGIT_DECIMALS) for x in row] for row in rows.tolist()]


def common(*arrays: np.ndarray) -> np.ndarray:
    """Returns bool [N]: where none of some arrays float [N] is NaN."""
    return ~np.any([np.isnan(values) for values in arrays], axis=0)
