"""Opens videos: the only place that gives FFmpeg a file.

FFmpeg recognises some 370 formats by their contents, whatever the file's name. Some are playlists and scripts that
name other files and addresses, which FFmpeg then opens. So FFmpeg gets a video as an open file, never as a path;
only the containers in FORMATS are accepted; and no protocol is allowed, so FFmpeg opens nothing by name.
"""

from __future__ import annotations

import contextlib
import errno
import fractions
import os
import re
import resource
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import av
import av.error
import av.logging
import msgspec

from ucf50_tfrecord.convert import mpeg4

# Allowed demuxers by FFmpeg's names: containers and elementary streams that hold all data in one file. MLV is not
# allowed, because it continues in other files.
FORMATS = (
    "apng asf asf_o av1 avi cavsvideo dirac dv flv gif gxf h261 h263 h264 hevc ivf m4v matroska,webm mjpeg "
    "mov,mp4,m4a,3gp,3g2,mj2 mpeg mpegts mpegvideo mxf nsv nut nuv obu ogg rm swf vc1 vc1test vvc wtv "
    "yuv4mpegpipe"
)
_OPTIONS = {"format_whitelist": FORMATS.replace(" ", ","), "protocol_whitelist": "none"}
_REFUSED_FORMAT = "Format not on whitelist"

# Packets are kept in memory up to this size; a larger video is read from its file again.
_MAX_KEPT_BYTES = 64 << 20
_PACKET_BYTES = 512  # overhead per packet
_LARGEST_ALLOCATION = 1 << 31  # FFmpeg's limit


Cause = Literal["contents", "unreadable", "room"]


class VideoError(Exception):
    """A video gives no clip. The text is the reason, without the path.

    cause: "unreadable" if the file could not be read, so it may decode another time; "room" if its frames could not
      be written; else "contents".
    """

    def __init__(self, reason: str, cause: Cause = "contents"):
        super().__init__(reason)
        self.cause = cause


class Undecodable(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """A VideoError as a worker sends it."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]
    cause: Cause

    @classmethod
    def of(cls, error: VideoError) -> Undecodable:
        return cls(str(error)[:1000], error.cause)


class Packet(NamedTuple):
    """A packet's description, without decoding.

    coding_type: see mpeg4.FrameTypes; None for other codecs.
    is_discard: whether an edit list drops its frame.
    """

    pts: int | None
    is_keyframe: bool
    is_discard: bool
    coding_type: int | None


class Container:
    """A video whose packets can be read more than once. Closing it leaves the file open.

    codec: the decoder of the first video stream.
    frame_rate: mean frames per second that the container states, or 0.0.
    time_base_secs: seconds per unit of packets' and frames' times.
    pixel_aspect: width of a pixel divided by its height.
    """

    def __init__(self, file: BinaryIO, suffix: str):
        """Opens a video.

        Args:
          file: the video, readable and seekable.
          suffix: its name's suffix, such as ".avi", which decides between formats that fit the contents.

        Raises:
          VideoError: if its format is not allowed, or it has no video stream or no decoder.
          av.error.FFmpegError, OSError: if it cannot be opened.
        """
        self._input = _Input(file, suffix)
        self._kept: list[av.Packet] | None = []
        self._open()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container = _open(self._input)
        if not self._container.streams.video:
            raise VideoError("no video stream")
        self._stream = self._container.streams.video[0]
        self.codec = self._stream.codec_context
        if self.codec is None:
            raise VideoError("no decoder for its codec")
        # Each core converts its own video; threads within one would only compete.
        self.codec.thread_count = 1
        self.frame_rate = float(self._stream.average_rate or 0.0)
        self.time_base_secs = float(self._stream.time_base)
        self.pixel_aspect = self._stream.sample_aspect_ratio or fractions.Fraction(1)

    def scan(self) -> list[Packet]:
        """Reads all packets once, without decoding."""
        packets, num_bytes = [], 0
        types = mpeg4.FrameTypes(self.codec.extradata or b"") if self.codec.name == "mpeg4" else None
        for packet in self._demux():
            coding_type = types.read(bytes(packet)) if types else None
            packets.append(Packet(packet.pts, packet.is_keyframe, packet.is_discard, coding_type))
            if self._kept is not None:
                self._kept.append(packet)
                num_bytes += packet.size + _PACKET_BYTES
                if num_bytes > _MAX_KEPT_BYTES:
                    self._kept = None
        return packets

    def replay(self) -> Iterator[av.Packet]:
        """Yields the packets again, for a new decoder."""
        if self.codec.is_open or self._kept is None:
            self._container.close()
            self._open()
        self.codec.options = {"flags": "+bitexact"}
        yield from self._demux() if self._kept is None else self._kept

    def _demux(self) -> Iterator[av.Packet]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decodes all packets, in the order of display; skips damaged ones."""
        for packet in self.replay():
            yield from self.decode(packet)
        yield from self.decode(None)

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Returns the frames that a packet completes, in the order of display; a damaged packet gives none."""
        try:
            return self.codec.decode(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError):  # of its data, and of its side data
            return []


@contextlib.contextmanager
def open_video(file: BinaryIO, suffix: str) -> Iterator[Container]:
    """Opens a video while the block runs. Arguments: see Container; errors: see `reading`."""
    with reading(), Container(file, suffix) as container:
        yield container


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turns the block's errors of reading a video into VideoErrors.

    Raises:
      VideoError: if the video cannot be read.
      MemoryError: if memory runs out.
    """
    try:
        yield
    except MemoryError as error:
        # FFmpeg reports absurd sizes in damaged headers as a lack of memory.
        if isinstance(error, av.error.FFmpegError) and _has_address_space():
            raise VideoError("damaged: its headers ask for more memory than a video can need") from error
        raise
    except av.error.FFmpegError as error:
        raise VideoError(_describe(error)) from error
    except OSError as error:  # of the file, which FFmpeg reads through _Input
        raise VideoError(_describe(error), "unreadable") from error


def _has_address_space() -> bool:
    """Tells whether the process stayed far enough from its limit that FFmpeg cannot have reached it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return True
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmPeak:"))
    return limit - peak > _LARGEST_ALLOCATION


def _describe(error: OSError | av.error.FFmpegError) -> str:
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


class _Input:
    """The file object that FFmpeg reads. It reveals only the suffix of the file's name."""

    def __init__(self, file: BinaryIO, suffix: str):
        self._file = file
        self.name = f"video{suffix}" if re.fullmatch(r"\.\w{1,10}", suffix, re.ASCII) else "video"

    def read(self, num_bytes: int = -1) -> bytes:
        return os.read(self._file.fileno(), num_bytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves as os.lseek does. Damaged files ask for impossible positions, which FFmpeg expects as -errno."""
        try:
            return os.lseek(self._file.fileno(), offset, whence)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def tell(self) -> int:
        return os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def seekable(self) -> bool:
        return True


def _open(source: _Input) -> av.container.InputContainer:
    source.seek(0)
    # Metadata may not be UTF-8; nothing reads it.
    arguments: dict[str, Any] = {"metadata_errors": "replace", "container_options": _OPTIONS}
    try:
        return av.open(source, **arguments)
    except av.error.ArgumentError as error:
        if format_name := _find_refused_format(source, arguments):
            raise VideoError(f"expected a video file, found the format {format_name}") from error
        raise


def _find_refused_format(source: _Input, arguments: dict) -> str | None:
    """Opens a file again and returns the refused format that FFmpeg's log names, or None."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # another file may have been refused before
    try:
        source.seek(0)
        with av.logging.Capture() as logs, contextlib.suppress(av.error.FFmpegError):
            av.open(source, **arguments).close()
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)
    return next((name for _, name, text in logs if text.startswith(_REFUSED_FORMAT)), None)
