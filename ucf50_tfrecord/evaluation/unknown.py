"""Scores of how unknown a clip's class is to a model, and how well they tell unknown classes from known ones.

Unknown classes are made by holding classes out: a model is trained without them, and tested on clips of all
classes. A higher score means a less known class. docs/comparing.md describes the scores and measures.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from scipy import special
from sklearn import metrics as sklearn_metrics
from sklearn import neighbors, preprocessing

from ucf50_tfrecord.dataset.clips import name_hash
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import measures, metrics

# Sun et al. choose the number of neighbors on clips of unknown classes; it is fixed here, so nothing is tuned on
# the classes that are tested.
NUM_NEIGHBORS = 10
ACCEPTED_FRACTION = 0.95  # of clips of known classes, by accepting_threshold


class Score(enum.StrEnum):
    """A score of how unknown a clip's class is to a model; the values are its names in reports."""

    SOFTMAX = "maximum softmax"
    ENERGY = "energy"
    NEIGHBORS = "distance to neighbors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a score tells clips of unknown classes from clips of known classes.

    auroc: probability that a clip of an unknown class has a higher score than a clip of a known class, where
      equal scores count half; 0.5 is guessing.
    aupr: area under the precision-recall curve, where unknown classes are the positive ones; see
      `unknown_fraction` for guessing.
    false_acceptance: fraction of the clips of unknown classes that are accepted by the threshold that accepts
      95% of the clips of known classes; it is called FPR at 95% TPR, and 0.95 is guessing.
    macro_f1: macro F1 of the known classes and one class that stands for all unknown ones; see open_set_macro_f1.
      NaN if the clips of known classes are of one unit.
    unknown_fraction: fraction of the clips that are of unknown classes.
    """

    auroc: float
    aupr: float
    false_acceptance: float
    macro_f1: float
    unknown_fraction: float


def class_sets(classes: Sequence[str], size: int) -> tuple[tuple[int, ...], ...]:
    """Divides classes into sets that are held out in turn. Each class is in exactly one set.

    The order of the classes' hashes decides which classes share a set. So it depends on the names of the classes
    alone, and neighbors in the alphabet, which are often similar, seldom share a set.

    Args:
      classes: names of the C classes.
      size: largest number of classes in a set; 0 for no sets.

    Returns:
      The sets, each as indices of classes in ascending order. Their sizes differ by at most 1.

    Raises:
      UserError: if there are fewer than 2 sets, or fewer than 2 known classes beside a set.
    """
    if not size:
        return ()
    most = min(len(classes) // 2, len(classes) - 2)
    expect(
        1 <= size <= most,
        f"0 to {max(0, most)} of {len(classes)} classes to hold out at a time, so that 2 sets and 2 known classes remain",
        hold_out_classes=size,
    )
    hashes = [name_hash(name) for name in classes]
    order = sorted(range(len(classes)), key=lambda index: (hashes[index], classes[index]))
    parts = np.array_split(order, -(-len(classes) // size))
    return tuple(tuple(sorted(part.tolist())) for part in parts)


def softmax_scores(logits: np.ndarray) -> np.ndarray:
    """Computes 1 - the highest class probability of each clip, float64 [N].

    It is computed from the other classes' probabilities, so that sure predictions keep their order: 1 - p is 0
    for every p that rounds to 1. Source: Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks".

    Args:
      logits: float [N, K], the logits of the K known classes.
    """
    values = np.sort(logits.astype(np.float64), axis=1)
    others = np.exp(values[:, :-1] - values[:, -1:]).sum(axis=1)  # relative to the highest probability
    return others / (1 + others)


def energy_scores(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Computes the energy of each clip, -T * log(sum(exp(logits / T))), float64 [N].

    Source: Liu, Wang, Owens and Li 2020, "Energy-based Out-of-distribution Detection".

    Args:
      logits: float [N, K], the logits of the K known classes.
      temperature: the temperature T.
    """
    return -temperature * special.logsumexp(logits.astype(np.float64) / temperature, axis=1)


def neighbor_scores(train: np.ndarray, test: np.ndarray, num_neighbors: int = NUM_NEIGHBORS) -> np.ndarray:
    """Computes the distance from each test clip's features to the k-th nearest training clip's, float64 [N].

    Features are scaled to length 1 first, so distances are from 0 to 2. Source: Sun, Ming, Zhu and Li 2022,
    "Out-of-Distribution Detection with Deep Nearest Neighbors".

    Args:
      train: float [M, F], the features of the training clips, which are of known classes.
      test: float [N, F], the features of the test clips.
      num_neighbors: k; with fewer training clips, the farthest one counts.
    """
    train, test = (preprocessing.normalize(features.astype(np.float64)) for features in (train, test))
    index = neighbors.NearestNeighbors(n_neighbors=min(num_neighbors, len(train)), algorithm="brute")
    return index.fit(train).kneighbors(test)[0][:, -1]


def detect(
    scores: np.ndarray, logits: np.ndarray, labels: np.ndarray, held_out: Sequence[int], units: np.ndarray
) -> Detection:
    """Measures how well a score tells clips of unknown classes from clips of known classes.

    Args:
      scores: float [N], the score of each clip; higher means less known.
      logits: float [N, C], the logits of all classes; those of unknown classes are ignored.
      labels: int [N], the true class of each clip.
      held_out: indices of the unknown classes.
      units: int [N], the recording group (or video) of each clip.

    Raises:
      UserError: unless there are clips of both known and unknown classes.
    """
    unknown = np.isin(labels, held_out)
    expect(
        0 < unknown.sum() < len(unknown),
        "clips of known and of unknown classes",
        known=int((~unknown).sum()),
        unknown=int(unknown.sum()),
    )
    return Detection(
        auroc=float(measures.auroc(scores, unknown)),
        aupr=float(sklearn_metrics.average_precision_score(unknown, scores)),
        false_acceptance=false_acceptance(scores, unknown),
        macro_f1=open_set_macro_f1(scores, logits, labels, held_out, units),
        unknown_fraction=float(unknown.mean()),
    )


def false_acceptance(scores: np.ndarray, unknown: np.ndarray) -> float:
    """Computes the fraction of unknown clips that the threshold accepts which accepts 95% of the known clips.

    The literature calls it FPR at 95% TPR, with the known classes as the positive ones.

    Args:
      scores: float [N], the score of each clip.
      unknown: bool [N], whether the clip's class is unknown.
    """
    return float((scores[unknown] <= accepting_threshold(scores[~unknown])).mean())


def open_set_macro_f1(
    scores: np.ndarray, logits: np.ndarray, labels: np.ndarray, held_out: Sequence[int], units: np.ndarray
) -> float:
    """Computes macro F1 where the model may answer "unknown", and this is the right answer for unknown classes.

    All unknown classes count as one class. A clip is answered with the most probable known class if its score is
    accepted. The threshold accepts 95% of the known clips of the other units. So it depends neither on clips of
    unknown classes nor on the recording that it is applied to.

    Args:
      scores, logits, labels, held_out, units: as in `detect`.

    Returns:
      Macro F1, from 0 to 1; NaN if the clips of known classes are of one unit, so that there is no threshold.
    """
    unknown = np.isin(labels, held_out)
    if len(np.unique(units[~unknown])) < 2:
        return float("nan")
    accepted = np.empty(len(scores), bool)
    for unit in np.unique(units):
        own = units == unit
        accepted[own] = scores[own] <= accepting_threshold(scores[~unknown & ~own])
    num_classes = logits.shape[1]  # also the index that stands for "unknown"
    answers = np.where(accepted, known_logits(logits, held_out, fill=-np.inf).argmax(axis=1), num_classes)
    return metrics.macro_f1(np.where(unknown, num_classes, labels), answers)


def known_logits(logits: np.ndarray, held_out: Sequence[int], *, fill: float | None = None) -> np.ndarray:
    """Returns the logits of the known classes.

    A model keeps the outputs of classes that are held out. No training clip asks for them, so they say nothing
    about a clip; a model that was made without these classes would lack them.

    Args:
      logits: float [N, C], the logits of all classes.
      held_out: indices of the unknown classes.
      fill: value that replaces the logits of unknown classes; None removes their columns.
    """
    unknown = np.isin(np.arange(logits.shape[1]), held_out)
    return logits[:, ~unknown] if fill is None else np.where(unknown, fill, logits)


def accepting_threshold(known: np.ndarray) -> float:
    """Returns the lowest score that at least 95% of the scores `known`, float [N], do not exceed."""
    return float(np.quantile(known, ACCEPTED_FRACTION, method="inverted_cdf"))
