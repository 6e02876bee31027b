"""Judges what became of mutants: that each is accounted for once, and that its pixels are right."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.fuzzing import watched
from tools.fuzzing.findings import Counter, Problem
from ucf50_tfrecord.specs import ClipFormat

_REFERENCE_SECS = 60.0
# Notes of pixels that were looked at.
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
    """Returns what is wrong with videos that do not have either all of their clips or one line of the quarantine.

    Args:
      videos: paths of all that were to be converted.
      clips, quarantined: what there is, by the videos' paths; also of videos that were none of them.
      clips_per_video: how many clips each has.
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
    """Decodes videos in order, in a process of its own, to hold clips against."""

    def __init__(self, scratch: pathlib.Path):
        self._first = watched.Helper("tools.fuzzing.reference", scratch / "first")
        # Freshly allocated memory has other contents there.
        self._second = watched.Helper("tools.fuzzing.reference", scratch / "second", MALLOC_PERTURB_="165")

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._first.stop()
        self._second.stop()

    def judge(self, path: str, clip_format: ClipFormat, digests: Sequence[str]) -> Problem | str:
        """Returns a problem if a video's clips are not those of two ordered passes that agree; else a note.

        Args:
          path: the video.
          clip_format: of its clips.
          digests: of each clip's pixels, as reference.digest makes them.
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
