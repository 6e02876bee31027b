"""Video files to frames. The only file that imports PyAV."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import av
import av.error
import numpy as np

from ucf50_tfrecord.convert import sampling
from ucf50_tfrecord.specs import ClipFormat


class VideoError(Exception):
    """A video gives no clip; the text is the reason, without the path.

    `unreadable` tells that the file could not be read at all, so that it may well decode
    another time; else its contents are at fault.
    """

    def __init__(self, reason: str, *, unreadable: bool = False):
        super().__init__(reason)
        self.unreadable = unreadable


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The frames picked from a video.

    frames: uint8 [T, H, W, 3], RGB.
    frame_indices: int64 [T], positions among the frames that decode.
    timestamps_us: int64 [T], microseconds from the first frame.
    end_us: microseconds from the first frame to the end of the last.
    frame_rate: mean frames per second as the container states it, 0.0 if it does not.
    """

    frames: np.ndarray
    frame_indices: np.ndarray
    timestamps_us: np.ndarray
    end_us: int
    frame_rate: float


def decoder_version() -> str:
    """Names what decides the pixels: PyAV and the FFmpeg libraries it carries."""
    libraries = ("libavformat", "libavcodec", "libswscale")
    versions = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in libraries]
    return ", ".join([f"PyAV {av.__version__}", *versions])


def decode_clip(path: str | os.PathLike, clip_format: ClipFormat) -> DecodedClip:
    """Decodes a video's first video stream and picks evenly spaced frames.

    The frames are spread over those that really decode, since containers lie about
    their number; hence two passes, one that counts and one that converts. Frames are
    scaled to the format's size by area averaging, whatever their aspect ratio.

    Raises:
      VideoError: if the file cannot be opened, has no video stream, or no frame of it decodes.
    """
    try:
        num_available = sum(1 for _ in _decodable_frames(path))
        if not num_available:
            raise VideoError("no frame decodes")
        indices = sampling.even_indices(num_available, clip_format.num_frames)
        return _convert_frames(path, indices, clip_format)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{type(error).__name__}: {reason}", unreadable=_is_unreadable(path)) from error


def _convert_frames(path: str | os.PathLike, indices: np.ndarray, clip_format: ClipFormat) -> DecodedClip:
    pixels: dict[int, np.ndarray] = {}
    seconds: dict[int, float] = {}
    wanted = set(indices.tolist())
    first_secs = last_secs = None
    frame_rate = 0.0
    for index, (frame, frame_rate) in enumerate(_decodable_frames(path)):
        # Frames without a time are placed by their position.
        position_secs = index / frame_rate if frame_rate else 0.0
        last_secs = position_secs if frame.time is None else frame.time
        if first_secs is None:
            first_secs = last_secs
        if index in wanted:
            seconds[index] = last_secs - first_secs
            pixels[index] = frame.reformat(
                width=clip_format.width,
                height=clip_format.height,
                format="rgb24",
                interpolation="AREA",
            ).to_ndarray()
    if len(pixels) < len(wanted):
        raise VideoError(f"{len(wanted) - len(pixels)} frames decoded once and not again")
    last_frame_secs = 1 / frame_rate if frame_rate else 0.0
    return DecodedClip(
        frames=np.stack([pixels[i] for i in indices.tolist()]),
        frame_indices=indices,
        timestamps_us=np.array([round(seconds[i] * 1e6) for i in indices.tolist()], np.int64),
        end_us=round((last_secs - first_secs + last_frame_secs) * 1e6),
        frame_rate=frame_rate,
    )


def _decodable_frames(path: str | os.PathLike) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields (frame, the stream's frame rate) in order of display; damaged packets are skipped."""
    # Metadata need not be UTF-8, and nothing here reads it.
    with av.open(os.fspath(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise VideoError("no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError("no decoder for its codec")
        # Every core converts a video of its own; threads inside one would only compete.
        stream.codec_context.thread_count = 1
        frame_rate = float(stream.average_rate or 0.0)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                yield frame, frame_rate


def _is_unreadable(path: str | os.PathLike) -> bool:
    """Tells whether the file itself cannot be read: FFmpeg's error codes do not."""
    try:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return True
    return False
