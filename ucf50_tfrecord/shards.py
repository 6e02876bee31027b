"""Descriptions of shards (TFRecord files) in their sidecars and in the manifest, and the shards' file names.

The dataclasses here check their values when they are built.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.labels import as_tuple
from ucf50_tfrecord.parsing import Count, Int64, Name, Sha256
from ucf50_tfrecord.specs import MAX_CLASSES

_Label = Annotated[int, msgspec.Meta(ge=0, lt=MAX_CLASSES)]
# Pattern of a dataset's name. Shards' file names begin with it, so it must not contain a slash.
DATASET_NAME = r"[a-z]\w*"
_SHARD = (
    r"(?P<name>{name})-fold(?P<fold>[0-9]{{2,}})\.tfrecord-(?P<index>[0-9]{{5,}})-of-(?P<count>[0-9]{{5,}})"
)


def shard_pattern(name: str | None = None) -> re.Pattern[str]:
    """Returns a pattern that matches the file names of shards.

    Args:
      name: name of the dataset whose shards are matched; None matches the shards of every dataset.
    """
    return re.compile(_SHARD.format(name=DATASET_NAME if name is None else re.escape(name)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """The name of a fold or of a recording group, whose number the records hold."""

    name: Name
    number: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A video that gave no clip, and the reason.

    relative_path: the video's path relative to the videos' folder.
    reason: the reason, for the user.
    cause: the kind of reason. "contents": the video cannot be decoded. "unreadable": its file could not be
      read. "killed": the system or a person killed the decoding process. "crash", "timeout" or "memory":
      decoding crashed or exceeded a limit. Every conversion retries videos with "unreadable" and "killed";
      only a conversion with `verify` also retries those with "crash", "timeout" and "memory".
    """

    relative_path: Name
    reason: str
    cause: str = "contents"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """The state of a video's file when the video was converted.

    num_bytes: size of the file.
    mtime_ns: time of the file's last change, in nanoseconds.
    sha256: hex sha256 of the file's contents; None if checksums were not requested.
    """

    num_bytes: Count
    mtime_ns: Int64
    sha256: Sha256 | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """The contents of one shard. The shard's sidecar holds a ShardReport as JSON.

    num_bytes: size of the shard.
    sha256: hex sha256 of the shard's bytes.
    fingerprint: fingerprint of the ShardJob that the shard was made from.
    clip_ids, labels, groups, offsets: one entry per record; an offset is the first byte of the record. A
      group is the number of the video's recording group, or None. If clips have several labels, each entry of
      labels is a tuple, in ascending order.
    sources: the state of the file of each video in the ShardJob.
    quarantined: the videos that gave no clip.
    """

    filename: str
    fold: Count
    num_bytes: Count
    sha256: Sha256
    fingerprint: Sha256
    clip_ids: tuple[Name, ...]
    labels: tuple[_Label | Annotated[tuple[_Label, ...], msgspec.Meta(min_length=1)], ...]
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
        unordered = next((x for x in self.labels if as_tuple(x) != tuple(sorted(set(as_tuple(x))))), None)
        expect(unordered is None, "distinct labels in ascending order for each clip", labels=unordered)
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
    """The entry of one shard in the manifest."""

    filename: str
    fold: Count
    num_clips: Count
    num_bytes: Count
    sha256: Sha256

    def __post_init__(self):
        _expect_name(self.filename, self.fold)


def _expect_name(filename: str, fold: int) -> None:
    """Raises UserError unless a file name is that of a shard of the given fold.

    The check matters because the name becomes part of paths, and files at such paths may be deleted.
    """
    match = shard_pattern().fullmatch(filename)
    expect(
        match is not None and int(match["fold"]) == fold and int(match["index"]) < int(match["count"]),
        "a filename <name>-fold<fold>.tfrecord-<i>-of-<n>",
        filename=filename,
        fold=fold,
    )


def repeated(names: Iterable[str]) -> str | None:
    """Returns the first of some names that occurs more than once, or None if all are distinct."""
    return next((name for name, count in collections.Counter(names).items() if count > 1), None)
