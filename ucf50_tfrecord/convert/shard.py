"""Writes one shard. A pure function of its job and the videos' bytes."""

from __future__ import annotations

import hashlib
import pathlib

from ucf50_tfrecord import manifest, record, storage
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.manifest import Quarantined, ShardReport
from ucf50_tfrecord.specs import ShardJob, Video


def convert_shard(job: ShardJob, data_dir: str) -> ShardReport:
    """Decodes the job's videos into a shard and its sidecar in `data_dir`.

    The shard appears by atomic rename, its sidecar after it. A video that does not
    decode is left out and listed in the report with its reason.

    Raises:
      UserError: if the shard cannot be written.
    """
    clips: list[tuple[Video, int]] = []
    quarantined: list[Quarantined] = []
    digest = hashlib.sha256()
    with storage.atomic_write(pathlib.Path(data_dir, job.filename)) as file:
        for video in job.videos:
            try:
                serialized = record.encode(_read_clip(job, video))
            except decode.VideoError as error:
                quarantined.append(
                    Quarantined(
                        relative_path=video.relative_path, reason=str(error), unreadable=error.unreadable
                    )
                )
                continue
            clips.append((video, file.tell()))
            framed = record.frame_record(serialized)
            digest.update(framed)
            file.write(framed)
        num_bytes = file.tell()
    report = ShardReport(
        filename=job.filename,
        fold=job.fold,
        num_bytes=num_bytes,
        sha256=digest.hexdigest(),
        fingerprint=job.fingerprint,
        clip_ids=tuple(video.video_id for video, _ in clips),
        labels=tuple(video.label for video, _ in clips),
        groups=tuple(video.group for video, _ in clips),
        offsets=tuple(offset for _, offset in clips),
        quarantined=tuple(quarantined),
    )
    manifest.save_report(data_dir, report)
    return report


def _read_clip(job: ShardJob, video: Video) -> record.Clip:
    decoded = decode.decode_clip(pathlib.Path(job.videos_dir, video.relative_path), job.format)
    return record.Clip(
        clip_id=video.video_id,
        frames=decoded.frames,
        label=video.label,
        class_name=video.class_name,
        group=video.group,
        fold=job.fold,
        data_path=video.relative_path,
        frame_rate=decoded.frame_rate,
        frame_indices=decoded.frame_indices,
        timestamps_us=decoded.timestamps_us,
        end_us=decoded.end_us,
    )
