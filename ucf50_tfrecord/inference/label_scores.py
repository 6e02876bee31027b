"""Scores of a run's stored predictions for clips with several labels, with confidence intervals.

Intervals are from a bootstrap over independent units, which are recording groups, or videos without a group.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ucf50_tfrecord.evaluation import multi_label, statistics
from ucf50_tfrecord.evaluation.interventions import FIRST_SHUFFLE
from ucf50_tfrecord.evaluation.results import Condition, Results, video_of
from ucf50_tfrecord.evaluation.statistics import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelScores:
    """Scores of predictions for N clips, or videos, with several labels.

    labels: their classes, bool [N, C].
    found: the classes' probabilities, float64 [N, C].
    units: number of each clip's unit, int64 [N].
    shuffled: the scores of the same clips with shuffled frames; None if these were not tested.
    """

    labels: np.ndarray
    found: np.ndarray
    units: np.ndarray
    shuffled: LabelScores | None = None

    @functools.cached_property
    def mean_average_precision(self) -> Estimate:
        """The mean over classes of average precision."""
        return statistics.weighted_interval(self.units, self._weighted_precision)

    @functools.cached_property
    def f1(self) -> tuple[Estimate, Estimate]:
        """Macro and micro F1 at the threshold 0.5."""
        return multi_label.f1_intervals(self.labels, self.decided, self.units)

    @functools.cached_property
    def tuned_f1(self) -> tuple[Estimate, Estimate] | None:
        """Macro and micro F1 at thresholds that are chosen on other recordings; None if all clips are of one unit."""
        if self.tuned is None:
            return None
        return multi_label.f1_intervals(self.labels, self.tuned, self.units)

    @functools.cached_property
    def accuracy(self) -> Estimate:
        """The fraction of clips of which all classes are right at the threshold 0.5."""
        return statistics.mean_interval((self.decided == self.labels).all(axis=1).astype(float), self.units)

    @property
    def decided(self) -> np.ndarray:
        """The classes that are predicted at the threshold 0.5, bool [N, C]."""
        return self.found >= multi_label.THRESHOLD

    @functools.cached_property
    def tuned(self) -> np.ndarray | None:
        """The classes that are predicted at thresholds of other recordings, see multi_label.cross_fitted."""
        return multi_label.cross_fitted(self.labels, self.found, self.units)

    @property
    def class_precision(self) -> np.ndarray:
        """Average precision of each class, float64 [C]; NaN for a class that no clip has."""
        found = np.full(self.labels.shape[1], np.nan)
        for i in np.flatnonzero(self.labels.any(axis=0)):
            found[i] = multi_label.mean_average_precision(self.labels[:, [i]], self.found[:, [i]])
        return found

    @functools.cached_property
    def cost_of_shuffling(self) -> Estimate | None:
        """The mean average precision that shuffling the frames costs; None if this was not tested."""
        shuffled = self.shuffled
        if shuffled is None:
            return None
        return statistics.weighted_interval(
            self.units,
            lambda weights: self._weighted_precision(weights) - shuffled._weighted_precision(weights),
        )

    def _weighted_precision(self, weights: np.ndarray) -> np.ndarray:
        """Computes mean average precision, float64 [...], with weights of the clips, float [..., N], equal in each unit."""
        _, first, units = np.unique(self.units, return_index=True, return_inverse=True)
        return multi_label.weighted_mean_average_precision(
            self.labels, self.found, units, weights[..., first]
        )


def of_results(results: Results, model: str) -> LabelScores:
    """Scores a run's predictions for its unchanged clips, and for the same clips with shuffled frames.

    Args:
      results: the results of a run on clips with several labels, from finished_run.load.
      model: name of the run's model.
    """
    plain, shuffled = Condition(model), Condition(model, intervention=FIRST_SHUFFLE)
    tested = results.predictions(plain)[1]
    both = tested & results.predictions(shuffled)[1]
    of_shuffled = _on_clips(results, shuffled, tested) if (both == tested).all() else None
    return dataclasses.replace(_on_clips(results, plain, tested), shuffled=of_shuffled)


def _on_clips(results: Results, condition: Condition, clips: np.ndarray) -> LabelScores:
    """Scores a run's predictions under a condition for some clips; `clips` is a mask, bool [N]."""
    return LabelScores(
        labels=results.labels[clips] == 1,
        found=multi_label.probabilities(results.logits(condition)[0, clips]),
        units=results.units[clips],
    )


def of_videos(results: Results, model: str) -> LabelScores | None:
    """Scores predictions of whole videos, by the mean of the probabilities of a video's unchanged clips.

    Args:
      results, model: as in of_results.

    Returns:
      The scores; None if no video has several tested clips.
    """
    clips, tested = of_results(results, model), results.predictions(Condition(model))[1]
    names = [video_of(results.ids[i]) for i in np.flatnonzero(tested)]
    _, first, video, counts = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(names):
        return None
    sums = np.zeros((len(first), clips.found.shape[1]))
    np.add.at(sums, video, clips.found)
    return LabelScores(
        labels=clips.labels[first], found=sums / counts[:, np.newaxis], units=clips.units[first]
    )
