"""Which of a video's frames make a clip."""

from __future__ import annotations

import numpy as np


def even_indices(num_available: int, num_frames: int) -> np.ndarray:
    """Picks `num_frames` evenly spaced frames out of `num_available`, both ends included.

    Frame i is round(i * (num_available - 1) / (num_frames - 1)), halves up, in integer
    arithmetic so that no platform rounds differently. A clip of one frame is the middle
    one; a video with too few frames repeats some.

    Returns:
      int64 [num_frames], ascending.
    """
    last = num_available - 1
    if num_frames == 1:
        return np.array([last // 2], np.int64)
    steps = np.arange(num_frames, dtype=np.int64)
    return (2 * steps * last + num_frames - 1) // (2 * (num_frames - 1))
