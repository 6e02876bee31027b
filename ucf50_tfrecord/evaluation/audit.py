"""Looks for clips that stand on both sides of a split in all but name, without any training.

Each test clip is held against its nearest training clip by small pictures of a few of its frames.
Where recordings are on both sides the nearest one tends to be of the same recording, and its label
is then right for no merit of a model's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from sklearn import neighbors

from ucf50_tfrecord import record
from ucf50_tfrecord.parsing import Count, Finite, Fraction

_SIDE = 16  # pixels of the pictures that are compared
_NUM_FRAMES = 3
_NUM_PAIRS = 8
# Cosine similarity of pictures whose mean is taken off, above which clips are told as near-duplicates.
NEAR_DUPLICATE = 0.98


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestClips:
    """Test clips and their nearest training clips, over all parts of a split.

    accuracy: share of test clips whose nearest training clip has their label.
    same_recording: share whose nearest one is of the same class and group; None where no clip has a group.
    near_duplicates: share whose nearest one is more similar than NEAR_DUPLICATE.
    pairs: the most similar ones, as [test clip, training clip, cosine similarity], by index.
    """

    accuracy: Fraction
    same_recording: Fraction | None
    near_duplicates: Fraction
    pairs: list[tuple[Count, Count, Finite]]


def fingerprints(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Makes small pictures of clips: uint8 [B, T, H, W, 3] each to float32 [N, 3 * 16 * 16 * 3], of length 1.

    The frames at the start, the middle and the end, scaled down by areas, less each picture's mean.
    """
    return np.concatenate([_fingerprint(video) for video in batches])


def find_nearest(
    pictures: np.ndarray, parts: np.ndarray, *, labels: np.ndarray, groups: np.ndarray
) -> NearestClips:
    """Finds each clip's nearest one among all other parts.

    Args:
      pictures: what `fingerprints` returns.
      parts: int [N], which part of the split each clip is tested in.
      labels: int [N].
      groups: int [N], record.UNKNOWN_GROUP where there is none.
    """
    nearest, similarity = np.empty(len(parts), np.int64), np.empty(len(parts))
    for part in np.unique(parts):
        test, train = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        index = neighbors.NearestNeighbors(n_neighbors=1).fit(pictures[train])
        distances, found = index.kneighbors(pictures[test])
        nearest[test] = train[found[:, 0]]
        similarity[test] = 1 - distances[:, 0] ** 2 / 2  # of vectors of length 1
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
