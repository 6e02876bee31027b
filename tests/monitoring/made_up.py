"""Made-up videos whose recordings look alike."""

from __future__ import annotations

import numpy as np
from scipy import special

from ucf50_tfrecord.monitoring.videos import Videos

CLASSES = ("a", "b", "c", "d")


def make_videos(
    rng: np.random.Generator,
    num_recordings: int,
    *,
    mean_size: float = 3.0,
    likeness: float = 0.7,
    darker: float = 0.0,
) -> tuple[Videos, np.ndarray]:
    """Draws videos in recordings.

    Args:
      rng: random numbers.
      num_recordings: number of recordings.
      mean_size: mean number of videos per recording.
      likeness: fraction of the variance that videos of a recording share.
      darker: shift of the brightness, in standard deviations.

    Returns:
      A tuple of the videos and the index of each one's recording, int64 [N].
    """
    sizes = 1 + rng.poisson(mean_size - 1, num_recordings)
    recordings = np.repeat(np.arange(num_recordings), sizes)

    def values(*shape: int) -> np.ndarray:
        shared = rng.normal(size=(num_recordings, *shape))[recordings]
        own = rng.normal(size=(len(recordings), *shape))
        return np.sqrt(likeness) * shared + np.sqrt(1 - likeness) * own

    logits = 1.5 * values(len(CLASSES))
    logits[np.arange(len(recordings)), rng.integers(0, len(CLASSES), num_recordings)[recordings]] += 3
    videos = Videos(
        probabilities=special.softmax(logits, axis=1).round(6),
        brightness=special.expit(values() - darker),
        motion_energy=0.1 * special.expit(values()),
        frame_rate=np.where(rng.random(num_recordings) < 0.3, 25.0, 29.97)[recordings],
    )
    return videos, recordings
