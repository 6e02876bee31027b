"""Finds near-duplicates between the training clips and the test clips of a split, without any training.

Each test clip is compared with all training clips by small pictures of a few frames. If training and test
clips come from one recording, a test clip's nearest training clip tends to be of the same recording. Its
label is then right, although nothing has recognised the action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from sklearn import neighbors

from ucf50_tfrecord import record
from ucf50_tfrecord.parsing import Count, Finite, Fraction

NOT_TESTED = -1  # stands for the part of clips that are only trained on
NEAR_DUPLICATE = 0.98  # cosine similarity above which two clips are near-duplicates
_SIDE = 16  # height and width in pixels of the pictures that are compared
_NUM_FRAMES = 3
_NUM_PAIRS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestClips:
    """Statistics of test clips and their nearest training clips, over all parts of a split.

    The parts of a split are tested in turn. While one part is tested, the clips of the other parts are the
    training clips.

    accuracy: fraction of test clips whose nearest training clip has their label.
    same_recording: fraction of test clips with a known recording group whose nearest training clip is of the
      same class and group; None if no clip has a group.
    near_duplicates: fraction of test clips whose nearest training clip is more similar than NEAR_DUPLICATE.
    pairs: the most similar pairs, each as [index of test clip, index of training clip, cosine similarity].
    """

    accuracy: Fraction
    same_recording: Fraction | None
    near_duplicates: Fraction
    pairs: list[tuple[Count, Count, Finite]]


def fingerprints(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Makes a unit vector of each clip, for comparing clips with each other.

    A vector holds the first, middle and last frame, scaled down by area averaging, minus their mean.

    Args:
      batches: batches of clips, each uint8 [B, T, H, W, C]; neighbours of frames are left out.

    Returns:
      The vectors of all N clips, float32 [N, 3 * 16 * 16 * 3].
    """
    return np.concatenate([_fingerprint(video) for video in batches])


def find_nearest(
    pictures: np.ndarray, parts: np.ndarray, *, labels: np.ndarray, groups: np.ndarray
) -> NearestClips:
    """Finds each tested clip's nearest clip among the clips that are not in its part of a split.

    Args:
      pictures: unit vectors of N clips, from `fingerprints`.
      parts: the index of the part of the split in which each clip is tested, int [N]; NOT_TESTED for clips
        that are only trained on.
      labels: the class of each clip, int [N].
      groups: the recording group of each clip, int [N]; record.UNKNOWN_GROUP for clips without one.
    """
    nearest, similarity = np.empty(len(parts), np.int64), np.empty(len(parts))
    tested = np.flatnonzero(parts != NOT_TESTED)
    for part in np.unique(parts[tested]):
        test, train = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        index = neighbors.NearestNeighbors(n_neighbors=1).fit(pictures[train])
        distances, found = index.kneighbors(pictures[test])
        nearest[test] = train[found[:, 0]]
        similarity[test] = 1 - distances[:, 0] ** 2 / 2  # holds for unit vectors
    nearest, similarity = nearest[tested], similarity[tested]
    is_right = labels[tested] == labels[nearest]
    known = groups[tested] != record.UNKNOWN_GROUP
    same = is_right & (groups[tested] == groups[nearest])
    most = np.argsort(-similarity, kind="stable")[:_NUM_PAIRS]
    return NearestClips(
        accuracy=float(is_right.mean()),
        same_recording=float(same[known].mean()) if known.any() else None,
        near_duplicates=float((similarity > NEAR_DUPLICATE).mean()),
        pairs=[(int(tested[i]), int(nearest[i]), float(similarity[i])) for i in most],
    )


def _fingerprint(video: np.ndarray) -> np.ndarray:
    chosen = np.linspace(0, video.shape[1] - 1, _NUM_FRAMES).round().astype(int)
    small = [
        tf.image.resize(video[:, i, ..., :3].astype(np.float32), (_SIDE, _SIDE), method="area").numpy()
        for i in chosen
    ]
    rows = np.stack(small, axis=1).reshape(len(video), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
