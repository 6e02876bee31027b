"""Shards: their names, and their descriptions in sidecars and manifest, which are checked when built."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.parsing import Count, Int64, Name, Sha256
from ucf50_tfrecord.specs import MAX_CLASSES

# A dataset's name. Shards' names begin with it, so it holds no part of a path.
DATASET_NAME = r"[a-z]\w*"
_SHARD = (
    r"(?P<name>{name})-fold(?P<fold>[0-9]{{2,}})\.tfrecord-(?P<index>[0-9]{{5,}})-of-(?P<count>[0-9]{{5,}})"
)


def shard_pattern(name: str | None = None) -> re.Pattern[str]:
    """Matches the file names of one dataset's shards, or of any dataset's."""
    return re.compile(_SHARD.format(name=DATASET_NAME if name is None else re.escape(name)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A video that gave no clip, and the reason.

    cause: "contents"; "unreadable" (its file) or "killed" (its process, by someone else), which the next
      conversion retries; "crash", "timeout" or "memory", which a verifying conversion retries.
    """

    relative_path: Name
    reason: str
    cause: str = "contents"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """State of a video's file at its conversion. sha256: None unless it was asked for."""

    num_bytes: Count
    mtime_ns: Int64
    sha256: Sha256 | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """Contents of one shard; its sidecar is this as JSON.

    clip_ids, labels, groups, offsets: one entry per record; offsets are the records' starts in bytes.
    sources: the files of the job's videos.
    fingerprint: the job's. sha256: of the shard's bytes.
    """

    filename: str
    fold: Count
    num_bytes: Count
    sha256: Sha256
    fingerprint: Sha256
    clip_ids: tuple[Name, ...]
    labels: tuple[Annotated[int, msgspec.Meta(ge=0, lt=MAX_CLASSES)], ...]
    groups: tuple[Int64 | None, ...]
    offsets: tuple[Count, ...]
    sources: tuple[SourceFile, ...]
    quarantined: tuple[Quarantined, ...] = ()

    def __post_init__(self):
        _expect_name(self.filename, self.fold)
        lengths = {name: len(getattr(self, name)) for name in ("clip_ids", "labels", "groups", "offsets")}
        expect(len(set(lengths.values())) == 1, "an entry for each clip", **lengths)
        expect(
            len(set(self.clip_ids)) == len(self.clip_ids),
            "distinct clip_ids",
            repeated=repeated(self.clip_ids),
        )
        edges = (*self.offsets, self.num_bytes)
        expect(
            edges[0] == 0 and all(start < end for start, end in itertools.pairwise(edges)),
            "offsets that ascend from 0 and stay below num_bytes",
            num_bytes=self.num_bytes,
            offsets=f"{len(self.offsets)} from {min(edges)} to {max(edges[:-1], default=0)}",
        )

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestShard:
    """A shard's entry in the manifest."""

    filename: str
    fold: Count
    num_clips: Count
    num_bytes: Count
    sha256: Sha256

    def __post_init__(self):
        _expect_name(self.filename, self.fold)


def _expect_name(filename: str, fold: int) -> None:
    """Raises UserError unless a name is a shard's of that fold: it becomes part of paths, which may be deleted."""
    match = shard_pattern().fullmatch(filename)
    expect(
        match is not None and int(match["fold"]) == fold and int(match["index"]) < int(match["count"]),
        "a filename <name>-fold<fold>.tfrecord-<i>-of-<n>",
        filename=filename,
        fold=fold,
    )


def repeated(names: Iterable[str]) -> str | None:
    """Returns the first name that occurs more than once, or None."""
    return next((name for name, count in collections.Counter(names).items() if count > 1), None)
