"""Writes a small dataset of made-up clips, by the same plan, records and manifest as a conversion of videos."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Generator, Sequence

import numpy as np

from ucf50_tfrecord import building, manifest, record, storage, tfrecord
from ucf50_tfrecord.convert import plan
from ucf50_tfrecord.jobs import Catalog, ShardJob, Video
from ucf50_tfrecord.labels import as_tuple
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.shards import ShardReport
from ucf50_tfrecord.specs import ClipFormat, FoldRule

NUM_CLASSES = 8
_NUM_GROUPS = 4
_NOISE = 128  # grey levels from 0 on
_BRIGHTER = 100  # grey levels that the stripe of a class is brighter


def write(data_dir: str, clip_format: ClipFormat, *, num_clips: int) -> Manifest:
    """Writes a dataset of random pixels in which a brighter stripe, another for each class, can be learned.

    Args:
      data_dir: the dataset's folder.
      clip_format: the format of the clips.
      num_clips: number of clips; at least one per class.

    Returns:
      The dataset's manifest.
    """
    classes = tuple(f"Stripe{label}" for label in range(NUM_CLASSES))
    videos = [_video(classes, number) for number in range(num_clips)]
    catalog = Catalog(
        videos_dir=data_dir, classes=classes, videos=tuple(sorted(videos, key=lambda video: video.video_id))
    )
    planned = plan.plan_shards(
        catalog, name="stripes", clip_format=clip_format, fold_rule=FoldRule(), decoder="made up"
    )
    return building.build_dataset(planned, data_dir, run=_write_shards)


def _video(classes: Sequence[str], number: int) -> Video:
    """Returns a catalogue's entry for a video that does not exist."""
    label = number % NUM_CLASSES
    clip, group = divmod(number // NUM_CLASSES, _NUM_GROUPS)
    video_id = f"{classes[label]}/v_{classes[label]}_g{group + 1:02d}_c{clip + 1:02d}"
    return Video(
        relative_path=f"{video_id}.avi",
        video_id=video_id,
        class_name=classes[label],
        label=label,
        group=group + 1,
        num_bytes=0,
        mtime_ns=0,
    )


def _write_shards(
    jobs: Sequence[ShardJob], data_dir: str, on_items: Callable[[int], None]
) -> Generator[ShardReport]:
    """Writes each job's shard; an engine as building.build_dataset takes it."""
    for job in jobs:
        yield _write_shard(job, data_dir)
        on_items(job.num_items)


def _write_shard(job: ShardJob, data_dir: str) -> ShardReport:
    with storage.atomic_write(pathlib.Path(data_dir, job.filename)) as file:
        writer = tfrecord.Writer(file)
        for video in job.videos:
            writer.write(record.encode(_clip(job, video), job.format))
        num_bytes = writer.num_bytes
    report = ShardReport(
        filename=job.filename,
        fold=job.fold,
        num_bytes=num_bytes,
        sha256=writer.sha256,
        fingerprint=job.fingerprint,
        clip_ids=tuple(video.video_id for video in job.videos),
        labels=tuple(video.label for video in job.videos),
        groups=tuple(video.group for video in job.videos),
        offsets=tuple(writer.offsets),
        sources=job.sources,
    )
    manifest.save_report(data_dir, report)
    return report


def _clip(job: ShardJob, video: Video) -> record.Clip:
    random = np.random.default_rng(list(video.video_id.encode()))
    frames = random.integers(0, _NOISE, job.format.shape, np.uint8)
    width = job.format.width
    [label] = as_tuple(video.label)
    first, last = (width * place // NUM_CLASSES for place in (label, label + 1))
    frames[:, :, first:last] += np.uint8(_BRIGHTER)
    times = np.arange(job.format.num_frames)
    return record.Clip(
        clip_id=video.video_id,
        frames=frames,
        label=video.label,
        class_name=video.class_name,
        group=video.group,
        fold=job.fold,
        data_path=video.relative_path,
        frame_rate=25.0,
        frame_indices=times,
        timestamps_us=40_000 * times,
        end_us=40_000 * job.format.num_frames,
    )
