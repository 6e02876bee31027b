"""Confidence intervals and tests that treat recording groups, not clips, as the independent observations.

Clips of one group show the same recording, so they are not independent. Most functions take one value per
clip and the group of each clip, and compute with scipy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
_NUM_RESAMPLES = 1999
_NUM_FLIPS = 9999
_POWER = 0.8
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% confidence interval; the ends are NaN if there is only one group."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


def mean_interval(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Computes the mean over clips, and the mean's 95% confidence interval by a bootstrap over groups.

    Args:
      values: float [N], one value per clip.
      groups: int [N], the group of each clip.
    """
    sums, counts = _by_group(values[:, np.newaxis], groups)  # [G, 1], [G]
    weights = np.concatenate([sums, counts[:, np.newaxis]], axis=1)
    return interval(weights, lambda totals: totals[..., 0] / totals[..., 1])


def interval(parts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Computes a statistic of sums over G groups, and its 95% interval by a percentile bootstrap over groups.

    Resampling whole groups is called the cluster bootstrap. With few groups, its intervals are too narrow.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap".

    Args:
      parts: float [G, K], each group's contribution to K sums.
      statistic: function that maps sums, float [..., K], to the statistic's values, float [...].
    """

    def resampled(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(parts[chosen].sum(axis=-2))

    value = float(statistic(parts.sum(axis=0)))
    if len(parts) == 1:
        return Estimate(value, float("nan"), float("nan"))
    result = stats.bootstrap(
        (np.arange(len(parts)),),
        resampled,
        n_resamples=_NUM_RESAMPLES,
        batch=200,
        vectorized=True,
        method="percentile",
        confidence_level=_CONFIDENCE,
        rng=np.random.default_rng(_SEED),
    )
    return Estimate(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def macro_f1_interval(
    labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, num_classes: int
) -> Estimate:
    """Computes the mean of the seeds' macro F1, and its 95% interval by a bootstrap over groups.

    Each seed's macro F1 equals metrics.macro_f1. Here it is computed from counts of clips per group, because
    the bootstrap resamples groups.

    Args:
      labels: int [N], the true class of each clip.
      predictions: int [S, N], the predicted classes, one row per seed.
      groups: int [N], the group of each clip.
      num_classes: number of classes.
    """
    every = np.arange(num_classes)
    is_label = labels[:, np.newaxis] == every  # [N, C]
    is_predicted = predictions[..., np.newaxis] == every  # [S, N, C]
    counts = np.stack([is_predicted & is_label, is_predicted, np.broadcast_to(is_label, is_predicted.shape)])
    parts, _ = _by_group(np.moveaxis(counts, 2, 0).reshape(len(labels), -1).astype(float), groups)

    def macro_f1(sums: np.ndarray) -> np.ndarray:
        hits, predicted, present = np.moveaxis(sums.reshape(*sums.shape[:-1], *counts.shape[:2], -1), -3, 0)
        f1 = 2 * hits / np.maximum(predicted + present, 1)  # [..., S, C]
        occurs = present > 0
        return (f1.sum(axis=-1, where=occurs) / np.maximum(occurs.sum(axis=-1), 1)).mean(axis=-1)

    return interval(parts, macro_f1)


def sign_flip_p(values: np.ndarray, groups: np.ndarray) -> float:
    """Tests whether clips' paired differences are 0 on average, by flipping the signs of whole groups.

    The p value is two-sided. It is exact for up to 13 groups; for more, it is estimated from 9,999 random
    flips. Source: the permutation test for paired samples, Fisher 1935, applied to groups instead of single
    samples.

    Args:
      values: float [N], each clip's difference between two conditions.
      groups: int [N], the group of each clip.

    Returns:
      The p value; 1 if there is only one group, or all groups' sums are 0.
    """
    sums = _by_group(values[:, np.newaxis], groups)[0][:, 0]
    if len(sums) == 1 or not sums.any():
        return 1.0
    result = stats.permutation_test(
        (sums,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_NUM_FLIPS,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)


def mcnemar_p(correct: np.ndarray, other: np.ndarray) -> float:
    """Computes McNemar's exact two-sided p value (1947): whether two models are right equally often.

    The test treats clips as independent. Clips of one group are not, so the p value is too small if groups
    are large. It is reported only because published results usually give this p value.

    Args:
      correct: bool [N], whether the first model is right about each clip.
      other: bool [N], whether the second model is right about each of the same clips.
    """
    only_one, only_other = int((correct & ~other).sum()), int((~correct & other).sum())
    if only_one + only_other == 0:
        return 1.0
    return float(stats.binomtest(only_one, only_one + only_other).pvalue)


def adjust(p_values: np.ndarray) -> np.ndarray:
    """Adjusts p values for multiple tests, by the false discovery rate (Benjamini and Hochberg 1995)."""
    return stats.false_discovery_control(p_values) if len(p_values) else np.asarray(p_values)


def groups_needed(values: np.ndarray, groups: np.ndarray, effect: float) -> int:
    """Estimates the number of groups needed to detect a mean difference of size `effect`.

    The estimate is for a two-sided test at the 5% level with a power of 80%. It uses the normal approximation
    and the observed spread between groups.

    Args:
      values: float [N], each clip's difference between two conditions.
      groups: int [N], the group of each clip.
      effect: mean difference to detect; not 0.

    Returns:
      The number of groups; 0 if all clips are of one group, which has no spread.
    """
    sums, counts = _by_group(values[:, np.newaxis], groups)
    residuals = (sums[:, 0] - values.mean() * counts) / counts.mean()
    wanted = stats.norm.ppf((1 + _CONFIDENCE) / 2) + stats.norm.ppf(_POWER)
    return int(np.ceil((wanted * residuals.std(ddof=1) / effect) ** 2)) if len(sums) > 1 else 0


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Computes the expected calibration error: the mean gap between confidence and accuracy.

    A clip's confidence is its highest probability. Clips are sorted into equally wide bins of confidence, and
    each bin's gap is weighted by its number of clips. Source: Guo et al. 2017, "On Calibration of Modern
    Neural Networks".

    Args:
      probabilities: float [N, C], each clip's class probabilities.
      labels: int [N], the true class of each clip.
      num_bins: number of bins.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def _by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a tuple: sums of `values` over each group's clips, float [G, K]; clips per group, int [G]."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, counts
