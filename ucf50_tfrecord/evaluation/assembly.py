"""Assembles a comparison's results: its clips, the results of its cells (trainings), and the audit of its clips."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import numpy as np

from ucf50_tfrecord.dataset.clips import ClipIndex, frames_of
from ucf50_tfrecord.dataset.feed import read_in_batches
from ucf50_tfrecord.evaluation import audit as audit_lib
from ucf50_tfrecord.evaluation.results import CellResult, ComparedClips, Results
from ucf50_tfrecord.specs import to_json


def assemble(
    clips: ClipIndex, found: Iterable[CellResult], *, audit: dict | None, num_frames: int | None = None
) -> Results:
    """Assembles a comparison's results from the results of its cells.

    Args:
      clips: index of all clips of the data set.
      found: the cells' results.
      audit: dictionary from split to audit.NearestClips as JSON; None for no audit.
      num_frames: as in compared_clips.
    """
    return Results(**vars(compared_clips(clips, num_frames)), cells=tuple(found), audit=audit)


def compared_clips(clips: ClipIndex, num_frames: int | None = None) -> ComparedClips:
    """Returns what a comparison's results say about its clips.

    Args:
      clips: index of all clips of the data set.
      num_frames: frames per clip that the models take; None for all stored ones.
    """
    return ComparedClips(
        name=pathlib.Path(clips.manifest.data_dir).name,
        classes=clips.manifest.classes,
        num_frames=num_frames or clips.manifest.format.num_frames,
        ids=clips.ids,
        labels=clips.labels.astype(np.int64),
        groups=clips.groups,
        folds=clips.folds,
        of_features=clips.manifest.features is not None,
    )


def find_near_duplicates(clips: ClipIndex, parts: dict[str, np.ndarray]) -> dict[str, dict]:
    """Finds each test clip's nearest training clip, for several splits of the clips.

    Args:
      clips: index of the N clips.
      parts: dictionary from each split to the index of the part in which each clip is tested, int64 [N].

    Returns:
      A dictionary from each split to the result of audit.find_nearest as JSON.
    """
    pictures = audit_lib.fingerprints(read_in_batches(frames_of(clips)))
    return {
        split: to_json(audit_lib.find_nearest(pictures, part, labels=clips.labels, groups=clips.groups))
        for split, part in parts.items()
    }
