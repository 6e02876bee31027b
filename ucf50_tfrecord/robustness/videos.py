"""Takes clips from videos that are coded again, in worker processes, and keeps them in a folder.

No other file of this package imports the converter's code. Worker processes import this file, so it does not
load TensorFlow.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import parsing, record, storage, workers
from ucf50_tfrecord.choices import Recoding
from ucf50_tfrecord.convert import catalog, decode, recode, shard
from ucf50_tfrecord.convert.container import NEW_SUFFIX, VideoError
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.jobs import Video
from ucf50_tfrecord.robustness.levels import SEVERITIES
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits

FOLDER_KIND = "clips of videos coded again"
# Part of the names of kept files. Raise it if the code that makes them changes.
_VERSION = 1
_ANSWER_BYTES = 1 << 14  # upper bound on the bytes of an answer besides pixels
_END = ".clips"  # of the names of kept files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recoded:
    """One video and a corruption of the codec.

    path: path of the video.
    recoding: how the video is coded again.
    strengths: strength of the recoding by severity.
    seed: seed of random numbers.
    """

    path: str
    recoding: Recoding
    strengths: tuple[float, ...]
    seed: int


# A clip's frames by severity, uint8 [T, H, W, 3]; None if no frame of that version of the video decodes.
Versions = list[np.ndarray | None]


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of a worker: the pixels of all clips of a video by severity; b"" if no frame decodes.

    reason: why no frame decodes; "" if all decode.
    """

    versions: Annotated[list[bytes], msgspec.Meta(max_length=len(SEVERITIES))]
    reason: Annotated[str, msgspec.Meta(max_length=1000)]


def recode_video(clip_format: ClipFormat, item: Recoded, source: BinaryIO, scratch: BinaryIO) -> _Answer:
    """Codes a video again in each severity, and takes its clips. Runs in a worker process.

    The frames go through the encoding of the stored clips, so that the model gets pixels as in training.

    Args:
      clip_format: format of the clips.
      item: the video and the corruption.
      source: the video's open file.
      scratch: open file for the video that is coded again.
    """
    versions, reason = [], ""
    for strength in item.strengths:
        change = recode.Change(item.recoding, strength, item.seed)
        try:
            recode.recode(source, pathlib.Path(item.path).suffix, scratch, change, clip_format)
            clips = decode.decode_clips(scratch, NEW_SUFFIX, clip_format)
        except VideoError as error:
            if error.cause != "contents":
                raise
            versions.append(b"")
            reason = str(error)[:1000]
            continue
        frames = [record.as_read(frame, clip_format) for clip in clips for frame in clip.frames]
        versions.append(b"".join(frame.tobytes() for frame in frames))
    return _Answer(versions, reason)


def _parse(clip_format: ClipFormat, item: Recoded, answer: _Answer) -> _Answer:
    """Checks the sizes in a worker's answer or a kept file, which are not trusted; raises ValueError."""
    size = clip_format.num_bytes * clip_format.clips_per_video
    sizes = [len(content) for content in answer.versions]
    if len(sizes) != len(item.strengths) or set(sizes) - {0, size}:
        raise ValueError(f"expected {len(item.strengths)} versions of {size} bytes, found {sizes}")
    return answer


class Recoder:
    """Takes a dataset's clips from their videos, coded again. A context manager: leaving it ends the workers."""

    def __init__(
        self,
        clips: ClipIndex,
        *,
        videos_dir: str,
        cache_dir: pathlib.Path,
        limits: DecodeLimits,
        num_workers: int | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """Finds the clips' videos, and prepares the folder of kept clips.

        Args:
          clips: index of the clips.
          videos_dir: folder of the videos, with a folder per class, that the clips were made from.
          cache_dir: folder that keeps clips, a file for each video and corruption.
          limits: limits on what coding one video again may cost.
          num_workers: number of videos that are coded at once; None for one per CPU core.
          warn: called with a sentence about a video without clips.

        Raises:
          UserError: if a clip's video is missing, or one of the folders cannot be used.
        """
        self._format, self._warn = clips.manifest.format, warn
        self._limits, self._cache = limits, cache_dir
        self._num_workers = num_workers or len(os.sched_getaffinity(0))
        self._videos_dir = videos_dir
        owners = {
            shard.clip_id_of(video, number, self._format): (video, number)
            for video in catalog.find_videos(videos_dir, skip_empty_classes=True).videos
            for number in range(self._format.clips_per_video)
        }
        missing = [clip_id for clip_id in clips.ids if clip_id not in owners]
        expect(not missing, f"the videos of all clips in {videos_dir}", missing=catalog.examples(missing))
        self._clips = [owners[clip_id] for clip_id in clips.ids]
        storage.claim_folder(cache_dir, FOLDER_KIND, lambda names: False)

    def __enter__(self) -> Recoder:
        with contextlib.ExitStack() as stack:
            self._threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(self._num_workers))
            # Exits before the threads: this kills the worker processes, so the threads stop waiting for them.
            self._pool = stack.enter_context(workers.IsolatedPool.within(self._limits))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def source(self) -> str:
        """A checksum of everything but the clips' format that decides the clips: videos and libraries."""
        files = [[video.relative_path, video.num_bytes, video.mtime_ns] for video, _ in self._clips]
        return manifest_lib.fingerprint([_VERSION, decode.decoder_version(), files])

    def clips(
        self, name: str, recoding: Recoding, strengths: tuple[float, ...], *, seed: int
    ) -> Iterator[tuple[int, Versions]]:
        """Yields each clip under a corruption, in no certain order.

        Args:
          name: name of the corruption.
          recoding: how videos are coded again.
          strengths: strength by severity.
          seed: seed of random numbers.

        Yields:
          A tuple for each clip: its position in the index of clips, and its versions by severity.

        Raises:
          UserError: if no worker process can be started, or a file cannot be written.
        """
        places: dict[Video, list[int]] = {}
        for place, (video, _) in enumerate(self._clips):
            places.setdefault(video, []).append(place)
        waiting: collections.deque[tuple[Video, concurrent.futures.Future]] = collections.deque()

        def finish() -> Iterator[tuple[int, Versions]]:
            video, future = waiting.popleft()
            for place in places[video]:
                yield place, self._cut(place, future.result())

        for video in places:
            item = self._item(video, recoding, strengths, seed)
            waiting.append((video, self._threads.submit(self._find, video, name, item)))
            if len(waiting) > self._num_workers:
                yield from finish()
        while waiting:
            yield from finish()

    def clip(
        self, place: int, name: str, recoding: Recoding, strengths: tuple[float, ...], *, seed: int
    ) -> Versions:
        """Returns the versions of one clip, by its position in the index; other arguments as in `clips`."""
        video, _ = self._clips[place]
        return self._cut(place, self._find(video, name, self._item(video, recoding, strengths, seed)))

    def _item(self, video: Video, recoding: Recoding, strengths: tuple[float, ...], seed: int) -> Recoded:
        path = os.path.join(self._videos_dir, video.relative_path)
        return Recoded(path=path, recoding=recoding, strengths=strengths, seed=seed)

    def _cut(self, place: int, answer: _Answer) -> Versions:
        """Returns one clip's versions out of those of its video."""
        _, number = self._clips[place]
        shape = (self._format.clips_per_video, *self._format.shape)
        return [
            np.frombuffer(content, np.uint8).reshape(shape)[number] if content else None
            for content in answer.versions
        ]

    def _find(self, video: Video, name: str, item: Recoded) -> _Answer:
        """Returns a video's versions from their file; makes the file if it is missing or damaged."""
        path = self._cache / name / f"{self._key(video, item)}{_END}"
        most = len(SEVERITIES) * self._format.num_bytes * self._format.clips_per_video + _ANSWER_BYTES
        with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
            content = storage.read_bytes(path, max_bytes=most)
            return _parse(self._format, item, parsing.decoder(_Answer).decode(content))
        made = self._make(item, most)
        if isinstance(made, workers.Failure):
            self._warn(f"{video.relative_path} under {name} counts as wrong: {made.reason}")
            return _Answer([b""] * len(item.strengths), made.reason[:1000])
        with storage.atomic_write(path) as file:
            file.write(msgspec.msgpack.encode(made))
        return made

    def _key(self, video: Video, item: Recoded) -> str:
        """Returns the name of a kept file, which changes with everything that decides its contents."""
        return manifest_lib.fingerprint(
            {
                "version": _VERSION,
                "decoder": decode.decoder_version(),
                "format": self._format,
                "video": [video.relative_path, video.num_bytes, video.mtime_ns],
                "change": [item.recoding, item.strengths, item.seed],
            }
        )

    def _make(self, item: Recoded, max_bytes: int) -> _Answer | workers.Failure:
        with _temporary_file() as scratch:

            def open_files(item: Recoded) -> list[BinaryIO]:
                return [storage.open_file(item.path), open(os.dup(scratch.fileno()), "r+b", buffering=0)]

            call = workers.Call(
                function=functools.partial(recode_video, self._format),
                answer=_Answer,
                parse=functools.partial(_parse, self._format),
                max_bytes=max_bytes,
                timeout_secs=lambda item: self._limits.timeout_of(storage.allocated_bytes(item.path)),
                open_files=open_files,
            )
            [(_, made)] = self._pool.map(call, [item])
            return made


def _temporary_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise UserError(f"Cannot write to {tempfile.gettempdir()} (TMPDIR): {error.strerror}") from error
