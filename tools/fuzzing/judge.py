"""Checks that each mutant is accounted for once, and that its pixels are right."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.fuzzing import watched
from tools.fuzzing.findings import Counter, Problem
from ucf50_tfrecord.specs import ClipFormat

_REFERENCE_SECS = 60.0
# Notes about compared pixels.
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
    """Returns a problem for each video without either all of its clips or one entry in the quarantine.

    Args:
      videos: paths of the videos to convert.
      clips, quarantined: the results by path, perhaps of other videos too.
      clips_per_video: clips of each converted video.
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
    """Decodes videos in order, in processes of its own, to compare clips with."""

    def __init__(self, scratch: pathlib.Path):
        self._first = watched.Helper("tools.fuzzing.reference", scratch / "first")
        # This setting fills freshly allocated memory with other contents.
        self._second = watched.Helper("tools.fuzzing.reference", scratch / "second", MALLOC_PERTURB_="165")

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._first.stop()
        self._second.stop()

    def judge(self, path: str, clip_format: ClipFormat, digests: Sequence[str]) -> Problem | str:
        """Returns a problem if two ordered passes agree with each other but not with the clips; else a note.

        Args:
          path: the video.
          clip_format: the format of its clips.
          digests: reference.digest of each clip.
        """
        question = {name: getattr(clip_format, name) for name in ("height", "width", "num_frames", "spacing")}
        question |= {"path": path, "clips_per_video": clip_format.clips_per_video}
        try:
            first = _ask(self._first, question, hold=False)
            if first == list(digests):
                return SAME
            second = _ask(self._second, question, hold=True)
        except watched.Silent:
            return UNKNOWN
        if first != second:
            return UNSTABLE
        what = "no frame decodes in order" if first is None else "other pixels"
        return Problem(Counter.PIXELS, what, what)


def _ask(helper: watched.Helper, question: dict[str, Any], *, hold: bool) -> list[str] | None:
    return helper.ask(question | {"hold": hold}, _REFERENCE_SECS)
