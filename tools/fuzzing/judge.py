"""Checks a conversion of mutants: each video must be converted or quarantined, with the right pixels."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tools.fuzzing import reference, watched
from tools.fuzzing.findings import Counter, Problem
from ucf50_tfrecord.specs import ClipFormat

_REFERENCE_SECS = 60.0
# Notes for clips whose pixels equal those of a reference decoder, or could not be compared with them.
SAME, UNSTABLE, UNKNOWN = (
    "clips like an ordered reference",
    "clips without a reference: two ordered passes differ",
    "clips without a reference: it crashed or took too long",
)


def account(
    videos: Iterable[str],
    clips: Mapping[str, Sequence],
    quarantined: Mapping[str, Sequence[str]],
    clips_per_video: int,
) -> dict[str, Problem]:
    """Checks that each video has either all of its clips or exactly one entry in the quarantine.

    Args:
      videos: paths of the videos that were to be converted. Other paths must not occur.
      clips: each video's clips, by its path.
      quarantined: the causes of each video's entries in the quarantine, by its path.
      clips_per_video: number of clips that a converted video has.

    Returns:
      A dictionary from path to problem, for each video that fails the check.
    """
    found = {}
    known = set(videos)
    for path in sorted(known | set(clips) | set(quarantined)):
        counts = len(clips.get(path, ())), len(quarantined.get(path, ()))
        right = {(clips_per_video, 0), (0, 1)} if path in known else {(0, 0)}
        if counts not in right:
            text = f"{counts[0]} clips, {counts[1]} times in quarantine"
            found[path] = Problem(Counter.ACCOUNT, text, text)
    return found


class Reference:
    """Checks the pixels of clips against an independent decoder, which reads all frames of a video in order.

    It decodes in two processes of its own, since damaged videos may crash it.
    """

    def __init__(self, scratch: pathlib.Path):
        self._first = watched.Helper(reference.clip_digests, scratch / "first")
        self._second = watched.Helper(reference.clip_digests, scratch / "second")

    def close(self) -> None:
        self._first.stop()
        self._second.stop()

    def judge(self, path: str, clip_format: ClipFormat, digests: Sequence[str]) -> Problem | str:
        """Compares the clips of a video, given by their reference.digest, with two passes of the decoder.

        Returns:
          A Problem if the two passes agree with each other but not with the clips. Otherwise one of the notes
          SAME, UNSTABLE and UNKNOWN.
        """
        try:
            first = self._first.ask(_REFERENCE_SECS, path, clip_format, False)
            if first == list(digests):
                return SAME
            second = self._second.ask(_REFERENCE_SECS, path, clip_format, True)
        except watched.Silent:
            return UNKNOWN
        if first != second:
            return UNSTABLE
        what = "no frame decodes in order" if first is None else "other pixels"
        return Problem(Counter.PIXELS, what, what)
