"""The results of a comparison of models: logits for every test clip.

A comparison trains several models on the same data and tests them under interventions (changes of the test
clips, such as shuffled frames). All numbers of its report are computed from these results, which result_files
writes and reads.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from ucf50_tfrecord import record
from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import interventions, statistics
from ucf50_tfrecord.evaluation.attribution import Attribution
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED, SHUFFLES
from ucf50_tfrecord.evaluation.statistics import Estimate, Trainings
from ucf50_tfrecord.parsing import Count, Name
from ucf50_tfrecord.settings import read_choices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a comparison, and the part of the clips that its model is tested on.

    model: name of the model in the comparison; the recipe of the model has the same name.
    training: arrangement of the frames in training clips; a value of choices.FrameOrder.
    split: whether clips are held out by recording group or by video; a value of choices.FoldBy.
    part: index, from 0, of the part of the split that is held out and tested on.
    seed: seed of the training.
    held_out: indices of the classes that the model is not trained on, in ascending order. Clips of all classes
      are tested on.
    """

    model: Name
    training: str = FrameOrder.KEPT
    split: str = FoldBy.GROUP
    part: Count = 0
    seed: Count = 0
    held_out: tuple[Count, ...] = ()

    def __post_init__(self):
        read_choices(self)
        ordered = tuple(sorted(set(self.held_out)))
        expect(self.held_out == ordered, "distinct classes in ascending order", held_out=self.held_out)

    @property
    def held_out_text(self) -> str:
        """The indices of the held-out classes, such as "3+17"; "" if none is held out."""
        return "+".join(map(str, self.held_out))

    def __str__(self) -> str:
        words = [self.model, f"part{self.part + 1}", f"seed{self.seed}"]
        words += [self.training] if self.training != FrameOrder.KEPT else []
        words += ["by_video"] if self.split == FoldBy.VIDEO else []
        words += [f"without{self.held_out_text}"] if self.held_out else []
        return "-".join(words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """The cost of a training, on the devices and beside the other work of the process that ran it.

    num_clips: number of training clips, each counted once per epoch.
    clips_per_sec: training clips per second; see loop.Trained. A training that was resumed has the speed of its last
      process.
    num_parameters: number of the model's weights.
    """

    num_clips: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    clips_per_sec: Annotated[float, msgspec.Meta(ge=1e-6, le=1e9)]
    num_parameters: Count

    @property
    def secs(self) -> float:
        """Seconds of all training steps, without the program's start, the model's compilation, and tests."""
        return self.num_clips / self.clips_per_sec


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellResult:
    """The predictions for one cell's test clips, by the model that the cell trained.

    cell: the training and the part of the clips that is tested on.
    architecture: name of the model's architecture in ModelSpec.
    clips: indices of the M test clips in Results.ids, int64 [M].
    logits: mapping from the name of an intervention to the test clips' logits, float32 [M, C]. Those of a file
      are read from it at each access.
    recurrence: evaluation.recurrence.Recurrence as JSON; None if no recurrent layer was inspected.
    run_dir: folder of the model's weights.
    precision: floating-point precision that the model computes in.
    attributions: what each frame of a few test clips contributes to their predictions; empty if not measured.
    neighbor_distances: distance from each test clip's features to those of its nearest training clips, float64
      [M]; see unknown.neighbor_scores. None unless classes are held out.
    cost: the cost of the cell's training; None if it is unknown, as in results of earlier versions.
    """

    cell: Cell
    architecture: str
    clips: np.ndarray
    logits: Mapping[str, np.ndarray]
    recurrence: dict[str, Any] | None
    run_dir: str
    precision: str
    attributions: tuple[Attribution, ...] = ()
    neighbor_distances: np.ndarray | None = None
    cost: TrainingCost | None = None


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
class ComparedClips:
    """The clips of a comparison.

    name: name of the data set.
    classes: names of the C classes.
    num_frames: frames per clip.
    ids: ids of the N clips.
    labels: class of each clip, int64 [N]. A comparison's clips have one label each; in the results of a single run with
      several labels per clip it is int64 [N, C], 1 for each of a clip's classes.
    groups: recording group of each clip, int64 [N]; record.UNKNOWN_GROUP for clips without one.
    folds: fold of each clip, int64 [N].
    of_features: whether the clips are stored as features of their frames; None if unknown, in results of
      earlier versions.
    """

    name: str
    classes: tuple[str, ...]
    num_frames: int
    ids: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray
    of_features: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results(ComparedClips):
    """A comparison's clips and all predictions for them.

    cells: predictions of each cell, that is, of each training and its test clips.
    audit: dictionary from split to evaluation.audit.NearestClips as JSON; None without an audit.
    failed: dictionary from each cell without results, because its processes crashed, to the reason.
    left_out: finished cells whose predictions are left out, because other parts of the same seed failed.
    """

    cells: tuple[CellResult, ...]
    audit: dict[str, Any] | None = None
    failed: Mapping[Cell, str] = dataclasses.field(default_factory=dict)
    left_out: tuple[Cell, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models with results, in the order of the request, unless some of their cells failed."""
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
        """Lists the results of all cells that have the model, training and split of `condition`.

        Cells whose models are not trained on all classes are left out.
        """
        wanted = (*condition[:3], ())
        return [
            r for r in self.cells if (r.cell.model, r.cell.training, r.cell.split, r.cell.held_out) == wanted
        ]

    def interventions(self, model: str) -> tuple[str, ...]:
        """Lists the names of the interventions that a model with the usual training was tested under."""
        return tuple(dict.fromkeys(name for r in self.cells_of(Condition(model)) for name in r.logits))

    def logits(self, condition: Condition) -> np.ndarray:
        """Returns all clips' logits under a condition, float32 [S, N, C], one row per seed.

        Logits are NaN for clips that a seed's model was not tested on. SHUFFLED stands for several
        permutations of the frames; there, each seed has a row per permutation, [S * permutations, N, C].
        """
        names, found = _names_of(condition), self._tested_cells(condition)
        seeds = sorted({result.cell.seed for result in found})
        table = np.full((len(seeds), len(names), len(self.ids), len(self.classes)), np.nan, np.float32)
        for result in found:
            for number, name in enumerate(names):
                if name in result.logits:
                    table[seeds.index(result.cell.seed), number, result.clips] = result.logits[name]
        return table.reshape(-1, *table.shape[2:])

    def _tested_cells(self, condition: Condition) -> list[CellResult]:
        return [result for result in self.cells_of(condition) if _names_of(condition)[0] in result.logits]

    def predictions(self, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        """Returns the predicted classes under a condition, and the clips that all seeds were tested on.

        Returns:
          A tuple: the predicted classes, int64 [S, N], one row per seed; and a mask, bool [N], which is True
          for clips that the models of all seeds were tested on. Predictions for other clips are -1.
        """
        if condition not in self._predictions:
            logits = self.logits(condition)
            tested = ~np.isnan(logits).any(axis=(0, 2)) & bool(len(logits))
            self._predictions[condition] = np.where(tested, np.nan_to_num(logits).argmax(axis=2), -1), tested
        return self._predictions[condition]

    def correct(self, condition: Condition) -> np.ndarray:
        """Returns the fraction of seeds that predict each clip's class under a condition, float64 [N].

        The fraction is NaN for clips that not all seeds were tested on.
        """
        scores = self.trainings(condition).scores
        return scores.mean(axis=0) if len(scores) else np.full(len(self.ids), np.nan)

    def trainings(self, condition: Condition) -> Trainings:
        """Returns the trainings that were tested under a condition, with 1 for right predictions and 0 for others.

        SHUFFLED stands for several permutations of the frames; there, a score is the fraction of permutations
        under which the prediction is right. Scores are NaN for clips that not all seeds were tested on.
        """
        if condition not in self._trainings:
            predictions, tested = self.predictions(condition)
            seeds = sorted({result.cell.seed for result in self._tested_cells(condition)})
            right = np.where(tested, predictions == self.labels, np.nan)  # [S * permutations, N]
            scores = right.reshape(len(seeds), -1, len(self.ids)).mean(axis=1) if seeds else right
            parts = np.full((len(seeds), len(self.ids)), -1)
            for result in self._tested_cells(condition):
                parts[seeds.index(result.cell.seed), result.clips] = result.cell.part
            # In runs, the seeds' parts may hold different clips; a block has the same parts in all seeds.
            blocks = (
                np.unique(parts, axis=1, return_inverse=True)[1] if seeds else np.zeros(len(self.ids), int)
            )
            self._trainings[condition] = Trainings(scores, blocks.reshape(-1))
        return self._trainings[condition]

    def donors(self, condition: Condition) -> np.ndarray | None:
        """Returns the donors whose backgrounds the intervention background_swap gives to the clips.

        Donors are chosen among the test clips of a cell. But if the clips are stored as features, they are encoded
        once for all cells, so donors are chosen among all clips of the comparison.

        Args:
          condition: the condition whose cells test the clips.

        Returns:
          The donor's index for each clip and seed, int64 [S, N], with rows as in `predictions`; -1 for clips that
          a seed's model was not tested on. None if it is unknown whether the clips are stored as features.
        """
        if self.of_features is None:
            return None
        found = self._tested_cells(condition)
        seeds = sorted({result.cell.seed for result in found})
        donors = np.full((len(seeds), len(self.ids)), -1)
        for result in found:
            candidates = np.arange(len(self.ids)) if self.of_features else result.clips
            chosen = self._choose_donors(candidates)
            donors[seeds.index(result.cell.seed), result.clips] = chosen[result.clips]
        return donors

    def _choose_donors(self, candidates: np.ndarray) -> np.ndarray:
        """Returns the donors of `candidates`, indices of clips, at the positions of these: int64 [N]."""
        key = candidates.tobytes()
        if key not in self._donors:
            ids = [self.ids[i] for i in candidates]
            chosen = interventions.choose_donors(ids, self.labels[candidates], self.groups[candidates])
            self._donors[key] = np.full(len(self.ids), -1)
            self._donors[key][candidates] = candidates[chosen]
        return self._donors[key]

    def mean(self, values: np.ndarray) -> Estimate | None:
        """Computes the mean of values, one per clip, float [N], and its interval by a bootstrap over units.

        Clips whose value is NaN are left out. Returns None if all values are NaN.
        """
        kept = ~np.isnan(values)
        return statistics.mean_interval(values[kept], self.units[kept]) if kept.any() else None

    @functools.cached_property
    def _predictions(self) -> dict[Condition, tuple[np.ndarray, np.ndarray]]:
        """Cache of the results of `predictions`, because their logits are read from a file."""
        return {}

    @functools.cached_property
    def _trainings(self) -> dict[Condition, Trainings]:
        """Cache of the results of `trainings`, because verdicts and tables need the same results."""
        return {}

    @functools.cached_property
    def _donors(self) -> dict[bytes, np.ndarray]:
        """Cache of donors by the indices of the candidates, because models are tested on the same parts."""
        return {}


def incomplete(cells: Iterable[Cell], failed: Collection[Cell]) -> tuple[Cell, ...]:
    """Lists the cells that are of the same model, training, split and seed as a failed one.

    Such cells are parts of a cross-validation that is not complete. A score over all clips needs each part: their
    clips alone may be easier or harder than all clips, and other seeds and models are scored on all of them.

    Args:
      cells: the cells to choose from.
      failed: the failed cells.
    """
    series = {dataclasses.replace(cell, part=0) for cell in failed}
    return tuple(cell for cell in cells if dataclasses.replace(cell, part=0) in series)


def _names_of(condition: Condition) -> tuple[str, ...]:
    """Returns the names of the interventions that a condition stands for."""
    return SHUFFLES if condition.intervention == SHUFFLED else (condition.intervention,)


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
