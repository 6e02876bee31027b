"""Units of a conversion: catalogued videos, the jobs of shards, and the plan of a dataset."""

from __future__ import annotations

import dataclasses

from ucf50_tfrecord.specs import ClipFormat, FoldRule


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One catalogued video file.

    relative_path: relative to the catalogue's folder, with forward slashes.
    video_id: that path without its suffix, such as "Biking/v_Biking_g01_c02".
    group, clip: from UCF names; None for other names.
    sha256: of the contents, hex; None unless it was asked for.
    """

    relative_path: str
    video_id: str
    class_name: str
    label: int
    group: int | None
    clip: int | None
    num_bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
    """All videos of a folder of class folders, ordered by id.

    classes: names by label.
    warnings: sentences for the user about ignored files and folders.
    """

    videos_dir: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """The unit of conversion: the videos of one shard and their format.

    fingerprint: hex sha256 of everything that decides the shard's bytes, except the videos' contents: the format,
      the code's schema, the decoder's version, the videos' paths and labels.
    """

    videos_dir: str
    filename: str
    fold: int
    format: ClipFormat
    videos: tuple[Video, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """A dataset to make: its name and rules, and its shards' jobs in the order of file names.

    shard_bytes: largest size of a shard's pixels.
    """

    name: str
    videos_dir: str
    classes: tuple[str, ...]
    format: ClipFormat
    fold_rule: FoldRule
    decoder: str
    shard_bytes: int
    jobs: tuple[ShardJob, ...]
