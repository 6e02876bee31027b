"""Computes the expected pixels of a video's clips by decoding all of its frames in order, then picking some.

Shares no code with the converter. tools.fuzzing.judge calls it in a process of its own, since damaged videos
may crash it.
"""

from __future__ import annotations

import ctypes
import fractions
import hashlib
import resource

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from ucf50_tfrecord.specs import ClipFormat

_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Limit on the decoded frames that are kept if `hold` is set.
_MAX_HELD_BYTES = 256 << 20
_ADDRESS_SPACE_BYTES = 8 << 30
_M_PERTURB = -6  # of malloc.h


def clip_digests(path: str, clip_format: ClipFormat, hold: bool) -> list[str] | None:
    """Returns a digest of the expected pixels of each clip of a video, or None if no frame can be decoded.

    hold: whether to keep decoded frames, so that FFmpeg cannot reuse their memory, and to fill newly allocated
      memory with a fixed byte. If the digests with and without `hold` differ, the pixels depend not only on
      the video but also on leftover contents of memory.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    if hold:
        ctypes.CDLL(None).mallopt(_M_PERTURB, 165)
    pictures, times = _decode_all(path, clip_format.height, clip_format.width, hold)
    if not pictures:
        return None
    num_clips = clip_format.clips_per_video
    picked = _pick(times, num_clips * clip_format.num_frames, clip_format.spacing)
    return [digest(np.stack([pictures[i] for i in picked[k::num_clips]])) for k in range(num_clips)]


def digest(frames: np.ndarray) -> str:
    """Returns a digest of a clip's pixels, uint8 [T, H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


def _decode_all(path: str, height: int, width: int, hold: bool) -> tuple[list[np.ndarray], list[int | None]]:
    pictures, times, held, num_bytes = [], [], [], 0
    reformatter = VideoReformatter()
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"flags": "+bitexact"}
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    continue
                for frame in frames:
                    pictures.append(_to_picture(frame, height, width, reformatter))
                    times.append(frame.pts)
                    if hold and num_bytes < _MAX_HELD_BYTES:
                        held.append(frame)
                        num_bytes += sum(plane.buffer_size for plane in frame.planes)
    except (av.error.FFmpegError, IndexError, AttributeError, ValueError, OSError):
        return [], []  # the video cannot be decoded in order to its end
    return pictures, times


def _to_picture(frame: av.VideoFrame, height: int, width: int, reformatter: VideoReformatter) -> np.ndarray:
    turns = round(frame.rotation / 90)  # a damaged display matrix may hold any angle
    if turns % 2:
        height, width = width, height
    scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=_SCALING, threads=1)
    return np.rot90(scaled.to_ndarray(), turns)


def _pick(times: list[int | None], count: int, spacing: str) -> list[int]:
    """Returns the indices of the frames that make up clips: evenly spaced, from the first to the last.

    Args:
      times: each frame's presentation time, or None where unknown.
      count: number of frames to pick.
      spacing: "index" for evenly spaced positions (halves round up), "time" for evenly spaced times. If a time
        is unknown, positions are used.
    """
    if spacing == "index" or None in times:
        half = fractions.Fraction(1, 2)
        return [int(fractions.Fraction(i * (len(times) - 1), count - 1) + half) for i in range(count)]
    shown = np.maximum.accumulate(np.array(times, object))
    picked = []
    for i in range(count):
        target = shown[0] + fractions.Fraction((shown[-1] - shown[0]) * i, count - 1)
        best = min(shown, key=lambda time: (abs(time - target), -time))
        picked.append(list(shown).index(best))
    return picked
