"""Scores of robustness: what accuracy is left of a model on corrupted clips.

With A_c the accuracy on unchanged (clean) clips and A_p that on corrupted (perturbed) ones:
  relative robustness   γr = 1 - (A_c - A_p) / A_c
  absolute robustness   γa = 1 - (A_c - A_p)
(Schiappa et al. 2023, "A Large-Scale Robustness Analysis of Video Action Recognition Models"). The mean of A_p
over severities and corruptions is the mean performance under corruption, mPC, and its ratio to A_c is the
relative one, rPC (Yi et al. 2021, "Benchmarking the Robustness of Spatial-Temporal Models Against
Corruptions"). Since A_c is the same for all corruptions, rPC equals the mean of γr.

γr flatters weak models: guessing has γr = 1. Above chance, both accuracies are counted from that of always
predicting the most frequent class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ucf50_tfrecord.choices import CorruptionFamily
from ucf50_tfrecord.evaluation import metrics, statistics
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS
from ucf50_tfrecord.robustness.results import Results

SCORES_FILENAME = "robustness.json"  # Scores.to_json and what was tested, in the folder of a test


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A model's score under a corruption, or the mean over several. Intervals are over groups.

    accuracy: accuracy on corrupted clips, A_p; the mean performance under corruption (mPC) for a mean.
    relative: relative robustness γr; for a mean also the relative performance under corruption (rPC).
    absolute: absolute robustness γa.
    above_chance: relative robustness of the accuracy above chance; NaN if the model is not above chance.
    """

    accuracy: Estimate
    relative: Estimate
    absolute: Estimate
    above_chance: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """All scores of one run.

    plain: accuracy on unchanged clips.
    macro_f1: macro F1 on unchanged clips.
    chance: accuracy of always predicting the most frequent class.
    by_severity: dictionary from a corruption's name to its scores by severity, from 1 to 5.
    by_corruption: dictionary from a corruption's name to the mean over its severities.
    by_family: dictionary from a family to the mean over its corruptions; without families that were not
      tested.
    overall: the mean over all corruptions.
    """

    plain: Estimate
    macro_f1: float
    chance: float
    by_severity: dict[str, tuple[Score, ...]]
    by_corruption: dict[str, Score]
    by_family: dict[CorruptionFamily, Score]
    overall: Score

    def to_json(self) -> dict[str, Any]:
        """Converts the scores to JSON; an estimate is [value, low, high], and null stands for an unknown number."""
        return {
            "plain": _estimate_json(self.plain),
            "macro_f1": self.macro_f1,
            "chance": self.chance,
            "overall": _score_json(self.overall),
            "families": {str(family): _score_json(score) for family, score in self.by_family.items()},
            "corruptions": {
                name: {
                    "mean": _score_json(score),
                    "severities": [_score_json(one) for one in self.by_severity[name]],
                }
                for name, score in self.by_corruption.items()
            },
        }


def score(plain: np.ndarray, corrupted: np.ndarray, units: np.ndarray, chance: float) -> Score:
    """Scores a model on N clips.

    Args:
      plain: 1 for each unchanged clip that is predicted right, else 0, float [N].
      corrupted: the same for the corrupted clips; or the mean over severities and corruptions, float [N].
      units: index of each clip's independent unit, int [N].
      chance: the accuracy that counts as none.
    """
    return Score(
        accuracy=statistics.mean_interval(corrupted, units),
        relative=statistics.ratio_interval(corrupted, plain, units),
        absolute=statistics.mean_interval(1 - (plain - corrupted), units),
        above_chance=statistics.ratio_interval(corrupted - chance, plain - chance, units),
    )


def score_all(results: Results) -> Scores:
    """Scores a run under each corruption and severity, and on the mean of them."""
    right = {name: results.right(name) for name in results.corrupted}
    means = {name: rows.mean(axis=0) for name, rows in right.items()}

    def scored(corrupted: np.ndarray) -> Score:
        return score(results.plain_right, corrupted, results.units, results.chance)

    families: dict[CorruptionFamily, list[np.ndarray]] = {}
    for name, mean in means.items():
        families.setdefault(CORRUPTIONS[name].family, []).append(mean)
    return Scores(
        plain=statistics.mean_interval(results.plain_right, results.units),
        macro_f1=metrics.macro_f1(results.labels, results.plain),
        chance=results.chance,
        by_severity={name: tuple(map(scored, rows)) for name, rows in right.items()},
        by_corruption={name: scored(mean) for name, mean in means.items()},
        by_family={family: scored(np.mean(rows, axis=0)) for family, rows in families.items()},
        overall=scored(np.mean(list(means.values()), axis=0)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The scores of one class's clips.

    label: index of the class.
    num_clips: number of its clips.
    plain: accuracy (recall) on unchanged clips.
    corrupted: mean accuracy over all corruptions and severities.
    worst: name of the corruption with the lowest mean accuracy; of several, the first.
    worst_accuracy: that accuracy.
    """

    label: int
    num_clips: int
    plain: float
    corrupted: float
    worst: str
    worst_accuracy: float

    @property
    def loss(self) -> float:
        """The accuracy that corruptions cost."""
        return self.plain - self.corrupted


def class_scores(results: Results) -> list[ClassScore]:
    """Scores each class that has clips; the class that loses most accuracy comes first."""
    means = {name: results.right(name).mean(axis=0) for name in results.corrupted}
    found = []
    for label in np.unique(results.labels).tolist():
        own = results.labels == label
        by_corruption = {name: float(mean[own].mean()) for name, mean in means.items()}
        worst = min(by_corruption, key=by_corruption.__getitem__)
        found.append(
            ClassScore(
                label=label,
                num_clips=int(own.sum()),
                plain=float(results.plain_right[own].mean()),
                corrupted=float(np.mean(list(by_corruption.values()))),
                worst=worst,
                worst_accuracy=by_corruption[worst],
            )
        )
    return sorted(found, key=lambda one: -one.loss)


def _score_json(score: Score) -> dict[str, list[float | None]]:
    return {field.name: _estimate_json(getattr(score, field.name)) for field in dataclasses.fields(score)}


def _estimate_json(estimate: Estimate) -> list[float | None]:
    return [None if np.isnan(value) else value for value in dataclasses.astuple(estimate)]
