"""Resamples a reference by recording, to learn how statistics vary although nothing has drifted.

Videos of one recording look alike, so their number overstates what is known. Both sides of a comparison are
therefore drawn from the reference as whole recordings, with replacement (the cluster bootstrap; Efron and
Tibshirani 1993, "An Introduction to the Bootstrap").
"""

from __future__ import annotations

import functools

import numpy as np

# Recordings that the reference happens to lack, one for each end of a measure's range. A new recording lies above
# all of G others with probability 1 / (G + 1), and as often below. Without them, a drawn stream would never hold
# a value that the reference does not hold, and a single new value would be an alarm.
NUM_UNSEEN = 2
_CHUNK_VALUES = 1 << 21  # drawn videos that are in memory at once


class Resampler:
    """Draws references and streams; all measures of one comparison share the draws.

    num_draws: number of draws.
    """

    def __init__(self, recordings: np.ndarray, num_draws: int, rng: np.random.Generator):
        """Prepares the draws.

        Args:
          recordings: index of the recording of each of the reference's N videos, from 0, int64 [N].
          num_draws: number of draws.
          rng: random numbers.
        """
        self.num_draws = num_draws
        self._recordings, self._rng = recordings, rng
        sizes = np.bincount(recordings)
        typical = max(1, round(len(recordings) / len(sizes)))
        self._sizes = np.concatenate([sizes, np.full(NUM_UNSEEN, typical)])
        self._starts = np.cumsum(self._sizes) - self._sizes
        # Videos by recording; those of a made-up recording all have the same number, N or N + 1.
        made_up = np.repeat(len(recordings) + np.arange(NUM_UNSEEN), typical)
        self._kept: dict[int, list[np.ndarray]] = {}  # the streams of the latest size
        self._videos = np.concatenate([np.argsort(recordings, kind="stable"), made_up])

    @functools.cached_property
    def _drawn_recordings(self) -> np.ndarray:
        """How often each recording is in each drawn reference, int64 [draws, G]."""
        num = len(self._sizes) - NUM_UNSEEN
        return self._rng.multinomial(num, np.full(num, 1 / num), size=self.num_draws)

    def references(self, bins: np.ndarray, num_bins: int) -> np.ndarray:
        """Returns the number of videos in each bin in references of as many recordings as this one has.

        Args:
          bins: bin of each video, int64 [N].
          num_bins: number of bins, K.

        Returns:
          The numbers by draw, int64 [draws, K].
        """
        table = np.zeros((len(self._sizes) - NUM_UNSEEN, num_bins), np.int64)
        np.add.at(table, (self._recordings, bins), 1)
        return self._drawn_recordings @ table

    def streams(self, bins: np.ndarray, num_bins: int, num_videos: int) -> np.ndarray:
        """Returns the number of videos in each bin in streams of whole recordings, of which the last may be cut.

        Args:
          bins: bin of each video, and of those of the NUM_UNSEEN made-up recordings, int64 [N + NUM_UNSEEN].
          num_bins: number of bins, K.
          num_videos: number of videos of a stream.

        Returns:
          The numbers by draw, int64 [draws, K].
        """
        found = []
        for videos in self._streams(num_videos):
            rows = num_bins * np.arange(len(videos))[:, np.newaxis]
            counts = np.bincount((rows + bins[videos]).ravel(), minlength=len(videos) * num_bins)
            found.append(counts.reshape(-1, num_bins))
        return np.concatenate(found)

    def _streams(self, num_videos: int) -> list[np.ndarray]:
        """Draws streams; returns the positions of their videos, int64 [draws, num_videos], in parts."""
        if num_videos not in self._kept:
            chunk = max(1, _CHUNK_VALUES // num_videos)
            sizes = [min(chunk, self.num_draws - first) for first in range(0, self.num_draws, chunk)]
            self._kept = {num_videos: [self._draw(size, num_videos) for size in sizes]}
        return self._kept[num_videos]

    def _draw(self, num: int, num_videos: int) -> np.ndarray:
        picked = self._rng.integers(0, len(self._sizes), (num, num_videos))  # at most one recording per video
        sizes = self._sizes[picked]
        taken = np.clip(num_videos - (np.cumsum(sizes, axis=1) - sizes), 0, sizes).ravel()
        within = np.arange(num * num_videos) - np.repeat(np.cumsum(taken) - taken, taken)
        return self._videos[np.repeat(self._starts[picked].ravel(), taken) + within].reshape(num, num_videos)
