"""Confidence intervals and tests that treat recording groups, not clips, as the independent observations.

Clips of one group show the same recording, so they are not independent. Most functions take one value per
clip and the group of each clip, and compute with scipy. Claims about recipes, which hold for other seeds as
well, treat trainings as independent observations, too; see `compare_recipes`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
_NUM_RESAMPLES = 1999
_NUM_FLIPS = 9999
_ROUNDING = 1e-9  # sums that are smaller, as a fraction of the largest difference, are rounding errors
_POWER = 0.8
# Half of a 95% interval's width, times this factor, is the difference that a test at 5% finds with 80% power.
POWER_FACTOR = 1 + float(stats.norm.ppf(_POWER) / stats.norm.ppf((1 + _CONFIDENCE) / 2))
_BATCH = 200  # resamples that are computed together
_MAX_BATCH_VALUES = 1 << 25  # the same for large samples: numbers that are gathered for a batch, 256 MiB
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% confidence interval; the ends are NaN if there is only one observation."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)


@dataclasses.dataclass(frozen=True)
class Trainings:
    """The scores of one recipe's trainings on N clips. The trainings differ in their seeds.

    scores: the score of each clip in the tests of each seed's trainings, float [S, N]; for example 1 if the
      prediction is right, else 0.
    blocks: the block of each clip, int [N]. Each seed has one training per block, which scores all clips of
      the block; with cross-validation, the blocks are the tested parts.
    """

    scores: np.ndarray
    blocks: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean over seeds of each clip's score, float [N]."""
        return self.scores.mean(axis=0)

    def select(self, clips: np.ndarray) -> Trainings:
        """Returns the scores of some clips; `clips` is a mask, bool [N]."""
        return Trainings(self.scores[:, clips], self.blocks[clips])

    def scale(self, factor: float, offset: float) -> Trainings:
        """Returns these trainings with every score multiplied by `factor`, plus `offset`."""
        return dataclasses.replace(self, scores=self.scores * factor + offset)


class RecipeTest(NamedTuple):
    """The test of a difference between two recipes.

    effect: the mean difference with its 95% interval.
    p: two-sided p value.
    from_trainings: fraction of the effect's variance that comes from trainings; the rest comes from groups.
    """

    effect: Estimate
    p: float
    from_trainings: float


def mean_interval(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Computes the mean over clips, and the mean's 95% confidence interval by a bootstrap over groups.

    Args:
      values: float [N], one value per clip.
      groups: int [N], the group of each clip.
    """
    sums, counts = sums_by_group(values[:, np.newaxis], groups)  # [G, 1], [G]
    weights = np.concatenate([sums, counts[:, np.newaxis]], axis=1)
    return interval(weights, lambda totals: totals[..., 0] / totals[..., 1])


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, groups: np.ndarray) -> Estimate:
    """Computes the ratio of two means over clips, and its 95% confidence interval by a bootstrap over groups.

    Args:
      numerators, denominators: float [N], one value per clip.
      groups: int [N], the group of each clip.

    Returns:
      The ratio; NaN if the mean of the denominators is not positive. The ends of its interval are NaN if that
      mean is not positive in a resample.
    """
    sums, _ = sums_by_group(np.stack([numerators, denominators], axis=1), groups)

    def ratio(totals: np.ndarray) -> np.ndarray:
        above, below = totals[..., 0], totals[..., 1]
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # an unknown ratio in a resample
        return interval(sums, ratio)


def interval(parts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Computes a statistic of sums over G groups, and its 95% interval by a percentile bootstrap over groups.

    Resampling whole groups is called the cluster bootstrap. With few groups, its intervals are too narrow.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap".

    Args:
      parts: float [G, K], each group's contribution to K sums.
      statistic: function that maps sums, float [..., K], to the statistic's values, float [...].
    """
    return _bootstrap(
        len(parts),
        lambda chosen: statistic(parts[chosen].sum(axis=-2)),
        batch=max(1, min(_BATCH, _MAX_BATCH_VALUES // parts.size)),
    )


def weighted_interval(groups: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Computes a statistic of N weighted clips, and its 95% interval by the bootstrap of `interval`.

    It is for statistics that are no function of sums over groups, such as those that depend on the clips' ranks.

    Args:
      groups: int [N], the group of each clip.
      statistic: function that maps weights of the clips, float [..., N], to the statistic's values, float [...].
        A clip's weight is the number of times that its group is drawn.
    """
    index = np.unique(groups, return_inverse=True)[1]
    num_groups = int(index.max()) + 1

    def resampled(chosen: np.ndarray) -> np.ndarray:
        rows = chosen.reshape(-1, num_groups)
        numbered = rows + num_groups * np.arange(len(rows))[:, np.newaxis]
        drawn = np.bincount(numbered.ravel(), minlength=rows.size).reshape(chosen.shape)
        return statistic(drawn[..., index].astype(float))

    return _bootstrap(num_groups, resampled)


def _bootstrap(
    num_groups: int, statistic: Callable[[np.ndarray], np.ndarray], *, batch: int = _BATCH
) -> Estimate:
    """Computes a statistic of all groups, and its 95% percentile interval over draws of groups with replacement.

    Args:
      num_groups: number of groups, G.
      statistic: function that maps the indices of drawn groups, int [..., G], to the statistic's values, [...].
      batch: number of resamples that are computed together; it does not change the result.
    """
    value = float(statistic(np.arange(num_groups)))
    if num_groups == 1:
        return Estimate(value, float("nan"), float("nan"))
    result = stats.bootstrap(
        (np.arange(num_groups),),
        lambda chosen, axis=-1: statistic(chosen),
        n_resamples=_NUM_RESAMPLES,
        batch=batch,
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
    parts, _ = sums_by_group(np.moveaxis(counts, 2, 0).reshape(len(labels), -1).astype(float), groups)

    def macro_f1(sums: np.ndarray) -> np.ndarray:
        hits, predicted, present = np.moveaxis(sums.reshape(*sums.shape[:-1], *counts.shape[:2], -1), -3, 0)
        f1 = 2 * hits / np.maximum(predicted + present, 1)  # [..., S, C]
        occurs = present > 0
        return (f1.sum(axis=-1, where=occurs) / np.maximum(occurs.sum(axis=-1), 1)).mean(axis=-1)

    return interval(parts, macro_f1)


def macro_f1_scores(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Computes clips' scores whose mean over clips and seeds is the mean of the seeds' macro F1.

    Macro F1 is no mean over clips. These scores are its linear approximation (influence function, Hampel 1974) around
    the counts of all seeds together. With them, recipe_interval gives the interval of a difference of macro F1. A class
    that no seed predicts rightly has F1 0 and adds nothing to the width of the interval.

    Args:
      labels, predictions: as in macro_f1_interval.

    Returns:
      The scores, float [S, N]; a single one may lie below 0 or above 1.
    """
    every = np.unique(labels)
    is_label = labels[:, np.newaxis] == every  # [N, C]
    is_predicted = predictions[..., np.newaxis] == every  # [S, N, C]
    hits = is_predicted & is_label
    totals = is_predicted.astype(int) + is_label  # [S, N, C]
    both = totals.mean(axis=0).sum(axis=0)
    f1 = 2 * hits.mean(axis=0).sum(axis=0) / both  # [C]
    influence = (2 * hits - f1 * totals) / both  # its sum over clips and seeds is 0
    of_seeds = (2 * hits.sum(axis=1) / totals.sum(axis=1)).mean(axis=1)  # [S]
    return of_seeds.mean() + len(labels) * influence.mean(axis=2)


def t_interval(values: np.ndarray) -> Estimate:
    """Computes the mean of independent values, and its 95% interval by Student's t.

    With few values, it is wider than that of a bootstrap, and rightly so.

    Args:
      values: float [N].
    """
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value, float("nan"), float("nan"))
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1))
    half = quantile * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(value, value - half, value + half)


def sign_flip_p(values: np.ndarray, groups: np.ndarray) -> float:
    """Tests whether clips' paired differences are 0 on average, by flipping the signs of whole groups.

    The p value is two-sided. It is exact for up to 13 groups; for more, it is estimated from 9,999 random
    flips. Source: the permutation test for paired samples, Fisher 1935, applied to groups instead of single
    samples.

    Args:
      values: float [N], each clip's difference between two conditions.
      groups: int [N], the group of each clip.

    Returns:
      The p value; 1 if there is only one group, or all groups' sums are 0, up to rounding.
    """
    sums = sums_by_group(values[:, np.newaxis], groups)[0][:, 0]
    # Differences that cancel out in every group, as those of mirrored clips, leave sums of the size of rounding errors.
    sums[np.abs(sums) < _ROUNDING * np.abs(values).max()] = 0.0
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


def compare_recipes(one: Trainings, other: Trainings, groups: np.ndarray) -> RecipeTest:
    """Tests the mean difference between the scores of two recipes' trainings on the same N clips.

    Both groups and trainings are random: other recordings or other seeds would change the difference. Its
    variance is the sum of the variance over groups and the variance over trainings. This is the variance of
    two-way clustering (Cameron, Gelbach and Miller 2011, "Robust Inference with Multiway Clustering"), but
    without subtracting the part that both contain: the sum is never negative, and a little too large. The
    interval and the p value use Student's t with Satterthwaite's degrees of freedom (1946, "An Approximate
    Distribution of Estimates of Variance Components"). The p value is not smaller than that of sign_flip_p.

    Trainings count as independent, also trainings of both recipes with the same seed.

    Args:
      one, other: the trainings of the two recipes, at least 2 seeds each.
      groups: int [N], the group of each clip.

    Returns:
      The test; the interval is NaN and p is 1 if all clips are of one group.
    """
    effect, t_p, from_trainings = _two_way_test(one, other, groups)
    return RecipeTest(effect, max(t_p, sign_flip_p(one.mean - other.mean, groups)), from_trainings)


def recipe_interval(one: Trainings, other: Trainings, groups: np.ndarray) -> Estimate:
    """Computes the effect of compare_recipes, with its interval, but without the time of sign_flip_p.

    The interval is unknown (NaN) if a recipe has one seed only.
    """
    if min(len(one.scores), len(other.scores)) < 2:
        return Estimate(float((one.mean - other.mean).mean()), float("nan"), float("nan"))
    return _two_way_test(one, other, groups).effect


def _two_way_test(one: Trainings, other: Trainings, groups: np.ndarray) -> RecipeTest:
    """Returns the test of compare_recipes, with the p value of Student's t alone."""
    values = one.mean - other.mean
    effect = float(values.mean())
    sums, counts = sums_by_group(values[:, np.newaxis], groups)
    num_groups = len(counts)
    if num_groups == 1:
        return RecipeTest(Estimate(effect, float("nan"), float("nan")), 1.0, float("nan"))
    residuals = (sums[:, 0] - effect * counts) / len(values)
    of_groups = float((residuals**2).sum()) * num_groups / (num_groups - 1)
    parts = [part for trainings in (one, other) for part in _training_variances(trainings)]
    of_trainings = sum(variance for variance, _ in parts)
    variance = of_groups + of_trainings
    if not variance:
        return RecipeTest(Estimate(effect, effect, effect), 0.0, 0.0)
    squares = of_groups**2 / (num_groups - 1) + sum(part**2 / freedom for part, freedom in parts)
    t = stats.t(variance**2 / squares)
    half = float(t.ppf((1 + _CONFIDENCE) / 2)) * variance**0.5
    p = 2 * float(t.sf(abs(effect) / variance**0.5))
    return RecipeTest(Estimate(effect, effect - half, effect + half), p, of_trainings / variance)


def _training_variances(trainings: Trainings) -> list[tuple[float, int]]:
    """Returns, for each block of clips, its part of the mean's variance over trainings and its degrees of freedom."""
    num_seeds, num_clips = trainings.scores.shape
    found = []
    for block in np.unique(trainings.blocks):
        sums = trainings.scores[:, trainings.blocks == block].sum(axis=1) / num_clips  # [S]
        found.append((float(sums.var(ddof=1)) / num_seeds, num_seeds - 1))
    return found


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
    sums, counts = sums_by_group(values[:, np.newaxis], groups)
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


def sums_by_group(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a tuple: sums of `values` over each group's clips, float [G, K]; clips per group, int [G]."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, counts
