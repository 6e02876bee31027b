"""Dataclasses that describe how shards are made, from videos or from other shards.

A catalogue lists the videos, a job describes one shard, and a plan describes the whole dataset. A task of a job
array makes a part of the shards, or of other units of work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from ucf50_tfrecord.about import About
from ucf50_tfrecord.choices import Playback
from ucf50_tfrecord.labels import ClassName, Label
from ucf50_tfrecord.shards import ManifestShard, Named, SourceFile
from ucf50_tfrecord.specs import ClipFormat, FeatureFormat, FoldRule

Unit = TypeVar("Unit")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The part of a video that becomes its clips: the frames shown from start_us to before end_us.

    start_us, end_us: microseconds from the video's first frame; an end_us of None is the end of the video.
    """

    start_us: int
    end_us: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One catalogued video file, or a segment of it.

    relative_path: the file's path relative to the catalogue's folder, with forward slashes. An absolute path in a
      list of videos, outside the list's folder, stays absolute.
    video_id: in a folder of class folders, `relative_path` without its suffix, such as
      "Biking/v_Biking_g01_c02". It begins with the class name and a slash, unless videos have several labels.
    label: position of `class_name` among the sorted class names.
    class_name: name of the video's class. If videos have several labels, it is a tuple of names, and `label` one of
      numbers, both in ascending order.
    group: number of the recording group: NN in a UCF file name such as v_Biking_gNN_c02, or the number of a group
      that a list or a pattern names; None if no group is known.
    fold: number of the fold that a list of videos or a folder such as train/ gives the video; None if neither does.
    segment: the part of the video that is converted; None is the whole video.
    playback: the direction in which its clips play.
    num_bytes: size of the file.
    mtime_ns: time of the file's last change, in nanoseconds.
    sha256: hex sha256 of the file's contents; None if checksums were not requested or the file is unreadable.
    """

    relative_path: str
    video_id: str
    class_name: ClassName
    label: Label
    group: int | None
    num_bytes: int
    mtime_ns: int
    sha256: str | None = None
    fold: int | None = None
    segment: Segment | None = None
    playback: Playback = Playback.FORWARD


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
    """All videos in a folder that has one subfolder per class, or all videos of a list.

    videos_dir: the folder, or the list's folder.
    classes: the class names; a label is a position in this tuple.
    multi_label: whether videos have several labels; then each has a tuple of them, even of one.
    videos: the videos, ordered by video_id.
    warnings: sentences for the user, such as about ignored files and folders.
    videos_list: the file of the list; "" for a folder of class folders.
    fold_names, group_names: the names of folds and of groups that have names, in ascending order of the numbers.
    about: what is known about the data set, such as its license.
    """

    videos_dir: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    warnings: tuple[str, ...] = ()
    multi_label: bool = False
    videos_list: str = ""
    fold_names: tuple[Named, ...] = ()
    group_names: tuple[Named, ...] = ()
    about: About = About()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """The unit of conversion: the videos that become one shard (TFRecord file), and their clips' format.

    videos_dir: the folder that the videos' relative paths start from.
    filename: the shard's file name.
    fold: the fold of all its videos.
    fingerprint: hex sha256 of everything that decides the shard's bytes, except the videos' contents: the format,
      record.SCHEMA_VERSION, the decoder's version, the fold, and the videos' paths, classes, labels and
      groups; their ids, segments and directions of playback, if a list gives them.
    """

    videos_dir: str
    filename: str
    fold: int
    format: ClipFormat
    videos: tuple[Video, ...]
    fingerprint: str

    @property
    def num_items(self) -> int:
        return len(self.videos)

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        """The state of each video's file when it was catalogued."""
        return tuple(
            SourceFile(num_bytes=video.num_bytes, mtime_ns=video.mtime_ns, sha256=video.sha256)
            for video in self.videos
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """The unit of encoding: a shard of frames that becomes one shard of features, of the same file name.

    frames_dir: the folder or URL of the shard of frames.
    shard: the manifest's entry for it.
    frames: the format of its clips.
    features: the format of the features.
    sources: the state of the videos' files, as in the sidecar of the shard of frames.
    fingerprint: hex sha256 of everything that decides the features: the sha256 of the shard of frames, their
      format, record.SCHEMA_VERSION, the format of the features, which names the encoder's weights, and the
      settings of further views, if there are any.
    """

    frames_dir: str
    shard: ManifestShard
    frames: ClipFormat
    features: FeatureFormat
    sources: tuple[SourceFile, ...]
    fingerprint: str

    @property
    def filename(self) -> str:
        return self.shard.filename

    @property
    def num_items(self) -> int:
        return self.shard.num_clips


Job: TypeAlias = ShardJob | EncodeJob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a dataset to make: its name, its rules and its jobs, one job per shard.

    videos_dir: absolute path of the videos' folder.
    features: the format of the features, if the jobs encode frames; else None.
    frames_dir: the folder or URL of the frames' dataset, if the jobs encode frames.
    decoder: names and versions of the libraries that decide the stored pixels.
    shard_bytes: largest size of the pixels in one shard, in bytes (approximate).
    multi_label: whether clips have several labels.
    jobs: the shards' jobs, in the order of file names.
    videos_list: absolute path of the list that names the videos; "" for a folder of class folders.
    fold_names, group_names: the names of folds and of groups that have names.
    about: what is known about the data set, such as its license.
    """

    name: str
    videos_dir: str
    classes: tuple[str, ...]
    format: ClipFormat
    fold_rule: FoldRule
    decoder: str
    shard_bytes: int
    jobs: tuple[Job, ...]
    multi_label: bool = False
    features: FeatureFormat | None = None
    frames_dir: str = ""
    videos_list: str = ""
    fold_names: tuple[Named, ...] = ()
    group_names: tuple[Named, ...] = ()
    about: About = About()

    @property
    def origin(self) -> str:
        """The folder of the files that the shards are made from, or the list that names them."""
        return self.frames_dir or self.videos_list or self.videos_dir


def own_part_first(units: Sequence[Unit], task: tuple[int, int]) -> list[Unit]:
    """Orders units of work that tasks share: a task begins with its own part, then takes those of other parts.

    Args:
      units: the units, the same in every task.
      task: tuple (index, count) of the task's index and the number of tasks.
    """
    index, count = task
    return [
        units[number] for part in range(count) for number in range((index + part) % count, len(units), count)
    ]
