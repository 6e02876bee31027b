"""Resamples a reference by recording, to learn how statistics vary although nothing has drifted.

Videos of one recording look alike, so their number overstates what is known. Both sides of a comparison are
therefore drawn from the reference as whole recordings, with replacement (the cluster bootstrap; Efron and
Tibshirani 1993, "An Introduction to the Bootstrap").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_CHUNK_VALUES = 1 << 21  # drawn videos that are in memory at once


@dataclasses.dataclass(frozen=True)
class Pool:
    """A reference's videos, each sorted into one of K bins, and recordings that the reference happens to lack.

    A new recording lies outside the reference's range, on one side, with probability 1 / (recordings + 1), and
    may be of a class that the reference lacks. The reference itself holds no such video, so a stream drawn from
    it alone would vary too little. `unseen` adds made-up recordings of the mean size.

    codes: bin of each video, int64 [N].
    recordings: index of each video's recording, from 0, int64 [N].
    num_bins: number of bins, K.
    unseen: made-up recordings as tuples of their bin and their weight; a recording of the reference has weight 1.
    """

    codes: np.ndarray
    recordings: np.ndarray
    num_bins: int
    unseen: Sequence[tuple[int, float]] = ()

    @property
    def counts(self) -> np.ndarray:
        """Number of the reference's videos in each bin, int64 [K]."""
        return np.bincount(self.codes, minlength=self.num_bins)

    def draw_references(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draws references of as many recordings as this one has.

        Returns:
          Number of videos by draw and bin, int64 [num, K].
        """
        num_recordings = int(self.recordings.max()) + 1
        table = np.zeros((num_recordings, self.num_bins), np.int64)
        np.add.at(table, (self.recordings, self.codes), 1)
        drawn = rng.multinomial(num_recordings, np.full(num_recordings, 1 / num_recordings), size=num)
        return drawn @ table

    def draw_streams(self, num: int, num_videos: int, rng: np.random.Generator) -> np.ndarray:
        """Draws streams of `num_videos` videos as whole recordings, of which only the last may be cut.

        Returns:
          Number of videos by draw and bin, int64 [num, K].
        """
        chunk = max(1, _CHUNK_VALUES // num_videos)
        sizes = [min(chunk, num - first) for first in range(0, num, chunk)]
        return np.concatenate([self._draw_streams(size, num_videos, rng) for size in sizes])

    def _draw_streams(self, num: int, num_videos: int, rng: np.random.Generator) -> np.ndarray:
        codes, starts, sizes, weights = self._recordings()
        picked = rng.choice(len(sizes), size=(num, num_videos), p=weights / weights.sum())
        before = np.cumsum(sizes[picked], axis=1) - sizes[picked]
        taken = np.clip(num_videos - before, 0, sizes[picked])  # videos of each picked recording
        within = np.arange(num * num_videos) - np.repeat(np.cumsum(taken) - taken.ravel(), taken.ravel())
        found = codes[np.repeat(starts[picked].ravel(), taken.ravel()) + within].reshape(num, num_videos)
        rows = self.num_bins * np.arange(num)[:, np.newaxis]
        return np.bincount((rows + found).ravel(), minlength=num * self.num_bins).reshape(num, -1)

    def _recordings(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns all bins by recording, the made-up ones last; each recording's first place, size and weight."""
        order = np.argsort(self.recordings, kind="stable")
        sizes = np.bincount(self.recordings)
        typical = max(1, round(len(self.codes) / len(sizes)))
        codes = [self.codes[order], *(np.full(typical, code) for code, _ in self.unseen)]
        sizes = np.concatenate([sizes, np.full(len(self.unseen), typical)]).astype(np.int64)
        weights = np.ones(len(sizes))
        weights[len(sizes) - len(self.unseen) :] = [weight for _, weight in self.unseen]
        return np.concatenate(codes), np.cumsum(sizes) - sizes, sizes, weights
