"""Decodes videos and streams for prediction, in worker processes: cuts them into windows, and takes clips from these.

A window is a span of time that is treated like a video of its own; its frames are chosen and decoded as the
converter does for training clips. No other file of this package imports the converter's code. Worker
processes import this file, so it does not load TensorFlow.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import itertools
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, TypeAlias

import msgspec
import numpy as np

from ucf50_tfrecord import record, remote, storage, workers
from ucf50_tfrecord.convert import catalog, decode, live, sampling
from ucf50_tfrecord.convert.container import Undecodable
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec

STANDARD_INPUT = "-"  # the name of the stream that this process reads from its standard input
_POLL_SECS = 0.5
_HEAD_BYTES = 1 << 10  # of an answer with frames, besides the frames
_MAX_ANSWER_BYTES = 256 << 20  # enough for the windows of some weeks of video
_Microseconds = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video to predict, by the path of its file.

    modified: time of the file's last change, with its time zone; None if unknown.
    """

    path: str
    modified: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """A decoded video: the frames of its windows, spans of time that are treated like videos of their own.

    frames: a file of the windows' frames, one after the other, each uint8 [H, W, 3]. A worker process wrote
      the file and may still write to it: read it, but do not map it into memory.
    places: int64 [windows, clips_per_video, T * (1 + motion_frames)], the positions in `frames` of each clip's
      frames, each followed by its neighbours, counted in frames.
    windows_us: start and end of each window, in microseconds from the video's first frame.
    num_frames: number of the video's decodable frames.
    end_us: microseconds from the video's first frame to the end of its last frame.
    frame_rate: mean frames per second that the container states; 0.0 if it states none.
    """

    frames: BinaryIO
    places: np.ndarray
    windows_us: list[tuple[int, int]]
    num_frames: int
    end_us: int
    frame_rate: float


@dataclasses.dataclass(frozen=True)
class Failed:
    """The reason why a video has no prediction.

    reason: the reason as text, without the video's path.
    cause: the cause of the decode.VideoError ("unreadable", "room" if frames could not be written, or
      "contents") or of the workers.Failure; or "model" if the model returned NaN or infinity.
    """

    reason: str
    cause: str


def find_videos(paths: Sequence[str]) -> tuple[list[VideoFile], list[str]]:
    """Finds the videos that are named by paths, or lie in named folders.

    Args:
      paths: paths of files and folders. Each file is taken as a video, whatever its suffix. A folder stands
        for all files with a video's suffix in it and in its subfolders.

    Returns:
      A tuple: the videos, each once, and a sentence for each folder that held skipped files.

    Raises:
      UserError: if a path does not exist, cannot be read, or is neither file nor folder, or there is no
        video.
    """
    found, warnings = [], []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        videos, stray = catalog.list_videos(pathlib.Path(path))
        found += [str(video) for video in videos if video.is_file()]
        stray += [video for video in videos if not video.is_file()]
        if stray:
            names = catalog.examples([str(item.relative_to(path)) for item in stray])
            warnings.append(f"{len(stray)} files and folders of {path} ignored, no videos: {names}")
    if not found:
        raise UserError(f"Expected a video, or a folder of videos. Received: {', '.join(paths)}")
    return [_video_file(path) for path in dict.fromkeys(found)], warnings


def _video_file(path: str) -> VideoFile:
    remedy = Remedy(Action.SET, "to predict a stream, in the command `predict`", live=True)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        is_stream = path == STANDARD_INPUT or remote.is_remote(path.lower())
        raise UserError(f"There is no video or folder {path}", *([remedy] if is_stream else [])) from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        is_stream = stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)
        raise UserError(
            f"Expected a video, or a folder of videos. Received: {path}, which is neither",
            *([remedy] if is_stream else []),
        )
    return VideoFile(path=path, modified=datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC))


class _Windows(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """The answer of a worker process for a decoded video: the fields of DecodedVideo without the file.

    places: little-endian int64 [windows, clips_per_video, T * (1 + motion_frames)].
    """

    places: bytes
    windows_us: list[tuple[_Microseconds, _Microseconds]]
    num_frames: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    end_us: _Microseconds
    frame_rate: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


def decode_windows(
    clip_format: ClipFormat, windows: WindowSpec, video: VideoFile, file: BinaryIO, frames: BinaryIO
) -> _Windows | Undecodable:
    """Decodes the frames of a video's windows into a file; runs in a worker process.

    Each frame is decoded and stored once, if possible in one pass over the video. The frames go through the
    encoding of the run's clips, so that the model gets the same pixels as in training: JPEG changes them.

    Args:
      clip_format: format of the clips that the model was trained on.
      windows: how the video is cut into windows.
      video: the video, whose suffix may tell its container format.
      file: the video's open file.
      frames: file that the frames are written to.

    Returns:
      The windows, without the frames; Undecodable if the video does not decode or frames cannot be written.
    """
    numbers = itertools.count()

    def choose(timeline: sampling.Timeline) -> np.ndarray:
        return sampling.choose_window_frames(timeline, clip_format, windows)

    def keep(picture: np.ndarray) -> int:
        _write(frames, record.as_read(picture, clip_format).tobytes())
        return next(numbers)

    try:
        picked = decode.pick_frames(file, pathlib.Path(video.path).suffix, clip_format, choose, keep)
    except decode.VideoError as error:
        return Undecodable.of(error)
    return _Windows(
        places=np.vectorize(picked.kept.__getitem__, otypes=["<i8"])(picked.indices).tobytes(),
        windows_us=sampling.cut_windows(picked.timeline, windows),
        num_frames=len(picked.timeline.times),
        end_us=picked.timeline.latest_us,
        frame_rate=picked.timeline.frame_rate,
    )


def _write(file: BinaryIO, content: bytes) -> None:
    """Writes all of `content` to a file; raises VideoError if that fails, for example on a full disk."""
    unwritten = memoryview(content)
    try:
        while unwritten:
            unwritten = unwritten[file.write(unwritten) :]
    except OSError as error:
        raise decode.VideoError(f"its frames cannot be written: {error.strerror}", "room") from error


def _parse_windows(
    clip_format: ClipFormat, frames: BinaryIO, video: VideoFile, answer: _Windows | Undecodable
) -> DecodedVideo | Failed:
    """Converts a worker process's answer to a DecodedVideo or Failed; raises ValueError for bad windows."""
    if isinstance(answer, Undecodable):
        where = f" (in {tempfile.gettempdir()}, TMPDIR)" if answer.cause == "room" else ""
        return Failed(answer.reason + where, answer.cause)
    places = np.frombuffer(answer.places, "<i8").astype(np.int64)
    num_pictures = clip_format.num_frames * (1 + clip_format.motion_frames)
    places = places.reshape(len(answer.windows_us), clip_format.clips_per_video, num_pictures)
    num_stored = os.fstat(frames.fileno()).st_size // _frame_bytes(clip_format)
    if not places.size or places.min() < 0 or places.max() >= num_stored:
        raise ValueError(f"expected windows of {num_stored} frames, found others")
    return DecodedVideo(
        frames=frames,
        places=places,
        windows_us=answer.windows_us,
        num_frames=answer.num_frames,
        end_us=answer.end_us,
        frame_rate=answer.frame_rate,
    )


def _frame_bytes(clip_format: ClipFormat) -> int:
    return clip_format.height * clip_format.width * 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes videos in parallel worker processes; a crash or hang affects only the video that caused it.

    clip_format: format of the clips that the model was trained on.
    windows: how videos are cut into windows.
    limits: limits on the time and memory that one video may take.
    num_workers: number of videos that are decoded at once.
    on_wait: called regularly while the caller waits for a video, with the number of the video's frames that
      are decoded so far.
    """

    clip_format: ClipFormat
    windows: WindowSpec
    limits: DecodeLimits
    num_workers: int
    on_wait: Callable[[int], None] = lambda num_frames: None

    def __call__(self, videos: Sequence[VideoFile]) -> Generator[tuple[VideoFile, DecodedVideo | Failed]]:
        """Yields each video with its decoded windows, in the order of `videos`.

        The file of a video's frames is closed, and so removed, when the next video is requested. Some videos
        are decoded ahead; their files are in the system's temporary folder (TMPDIR). Closing the generator
        kills the worker processes.

        Yields:
          Tuples of a video and its DecodedVideo, or Failed if it could not be decoded.

        Raises:
          UserError: if no worker process can be started.
        """
        with (
            contextlib.ExitStack() as files,
            concurrent.futures.ThreadPoolExecutor(self.num_workers) as threads,
            # Exits before the threads: this kills the worker processes, so the threads stop waiting for them.
            workers.IsolatedPool.within(self.limits) as pool,
        ):
            waiting: collections.deque[tuple[VideoFile, BinaryIO, concurrent.futures.Future]] = (
                collections.deque()
            )
            for video in videos:
                # The file has no name, so nothing is left of it however this process stops.
                frames = files.enter_context(_temporary_file())
                waiting.append((video, frames, threads.submit(self._decode, pool, video, frames)))
                if len(waiting) > self.num_workers:
                    yield from self._finish(*waiting.popleft())
            while waiting:
                yield from self._finish(*waiting.popleft())

    def _decode(
        self, pool: workers.IsolatedPool, video: VideoFile, frames: BinaryIO
    ) -> DecodedVideo | Failed:
        def open_files(video: VideoFile) -> list[BinaryIO]:
            frames.seek(0)
            frames.truncate()  # removes the frames of an earlier attempt
            return [storage.open_file(video.path), open(os.dup(frames.fileno()), "r+b", buffering=0)]

        call = workers.Call(
            function=functools.partial(decode_windows, self.clip_format, self.windows),
            answer=_Windows | Undecodable,
            parse=functools.partial(_parse_windows, self.clip_format, frames),
            max_bytes=_MAX_ANSWER_BYTES,
            timeout_secs=lambda video: self.limits.timeout_of(storage.allocated_bytes(video.path)),
            open_files=open_files,
        )
        [(_, result)] = pool.map(call, [video])
        return Failed(result.reason, result.cause) if isinstance(result, workers.Failure) else result

    def _finish(
        self, video: VideoFile, frames: BinaryIO, future: concurrent.futures.Future
    ) -> Iterator[tuple[VideoFile, DecodedVideo | Failed]]:
        while not concurrent.futures.wait([future], _POLL_SECS).done:
            self.on_wait(os.fstat(frames.fileno()).st_size // _frame_bytes(self.clip_format))
        yield video, future.result()
        frames.close()


StreamWindow: TypeAlias = live.Window
StreamProgress: TypeAlias = live.Progress


def stream_call(
    clip_format: ClipFormat, windows: WindowSpec, timeout_secs: float, open_file: Callable[[], BinaryIO]
) -> workers.Call[str, Any, StreamWindow | StreamProgress | Failed]:
    """Returns the call for IsolatedPool.stream that decodes a stream; its item is the stream's name.

    Args:
      clip_format: format of the clips that the model was trained on.
      windows: the length and the distance of windows.
      timeout_secs: largest time in which no frame arrives.
      open_file: returns the stream's open file, which is closed here once the worker process has it.
    """
    num_bytes = clip_format.clips_per_video * clip_format.num_bytes

    def parse(
        name: str, answer: StreamWindow | StreamProgress | Undecodable
    ) -> StreamWindow | StreamProgress | Failed:
        if isinstance(answer, Undecodable):
            return Failed(answer.reason, answer.cause)
        if isinstance(answer, StreamWindow) and len(answer.clips) != num_bytes:
            raise ValueError(f"expected clips of {num_bytes} bytes, found {len(answer.clips)}")
        return answer

    return workers.Call(
        function=functools.partial(live.decode_stream, clip_format, windows),
        answer=StreamWindow | StreamProgress | Undecodable,
        parse=parse,
        max_bytes=_HEAD_BYTES + num_bytes,
        timeout_secs=lambda name: timeout_secs,
        open_files=lambda name: [open_file()],
    )


def _temporary_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise UserError(f"Cannot write to {tempfile.gettempdir()} (TMPDIR): {error.strerror}") from error
