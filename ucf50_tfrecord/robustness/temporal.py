"""Corruptions of time: which of a clip's frames are shown, and when.

Published corruptions of time count frames: windows of 32, 16, 8, 4 and 2 frames, or 40% to 10% of the frames
(Schiappa et al. 2023, "A Large-Scale Robustness Analysis of Video Action Recognition Models"). On clips of
15 frames, some of their severities are equal, and others are milder than the severity before. Here, all
strengths follow from the clip's number of frames T. Each severity is stronger than the one before if T is at
least 6.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ucf50_tfrecord.robustness.levels import SEVERITIES

_MOST = max(SEVERITIES)
# Standard deviations of the blur over neighbours, as fractions of a clip.
_BLURS = (0.03, 0.06, 0.1, 0.17, 0.3)


def distinct_frames(severity: int, num_frames: int) -> int:
    """Returns how many distinct frames `stride` keeps: from T down to 1 in steps of equal ratio, at least of 1."""
    return min(num_frames, max(round(num_frames ** (1 - severity / _MOST)), _MOST + 1 - severity))


def window(severity: int, num_frames: int) -> int:
    """Returns the number of frames in a window of `jumble`: up to T in steps of equal ratio, at least of 1."""
    return min(num_frames, max(round(num_frames ** (severity / _MOST)), severity + 1))


def live_frames(severity: int, num_frames: int) -> int:
    """Returns how many frames `frozen_tail` keeps: from T down to 1 in equal steps, at least of 1."""
    return min(num_frames, max(round(num_frames * (1 - severity / _MOST)), _MOST + 1 - severity))


def blur_frames(severity: int, num_frames: int) -> float:
    """Returns the standard deviation of `blurred`, in frames."""
    return _BLURS[severity - 1] * num_frames


def stride(num_frames: int, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Returns frame indices, int64 [T], of evenly spaced frames, each shown until the next one."""
    kept = distinct_frames(severity, num_frames)
    part = np.arange(num_frames) * kept // num_frames
    return -(-part * num_frames // kept)  # the first frame of each part


def jumble(num_frames: int, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Returns frame indices, int64 [T], in a random order within each window."""
    size = window(severity, num_frames)
    frames = np.arange(num_frames)
    return frames[np.lexsort((rng.random(num_frames), frames // size))]


def frozen_tail(num_frames: int, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Returns frame indices, int64 [T], the last of which repeat one frame."""
    return np.minimum(np.arange(num_frames), live_frames(severity, num_frames) - 1)


def blurred(clip: np.ndarray, severity: int) -> np.ndarray:
    """Averages each frame of a clip, uint8 [T, H, W, 3], with its neighbours, with the weights of a Gaussian."""
    deviation = blur_frames(severity, len(clip))
    smooth = ndimage.gaussian_filter1d(clip.astype(np.float32), deviation, axis=0, mode="nearest")
    return np.round(smooth).astype(np.uint8)
