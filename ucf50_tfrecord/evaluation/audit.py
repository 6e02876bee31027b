"""Finds near-duplicates across a split, without any training.

Each test clip is compared with its nearest training clip by small pictures of a few frames. Where a recording is
on both sides of the split, the nearest clip tends to be of the same recording. Its label is then right without
any recognition of the action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from sklearn import neighbors

from ucf50_tfrecord import record
from ucf50_tfrecord.parsing import Count, Finite, Fraction

NEAR_DUPLICATE = 0.98  # the least cosine similarity of near-duplicates
_SIDE = 16  # pixels of the pictures that are compared
_NUM_FRAMES = 3
_NUM_PAIRS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestClips:
    """Test clips and their nearest training clips, over all parts of a split.

    accuracy: fraction of test clips whose nearest training clip has their label.
    same_recording: fraction whose nearest clip is of the same class and group; None where no clip has a group.
    near_duplicates: fraction whose nearest clip is more similar than NEAR_DUPLICATE.
    pairs: the most similar ones, as [test clip, training clip, cosine similarity], by index.
    """

    accuracy: Fraction
    same_recording: Fraction | None
    near_duplicates: Fraction
    pairs: list[tuple[Count, Count, Finite]]


def fingerprints(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Makes unit vectors of clips: batches uint8 [B, T, H, W, 3] to float32 [N, 3 * 16 * 16 * 3].

    A vector is the first, middle and last frame, scaled down by areas, minus their mean.
    """
    return np.concatenate([_fingerprint(video) for video in batches])


def find_nearest(
    pictures: np.ndarray, parts: np.ndarray, *, labels: np.ndarray, groups: np.ndarray
) -> NearestClips:
    """Finds each clip's nearest clip among all other parts.

    Args:
      pictures: from `fingerprints`.
      parts: int [N], the part of the split that each clip is tested in.
      labels: int [N].
      groups: int [N], record.UNKNOWN_GROUP where there is none.
    """
    nearest, similarity = np.empty(len(parts), np.int64), np.empty(len(parts))
    for part in np.unique(parts):
        test, train = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        index = neighbors.NearestNeighbors(n_neighbors=1).fit(pictures[train])
        distances, found = index.kneighbors(pictures[test])
        nearest[test] = train[found[:, 0]]
        similarity[test] = 1 - distances[:, 0] ** 2 / 2  # holds for unit vectors
    known = groups != record.UNKNOWN_GROUP
    same = (labels == labels[nearest]) & (groups == groups[nearest])
    most = np.argsort(-similarity, kind="stable")[:_NUM_PAIRS]
    return NearestClips(
        accuracy=float((labels == labels[nearest]).mean()),
        same_recording=float(same[known].mean()) if known.any() else None,
        near_duplicates=float((similarity > NEAR_DUPLICATE).mean()),
        pairs=[(int(i), int(nearest[i]), float(similarity[i])) for i in most],
    )


def _fingerprint(video: np.ndarray) -> np.ndarray:
    chosen = np.linspace(0, video.shape[1] - 1, _NUM_FRAMES).round().astype(int)
    small = [
        tf.image.resize(video[:, i].astype(np.float32), (_SIDE, _SIDE), method="area").numpy() for i in chosen
    ]
    rows = np.stack(small, axis=1).reshape(len(video), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
