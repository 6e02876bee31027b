"""Statistics of the difference between two samples, and what groups do to their variance.

Sources: Kolmogorov-Smirnov on softmax outputs, Rabanser, Guennemann and Lipton 2019, "Failing Loudly: An
Empirical Study of Methods for Detecting Dataset Shift"; the population stability index, Yurdakul 2018,
"Statistical Properties of the Population Stability Index"; the design effect, Kish 1965, "Survey Sampling".
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import stats

_SMOOTHING = 0.5  # videos that are added to each bin, so that no fraction is 0
_POWER_QUANTILE = float(stats.norm.ppf(0.8))
_THRESHOLDS = np.linspace(0.05, 0.95, 19)  # quantiles at which distribution functions are compared


def psi(reference: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Computes the population stability index, the sum over bins of (q - p) ln(q / p).

    p and q are the fractions of both samples' videos in a bin, after half a video is added to each bin.

    Args:
      reference, stream: number of videos by bin, [..., K].

    Returns:
      The index, float64 [...]; 0 if the fractions are equal.
    """
    p, q = (
        (counts + _SMOOTHING) / (counts.sum(axis=-1, keepdims=True) + _SMOOTHING * counts.shape[-1])
        for counts in (reference, stream)
    )
    return ((q - p) * np.log(q / p)).sum(axis=-1)


def chi_squared(reference: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Computes Pearson's chi-squared statistic of homogeneity for two samples of counts, [..., K].

    Bins that are empty in both samples are left out.

    Returns:
      The statistic, float64 [...].
    """
    total, whole = reference + stream, (reference + stream).sum(axis=-1, keepdims=True)
    found = np.zeros(total.shape[:-1])
    for counts in (reference, stream):
        expected = total * (counts.sum(axis=-1, keepdims=True) / whole)
        squares = np.divide((counts - expected) ** 2, expected, where=expected > 0, out=np.zeros(total.shape))
        found += squares.sum(axis=-1)
    return found


def design_effects(values: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """Estimates by how much recordings increase the variance of each column's distribution function.

    It is the variance of the fraction of videos below a value if recordings are drawn, over the variance if
    single videos were drawn, both added up over the values at 19 quantiles. A sample of N videos varies like one
    of N / (design effect) independent videos.

    Args:
      values: float [N, C].
      recordings: index of each video's recording, from 0, int64 [N].

    Returns:
      The design effects, at least 1, float64 [C].
    """
    num_recordings = int(recordings.max()) + 1
    cuts = np.quantile(values, _THRESHOLDS, axis=0)  # [19, C]
    below = (values[:, np.newaxis] <= cuts).astype(float)  # [N, 19, C]
    mean = below.mean(axis=0)
    sums = np.zeros((num_recordings, *cuts.shape))
    np.add.at(sums, recordings, below - mean)
    drawn = (sums**2).sum(axis=(0, 1)) * num_recordings / max(1, num_recordings - 1)
    single = len(values) * (mean * (1 - mean)).sum(axis=0)
    return np.maximum(1.0, np.divide(drawn, single, where=single > 0, out=np.ones(len(single))))


def effective_size(num_reference: int, num_stream: int, design_effect: np.ndarray | float) -> np.ndarray:
    """Returns the size of a single sample that varies like the difference of two samples.

    The stream is taken to come in recordings as large as the reference's.
    """
    return num_reference * num_stream / (num_reference + num_stream) / np.asarray(design_effect)


def ks_distances(reference: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Computes the Kolmogorov-Smirnov distance of each column's two samples, [N, C] and [M, C]; float64 [C]."""
    return np.array(
        [stats.ks_2samp(*columns, method="asymp").statistic for columns in zip(reference.T, stream.T)]
    )


def ks_p_values(distances: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns two-sided p values of Kolmogorov-Smirnov distances.

    They are those of one sample against a known distribution, of the two samples' effective size, as scipy takes
    them for large samples.

    Args:
      distances: the distances, float [C].
      sizes: effective sizes, see effective_size, float [C].
    """
    return stats.kstwo.sf(distances, _whole(sizes))


def ks_threshold(level: float, size: float) -> float:
    """Returns the distance at which a p value of ks_p_values is `level`."""
    return _ks_threshold(level, int(_whole(size)))


@functools.cache  # it takes ten milliseconds
def _ks_threshold(level: float, size: int) -> float:
    return float(stats.kstwo.isf(level, size))


def size_needed(level: float, distance: float) -> float:
    """Returns the effective size from which on a test at `level` finds a true distance in 4 of 5 samples.

    At the value where the two distribution functions differ most, the difference of the samples' functions is
    about normal, with a standard deviation of at most 0.5 / sqrt(size). The test's threshold is that of large
    samples, which is a little too large for small ones.
    """
    return ((float(stats.kstwobign.isf(level)) + _POWER_QUANTILE / 2) / distance) ** 2


def _whole(size: np.ndarray | float) -> np.ndarray:
    return np.maximum(1, np.round(size))
