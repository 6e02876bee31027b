"""Converts one ShardJob into one shard (TFRecord file).

The shard's bytes depend only on the job and the contents of its videos.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from ucf50_tfrecord import manifest, record, storage, tfrecord, workers
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.convert.container import Undecodable
from ucf50_tfrecord.jobs import ShardJob, Video
from ucf50_tfrecord.shards import Quarantined, ShardReport
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits

_Microseconds = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
# Upper bounds on the bytes of a worker's msgpack answer besides pixels: per frame, per clip and per answer.
_FRAME_BYTES, _CLIP_BYTES, _ANSWER_BYTES = 32, 256, 1 << 14


def convert_shard(
    job: ShardJob,
    data_dir: str,
    pool: workers.IsolatedPool,
    limits: DecodeLimits,
    on_videos: Callable[[int], None] = lambda num_videos: None,
) -> ShardReport:
    """Decodes the videos of a job and writes their clips to a shard, and the shard's sidecar.

    The shard appears by atomic rename, then its sidecar. A video that cannot be decoded or exceeds its limits
    is left out and listed in the report.

    Args:
      job: the videos of the shard and the format of their clips.
      data_dir: the dataset's folder.
      pool: the worker processes that decode videos.
      limits: limits on decoding each video.
      on_videos: called with 1 after each video.

    Returns:
      The contents of the shard, as in its sidecar.

    Raises:
      UserError: if the shard cannot be written or no worker process can be started.
    """
    clips: list[tuple[str, Video]] = []
    quarantined: list[Quarantined] = []
    call = decoding_call(job.videos_dir, job.format, limits)
    with storage.atomic_write(pathlib.Path(data_dir, job.filename)) as file:
        writer = tfrecord.Writer(file)
        for video, result in pool.map(call, job.videos):
            on_videos(1)
            if isinstance(result, workers.Failure):
                result = Quarantined(
                    relative_path=video.relative_path, reason=result.reason, cause=result.cause
                )
            if isinstance(result, Quarantined):
                quarantined.append(result)
                continue
            for number, clip in enumerate(result):
                clip_id = clip_id_of(video, number, job.format)
                writer.write(_encode(job, video, clip_id, clip))
                clips.append((clip_id, video))
        num_bytes = writer.num_bytes
    report = ShardReport(
        filename=job.filename,
        fold=job.fold,
        num_bytes=num_bytes,
        sha256=writer.sha256,
        fingerprint=job.fingerprint,
        clip_ids=tuple(clip_id for clip_id, _ in clips),
        labels=tuple(video.label for _, video in clips),
        groups=tuple(video.group for _, video in clips),
        offsets=tuple(writer.offsets),
        sources=job.sources,
        quarantined=tuple(quarantined),
    )
    manifest.save_report(data_dir, report)
    return report


class _Clip(msgspec.Struct, forbid_unknown_fields=True):
    """The message by which a worker sends a decoded clip; the fields are those of decode.DecodedClip.

    frames: the pixels of all frames, in order.
    """

    frames: bytes
    frame_indices: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]]
    timestamps_us: list[_Microseconds]
    end_us: _Microseconds
    frame_rate: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Decoded(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """The answer of a worker that decoded a video: the video's clips."""

    clips: list[_Clip]


def decode_video(clip_format: ClipFormat, video: Video, file: BinaryIO) -> _Decoded | Undecodable:
    """Decodes the clips of a video. Runs in a worker process.

    Args:
      clip_format: the format of the clips.
      video: the catalogue's entry for the video.
      file: the video's open file.

    Returns:
      The clips, or the reason why the video cannot be decoded.
    """
    suffix = pathlib.PurePosixPath(video.relative_path).suffix
    try:
        decoded = decode.decode_clips(file, suffix, clip_format, video.segment, video.playback)
    except decode.VideoError as error:
        return Undecodable.of(error)
    return _Decoded(
        [
            _Clip(
                frames=clip.frames.tobytes(),
                frame_indices=clip.frame_indices.tolist(),
                timestamps_us=clip.timestamps_us.tolist(),
                end_us=clip.end_us,
                frame_rate=clip.frame_rate,
            )
            for clip in decoded
        ]
    )


def _parse_answer(
    clip_format: ClipFormat, video: Video, answer: _Decoded | Undecodable
) -> list[decode.DecodedClip] | Quarantined:
    """Converts a worker's answer for a video, which is not trusted.

    Returns:
      The video's clips, or a Quarantined with the reason why the video cannot be decoded.

    Raises:
      ValueError: if the clips in the answer do not have the format `clip_format`.
    """
    if isinstance(answer, Undecodable):
        return Quarantined(relative_path=video.relative_path, reason=answer.reason, cause=answer.cause)
    if len(answer.clips) != clip_format.clips_per_video:
        raise ValueError(f"expected {clip_format.clips_per_video} clips, found {len(answer.clips)}")
    return [_parse_clip(clip_format, clip) for clip in answer.clips]


def _parse_clip(clip_format: ClipFormat, clip: _Clip) -> decode.DecodedClip:
    sizes = len(clip.frames), len(clip.frame_indices), len(clip.timestamps_us)
    expected = clip_format.num_bytes, clip_format.num_frames, clip_format.num_frames
    if sizes != expected:
        raise ValueError(f"expected bytes, indices and times of a clip {expected}, found {sizes}")
    return decode.DecodedClip(
        frames=np.frombuffer(clip.frames, np.uint8).reshape(clip_format.shape),
        frame_indices=np.array(clip.frame_indices, np.int64),
        timestamps_us=np.array(clip.timestamps_us, np.int64),
        end_us=clip.end_us,
        frame_rate=clip.frame_rate,
    )


def decoding_call(
    videos_dir: str, clip_format: ClipFormat, limits: DecodeLimits
) -> workers.Call[Video, _Decoded | Undecodable, list[decode.DecodedClip] | Quarantined]:
    """Returns the workers.Call that decodes videos: it maps a Video to its clips or to a Quarantined.

    Args:
      videos_dir: the folder that the videos' relative paths start from.
      clip_format: the format of the clips.
      limits: limits on decoding each video.
    """

    def path(video: Video) -> pathlib.Path:
        return pathlib.Path(videos_dir, video.relative_path)

    clip_bytes = clip_format.num_bytes + _FRAME_BYTES * clip_format.num_frames + _CLIP_BYTES
    return workers.Call(
        function=functools.partial(decode_video, clip_format),
        answer=_Decoded | Undecodable,
        parse=functools.partial(_parse_answer, clip_format),
        max_bytes=clip_format.clips_per_video * clip_bytes + _ANSWER_BYTES,
        timeout_secs=lambda video: limits.timeout_of(storage.allocated_bytes(path(video))),
        open_files=lambda video: [storage.open_file(path(video))],
    )


def _encode(job: ShardJob, video: Video, clip_id: str, clip: decode.DecodedClip) -> bytes:
    """Returns the payload of a clip's record."""
    stored = record.Clip(
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
    )
    return record.encode(stored, job.format)


def clip_id_of(video: Video, number: int, clip_format: ClipFormat) -> str:
    """Returns a clip's id: its video's id, followed by "#" and the clip's number if videos have several."""
    return video.video_id if clip_format.clips_per_video == 1 else f"{video.video_id}#{number}"
