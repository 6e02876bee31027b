"""Opens video files safely, and writes temporary ones. This is the only module that gives FFmpeg a file.

FFmpeg recognises some 370 formats by their contents, whatever the file's name. Some formats are playlists and
scripts that name other files and addresses, which FFmpeg would then open. So FFmpeg gets a video as an open
file, never as a path; only the containers in FORMATS are accepted; and no protocol is allowed, so FFmpeg
opens nothing by name.
"""

from __future__ import annotations

import contextlib
import errno
import fractions
import itertools
import os
import re
import resource
import select
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import av
import av.error
import av.logging
import msgspec

from ucf50_tfrecord.convert import mpeg4

# FFmpeg's names of the allowed demuxers: for containers and elementary streams that hold all data in one
# file. MLV is not allowed, because an MLV video continues in other files.
FORMATS = (
    "apng asf asf_o av1 avi cavsvideo dirac dv flv gif gxf h261 h263 h264 hevc ivf m4v matroska,webm mjpeg "
    "mov,mp4,m4a,3gp,3g2,mj2 mpeg mpegts mpegvideo mxf nsv nut nuv obu ogg rm swf vc1 vc1test vvc wtv "
    "yuv4mpegpipe"
)
# Suffix of the videos that `new_video` writes. NUT holds packets of any codec as they are.
NEW_SUFFIX = ".nut"
_OPTIONS = {"format_whitelist": FORMATS.replace(" ", ","), "protocol_whitelist": "none"}
_REFUSED_FORMAT = "Format not on whitelist"

# A video's packets are kept in memory up to this total size; a larger video is read from its file again.
_MAX_KEPT_BYTES = 64 << 20
_PACKET_BYTES = 512  # memory overhead per packet
_LARGEST_ALLOCATION = 1 << 31  # FFmpeg's limit for one allocation, in bytes


Cause = Literal["contents", "unreadable", "room"]


class VideoError(Exception):
    """Error: a video cannot be decoded, so it gives no clip. The text is the reason, without a path.

    cause: "unreadable" if the video's file could not be read, so that another attempt may succeed; "room" if
      there was no room to write the video's frames; otherwise "contents".
    """

    def __init__(self, reason: str, cause: Cause = "contents"):
        super().__init__(reason)
        self.cause = cause


class Undecodable(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """The message by which a worker process reports a VideoError; the fields are those of VideoError."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)]
    cause: Cause

    @classmethod
    def of(cls, error: VideoError) -> Undecodable:
        return cls(str(error)[:1000], error.cause)


class Packet(NamedTuple):
    """The description of one packet of a video stream, found without decoding it.

    pts: presentation time of the packet's frame, in units of Container.time_base_secs; None if not stated.
    is_keyframe: whether decoding can start at the packet.
    is_discard: whether an edit list of the file drops the packet's frame.
    coding_type: type of the packet's frame in MPEG-4 Part 2 streams, see mpeg4.FrameTypes; None for other
      codecs.
    """

    pts: int | None
    is_keyframe: bool
    is_discard: bool
    coding_type: int | None


class Container:
    """An open video whose packets can be read more than once.

    It is a context manager; leaving it closes FFmpeg's container but not the file.

    codec: the decoder of the first video stream.
    frame_rate: mean frames per second that the container states; 0.0 if it states none.
    time_base_secs: the unit of packets' and frames' times, in seconds.
    pixel_aspect: width of a pixel divided by its height.
    """

    def __init__(self, file: BinaryIO, suffix: str, *, is_stream: bool = False):
        """Opens a video.

        Args:
          file: the video's open file, readable and, unless it is a stream, seekable.
          suffix: suffix of the file's name, such as ".avi", by which FFmpeg decides if several formats fit
            the contents.
          is_stream: whether the file is read only once, from its current position, as a pipe is; then only
            `frames_once` can read it.

        Raises:
          VideoError: if the video's format is not allowed, it has no video stream, or its codec has no
            decoder.
          av.error.FFmpegError, OSError: if the video cannot be opened.
        """
        self._input = _StreamInput(file, suffix) if is_stream else _Input(file, suffix)
        self._kept: list[av.Packet] | None = []
        self._open()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._container.close()

    def _open(self) -> None:
        if isinstance(self._input, _StreamInput):
            self._container = _open_stream(self._input)
        else:
            self._container = _open(self._input)
        if not self._container.streams.video:
            raise VideoError("no video stream")
        self._stream = self._container.streams.video[0]
        self.codec = self._stream.codec_context
        if self.codec is None:
            raise VideoError("no decoder for its codec")
        # Each core converts its own video, so several threads per video would only compete for the cores.
        self.codec.thread_count = 1
        self.frame_rate = float(self._stream.average_rate or 0.0)
        self.time_base_secs = float(self._stream.time_base)
        self.pixel_aspect = self._stream.sample_aspect_ratio or fractions.Fraction(1)

    def scan(self) -> list[Packet]:
        """Reads all packets of the video once and returns their descriptions, without decoding."""
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
        """Yields all packets of the video again, to be decoded from the start by a fresh decoder."""
        if self.codec.is_open or self._kept is None:
            self._container.close()
            self._open()
        self._demand_exact_pixels()
        yield from self._demux() if self._kept is None else self._kept

    def _demand_exact_pixels(self) -> None:
        """Makes the decoder, before it starts, use only code that gives the same pixels on every CPU."""
        self.codec.options = {"flags": "+bitexact"}

    def _demux(self) -> Iterator[av.Packet]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decodes all packets; yields the video's frames in the order of display. Skips damaged packets."""
        for packet in self.replay():
            yield from self.decode(packet)
        yield from self.decode(None)

    def frames_once(self) -> Iterator[av.VideoFrame]:
        """Decodes packets as they arrive, and keeps none; yields the same frames as `frames`. Call it once."""
        self._demand_exact_pixels()
        num_frames = 0
        try:
            for packet in itertools.chain(self._demux(), [None]):
                for frame in self.decode(packet):
                    num_frames += 1
                    yield frame
        except av.error.InvalidDataError as error:
            if not num_frames:
                raise _no_stream(error) from error
            raise

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Decodes one packet; None ends the stream.

        Returns:
          The frames that the packet completes, in the order of display; an empty list for a damaged packet.
        """
        try:
            return self.codec.decode(packet)
        except (av.error.InvalidDataError, av.error.ArgumentError):  # for damaged data, or damaged side data
            return []


@contextlib.contextmanager
def open_video(file: BinaryIO, suffix: str) -> Iterator[Container]:
    """Opens a video and yields its Container; raises VideoError if reading it fails while the block runs.

    Args:
      file, suffix: as in Container.

    Raises:
      VideoError: if the video cannot be opened or read.
      MemoryError: if memory runs out.
    """
    with reading(), Container(file, suffix) as container:
        yield container


@contextlib.contextmanager
def open_stream(file: BinaryIO) -> Iterator[Container]:
    """Opens a stream, such as a pipe, for Container.frames_once; otherwise does as open_video.

    Args:
      file: the open file. FFmpeg reads it from its current position on, and never seeks.
    """
    with reading(), Container(file, "", is_stream=True) as container:
        yield container


@contextlib.contextmanager
def new_video(file: BinaryIO) -> Iterator[av.container.OutputContainer]:
    """Yields a container for a new video in an open file, whose contents it replaces; see NEW_SUFFIX.

    Args:
      file: the open file, readable, writable, seekable and without a buffer of its own.

    Raises:
      VideoError: if the file cannot be written.
      av.error.FFmpegError: if FFmpeg refuses the video.
    """
    file.seek(0)
    file.truncate()
    with av.open(_Output(file), "w", format=NEW_SUFFIX[1:]) as container:
        yield container


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raises a VideoError if FFmpeg or PyAV fails to read a video while the block runs.

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
    except OSError as error:  # an error of the file, which FFmpeg reads through _Input
        raise VideoError(_describe(error), "unreadable") from error


def _has_address_space() -> bool:
    """Tells whether this process was always so far below its address space limit that FFmpeg cannot have hit it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return True
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmPeak:"))
    return limit - peak > _LARGEST_ALLOCATION


def _describe(error: OSError | av.error.FFmpegError) -> str:
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


class _Input:
    """The file object that FFmpeg reads a video from. It reveals only the suffix of the video's file name."""

    def __init__(self, file: BinaryIO, suffix: str):
        self._file = file
        self.name = f"video{suffix}" if re.fullmatch(r"\.\w{1,10}", suffix, re.ASCII) else "video"

    def read(self, num_bytes: int = -1) -> bytes:
        return os.read(self._file.fileno(), num_bytes)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position as os.lseek does, but returns -errno on failure, as FFmpeg expects.

        Failures occur because damaged videos ask for impossible positions.
        """
        try:
            return os.lseek(self._file.fileno(), offset, whence)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def tell(self) -> int:
        return os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def seekable(self) -> bool:
        return True


class _StreamInput(_Input):
    """The file object that FFmpeg reads a stream from. It has no position.

    is_empty: whether no byte has arrived yet.
    """

    def __init__(self, file: BinaryIO, suffix: str):
        super().__init__(file, suffix)
        self.is_empty = True
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)

    def read(self, num_bytes: int = -1) -> bytes:
        """Returns the next bytes as soon as some have arrived; b"" at the stream's end."""
        while True:
            self._poll.poll()  # a pipe that others opened may not wait by itself
            with contextlib.suppress(BlockingIOError):
                content = os.read(self._file.fileno(), num_bytes)
                self.is_empty = self.is_empty and not content
                return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return -errno.ESPIPE

    def tell(self) -> int:
        return -errno.ESPIPE

    def seekable(self) -> bool:
        return False


class _Output:
    """The file object that FFmpeg writes a video to."""

    name = f"video{NEW_SUFFIX}"

    def __init__(self, file: BinaryIO):
        self._file = file

    def write(self, content: bytes) -> int:
        unwritten = memoryview(content)
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise VideoError(f"a temporary video cannot be written: {error.strerror}", "room") from error
        return len(content)


# Metadata may not be UTF-8; nothing reads it.
_ARGUMENTS: dict[str, Any] = {"metadata_errors": "replace", "container_options": _OPTIONS}


def _open(source: _Input) -> av.container.InputContainer:
    source.seek(0)
    try:
        return av.open(source, **_ARGUMENTS)
    except av.error.ArgumentError as error:
        # The file is opened again to capture the log.
        source.seek(0)
        with _captured_errors() as logs, contextlib.suppress(av.error.FFmpegError):
            av.open(source, **_ARGUMENTS).close()
        _explain_refused_format(logs, error)
        raise


def _open_stream(source: _StreamInput) -> av.container.InputContainer:
    with _captured_errors() as logs:  # a stream cannot be opened again
        try:
            return av.open(source, **_ARGUMENTS)
        except av.error.ArgumentError as error:
            _explain_refused_format(logs, error)
            raise
        except (av.error.InvalidDataError, av.error.EOFError) as error:
            if source.is_empty:
                raise VideoError("it ended before anything arrived") from error
            raise _no_stream(error) from error


def _no_stream(error: av.error.FFmpegError) -> VideoError:
    return VideoError(
        f"expected video in a container that can be read from its start, such as MPEG-TS or Matroska ({_describe(error)})"
    )


def _explain_refused_format(logs: list[tuple[int, str, str]], error: Exception) -> None:
    """Raises VideoError if FFmpeg's log names a format for which it refused to open a file."""
    name = next((name for _, name, text in logs if text.startswith(_REFUSED_FORMAT)), None)
    if name:
        raise VideoError(f"expected a video file, found the format {name}") from error


@contextlib.contextmanager
def _captured_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Yields a list that receives what FFmpeg logs as errors while the block runs: levels, names and texts."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # another file may have been refused before
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)
