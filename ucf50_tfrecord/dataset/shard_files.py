"""Opens shards (TFRecord files): local shards, and local copies of shards in an object store."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable
from typing import BinaryIO, Protocol

from ucf50_tfrecord import remote, storage
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.shard_cache import MAX_OPEN_FILES, ShardCache
from ucf50_tfrecord.specs import FetchSpec

_CACHES: dict[tuple[str, str, FetchSpec], ShardCache] = {}
_CACHES_LOCK = threading.Lock()


class ShardFiles(Protocol):
    """Interface that opens shards by their paths in a ClipIndex. Safe to call from several threads."""

    def open(self, path: str) -> BinaryIO:
        """Returns a shard as an open file.

        Args:
          path: the shard's path or URL.

        Raises:
          FileNotFoundError: if the shard is missing.
          ShardDamagedError: if the shard is not the one that the manifest lists.
          OSError, UserError: if the shard cannot be read.
        """

    def renew(self, path: str, file: BinaryIO) -> bool:
        """Tells whether to open a damaged shard again, because another copy of it may be undamaged.

        Args:
          path: the shard's path or URL.
          file: the damaged file that `open` returned for the shard.

        Raises:
          UserError: if the damaged file cannot be checked or removed.
        """

    def expect(self, paths: Iterable[str]) -> None:
        """Announces the shards that will be opened next, in the order of their use."""

    def describe(self, path: str) -> str:
        """Returns the location of a shard's bytes, for messages."""


def open_files(clips: ClipIndex) -> ShardFiles:
    """Returns an object that opens the shards of some clips.

    Calls for the same remote dataset with equal `fetch` settings return the same object.

    Raises:
      UserError: if the folder for copies of remote shards cannot be used or is too small.
    """
    manifest = clips.manifest
    if not remote.is_remote(manifest.data_dir):
        return _LocalFiles()
    with _CACHES_LOCK:
        key = manifest.data_dir, manifest.fingerprint, clips.fetch
        if key not in _CACHES:
            shards = {storage.join(manifest.data_dir, shard.filename): shard for shard in manifest.shards}
            _CACHES[key] = ShardCache(shards, clips.fetch)
        cache = _CACHES[key]
    cache.check_room([cache.shards[path] for path in clips.shard_paths], clips.shuffle_shards)
    return cache


def _file_version(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


# The open files are shared by all readers of the process. TensorFlow keeps every function that a dataset
# calls, and with the function its reader, until the process exits. A file is closed when it has left this
# cache and no thread reads it any more.
@functools.lru_cache(MAX_OPEN_FILES)
def _open_version(path: str, version: tuple[int, int, int]) -> BinaryIO:
    return storage.open_file(path)


class _LocalFiles:
    def __init__(self):
        self._version = functools.cache(_file_version)

    def open(self, path: str) -> BinaryIO:
        return _open_version(path, self._version(path))

    def renew(self, path: str, file: BinaryIO) -> bool:
        return False

    def expect(self, paths: Iterable[str]) -> None:
        """Ignores the announcement of shards, because local shards need no preparation."""

    def describe(self, path: str) -> str:
        return path
