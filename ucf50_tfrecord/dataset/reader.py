"""Reads the frames of clips from shards: each record at its own offset, with all checks.

Raw frames go from the file straight into the batch. TFRecordDataset would copy a clip five times (from file
to string, to parsed string, to tensor, to batch), and copying is the whole cost of feeding raw frames.
Reading releases Python's global lock, so that several threads read in parallel.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, remote, storage, tfrecord
from ucf50_tfrecord.choices import FetchMethod, OnBadRecord
from ucf50_tfrecord.dataset import shard_files
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.shard_cache import ShardDamagedError
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.labels import Label, of_row
from ucf50_tfrecord.tfrecord import Place

_MAX_MEASURED_CLIPS = 1000
# TensorFlow uses an array as a tensor without copying it if the array is aligned for vector instructions.
_ALIGNMENT = 64


class ClipReader:
    """Reads the frames of clips from their shards. Safe to call from several threads.

    clips: the index of the clips.
    skipped: a dictionary from a skipped clip's position in `clips` to the reason why it was skipped.
    error: the error that stopped the reading; None if there was none.
    streams: whether TensorFlow reads the records from an object store, so that this reader only parses them.
    fetches_ahead: whether shards are copied before their use, once `expect` has announced their clips.
    """

    def __init__(self, clips: ClipIndex, *, skip_bad_records: bool = False):
        """Prepares the access to the clips' shards.

        Args:
          clips: the index of the clips that may be read.
          skip_bad_records: whether clips with unreadable records are skipped and noted in `skipped`;
            otherwise an unreadable record is an error. A streamed record that TensorFlow itself cannot read
            is always an error.

        Raises:
          UserError: if the shards are in an object store that the method in `clips.fetch` cannot reach.
        """
        self.clips = clips
        self.skipped: dict[int, str] = {}
        self.error: UserError | None = None
        self._skip_bad_records = skip_bad_records
        self._buffers = Buffers()
        is_remote = remote.is_remote(clips.manifest.data_dir)
        self.streams = is_remote and clips.fetch.method == FetchMethod.STREAM
        self.fetches_ahead = is_remote and not self.streams
        if self.streams:
            remote.load_tf_filesystem(clips.manifest.data_dir)
        self._files = None if self.streams else shard_files.open_files(clips)

    def expect(self, index: np.ndarray) -> None:
        """Announces the clips that will be read next, in the order of `index`, int64 [K]."""
        shards = self.clips.shards[index]
        first_uses = np.sort(np.unique(shards, return_index=True)[1])
        self._files.expect(self.clips.shard_paths[shard] for shard in shards[first_uses])

    def read_raw(
        self, index: np.ndarray, payloads: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads clips whose records hold raw pixels, or features in place of frames.

        Args:
          index: positions of the clips in `clips`, int64 [B].
          payloads: the payloads of the clips' records, object [B] of bytes, if TensorFlow has read the
            records.

        Returns:
          A tuple: the frames, uint8 [B, T, H, W, 3], or features, float16 [B, T, ...]; and a mask, bool [B].
          For a skipped clip, the mask is False and the frames or features are 0.

        Raises:
          UserError: if a record cannot be read and is not skipped. The error names the record's shard, offset
            and clip, and how to repair the shard.
        """
        stored = self.clips.manifest.stored
        pixels = self._buffers.take((len(index), stored.num_bytes))
        video = pixels.view(stored.dtype).reshape(len(index), *stored.shape)

        def read(row: int, file: BinaryIO, place: Place, clip: tuple[str, Label]) -> None:
            record.read_raw(file.fileno(), place, clip, stored=stored, out=pixels[row])

        def parse(row: int, payload: bytes, place: Place, clip: tuple[str, Label]) -> None:
            record.parse_raw(payload, place, clip, stored=stored, out=pixels[row])

        good = self._read(index, payloads, read, parse)
        video[~good] = 0
        return video, good

    def read_images(
        self, index: np.ndarray, payloads: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads clips whose frames are stored compressed.

        Args:
          index, payloads: as in read_raw.

        Returns:
          A tuple: the encoded frames, object [B, T] of bytes; and a mask, bool [B]. For a skipped clip, the
          mask is False and the frames are empty.

        Raises:
          UserError: as read_raw does.
        """
        clip_format = self.clips.manifest.format
        images = np.full((len(index), clip_format.num_frames), b"", object)

        def read(row: int, file: BinaryIO, place: Place, clip: tuple[str, Label]) -> None:
            images[row] = record.read_images(file.fileno(), place, clip, clip_format=clip_format)

        def parse(row: int, payload: bytes, place: Place, clip: tuple[str, Label]) -> None:
            images[row] = record.parse_images(payload, place, clip, clip_format=clip_format)

        return images, self._read(index, payloads, read, parse)

    def release_buffers(self) -> None:
        """Frees the memory that this reader keeps for reuse by further batches."""
        self._buffers = Buffers()

    def _read(
        self,
        index: np.ndarray,
        payloads: np.ndarray | None,
        read: Callable[[int, BinaryIO, Place, tuple[str, Label]], None],
        parse: Callable[[int, bytes, Place, tuple[str, Label]], None],
    ) -> np.ndarray:
        """Calls `read` or `parse` for each clip of a batch.

        Args:
          index: positions of the clips in `clips`, int64 [B].
          payloads: the payloads of the clips' records, if TensorFlow has read the records, else None.
          read: called as read(row, file, place, clip) if `payloads` is None. `clip` is a tuple of the id and the
            label, or the labels, that the record must have.
          parse: called as parse(row, payload, place, clip) if there are payloads.

        Returns:
          A mask, bool [B], which is False for each skipped clip.
        """
        clips, good = self.clips, np.ones(len(index), bool)
        for row, clip in enumerate(index.tolist()):
            path = self._path(clip)
            place = Place(self._where(path), int(clips.offsets[clip]))
            expected = clips.ids[clip], of_row(clips.labels[clip])
            try:
                if payloads is None:
                    self._read_sound(path, lambda file: read(row, file, place, expected))
                else:
                    parse(row, payloads[row], place, expected)
            except FileNotFoundError:
                self._note(clip, f"{path} is missing")
                good[row] = False
            except OSError as error:  # the shard itself may be sound
                self.error = UserError(f"Cannot read {self._where(path)}: {error.strerror}")
                raise self.error from error
            except UserError as error:
                if error is self.error:
                    raise
                self._note(clip, str(error))
                good[row] = False
        return good

    def _read_sound(self, path: str, read: Callable[[BinaryIO], None]) -> None:
        """Calls read(file) with a shard's open file; calls it again if the shard was damaged and was renewed.

        Keeps no reference to the file, so that it is closed when nothing else needs it.
        """
        file = self._open(path)
        try:
            return read(file)
        except UserError:
            if not self._files.renew(path, file):
                raise
        read(self._open(path))

    def _open(self, path: str) -> BinaryIO:
        try:
            return self._files.open(path)
        except ShardDamagedError:
            raise
        except UserError as error:  # the store cannot be reached
            self.error = error
            raise

    def _where(self, path: str) -> str:
        return self._files.describe(path) if self._files else path

    def _path(self, clip: int) -> str:
        return self.clips.shard_paths[self.clips.shards[clip]]

    def _note(self, clip: int, found: str) -> None:
        """Handles an unreadable record of a clip: notes the clip as skipped, or raises UserError.

        Args:
          clip: position of the clip in `clips`.
          found: description of the record's problem.
        """
        if self._skip_bad_records:
            self.skipped[clip] = f"{found} ({self.clips.ids[clip]})"
            return
        options = {"method": FetchMethod.COPY} if self.streams else {}
        self.error = UserError(
            f"{found} ({self.clips.ids[clip]})",
            manifest_lib.repair_remedy(self.clips.manifest),
            Remedy(Action.SET, "to train without such clips", **options, on_bad_record=OnBadRecord.SKIP),
        )
        raise self.error


def read_record(clips: ClipIndex, index: int) -> dict[str, Any]:
    """Reads the record of one clip with all its features.

    Nothing else of the clip's shard is read, and a remote shard is not copied. Meant for a few clips.

    Args:
      clips: an index of clips.
      index: position of the clip in `clips`.

    Returns:
      A dictionary from feature key to value, as record.decode returns it.

    Raises:
      UserError: if the record is damaged or cannot be read.
    """
    path, start = clips.shard_paths[clips.shards[index]], int(clips.offsets[index])
    try:
        framed = storage.read_bytes(path, start, start + int(clips.sizes[index]))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}") from error
    try:
        place = Place(path, start)
        return record.decode(tfrecord.unframe(framed, place), place)
    except UserError as error:
        repair = manifest_lib.repair_remedy(clips.manifest)
        raise UserError(f"{error} ({clips.ids[index]})", repair) from None


def video_secs(parts: Sequence[ClipIndex]) -> tuple[float, float] | None:
    """Measures the durations of the videos that some clips come from.

    Only the start of at most 1,000 evenly spread records per index is read.

    Args:
      parts: indexes of clips, such as one of the training clips and one of the validation clips.

    Returns:
      A tuple of the median and the largest duration in seconds, or None if the shards are not local files.
    """
    found = [secs for clips in parts for secs in _video_secs(clips.spread(_MAX_MEASURED_CLIPS))]
    return (float(np.median(found)), max(found)) if found else None


def _video_secs(clips: ClipIndex) -> Iterator[float]:
    """Yields the duration in seconds of each clip's video.

    Skips unreadable records, which will be reported when the clips are read.
    """
    for shard in np.unique(clips.shards).tolist():
        with contextlib.suppress(OSError), open(clips.shard_paths[shard], "rb", buffering=0) as file:
            for offset in clips.offsets[clips.shards == shard].tolist():
                end_us = record.read_end_us(file.fileno(), offset)
                if end_us:
                    yield end_us / 1e6


class Buffers:
    """A pool of memory for batches, which reuses a batch's memory once nothing refers to the batch any more.

    Fresh memory costs one page fault per 4 KB. A page fault takes about as long as filling the 4 KB.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an uninitialized uint8 array, which TensorFlow can use as a tensor without copying it."""
        size = math.prod(shape)
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = aligned_empty(size)
        if buffer.size != size:
            buffer = aligned_empty(size)
        return np.asarray(_Lease(buffer, self._free)).reshape(shape)


class _Lease:
    """The owner of a buffer: returns the buffer to its pool when the last array that uses it is gone."""

    def __init__(self, buffer: np.ndarray, free: list[np.ndarray]):
        self._buffer, self._free = buffer, free
        self.__array_interface__ = buffer.__array_interface__

    def __del__(self):
        self._free.append(self._buffer)


def aligned_empty(size: int) -> np.ndarray:
    """Returns an uninitialized array, uint8 [size], which TensorFlow can use as a tensor without a copy."""
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size]
