"""Videos to windows of frames, as the converter makes clips of them, by worker processes.

The only file of this room that imports the write side. Worker processes import it too, so it loads no
TensorFlow.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ucf50_tfrecord import record, workers
from ucf50_tfrecord.convert import catalog, decode, sampling
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, UserError, WindowSpec

_POLL_SECS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video that is to be decoded. num_bytes: of its file."""

    path: str
    num_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """A video's windows.

    frames_path: a file of the frames that they take, one after the other, each uint8 [H, W, 3].
    places: int64 [windows, clips_per_video, T], which of these frames make a clip.
    windows_us: start and end of each window, in microseconds from the video's first frame.
    num_frames: how many decode.
    end_us: microseconds from the first frame to the end of the last.
    """

    frames_path: str
    places: np.ndarray
    windows_us: list[tuple[int, int]]
    num_frames: int
    end_us: int


@dataclasses.dataclass(frozen=True)
class Failed:
    """A video of which nothing can be said.

    reason: without the path. cause: decode.VideoError's, or workers.Failure's; "room" where its frames
    could not be written, "model" where the model gives no numbers.
    """

    reason: str
    cause: str


def find_videos(paths: Sequence[str]) -> tuple[list[VideoFile], list[str]]:
    """Finds videos: files as they are, and in folders and theirs what is a video by its suffix.

    Returns:
      The videos, and a sentence for each folder of which something was passed over.

    Raises:
      UserError: if a path leads nowhere, or nothing is found.
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
            warnings.append(f"{len(stray)} files and folders of {path} passed over, no videos: {names}")
    if not found:
        raise UserError(f"Expected a video, or a folder of videos. Received: {', '.join(paths)}")
    return [_video_file(path) for path in dict.fromkeys(found)], warnings


def _video_file(path: str) -> VideoFile:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"There is no video or folder {path}") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"Expected a video, or a folder of videos. Received: {path}, which is neither")
    return VideoFile(path=path, num_bytes=status.st_size)


def decode_windows(
    video: VideoFile, frames_path: str, clip_format: ClipFormat, windows: WindowSpec
) -> DecodedVideo | Failed:
    """Decodes the frames of a video's windows into a file, each frame once, in one pass over the video.

    They pass through the encoding in which the run's clips were stored, so that the model sees of a video
    what it saw of it in training: for JPEG that is not the same.
    """
    numbers = itertools.count()

    def choose(timeline: sampling.Timeline) -> np.ndarray:
        return sampling.choose_window_frames(timeline, clip_format, windows)

    try:
        with open(frames_path, "wb") as file:

            def keep(picture: np.ndarray) -> int:
                file.write(record.as_read(picture, clip_format).tobytes())
                return next(numbers)

            picked = decode.pick_frames(video.path, clip_format, choose, keep)
    except decode.VideoError as error:
        return Failed(str(error), error.cause)
    except OSError as error:  # closing says it again, whatever pick_frames took it for
        folder = os.path.dirname(frames_path)
        return Failed(f"its frames cannot be written to {folder} (TMPDIR): {error.strerror}", "room")
    return DecodedVideo(
        frames_path=frames_path,
        places=np.vectorize(picked.kept.__getitem__, otypes=[np.int64])(picked.indices),
        windows_us=sampling.cut_windows(picked.timeline, windows),
        num_frames=len(picked.timeline.times),
        end_us=picked.timeline.latest_us,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes videos side by side, each in a process that it may crash, hang or overload alone.

    limits: what a video may cost.
    num_workers: how many processes.
    on_wait: hears, while a video is waited for, how many of its frames have been taken.
    """

    clip_format: ClipFormat
    windows: WindowSpec
    limits: DecodeLimits
    num_workers: int
    on_wait: Callable[[int], None] = lambda num_frames: None

    def __call__(self, videos: Sequence[VideoFile]) -> Iterator[tuple[VideoFile, DecodedVideo | Failed]]:
        """Yields each video with its windows, in order. Their frames' file is removed when the next is asked for.

        Some videos are decoded ahead. The files lie in the system's temporary folder (TMPDIR). Leaving the
        generator kills the worker processes.

        Raises:
          UserError: if no worker process can be started.
        """
        with (
            tempfile.TemporaryDirectory(prefix="ucf50-frames-") as folder,
            concurrent.futures.ThreadPoolExecutor(self.num_workers) as threads,
            # Left first: its workers are killed, and the threads that wait for them end.
            workers.IsolatedPool(self.limits.memory_mib << 20) as pool,
        ):
            waiting: collections.deque[tuple[VideoFile, str, concurrent.futures.Future]] = collections.deque()
            for number, video in enumerate(videos):
                path = os.path.join(folder, str(number))
                waiting.append((video, path, threads.submit(self._decode, pool, video, path)))
                if len(waiting) > self.num_workers:
                    yield from self._finish(*waiting.popleft())
            while waiting:
                yield from self._finish(*waiting.popleft())

    def _decode(self, pool: workers.IsolatedPool, video: VideoFile, path: str) -> DecodedVideo | Failed:
        function = functools.partial(
            decode_windows, frames_path=path, clip_format=self.clip_format, windows=self.windows
        )
        [(_, result)] = pool.map(function, [video], lambda video: self.limits.timeout_of(video.num_bytes))
        return Failed(result.reason, result.cause) if isinstance(result, workers.Failure) else result

    def _finish(
        self, video: VideoFile, path: str, future: concurrent.futures.Future
    ) -> Iterator[tuple[VideoFile, DecodedVideo | Failed]]:
        frame_bytes = self.clip_format.num_bytes // self.clip_format.num_frames
        while not concurrent.futures.wait([future], _POLL_SECS).done:
            with contextlib.suppress(FileNotFoundError):
                self.on_wait(os.path.getsize(path) // frame_bytes)
        yield video, future.result()
        pathlib.Path(path).unlink(missing_ok=True)
