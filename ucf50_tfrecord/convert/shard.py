"""Writes one shard. A pure function of its job and the videos' bytes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

from ucf50_tfrecord import manifest, record, storage, workers
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.manifest import Quarantined, ShardReport, Source
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, ShardJob, Video


def convert_shard(
    job: ShardJob,
    data_dir: str,
    pool: workers.IsolatedPool,
    limits: DecodeLimits,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> ShardReport:
    """Decodes the job's videos into a shard and its sidecar in `data_dir`.

    The shard appears by atomic rename, its sidecar after it. A video that does not
    decode, or does not within its limits, is left out and listed in the report.

    Raises:
      UserError: if the shard cannot be written or no worker process can be started.
    """
    clips: list[tuple[str, Video, int]] = []
    quarantined: list[Quarantined] = []
    digest = hashlib.sha256()
    make_records = functools.partial(video_records, dataclasses.replace(job, videos=()))
    with storage.atomic_write(pathlib.Path(data_dir, job.filename)) as file:
        answers = pool.map(make_records, job.videos, lambda video: limits.timeout_of(video.num_bytes))
        for video, result in answers:
            on_videos(1)
            if isinstance(result, workers.Failure):
                result = Quarantined(
                    relative_path=video.relative_path, reason=result.reason, cause=result.cause
                )
            if isinstance(result, Quarantined):
                quarantined.append(result)
                continue
            for clip_id, framed in result:
                clips.append((clip_id, video, file.tell()))
                digest.update(framed)
                file.write(framed)
        num_bytes = file.tell()
    report = ShardReport(
        filename=job.filename,
        fold=job.fold,
        num_bytes=num_bytes,
        sha256=digest.hexdigest(),
        fingerprint=job.fingerprint,
        clip_ids=tuple(clip_id for clip_id, _, _ in clips),
        labels=tuple(video.label for _, video, _ in clips),
        groups=tuple(video.group for _, video, _ in clips),
        offsets=tuple(offset for _, _, offset in clips),
        sources=tuple(source_of(video) for video in job.videos),
        quarantined=tuple(quarantined),
    )
    manifest.save_report(data_dir, report)
    return report


def source_of(video: Video) -> Source:
    return Source(num_bytes=video.num_bytes, mtime_ns=video.mtime_ns, sha256=video.sha256)


def video_records(job: ShardJob, video: Video) -> list[tuple[str, bytes]] | Quarantined:
    """Turns a video into (clip id, framed TFRecord record), one for each of its clips."""
    try:
        decoded = decode.decode_clips(pathlib.Path(job.videos_dir, video.relative_path), job.format)
    except decode.VideoError as error:
        return Quarantined(relative_path=video.relative_path, reason=str(error), cause=error.cause)
    records = []
    for number, clip in enumerate(decoded):
        clip_id = clip_id_of(video, number, job.format)
        serialized = record.encode(
            record.Clip(
                clip_id=clip_id,
                frames=clip.frames,
                label=video.label,
                class_name=video.class_name,
                group=video.group,
                fold=job.fold,
                data_path=video.relative_path,
                frame_rate=clip.frame_rate,
                frame_indices=clip.frame_indices,
                timestamps_us=clip.timestamps_us,
                end_us=clip.end_us,
            ),
            job.format,
        )
        records.append((clip_id, record.frame_record(serialized)))
    return records


def clip_id_of(video: Video, number: int, clip_format: ClipFormat) -> str:
    """A clip has its video's id; of several clips a video, each has its number added."""
    return video.video_id if clip_format.clips_per_video == 1 else f"{video.video_id}#{number}"
