"""Resamples a reference by recording, to learn how statistics vary although nothing has drifted.

Videos of one recording look alike, so their number overstates what is known. Both sides of a comparison are
therefore drawn from the reference as whole recordings, with replacement (the cluster bootstrap; Efron and
Tibshirani 1993, "An Introduction to the Bootstrap").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Recordings that the reference happens to lack, one for each end of a measure's range. A new recording lies above
# all of G others with probability 1 / (G + 1), and as often below. Without them, a drawn stream would never hold
# a value that the reference does not hold, and a single new value would be an alarm.
NUM_UNSEEN = 2
_CHUNK_VALUES = 1 << 21  # drawn videos that are in memory at once


class Table(NamedTuple):
    """A measure of a reference's N videos in K bins.

    bins: bin of each video, and of those of the NUM_UNSEEN made-up recordings, int64 [N + NUM_UNSEEN].
    num_bins: number of bins, K.
    """

    bins: np.ndarray
    num_bins: int


class Resampler:
    """Draws references and streams. All measures of one comparison share the draws.

    num_draws: number of draws.
    """

    def __init__(self, recordings: np.ndarray, num_draws: int, *, seed: int = 0):
        """Prepares the draws.

        Args:
          recordings: index of the recording of each of the reference's N videos, from 0, int64 [N].
          num_draws: number of draws.
          seed: seed of the random numbers.
        """
        self.num_draws = num_draws
        self._recordings, self._seed = recordings, seed
        sizes = np.bincount(recordings)
        self._num_recordings = len(sizes)
        typical = max(1, round(len(recordings) / len(sizes)))
        self._sizes = np.concatenate([sizes, np.full(NUM_UNSEEN, typical)])
        self._starts = np.cumsum(self._sizes) - self._sizes
        # Videos by recording; those of a made-up recording all have the same number, N or N + 1.
        made_up = np.repeat(len(recordings) + np.arange(NUM_UNSEEN), typical)
        self._videos = np.concatenate([np.argsort(recordings, kind="stable"), made_up])

    def references(self, tables: Sequence[Table]) -> list[np.ndarray]:
        """Draws references of as many recordings as this one has, none of them made up.

        Returns:
          For each measure, the number of videos by draw and bin, int32 [draws, K].
        """
        num = self._num_recordings
        by_recording = []
        for bins, num_bins in tables:
            table = np.zeros((num, num_bins), np.int32)
            np.add.at(table, (self._recordings, bins[: len(self._recordings)]), 1)
            by_recording.append(table)
        found: list[list[np.ndarray]] = [[] for _ in tables]
        rng = np.random.default_rng([self._seed, 0])
        for rows in self._parts(num):
            drawn = rng.multinomial(num, np.full(num, 1 / num), size=rows).astype(np.int32)
            for counts, table in zip(found, by_recording):
                counts.append(drawn @ table)
        return [np.concatenate(counts) for counts in found]

    def streams(self, tables: Sequence[Table], num_videos: int) -> list[np.ndarray]:
        """Draws streams of `num_videos` videos as whole recordings, of which the last one may be cut.

        Equal numbers of videos give equal draws.

        Returns:
          For each measure, the number of videos by draw and bin, int32 [draws, K].
        """
        found: list[list[np.ndarray]] = [[] for _ in tables]
        rng = np.random.default_rng([self._seed, num_videos])
        for rows in self._parts(num_videos):
            videos = self._draw(rows, num_videos, rng)
            for counts, (bins, num_bins) in zip(found, tables):
                places = num_bins * np.arange(rows)[:, np.newaxis] + bins[videos]
                counts.append(np.bincount(places.ravel(), minlength=rows * num_bins).reshape(rows, num_bins))
        return [np.concatenate(counts).astype(np.int32) for counts in found]

    def _parts(self, row_values: int) -> Iterator[int]:
        """Yields numbers of draws to make at once, if each takes `row_values` values."""
        most = max(1, _CHUNK_VALUES // row_values)
        for first in range(0, self.num_draws, most):
            yield min(most, self.num_draws - first)

    def _draw(self, num: int, num_videos: int, rng: np.random.Generator) -> np.ndarray:
        """Returns the positions of the videos of `num` streams, int64 [num, num_videos]."""
        picked = rng.integers(0, len(self._sizes), (num, num_videos))  # at most one recording per video
        sizes = self._sizes[picked]
        taken = np.clip(num_videos - (np.cumsum(sizes, axis=1) - sizes), 0, sizes).ravel()
        within = np.arange(num * num_videos) - np.repeat(np.cumsum(taken) - taken, taken)
        return self._videos[np.repeat(self._starts[picked].ravel(), taken) + within].reshape(num, num_videos)
