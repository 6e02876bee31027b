"""Divides a run's held-out groups into a smaller reference and a stream, to count the alarms of monitoring."""

from __future__ import annotations

import collections

import numpy as np

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.monitoring.drift import Checker
from ucf50_tfrecord.monitoring.reference import Reference
from ucf50_tfrecord.monitoring.videos import Videos


class Halves:
    """Divisions of a reference's groups into two halves: a smaller reference, and the videos of a stream."""

    def __init__(self, reference: Reference, classes: tuple[str, ...], *, size: str, draws: int):
        """Divides the groups.

        Args:
          reference: the held-out videos.
          classes: names of the classes.
          size: number of videos in the stream, or "all".
          draws: number of divisions.
        """
        groups = np.unique(reference.groups)
        expect(len(groups) >= 4, "at least 4 groups of held-out clips", groups=len(groups))
        self._halves = []
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            held = np.isin(reference.groups, rng.permutation(groups)[: len(groups) // 2])
            recordings = np.unique(reference.recordings[held], return_inverse=True)[1]
            checker = Checker(reference.videos.select(held), recordings, classes)
            self._halves.append((checker, choose_stream(reference, np.flatnonzero(~held), size, rng)))

    def count_alarms(self, videos: Videos) -> collections.Counter:
        """Counts the draws with an alarm of each measure, and of any ("any").

        Args:
          videos: the reference's videos, in its order, as they arrive in the stream. Videos whose probabilities are
            NaN do not decode; they are left out.
        """
        counts: collections.Counter = collections.Counter()
        for checker, others in self._halves:
            readable = others[~np.isnan(videos.probabilities[others, 0])]
            alarms = checker.check(videos.select(readable)).alarms
            counts.update([*alarms, *(["any"] if alarms else [])])
        return counts


def choose_stream(
    reference: Reference, others: np.ndarray, size: str, rng: np.random.Generator
) -> np.ndarray:
    """Returns the videos of a stream, out of `others`: whole recordings in a random order, the last one cut."""
    recordings = reference.recordings[others]
    ranks = rng.permutation(int(recordings.max()) + 1)[recordings]
    ordered = others[np.argsort(ranks, kind="stable")]
    return ordered if size == "all" else ordered[: int(size)]
