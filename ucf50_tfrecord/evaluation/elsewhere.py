"""Scores a model on another data set: on the classes that it shares with the run, and on the rest of its clips.

The headline scores are those over all of the run's outputs, on the clips of shared classes. This is what a
prediction does: it cannot know which of the run's classes another data set lacks. Scores over the outputs of shared
classes alone show how much of the loss comes from the other outputs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.evaluation import measures, statistics
from ucf50_tfrecord.evaluation.class_matching import UNMATCHED
from ucf50_tfrecord.evaluation.results import units_of, video_of
from ucf50_tfrecord.evaluation.runner import PLAIN, SavedPrediction
from ucf50_tfrecord.evaluation.statistics import Estimate

_DECIMALS = 6  # decimals of confidences and logits in files
_QUANTILES = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Accuracy and macro F1 of predicted classes, each with its 95% interval."""

    accuracy: Estimate
    macro_f1: Estimate


@dataclasses.dataclass(frozen=True)
class Confidence:
    """The confidence in the predictions for some clips: the largest probability of each clip, without temperature.

    mean: the mean over clips, with its 95% interval.
    quantiles: the 10%, 50% and 90% quantiles over clips.
    """

    mean: Estimate
    quantiles: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class UnknownClass:
    """A class that the run does not know, and the classes that the model predicts for its clips.

    name: name of the class.
    num_clips: number of its clips.
    predicted: dictionary from a class of the run to the number of clips, most frequent first.
    confidence: the mean confidence in these predictions.
    """

    name: str
    num_clips: int
    predicted: dict[str, int]
    confidence: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedScores:
    """A run's scores on clips of the classes that it shares with another data set.

    num_clips: number of the clips.
    unit, num_units: name and number of the clips' independent units, see unit_name.
    all_outputs: the scores if any of the run's classes may be predicted; the headline.
    shared_outputs: the scores if only shared classes may be predicted.
    confidence: the confidence in the predictions over all outputs.
    """

    num_clips: int
    unit: str
    num_units: int
    all_outputs: ClassScores
    shared_outputs: ClassScores
    confidence: Confidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherSetScores:
    """A run's scores on another data set beside those on its own held-out clips.

    here: the scores on the other set's clips of shared classes.
    own: the scores on the run's own held-out clips of the same classes; None if unknown.
    class_map: dictionary from each class of the other set to its class of the run, or None.
    unknown_confidence: the confidence in predictions for clips of classes that the run does not know; None if
      there are no such clips.
    confidence_auroc: see Predicted.separation.
    unknown_classes: see the function unknown_classes.
    """

    here: SharedScores
    own: SharedScores | None
    class_map: dict[str, str | None]
    unknown_confidence: Confidence | None
    confidence_auroc: Estimate | None
    unknown_classes: tuple[UnknownClass, ...]

    @property
    def num_clips(self) -> int:
        """The number of the other set's clips, of shared and unknown classes."""
        return self.here.num_clips + sum(item.num_clips for item in self.unknown_classes)

    @property
    def summary(self) -> dict[str, Any]:
        """The fields of summary.json, as JSON values; "accuracy" and "macro_f1" are the headline scores."""
        headline = self.here.all_outputs
        return _json(self) | {
            "accuracy": headline.accuracy.value,
            "macro_f1": headline.macro_f1.value,
            "num_clips": self.num_clips,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """A run's predictions for N clips; the run has C classes.

    labels: the run's class of each clip, int64 [N]; UNMATCHED if the run has no such class.
    groups: the recording group of each clip, int64 [N]; record.UNKNOWN_GROUP if it has none.
    units: the group, or else the video, of each clip, int64 [N], as units_of numbers them.
    logits: the model's logits, float32 [N, C].
    """

    labels: np.ndarray
    groups: np.ndarray
    units: np.ndarray
    logits: np.ndarray

    @functools.cached_property
    def is_shared(self) -> np.ndarray:
        """Whether the run has each clip's class, bool [N]."""
        return self.labels != UNMATCHED

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The predicted classes over all outputs, int64 [N]."""
        return self.logits.argmax(axis=1)

    @functools.cached_property
    def confidences(self) -> np.ndarray:
        """The largest probability of each clip, float64 [N]."""
        return special.softmax(self.logits.astype(np.float64), axis=1).max(axis=1)

    def select(self, chosen: np.ndarray) -> Predicted:
        """Returns the predictions of some clips; `chosen` is a mask, bool [N]."""
        return Predicted(
            labels=self.labels[chosen],
            groups=self.groups[chosen],
            units=self.units[chosen],
            logits=self.logits[chosen],
        )

    def score(self, outputs: np.ndarray | None = None) -> ClassScores:
        """Scores the predictions for clips of shared classes.

        Args:
          outputs: the classes that may be predicted, int64; None for all of the run's classes.
        """
        labels, units = self.labels[self.is_shared], self.units[self.is_shared]
        logits = self.logits[self.is_shared]
        predictions = logits.argmax(axis=1) if outputs is None else outputs[logits[:, outputs].argmax(axis=1)]
        return ClassScores(
            statistics.mean_interval((predictions == labels).astype(float), units),
            statistics.macro_f1_interval(labels, predictions[np.newaxis], units, logits.shape[1]),
        )

    def confidence(self) -> Confidence:
        """Describes the confidence in the predictions for all clips; there must be at least one."""
        quantiles = np.quantile(self.confidences, _QUANTILES)
        return Confidence(
            statistics.mean_interval(self.confidences, self.units), tuple(map(float, quantiles))
        )

    def separation(self) -> Estimate | None:
        """Computes how well confidence separates clips of shared classes from others: AUROC, with its interval.

        Clips are weighted by bootstrapped units. None if there are no clips of unshared classes.
        """
        if self.is_shared.all():
            return None
        area = functools.partial(measures.auroc, self.confidences, self.is_shared)
        return statistics.weighted_interval(self.units, area)


def predicted_elsewhere(clips: ClipIndex, logits: np.ndarray, matches: Sequence[int]) -> Predicted:
    """Combines a run's logits for another data set's clips with their matched classes.

    Args:
      clips: index of N clips of the other set.
      logits: the model's logits for them, float32 [N, C].
      matches: the run's class of each class of the other set, as match_classes returns it.
    """
    labels = np.array(matches, np.int64)[clips.labels]
    units = units_of(clips.ids, clips.groups)
    return Predicted(labels=labels, groups=clips.groups, units=units, logits=logits)


def predicted_at_home(predictions: Sequence[SavedPrediction], elsewhere: Predicted) -> Predicted:
    """Takes the clips of shared classes from a run's own predictions for its held-out clips.

    Args:
      predictions: the predictions, as runner.load_predictions returns them.
      elsewhere: the predictions for clips of another data set. Clips of the same classes are taken.
    """
    plain = [p for p in predictions if p.intervention == PLAIN]
    groups = np.array([p.group for p in plain], np.int64)
    every = Predicted(
        labels=np.array([p.label for p in plain], np.int64),
        groups=groups,
        units=units_of([p.clip_id for p in plain], groups),
        logits=np.array([p.logits for p in plain], np.float32),
    )
    return every.select(np.isin(every.labels, elsewhere.labels[elsewhere.is_shared]))


def unknown_classes(clips: ClipIndex, predicted: Predicted, ours: Sequence[str]) -> tuple[UnknownClass, ...]:
    """Describes the predictions for each class of another data set that the run does not know.

    Args:
      clips: index of the other set's clips.
      predicted: the predictions for these clips.
      ours: the run's classes.

    Returns:
      One description per class with clips, most clips first.
    """
    found = []
    for label in np.unique(clips.labels[~predicted.is_shared]):
        chosen = clips.labels == label
        counts = np.bincount(predicted.predictions[chosen], minlength=len(ours))
        order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
        found.append(
            UnknownClass(
                name=clips.manifest.classes[label],
                num_clips=int(chosen.sum()),
                predicted={ours[i]: int(counts[i]) for i in order},
                confidence=float(predicted.confidences[chosen].mean()),
            )
        )
    return tuple(sorted(found, key=lambda item: -item.num_clips))


def unit_name(groups: np.ndarray) -> str:
    """Returns the name of the independent units of clips: recording groups, or videos for clips without a group.

    Args:
      groups: the recording group of each clip, int64 [N]; record.UNKNOWN_GROUP if it has none.
    """
    known = groups != record.UNKNOWN_GROUP
    if known.all():
        return "groups"
    return "groups and videos" if known.any() else "videos"


def count_same(
    clips: ClipIndex, matches: Sequence[int], ours: Sequence[str], names: set[str] | None
) -> int | None:
    """Counts the clips of another data set that have the class and the name of a known video.

    Args:
      clips: index of the other set's clips.
      matches: the run's class of each class of the other set.
      ours: the run's classes.
      names: the known videos, as <class>/<name>; None if there is nothing to compare with.

    Returns:
      The number of clips; None if `names` is None.
    """
    if names is None:
        return None
    own = [None if match == UNMATCHED else ours[match] for match in matches]
    return sum(
        f"{own[label]}/{video_of(clip_id).partition('/')[2]}" in names
        for clip_id, label in zip(clips.ids, clips.labels)
        if own[label] is not None
    )


def save_predictions(path: pathlib.Path, clips: ClipIndex, predicted: Predicted, ours: Sequence[str]) -> None:
    """Writes one JSON line per clip of another data set; every score can be computed from these lines.

    The fields are clip_id, fold, group, class (of the other set), run_class and label (the matched class of the run
    and its index, or null), predicted_class and predicted, confidence (largest probability), and logits.
    """
    with storage.atomic_write(path) as file:
        for i, clip_id in enumerate(clips.ids):
            label, guess = int(predicted.labels[i]), int(predicted.predictions[i])
            line = {
                "clip_id": clip_id,
                "fold": int(clips.folds[i]),
                "group": int(clips.groups[i]),
                "class": clips.manifest.classes[clips.labels[i]],
                "label": None if label == UNMATCHED else label,
                "run_class": None if label == UNMATCHED else ours[label],
                "predicted": guess,
                "predicted_class": ours[guess],
                "confidence": round(float(predicted.confidences[i]), _DECIMALS),
                "logits": [round(float(x), _DECIMALS) for x in predicted.logits[i]],
            }
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def score_other_set(
    clips: ClipIndex, predicted: Predicted, own: Predicted | None, matches: Sequence[int], ours: Sequence[str]
) -> OtherSetScores:
    """Scores a run on another data set, and on its own held-out clips of the shared classes.

    Args:
      clips: index of the other set's clips.
      predicted: the predictions for these clips.
      own: the predictions for the run's own clips, or None if unknown.
      matches: the run's class of each class of the other set.
      ours: the run's classes.
    """
    shared, rest = predicted.select(predicted.is_shared), predicted.select(~predicted.is_shared)
    outputs = np.unique([match for match in matches if match != UNMATCHED])
    return OtherSetScores(
        here=_score(shared, outputs),
        own=_score(own, outputs) if own else None,
        class_map={
            name: None if match == UNMATCHED else ours[match]
            for name, match in zip(clips.manifest.classes, matches)
        },
        unknown_confidence=rest.confidence() if len(rest.labels) else None,
        confidence_auroc=predicted.separation(),
        unknown_classes=unknown_classes(clips, predicted, ours),
    )


def _score(predicted: Predicted, outputs: np.ndarray) -> SharedScores:
    return SharedScores(
        num_clips=len(predicted.labels),
        unit=unit_name(predicted.groups),
        num_units=len(np.unique(predicted.units)),
        all_outputs=predicted.score(),
        shared_outputs=predicted.score(outputs),
        confidence=predicted.confidence(),
    )


def _json(value: Any) -> Any:
    """Turns estimates and dataclasses of them into JSON values; the ends of unknown intervals become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
