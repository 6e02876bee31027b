"""Interventions on evaluation clips: what a model loses shows what it used."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def frame_orders(clip_ids: Sequence[str], num_frames: int, *, seed: int) -> np.ndarray:
    """Draws a random order of frames for each clip: int64 [N, T].

    A clip's order follows from (seed, clip id), whatever else is evaluated with it.
    """
    keys = (zlib.crc32(clip_id.encode("utf-8", "surrogateescape")) for clip_id in clip_ids)
    orders = [np.random.default_rng([seed, key]).permutation(num_frames) for key in keys]
    return np.array(orders, np.int64).reshape(-1, num_frames)
