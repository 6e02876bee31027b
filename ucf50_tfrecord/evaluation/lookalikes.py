"""Warns of test clips that look like training clips, if no recording group keeps recordings apart.

It needs no training and takes half a second per 300 clips of 64x64, so it runs before each training. The audit of a
comparison compares all clips, and its report shows pairs of them.
"""

from __future__ import annotations

import numpy as np

from ucf50_tfrecord import record, remote
from ucf50_tfrecord.dataset.clips import ClipIndex, frames_of
from ucf50_tfrecord.dataset.feed import read_in_batches
from ucf50_tfrecord.errors import Action, Advice, Remedy, UserError
from ucf50_tfrecord.evaluation import audit

# Limits on what is read: the number of test clips, and the bytes of all clips.
_MAX_TESTED, _MAX_BYTES = 200, 512 << 20
# Cosine similarity of fingerprints above which two clips look alike, and the fewest such test clips that are a warning:
# their number, and their fraction of the compared ones. Of 278 clips of eight classes of UCF50 at 64x64, 15% look like a
# clip outside their fifth of the clips if recordings are divided, and 0.7% if they are not. Of the audit's
# near-duplicates, which are more similar, there are 5% and none.
_ALIKE, _MIN_COUNT, _MIN_FRACTION = 0.95, 2, 0.05


def find(train: ClipIndex, test: ClipIndex) -> Advice | None:
    """Returns a warning if test clips without a known recording group look like training clips, else None.

    Compares evenly chosen clips by audit.fingerprints. If many training clips are left out, it misses as many
    look-alikes. It compares nothing if the frames are behind a URL, or those that features were made from are missing.

    Args:
      train: index of the training clips.
      test: index of the clips to test or to validate on.

    Raises:
      UserError: if a frame cannot be decoded although its record is sound.
    """
    unknown = test.select(test.groups == record.UNKNOWN_GROUP)
    if not len(unknown) or not len(train):
        return None
    most = max(2, _MAX_BYTES // train.manifest.format.num_bytes)  # clips
    tested = unknown.spread(min(_MAX_TESTED, most // 2))
    trained = train.spread(most - len(tested))
    fingerprints = [_fingerprints(clips) for clips in (tested, trained)]
    if any(found is None for found in fingerprints):
        return None
    similarity = fingerprints[0] @ fingerprints[1].T  # [tested, trained]
    alike = similarity.max(axis=1) > _ALIKE
    count = int(alike.sum())
    if count < max(_MIN_COUNT, _MIN_FRACTION * len(tested)):
        return None
    one, other = np.unravel_index(similarity.argmax(), similarity.shape)
    return Advice(
        f"{count} of {len(tested)} test clips without a known recording group look like one of {len(trained)} "
        f"training clips, such as {tested.ids[one]} like {trained.ids[other]}. If they are of one recording, scores are "
        "too high",
        Remedy(Action.SET, "to name the group in the videos' paths", group_pattern=...),
    )


def _fingerprints(clips: ClipIndex) -> np.ndarray | None:
    """Returns the fingerprints of N clips, float32 [N, F]; None if their frames are not on this machine.

    The fingerprint of an unreadable clip, or of one of a single colour, is zero: it looks like no other.
    """
    if remote.is_remote(clips.manifest.data_dir):
        return None
    try:
        frames = frames_of(clips)
    except UserError:  # features are complete without the frames that they were made from
        return None
    return audit.fingerprints(read_in_batches(frames))
