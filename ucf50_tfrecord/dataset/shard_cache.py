"""Keeps local copies of shards from an object store in a folder of limited size.

Whole shards are copied, and each copy is compared with the manifest's sha256 before its use. Several
processes of a host may share the folder: a process locks the copies that it has open, so that no other
process removes them. An interrupted download resumes where it stopped. A copy that was damaged on the disk is
downloaded again.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterable
from typing import BinaryIO

from ucf50_tfrecord import remote, storage
from ucf50_tfrecord.choices import Cache
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError
from ucf50_tfrecord.manifest import ManifestShard
from ucf50_tfrecord.specs import FetchSpec

MAX_OPEN_FILES = 256
_NUM_DOWNLOADS = 4  # in parallel
_CHUNK_BYTES = 8 << 20
_RETRY_SECS = (0.5, 2.0)
_ROOM_WAIT_SECS, _ROOM_POLL_SECS = 60.0, 0.1
_LOCK_WAIT_SECS = 3600.0  # while another process downloads the same shard
# File names of copies, and of unfinished copies with their final size. Other files are not touched.
_COPY, _PART = re.compile(r"[0-9a-f]{64}\.tfrecord"), re.compile(r"[0-9a-f]{64}-([0-9]+)\.part")
_FOLDER_KIND = "a cache of shards"
# Earlier versions did not mark their folder of copies. A folder with a file of such a name is taken for one.
_OWN = re.compile(rf"{_COPY.pattern}|{_PART.pattern}|\.lock-room|\.lock-[0-9a-f]{{2}}")


class ShardDamagedError(UserError):
    """Error: a shard is not the one that the manifest lists."""


class ShardCache:
    """Copies of a remote dataset's shards in a local folder of limited size.

    Shards whose use is announced are fetched ahead. Implements shard_files.ShardFiles.

    shards: a dictionary from URL to the manifest's entry for the shard.
    """

    def __init__(self, shards: dict[str, ManifestShard], fetch: FetchSpec):
        """Makes the folder of the copies unless it exists.

        Args:
          shards: a dictionary from URL to the manifest's entry for the shard.
          fetch: the folder of the copies, and their largest total size.

        Raises:
          UserError: if the folder cannot be made or written, or holds other files.
        """
        self.shards, self._fetch = shards, fetch
        self._folder = pathlib.Path(fetch.cache_dir)
        storage.claim_folder(self._folder, _FOLDER_KIND, lambda names: any(map(_OWN.fullmatch, names)))
        self._changed = threading.Condition()  # guards the fields down to _threads
        self._open: collections.OrderedDict[str, BinaryIO] = collections.OrderedDict()  # last used last
        self._unused: set[str] = set()  # shards that were fetched ahead and not opened yet
        self._expected: dict[str, None] = {}  # announced shards, in the order of their use
        self._ahead_bytes = self._needed_bytes = 0
        self._threads: list[threading.Thread] = []
        self._url_locks = {url: threading.Lock() for url in shards}
        self._renewed: set[str] = set()  # URLs of shards; guarded by each shard's lock
        self._failures: dict[str, OSError | UserError] = {}  # by URL, the last; guarded likewise

    def check_room(self, shards: list[ManifestShard], window: int) -> None:
        """Checks that the folder has room for the shards whose clips are shuffled together.

        This process keeps copies open up to the size that these shards need, and fetches shards ahead within
        this size. Other processes cannot remove open copies.

        Args:
          shards: the shards to read.
          window: number of shards whose clips are shuffled together, or 0 for all.

        Raises:
          UserError: if these shards need more room than the copies may take.
        """
        sizes = sorted((shard.num_bytes for shard in shards), reverse=True)
        at_once = sum(sizes[: window or len(sizes)])
        # When a window (shards that are mixed) begins, the last batches of the previous one are still read.
        needed = sum(sizes[: 2 * window or len(sizes)])
        if needed > self._fetch.cache_bytes:
            raise UserError(
                f"The shards whose clips are shuffled together take {needed / 2**30:.2f} GiB, but the copies in "
                f"{self._folder} may take only {self._fetch.cache_bytes / 2**30:.2f} GiB",
                Remedy(Action.SET, cache_bytes=Change.LARGER),
                Remedy(Action.SET, "to shuffle fewer shards together", shuffle_shards=...),
                Remedy(Action.SET, "where memory suffices", cache=Cache.HOST),
            )
        with self._changed:
            self._needed_bytes = max(self._needed_bytes, needed)
            ahead = needed - at_once if at_once < sum(sizes) else needed
            self._ahead_bytes = max(self._ahead_bytes, ahead)  # if that is too much, see _release_ahead

    def open(self, path: str) -> BinaryIO:
        """Returns the copy of a shard as an open file; downloads the shard first if there is no copy.

        Errors: as in shard_files.ShardFiles.
        """
        with self._changed:
            if path in self._unused or path in self._expected:  # needed now, even if its download is running
                self._unused.discard(path)
                self._expected.pop(path, None)
                self._changed.notify_all()
            file = self._open.get(path)
            if file is not None:
                self._open.move_to_end(path)
        return self._fetch_shard(path) if file is None else file

    def renew(self, path: str, file: BinaryIO) -> bool:
        """Removes the copy of a shard if the disk has damaged it, so that `open` downloads the shard again.

        A copy is removed at most once per shard. Returns False if opening the shard again would give no
        better copy.
        """
        copy, shard = self._copy_of(path), self.shards[path]
        with self._url_locks[path], self._being_made(shard):
            if _is_at(copy, file):  # otherwise the damaged copy was removed already
                if path in self._renewed:
                    return False
                self._renewed.add(path)
                try:
                    if storage.sha256(copy) == shard.sha256:
                        return False  # the shard behind the URL is no better
                    copy.unlink()
                except OSError as error:
                    raise UserError(f"Cannot make {copy} again: {error.strerror}") from error
            with self._changed:
                if self._open.get(path) is file:
                    del self._open[path]
        return True

    def expect(self, paths: Iterable[str]) -> None:
        """Announces shards: starts to fetch them before their use, while there is room for their copies."""
        with self._changed:
            self._expected |= {path: None for path in paths if path not in self._open}
            self._changed.notify_all()
            if self._expected and not self._threads:
                self._threads = [
                    # Daemon threads: a process that exits need not wait for shards that are on their way.
                    threading.Thread(target=self._fetch_ahead, daemon=True)
                    for _ in range(_NUM_DOWNLOADS)
                ]
                for thread in self._threads:
                    thread.start()

    def describe(self, path: str) -> str:
        """Returns the URL of a shard and the path of its copy for messages, since either may be damaged."""
        return f"{path} (copied to {self._copy_of(path)})"

    def _copy_of(self, url: str) -> pathlib.Path:
        return self._folder / f"{self.shards[url].sha256}.tfrecord"

    def _fetch_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_fetch_next)
                path = next(iter(self._expected))
                del self._expected[path]
                if path in self._open:
                    continue
                self._unused.add(path)
            try:
                self._fetch_shard(path)
            except (OSError, UserError):  # `open` meets the error again and raises it
                with self._changed:
                    self._unused.discard(path)

    def _may_fetch_next(self) -> bool:
        if not self._expected:
            return False
        fetched = {*self._unused, next(iter(self._expected))}
        waiting = sum(self.shards[path].num_bytes for path in fetched)
        return waiting <= self._ahead_bytes

    def _fetch_shard(self, url: str) -> BinaryIO:
        """Opens the copy of a shard; downloads the shard first if there is no copy.

        Other threads wait while one thread downloads a shard. If the download fails, they raise the same
        error. So a batch does not repeat the download for each of its clips.
        """
        earlier = self._failures.get(url)
        with self._url_locks[url]:
            failure = self._failures.get(url)
            if failure is not earlier:
                raise failure
            try:
                return self._make_open(url)
            except (OSError, UserError) as error:
                self._failures[url] = error
                raise

    def _make_open(self, url: str) -> BinaryIO:
        with self._changed:
            if url in self._open:
                return self._open[url]
        shard = self.shards[url]
        path = self._copy_of(url)
        while (file := _open_shared(path)) is None:
            with self._being_made(shard):
                if not path.exists():
                    self._copy(url, shard, path)
        with self._changed:
            self._open[url] = file
        while self._holds_too_much() and self._release_oldest():
            pass
        return file

    def _being_made(self, shard: ManifestShard) -> contextlib.AbstractContextManager[None]:
        """Returns a context during which no other process makes or renews the copy of a shard."""
        # Several shards share one lock file, which limits the number of lock files.
        return storage.folder_lock(self._folder, f".lock-{shard.sha256[:2]}", wait_secs=_LOCK_WAIT_SECS)

    def _holds_too_much(self) -> bool:
        with self._changed:
            held = sum(self.shards[url].num_bytes for url in self._open)
            return held > self._needed_bytes or len(self._open) > MAX_OPEN_FILES

    def _copy(self, url: str, shard: ManifestShard, path: pathlib.Path) -> None:
        """Downloads a shard to the path of its copy; resumes an interrupted download."""
        part = self._folder / f"{shard.sha256}-{shard.num_bytes}.part"
        try:
            for _ in range(2):
                self._reserve(url, part)
                if _download(url, shard.num_bytes, part) == shard.sha256:
                    os.replace(part, path)
                    return
                part.unlink()
        except OSError as error:
            # A missing shard behind the URL is not a failure of the folder.
            if isinstance(error, FileNotFoundError) and not _is_below(self._folder, error.filename):
                raise
            raise UserError(f"Cannot write {part}: {error.strerror or error}") from error
        raise ShardDamagedError(f"{url} is damaged: it has another sha256 than the manifest says")

    def _reserve(self, url: str, part: pathlib.Path) -> None:
        """Makes room in the folder for a shard's copy, and reserves this room.

        Args:
          url: the shard's URL.
          part: path of the unfinished copy, whose presence reserves the room.

        Raises:
          UserError: if the folder is full of copies in use.
        """
        deadline = time.monotonic() + _ROOM_WAIT_SECS
        while not self._has_reserved(url, part):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self._folder} is full of shards in use: other processes share it",
                    Remedy(Action.SET, cache_bytes=Change.LARGER),
                    Remedy(Action.SET, cache_dir=Change.OTHER),
                )
            time.sleep(_ROOM_POLL_SECS)

    def _has_reserved(self, url: str, part: pathlib.Path) -> bool:
        allowed = self._fetch.cache_bytes - self.shards[url].num_bytes
        with storage.folder_lock(self._folder, ".lock-room", wait_secs=_LOCK_WAIT_SECS):
            while (excess := self._used_bytes(without=part) - allowed) > 0:
                if (
                    not self._remove_unused(part, excess)
                    and not self._release_oldest()
                    and not self._release_ahead(url)
                ):
                    return False
            part.touch()
            return True

    def _release_oldest(self) -> bool:
        """Releases the least recently used open copy, so that it may be removed.

        Returns False if no copy can be released.
        """
        with self._changed:
            oldest = next((url for url in self._open if url not in self._unused), None)
            if oldest is not None:
                del self._open[oldest]
        return oldest is not None

    def _release_ahead(self, url: str) -> bool:
        """Releases a copy that was fetched ahead, to make room for the shard `url` if it is needed now.

        Returns False if no copy can be released.
        """
        with self._changed:
            ahead = next((other for other in self._open if other in self._unused), None)
            if ahead is None or url in self._unused:
                return False
            del self._open[ahead]
            self._unused.discard(ahead)
            return True

    def _used_bytes(self, without: pathlib.Path) -> int:
        return sum(_counted_bytes(path) for path in self._folder.iterdir() if path != without)

    def _remove_unused(self, without: pathlib.Path, num_bytes: int) -> int:
        """Removes copies that no process has open, the oldest first, until num_bytes are free.

        Args:
          without: an unfinished copy that must not be removed.
          num_bytes: the number of bytes to free.

        Returns:
          The number of bytes that the removed copies took.
        """
        removed = 0
        for path in sorted(self._folder.iterdir(), key=_age):
            if removed >= num_bytes:
                break
            if path.is_dir():
                continue
            if _COPY.fullmatch(path.name):
                num_bytes_there = _counted_bytes(path)
                removed += num_bytes_there if _remove_unlocked(path) else 0
            elif _PART.fullmatch(path.name) and path != without:
                with contextlib.suppress(storage.LockedError):
                    with storage.folder_lock(self._folder, f".lock-{path.name[:2]}"):
                        path.unlink(missing_ok=True)  # no process is writing it
                        removed += _counted_bytes(path)
        return removed


def _open_shared(path: pathlib.Path) -> BinaryIO | None:
    """Opens the copy of a shard and locks it against removal. Returns None if there is no copy."""
    try:
        file = open(path, "rb", buffering=0)
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is_at(path, file):  # removed after it was opened, before it was locked
        file.close()
        return None
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)  # the age of a copy counts from its last use
    return file


def _is_at(path: pathlib.Path, file: BinaryIO) -> bool:
    """Tells whether an open file is the file that is at a path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _is_below(folder: pathlib.Path, filename: str | None) -> bool:
    return filename is not None and pathlib.Path(filename).is_relative_to(folder)


def _remove_unlocked(path: pathlib.Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):  # in use, or already removed
        return False
    return True


def _counted_bytes(path: pathlib.Path) -> int:
    """Returns the bytes that a file counts for in the folder's size; an unfinished copy counts in full."""
    if part := _PART.fullmatch(path.name):
        return int(part[1])
    try:
        return path.stat().st_size if _COPY.fullmatch(path.name) else 0
    except FileNotFoundError:
        return 0


def _age(path: pathlib.Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _download(url: str, num_bytes: int, part: pathlib.Path) -> str:
    """Downloads the rest of a shard to an unfinished copy.

    Args:
      url: the shard's URL.
      num_bytes: size of the shard; no more bytes are written.
      part: path of the unfinished copy, which may hold the shard's first bytes.

    Returns:
      The hex sha256 of the whole file.
    """
    with open(part, "a+b") as file:
        file.seek(0)
        digest = hashlib.sha256()
        while content := file.read(_CHUNK_BYTES):
            digest.update(content)
        waits = [*_RETRY_SECS]
        while (start := file.tell()) < num_bytes:
            try:
                for content in remote.read_chunks(url, start, num_bytes):
                    file.write(content)
                    digest.update(content)
                break  # the sha256 reveals a short file
            except UserError:
                if file.tell() > start:
                    waits = [*_RETRY_SECS]
                if not waits:
                    raise
                time.sleep(waits.pop(0))
    return digest.hexdigest()
