"""Attributes a model's prediction for a clip to the clip's frames, by Shapley values.

A frame's Shapley value is what the frame adds to the probability of the true class, averaged over the orders in which
frames can be added to an empty clip. Source: Price and Damen 2020, "Play Fair: Frame Attributions in Video Models".
There, models take any number of frames. Here, they take a fixed number, so a frame that is left out is replaced by
the frame before it. Few of the orders are used, so the values are estimates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from ucf50_tfrecord.dataset.clips import name_hash
from ucf50_tfrecord.evaluation import measures
from ucf50_tfrecord.parsing import Count, Finite, Fraction

_MAX_SUBSETS = 256  # per clip; it limits the number of orders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """What each frame of a clip adds to the probability of the clip's true class.

    clip: index of the clip in the comparison's clips.
    prior: probability of the class without any frame: its frequency among the training clips.
    contributions: the Shapley values of the T frames. They sum to the probability for the whole clip minus `prior`.
    """

    clip: Count
    prior: Fraction
    contributions: tuple[Finite, ...]


def attribute(
    predict: Callable[[np.ndarray], np.ndarray], video: np.ndarray, label: int, prior: float, *, clip_id: str
) -> np.ndarray:
    """Estimates the Shapley values of a clip's frames.

    Args:
      predict: maps clips, [N, T, ...], to logits, float [N, C].
      video: the clip, uint8 [T, H, W, 3], or features, float16 [T, ...].
      label: the clip's true class.
      prior: probability of this class without any frame.
      clip_id: the clip's id, on which the orders of frames depend.

    Returns:
      The Shapley values, float64 [T].
    """
    orders = draw_orders(clip_id, len(video))
    positions = np.argsort(orders, axis=1)  # of each frame in each order, [P, T]
    kept = positions[:, np.newaxis] <= np.arange(len(video))[:, np.newaxis]  # [P, T subsets, T frames]
    subsets, index = np.unique(kept.reshape(-1, len(video)), axis=0, return_inverse=True)
    sources = replace_missing(subsets)
    logits = predict(video[sources])
    likely = special.softmax(logits.astype(np.float64), axis=1)[:, label]
    return measures.shapley_values(orders, likely[index].reshape(orders.shape), prior)


def draw_orders(clip_id: str, num_frames: int) -> np.ndarray:
    """Draws orders in which frames are added: rotations of a random order, int64 [P, T].

    With up to 16 frames, all rotations are used; with more, evenly spaced ones.
    """
    order = np.random.default_rng(name_hash(clip_id)).permutation(num_frames)
    count = min(num_frames, max(1, _MAX_SUBSETS // num_frames))
    shifts = np.arange(count) * num_frames // count
    return order[(np.arange(num_frames) + shifts[:, np.newaxis]) % num_frames]


def replace_missing(kept: np.ndarray) -> np.ndarray:
    """Chooses frames to show in place of missing ones: the last kept frame before, or else the first kept frame.

    Args:
      kept: which frames are kept, bool [M, T], at least one per row.

    Returns:
      The index of the frame to show at each time, int64 [M, T].
    """
    before = np.maximum.accumulate(np.where(kept, np.arange(kept.shape[1]), -1), axis=1)
    return np.where(before < 0, kept.argmax(axis=1)[:, np.newaxis], before)


def attribute_clips(
    predict: Callable[[np.ndarray], np.ndarray],
    videos: np.ndarray,
    labels: np.ndarray,
    *,
    places: Sequence[int],
    clip_ids: Sequence[str],
    train_labels: np.ndarray,
) -> tuple[Attribution, ...]:
    """Attributes a model's predictions for M clips to their frames.

    Args:
      predict: maps clips, [N, T, ...], to logits, float [N, C].
      videos: the clips, uint8 [M, T, H, W, 3], or features, float16 [M, T, ...].
      labels: the clips' true classes, int [M].
      places: indices of the clips in the comparison's clips.
      clip_ids: ids of the clips.
      train_labels: classes of the training clips, int [N].
    """
    found = []
    for video, label, place, clip_id in zip(videos, labels.tolist(), places, clip_ids, strict=True):
        prior = float((train_labels == label).mean())
        values = attribute(predict, video, label, prior, clip_id=clip_id)
        found.append(Attribution(clip=int(place), prior=prior, contributions=tuple(values.tolist())))
    return tuple(found)
