"""The results of testing one run on corrupted clips: the predicted classes, from which all scores follow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from ucf50_tfrecord.evaluation.results import units_of
from ucf50_tfrecord.specs import ClipFormat

NO_PREDICTION = -1  # the predicted class of a clip whose corrupted video does not decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """One run's predictions for N clips, unchanged and corrupted.

    name: name of the run.
    model: name of its model.
    classes: names of the C classes.
    clip_format: format of the clips.
    ids: ids of the clips.
    labels: class of each clip, int64 [N].
    groups: recording group of each clip, int64 [N]; record.UNKNOWN_GROUP for clips without one.
    plain: predicted classes of the unchanged clips, int64 [N].
    corrupted: dictionary from a corruption's name to the predicted classes of the clips that it corrupts,
      int64 [5, N], one row per severity; NO_PREDICTION counts as wrong.
    """

    name: str
    model: str
    classes: tuple[str, ...]
    clip_format: ClipFormat
    ids: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    plain: np.ndarray
    corrupted: Mapping[str, np.ndarray]

    @functools.cached_property
    def units(self) -> np.ndarray:
        """The index of each clip's independent unit (its group, or its video), int64 [N]."""
        return units_of(self.ids, self.groups)

    @functools.cached_property
    def plain_right(self) -> np.ndarray:
        """1 for each unchanged clip that is predicted right, else 0, float64 [N]."""
        return (self.plain == self.labels).astype(float)

    def right(self, name: str) -> np.ndarray:
        """Returns 1 for each clip that is predicted right under a corruption, else 0, float64 [5, N]."""
        return (self.corrupted[name] == self.labels).astype(float)

    @property
    def chance(self) -> float:
        """The accuracy of always predicting the most frequent class of the clips."""
        return float(np.bincount(self.labels).max() / len(self.labels))
