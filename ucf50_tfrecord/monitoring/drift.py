"""Tests whether a stream of videos differs from a reference, with one alarm level for all measures together.

The level is divided equally among the measures (Bonferroni); that of the softmax again among the classes, as
Rabanser et al. 2019 do. If several batches of a stream are checked together, it is divided among these, too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from ucf50_tfrecord.choices import Finding, Measure
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.monitoring import distances
from ucf50_tfrecord.monitoring.resampling import NUM_UNSEEN, Resampler, Table
from ucf50_tfrecord.monitoring.spec import MonitorSpec
from ucf50_tfrecord.monitoring.videos import NUMBERS, Videos

# A stream is large enough if a change that moves half of the videos past some value would be found.
FINDABLE = 0.5
# The population stability index from which textbooks call a change large. It is shown, but not used.
CUSTOMARY_PSI = 0.2
MIN_RECORDINGS = 10  # of a reference; with fewer, resampling says too little
_NUM_PARTS = 10  # bins of a number, by quantiles of the reference
_DRAWS_PER_LEVEL = 25  # draws beyond the alarm threshold, so that the threshold is known well enough
_KEPT_SIZES = 8  # numbers of videos whose draws are kept
_ROUNDING = 1e-9  # of equal statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Test:
    """The test of one measure.

    measure: what is compared.
    statistic: the largest Kolmogorov-Smirnov distance over classes, from 0 to 1; chi-squared; or the population
      stability index.
    threshold: the statistic from which p is at most `level`.
    p: p value. That of the softmax is corrected for the number of classes.
    level: the level of this test.
    where: the class of the largest distance, for the softmax; else empty.
    """

    measure: Measure
    statistic: float
    threshold: float
    p: float
    level: float
    where: str = ""

    @property
    def is_alarm(self) -> bool:
        return self.p <= self.level


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """The result of comparing one stream, or one batch of it, with the reference.

    num_videos: number of videos of the stream.
    tests: the tests, one per measure; none if the stream is empty or the reference too small.
    finding: the result.
    findable: the least true change that the test of the softmax finds in 4 of 5 streams, as the fraction of
      videos that move past some probability of some class; above 1 if none.
    videos_needed: number of videos from which on a change of FINDABLE is found; None if the reference is too
      small for it.
    """

    num_videos: int
    tests: tuple[Test, ...]
    finding: Finding
    findable: float
    videos_needed: int | None

    @property
    def alarms(self) -> tuple[Measure, ...]:
        """The measures that have drifted."""
        return tuple(test.measure for test in self.tests if test.is_alarm)

    def describe(self) -> str:
        """Returns the finding as a sentence without a full stop."""
        if self.finding == Finding.DRIFT:
            return f"{self.finding}: {', '.join(map(str, self.alarms))}"
        if self.finding == Finding.NO_DRIFT:
            return f"{self.finding}; a change of {self.findable:.0%} of the videos would have been found"
        if self.videos_needed is None:
            return f"{self.finding}, and the reference is too small for any number of videos"
        return f"{self.finding}: {self.num_videos} of the {self.videos_needed} that are needed"


class Checker:
    """Compares streams with one reference. It keeps what it resampled, so that further streams cost little."""

    def __init__(
        self,
        reference: Videos,
        recordings: np.ndarray,
        classes: tuple[str, ...],
        *,
        level: float = MonitorSpec.alarm_level,
        num_checks: int = 1,
    ):
        """Prepares the comparison.

        Args:
          reference: the videos of the reference.
          recordings: index of each video's recording, from 0, int64 [N].
          classes: names of the C classes.
          level: probability of an alarm in any of the checks if nothing has drifted.
          num_checks: number of checks that share the level.
        """
        expect(0 < level < 1, "an alarm level between 0 and 1", level=level)
        self.reference = reference
        self._recordings, self._classes, self._level = recordings, classes, level / num_checks
        self._effects = distances.design_effects(reference.probabilities, recordings)
        self._binned = {measure: _bin(measure, reference) for measure in self.measures[1:]}
        num_draws = math.ceil(_DRAWS_PER_LEVEL * len(Measure) / self._level)
        self._resampler = Resampler(recordings, num_draws)
        self._kept: dict[int, dict[Measure, np.ndarray]] = {}

    @property
    def num_recordings(self) -> int:
        return int(self._recordings.max()) + 1

    @property
    def design_effect(self) -> float:
        """The mean design effect of the softmax: how many of the reference's videos count as one."""
        return float(self._effects.mean())

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that the reference has."""
        known = [measure for measure in NUMBERS if self.reference.numbers(measure) is not None]
        return Measure.SOFTMAX, Measure.CLASSES, *known

    def check(self, stream: Videos) -> Check:
        """Compares a stream with the reference, by the measures that both have."""
        common = [
            measure
            for measure in self.measures
            if measure not in NUMBERS or stream.numbers(measure) is not None
        ]
        level = self._level / len(common)
        findable = self._findable(len(stream), level)
        tests: tuple[Test, ...] = ()
        if len(stream) and self.num_recordings >= MIN_RECORDINGS:
            tests = tuple(self._test(measure, stream, level) for measure in common)
        if any(test.is_alarm for test in tests):
            finding = Finding.DRIFT
        else:
            finding = Finding.NO_DRIFT if tests and findable <= FINDABLE else Finding.TOO_FEW
        return Check(
            num_videos=len(stream),
            tests=tests,
            finding=finding,
            findable=findable,
            videos_needed=self._videos_needed(level),
        )

    def _size(self, num_videos: int) -> float:
        """Returns the effective size of the comparison with a stream, with the mean design effect."""
        size = distances.effective_size(len(self.reference), num_videos, self._effects.mean())
        return float(size)

    def _findable(self, num_videos: int, level: float) -> float:
        """Returns Check.findable, given the level of the test of the softmax."""
        if not num_videos:
            return math.inf
        needed = distances.size_needed(level / len(self._classes), 1.0)  # it grows with 1 / distance ** 2
        return math.sqrt(needed / self._size(num_videos))

    def _videos_needed(self, level: float) -> int | None:
        """Returns Check.videos_needed, given the level of the test of the softmax."""
        needed = distances.size_needed(level / len(self._classes), FINDABLE) * self._effects.mean()
        num = len(self.reference)  # num * m / (num + m) >= needed, solved for m
        if self.num_recordings < MIN_RECORDINGS or num <= needed:
            return None
        return math.ceil(needed * num / (num - needed))

    def _test(self, measure: Measure, stream: Videos, level: float) -> Test:
        if measure == Measure.SOFTMAX:
            return self._test_softmax(stream, level)
        binned = self._binned[measure]
        found = np.bincount(binned.bin_of(stream), minlength=binned.table.num_bins)
        value = float(binned.statistic(binned.counts, found))
        drawn = self._drawn(len(stream))[measure]
        return Test(
            measure=measure,
            statistic=value,
            threshold=float(np.quantile(drawn, 1 - level, method="higher")),
            p=(1 + int((drawn >= value - _ROUNDING).sum())) / (1 + len(drawn)),
            level=level,
        )

    def _test_softmax(self, stream: Videos, level: float) -> Test:
        found = distances.ks_distances(self.reference.probabilities, stream.probabilities)
        sizes = distances.effective_size(len(self.reference), len(stream), self._effects)
        p_values = distances.ks_p_values(found, sizes)
        place, num_classes = int(np.argmin(p_values)), len(self._classes)
        return Test(
            measure=Measure.SOFTMAX,
            statistic=float(found[place]),
            threshold=float(distances.ks_threshold(level / num_classes, sizes[place])),
            p=min(1.0, num_classes * float(p_values[place])),
            level=level,
            where=self._classes[place],
        )

    def _drawn(self, num_videos: int) -> dict[Measure, np.ndarray]:
        """Returns the statistics of streams that are drawn from the reference, float64 [draws], by measure."""
        if num_videos not in self._kept:
            if len(self._kept) >= _KEPT_SIZES:
                self._kept.clear()
            tables = [binned.table for binned in self._binned.values()]
            streams = self._resampler.streams(tables, num_videos)
            self._kept[num_videos] = {
                measure: binned.statistic(*counts)
                for (measure, binned), *counts in zip(self._binned.items(), self._references, streams)
            }
        return self._kept[num_videos]

    @functools.cached_property
    def _references(self) -> list[np.ndarray]:
        """Drawn references by measure: number of videos by draw and bin, int32 [draws, K]."""
        return self._resampler.references([binned.table for binned in self._binned.values()])


@dataclasses.dataclass(frozen=True)
class _Binned:
    """A measure in K bins.

    table: the reference's videos in bins.
    counts: their number in each bin, int64 [K].
    bin_of: returns the bins of other videos, int64 [M].
    statistic: compares numbers of videos by bin, [..., K] each; returns [...].
    """

    table: Table
    counts: np.ndarray
    bin_of: Callable[[Videos], np.ndarray]
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _bin(measure: Measure, reference: Videos) -> _Binned:
    """Sorts a reference's videos into bins: classes, or parts of the range of a number."""
    if measure == Measure.CLASSES:
        num_bins = reference.probabilities.shape[1]
        counts = np.bincount(reference.predicted, minlength=num_bins)
        unseen = np.resize(np.argsort(counts, kind="stable")[:NUM_UNSEEN], NUM_UNSEEN)  # the rarest
        table = Table(np.concatenate([reference.predicted, unseen]), num_bins)
        return _Binned(table, counts, lambda videos: videos.predicted, distances.chi_squared)
    edges = bin_edges(_numbers(measure, reference))

    def bin_videos(videos: Videos) -> np.ndarray:
        return bin_of(_numbers(measure, videos), edges)

    bins = bin_videos(reference)
    table = Table(np.concatenate([bins, [0, len(edges)]]), len(edges) + 1)
    return _Binned(table, np.bincount(bins, minlength=table.num_bins), bin_videos, distances.psi)


def _numbers(measure: Measure, videos: Videos) -> np.ndarray:
    values = videos.numbers(measure)
    assert values is not None
    return np.round(values) if measure == Measure.FRAME_RATE else values  # 29.97 is as good as 30


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Returns the edges of bins that hold about equal numbers of a reference's values, ascending, float64 [E].

    The first edge is just below the least value, the last one is the largest value. Values that repeat often
    give fewer edges, and so a bin of their own.
    """
    parts = np.quantile(values, np.arange(1, _NUM_PARTS + 1) / _NUM_PARTS, method="inverted_cdf")
    return np.concatenate([[np.nextafter(values.min(), -np.inf)], np.unique(parts)])


def bin_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the bin of each value, int64 [N]: 0 below all edges, E above all, else that of the edge above it."""
    return np.searchsorted(edges, values, side="left")
