"""Scores of predictions for clips with several labels, and the thresholds above which a class is predicted.

The model's outputs are independent: the probability of a class is the sigmoid of its logit. Each class is predicted if
its probability reaches a threshold: 0.5 for all classes, or one per class that is chosen on held-out clips.

A threshold is never scored on the clips that it was chosen on, nor on others of their recordings (cross-fitting, as in
inference.selection).

Sources: average precision as scikit-learn defines it; thresholds of the highest F1 by Lipton et al. 2014, "Optimal
Thresholding of Classifiers to Maximize F1 Measure".
"""

from __future__ import annotations

import numpy as np
from scipy import special
from sklearn import metrics
from sklearn.model_selection import GroupKFold

from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.statistics import Estimate

THRESHOLD = 0.5  # of a class without a threshold of its own
MAX_PARTS = 10  # parts of the cross-fitting, if there are as many units
_BELOW_ONE = 1 - 2**-53  # the largest float64 below 1


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probability of each class, float64 [..., C], from logits, float [..., C]."""
    return special.expit(logits.astype(np.float64))


def threshold_logits(thresholds: np.ndarray) -> np.ndarray:
    """Returns the logits, float64 [C], whose probabilities are the thresholds, float64 [C], each above 0 and at most 1.

    In float32, logits tell probabilities near 1 apart that would all round to 1. A threshold of 1 is lowered to the
    largest number below it, because its own logit is infinite.
    """
    return special.logit(np.minimum(thresholds, _BELOW_ONE))


def scores(labels: np.ndarray, logits: np.ndarray, units: np.ndarray) -> dict[str, float]:
    """Computes the scores of a model's predictions for N clips, each from 0 to 1.

    Args:
      labels: 1 for each class of a clip and 0 for the others, int [N, C].
      logits: the model's logits, float [N, C].
      units: number of each clip's independent unit, int [N]: its recording group, or its video if it has none.

    Returns:
      A dictionary of
        accuracy: fraction of clips of which all classes are predicted rightly, at the threshold 0.5.
        macro_f1, micro_f1: F1 at the threshold 0.5: the mean over classes that some clip has, and that of all
          decisions together.
        mean_average_precision: the mean over classes that some clip has.
        tuned_macro_f1, tuned_micro_f1: F1 at the classes' thresholds, see cross_fitted. Left out if all clips are
          of one unit.
    """
    is_class, found = labels.astype(bool), probabilities(logits)
    decided = found >= THRESHOLD
    values = {
        "accuracy": float((decided == is_class).all(axis=1).mean()),
        "macro_f1": macro_f1(is_class, decided),
        "micro_f1": micro_f1(is_class, decided),
        "mean_average_precision": mean_average_precision(is_class, found),
    }
    tuned = cross_fitted(is_class, found, units)
    if tuned is not None:
        values["tuned_macro_f1"] = macro_f1(is_class, tuned)
        values["tuned_micro_f1"] = micro_f1(is_class, tuned)
    return values


def mean_average_precision(labels: np.ndarray, found: np.ndarray) -> float:
    """Computes the mean of scikit-learn's average_precision_score over the classes that some clip has.

    Args:
      labels: the clips' classes, bool [N, C].
      found: probabilities or logits, float [N, C]; only their order counts.
    """
    present = np.flatnonzero(labels.any(axis=0))
    return float(np.mean([metrics.average_precision_score(labels[:, i], found[:, i]) for i in present]))


def weighted_mean_average_precision(
    labels: np.ndarray, found: np.ndarray, units: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Computes mean_average_precision of clips with weights, as scikit-learn does with sample_weight.

    Args:
      labels, found: as in mean_average_precision.
      units: number of each clip's unit, from 0 to G - 1, int [N].
      weights: the weight of all clips of each unit, float [..., G].

    Returns:
      The means over the classes that some clip with a positive weight has, float64 [...]; 0 if there are none.
    """
    total, present = np.zeros(weights.shape[:-1]), np.zeros(weights.shape[:-1], int)
    for is_class, values in zip(labels.T, found.T):
        if not is_class.any():
            continue
        own, above = _counts_of_units(is_class, values, units, weights.shape[-1])
        own, above = weights @ own.T, weights @ above.T  # [..., P]
        right = np.cumsum(own, axis=-1)
        area = np.divide(own * right, above, out=np.zeros_like(own), where=above > 0).sum(axis=-1)
        is_present = right[..., -1] > 0
        total += np.divide(area, right[..., -1], out=np.zeros_like(area), where=is_present)
        present += is_present
    return total / np.maximum(present, 1)


def _counts_of_units(
    is_class: np.ndarray, values: np.ndarray, units: np.ndarray, num_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts each unit's clips at the P different probabilities that clips of a class have, the highest first.

    Args:
      is_class: whether clips are of the class, bool [N].
      values: their probabilities, float [N].
      units, num_units: number of each clip's unit, int [N], and of units.

    Returns:
      A tuple of the clips of the class with this probability, and all clips with this or a higher one, float64 [P, G].
    """
    steps = -np.unique(-values[is_class])
    step = np.searchsorted(-steps, -values)  # the first of the probabilities that is not above the clip's

    def count(clips: np.ndarray) -> np.ndarray:
        places = step[clips] * num_units + units[clips]
        counts = np.bincount(places, minlength=(len(steps) + 1) * num_units)
        return counts.reshape(-1, num_units)[: len(steps)].astype(float)

    return count(is_class), np.cumsum(count(np.ones_like(is_class)), axis=0)


def f1_intervals(labels: np.ndarray, decided: np.ndarray, units: np.ndarray) -> tuple[Estimate, Estimate]:
    """Computes macro_f1 and micro_f1 of N clips, and their 95% intervals by a bootstrap over units.

    Args:
      labels, decided: the clips' classes and the predicted ones, bool [N, C].
      units: number of each clip's unit, int [N].
    """
    counts = np.concatenate([labels & decided, labels, decided], axis=1).astype(float)
    parts, _ = statistics.sums_by_group(counts, units)

    def macro(sums: np.ndarray) -> np.ndarray:
        right, present, predicted = np.split(sums, 3, axis=-1)
        f1, occurs = 2 * right / np.maximum(present + predicted, 1), present > 0
        return f1.sum(axis=-1, where=occurs) / np.maximum(occurs.sum(axis=-1), 1)

    def micro(sums: np.ndarray) -> np.ndarray:
        right, present, predicted = (part.sum(axis=-1) for part in np.split(sums, 3, axis=-1))
        return 2 * right / (present + predicted)  # every clip has a class

    return statistics.interval(parts, macro), statistics.interval(parts, micro)


def class_f1(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Computes each class's F1, float64 [C], from bool [N, C]; NaN for a class that no clip has."""
    right = (labels & decided).sum(axis=0)
    total = labels.sum(axis=0) + decided.sum(axis=0)
    return np.where(labels.any(axis=0), 2 * right / np.maximum(total, 1), np.nan)


def macro_f1(labels: np.ndarray, decided: np.ndarray) -> float:
    """Computes the mean F1 of the classes that some clip has, from bool [N, C]."""
    return float(np.nanmean(class_f1(labels, decided)))


def micro_f1(labels: np.ndarray, decided: np.ndarray) -> float:
    """Computes the F1 of all decisions together, from bool [N, C]; some clip must have a class."""
    return float(2 * (labels & decided).sum() / (labels.sum() + decided.sum()))


def choose_thresholds(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Chooses the threshold of each class with the highest F1 on N clips.

    A threshold lies in the middle between the lowest probability that it accepts and the next lower one. Of several
    that are as good, it is the highest. A class that all of these clips have, or none, gets 0.5.

    Args:
      labels: the clips' classes, bool [N, C].
      found: the classes' probabilities, float64 [N, C].

    Returns:
      The thresholds, float64 [C], each above 0 and at most 1.
    """
    return np.array([_choose(*columns) for columns in zip(labels.T, found.T)])


def _choose(labels: np.ndarray, found: np.ndarray) -> float:
    """Chooses the threshold of one class, from bool [N] and float64 [N]."""
    if labels.all() or not labels.any():
        return THRESHOLD
    order = np.argsort(-found, kind="stable")
    falling = found[order]
    lasts = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # the last clip of each probability
    f1 = 2 * np.cumsum(labels[order])[lasts] / (labels.sum() + lasts + 1)
    last = lasts[f1.argmax()]  # argmax takes the first, the highest probability
    lowest, below = falling[last], falling[last + 1] if last + 1 < len(falling) else 0.0
    middle = (lowest + below) / 2
    return float(middle if middle > below else lowest)  # no number may lie between neighbours


def cross_fitted(labels: np.ndarray, found: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Decides on N clips by thresholds that are chosen on clips of other recordings.

    The units are divided into parts, and the thresholds for each part are chosen on the other parts. These are fewer
    clips, so it rather underestimates thresholds that are chosen on all of them.

    Args:
      labels: the clips' classes, bool [N, C].
      found: the classes' probabilities, float64 [N, C].
      units: number of each clip's unit, int [N].

    Returns:
      The predicted classes, bool [N, C]; None if all clips are of one unit.
    """
    num_units = len(np.unique(units))
    if num_units < 2:
        return None
    decided = np.empty(labels.shape, bool)
    for others, part in GroupKFold(min(MAX_PARTS, num_units)).split(labels, groups=units):
        decided[part] = found[part] >= choose_thresholds(labels[others], found[others])
    return decided
