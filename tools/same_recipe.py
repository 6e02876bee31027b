"""Compares trainings of one recipe with each other, to count how often verdicts say that they differ.

The trainings differ in their seeds alone, so such a verdict is a false claim. Trainings are drawn into two sets.
The second set poses as another recipe, or as the recipe's trainings on other frame orders or another split.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tools.judging import Draws
from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import cells, statistics, verdicts
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import CellResult, Results

SET_SIZE = 3
NUM_DRAWS = 100
_LEVEL = 0.05
_OTHER = " (other seeds)"
# By kind of verdict between trainings: the fields of Cell in which the second set differs.
_POSES: dict[str, dict[str, Any]] = {
    "models_differ": {},
    "needs_order": {"training": FrameOrder.SHUFFLED},
    "needs_several_frames": {"training": FrameOrder.SINGLE},
    "recognises_recording": {"split": FoldBy.VIDEO},
}
KINDS = tuple(_POSES)
Pair = tuple[tuple[int, ...], tuple[int, ...]]  # seeds of two sets of trainings


def split(results: Results, kind: str, one: Collection[int], other: Collection[int]) -> Results:
    """Makes a comparison of two sets of one recipe's trainings.

    The cells of the second set are renamed. For models_differ, they get another model's name. For the other kinds
    in KINDS, they pose as the trainings that the kind compares the usual ones with, and the predictions for
    unchanged clips take the place of those under each intervention. So a verdict of this kind compares the
    predictions of both sets for unchanged clips, as if they were of different recipes.

    Args:
      results: the usual trainings of one recipe.
      kind: the kind of verdict, out of KINDS.
      one, other: seeds of the two sets.
    """
    kept = [result for result in results.cells if result.cell.seed in one]
    posing = [
        _pose(result, kind, results.num_frames) for result in results.cells if result.cell.seed in other
    ]
    return dataclasses.replace(results, cells=(*kept, *posing))


def judge(results: Results, kind: str, one: Collection[int], other: Collection[int]) -> verdicts.Verdict:
    """Returns the verdict of a kind in KINDS on two sets of one recipe's trainings; see `split`."""
    found = verdicts.judge(split(results, kind, one, other))
    [verdict] = [verdict for verdict in found if verdict.kind == kind]
    return verdict


def count_differences(results: Results, *, scenario: str, seed: int) -> list[Draws]:
    """Counts how often verdicts on two sets of one recipe's trainings say that they differ.

    There is an entry for pairs of single trainings (models_differ alone), and one for each kind in KINDS with
    SET_SIZE trainings in each set. With one training each, the verdict is always "cannot tell"; num_by_groups shows
    why. Draws of one corpus share its trainings, so they are not independent: one unlucky training appears in
    most of them.

    Args:
      results: the usual trainings of one recipe, with predictions.
      scenario, seed: the corpus.
    """
    results = _in_memory(results)
    seeds = sorted({result.cell.seed for result in results.cells})
    pairs = [((one,), (other,)) for one, other in itertools.combinations(seeds, 2)]
    sets = draw(seeds, np.random.default_rng(seed))
    counted = [_count(results, "models_differ", pairs), *(_count(results, kind, sets) for kind in KINDS)]
    return [Draws(scenario=scenario, seed=seed, **fields) for fields in counted]


def draw(seeds: Sequence[int], rng: np.random.Generator) -> list[Pair]:
    """Draws NUM_DRAWS different pairs of sets of SET_SIZE seeds, or all pairs if there are fewer.

    Raises:
      UserError: if there are too few seeds.
    """
    expect(len(seeds) >= 2 * SET_SIZE, f"at least {2 * SET_SIZE} trainings", trainings=len(seeds))
    every = [
        (one, other)
        for one in itertools.combinations(seeds, SET_SIZE)
        for other in itertools.combinations([seed for seed in seeds if seed not in one], SET_SIZE)
    ]
    chosen = rng.permutation(len(every))[:NUM_DRAWS]
    return [every[number] for number in chosen]


def _count(results: Results, kind: str, drawn: Sequence[Pair]) -> dict[str, Any]:
    """Judges each pair of sets; returns the fields of Draws that do not name the corpus."""
    answers = [judge(results, kind, *sets).answer for sets in drawn]
    return {
        "kind": kind,
        "num_trainings": len({result.cell.seed for result in results.cells}),
        "set_size": len(drawn[0][0]),
        "num_draws": len(drawn),
        "num_differ": answers.count(verdicts.Answer.YES),
        "num_by_groups": sum(_differs_by_groups(results, kind, *sets) for sets in drawn),
    }


def _differs_by_groups(results: Results, kind: str, one: Collection[int], other: Collection[int]) -> bool:
    """Whether a test for which groups are random, but not trainings, answers "yes" to a kind of verdict."""
    both = split(results, kind, one, other)
    [contrast] = [contrast for contrast in verdicts.find_contrasts(both) if contrast.kind == kind]
    values = contrast.values(both)
    return bool(values.mean() > 0 and statistics.sign_flip_p(values, both.units) < _LEVEL)


def _pose(result: CellResult, kind: str, num_frames: int) -> CellResult:
    if kind == "models_differ":
        cell = dataclasses.replace(result.cell, model=result.cell.model + _OTHER)
        return dataclasses.replace(result, cell=cell)
    cell = dataclasses.replace(result.cell, **_POSES[kind])
    names = cells.interventions_of(cell, num_frames)
    return dataclasses.replace(result, cell=cell, logits=dict.fromkeys(names, result.logits[PLAIN]))


def _in_memory(results: Results) -> Results:
    """Returns a copy of results whose logits are not read from a file at each access."""
    kept = [dataclasses.replace(result, logits=dict(result.logits)) for result in results.cells]
    return dataclasses.replace(results, cells=tuple(kept))
