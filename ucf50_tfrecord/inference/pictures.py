"""Measures of a video's frames that need no model: how bright they are, and how much changes between them."""

from __future__ import annotations

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue; ITU-R BT.601
_WHITE = 255.0


def brightness(clips: np.ndarray) -> np.ndarray:
    """Computes the mean luma of each clip, from 0 (black) to 1 (white).

    Args:
      clips: frames in RGB, uint8 [N, T, H, W, C]; neighbours, beyond the first 3 of C, do not count.

    Returns:
      The means over all pixels of all frames, float64 [N].
    """
    return clips[..., :3].mean(axis=(1, 2, 3)) @ _LUMA / _WHITE


def motion_energy(clips: np.ndarray) -> np.ndarray:
    """Computes the mean absolute difference of consecutive frames of each clip, from 0 to 1.

    Args:
      clips: frames in RGB, uint8 [N, T, H, W, C]; neighbours, beyond the first 3 of C, do not count.

    Returns:
      The means over all pixels, colours and pairs of frames, float64 [N]; 0 for clips of a single frame.
    """
    if clips.shape[1] == 1:
        return np.zeros(len(clips))
    # One clip at a time, as signed differences take twice the memory of the frames.
    changes = [np.abs(np.diff(clip[..., :3].astype(np.int16), axis=0)).mean() for clip in clips]
    return np.array(changes) / _WHITE
