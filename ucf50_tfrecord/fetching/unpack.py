"""Unpacks the videos of an archive into class folders: <folder>/<class>/<video>.

The class of a video is the folder that holds it, so an archive may have any folders above its class folders. An
archive in the archive is unpacked, too; videos that lie directly in it are of the class that it is named after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Iterator

from ucf50_tfrecord.convert.catalog import VIDEO_SUFFIXES
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.fetching import archives
from ucf50_tfrecord.fetching.archives import Archive, Entry
from ucf50_tfrecord.fetching.listener import FetchListener
from ucf50_tfrecord.specs import format_bytes

ARCHIVE_SUFFIXES = frozenset({".rar", ".zip"})


@dataclasses.dataclass
class Unpacked:
    """What was unpacked.

    sums: the sha256 of each video, by its path <class>/<video>.
    num_bytes: total size of the videos.
    num_ignored: number of files in the archive that are no videos, or hidden.
    """

    sums: dict[str, str] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0
    num_ignored: int = 0


def unpack(
    path: pathlib.Path,
    folder: pathlib.Path,
    temporary: pathlib.Path,
    *,
    max_bytes: int,
    listener: FetchListener,
) -> Unpacked:
    """Unpacks the videos of an archive. Nothing is written outside the two folders, which must exist.

    Args:
      path: the archive.
      folder: an empty folder for the class folders.
      temporary: an empty folder for archives in the archive; they are removed again.
      max_bytes: largest size of all files in the archive together, unpacked.
      listener: receives the progress.

    Raises:
      UserError: if the archive cannot be read, is damaged, too large or not safe to unpack; if two different videos
        have the same class and name; or if the files cannot be written.
    """
    unpacking = _Unpacking(folder, temporary, max_bytes, listener)
    try:
        for inner in unpacking.unpack(path, None):
            deeper = unpacking.unpack(inner, inner.stem)
            expect(not deeper, "archives in an archive that hold no archives themselves", archive=inner.name)
            inner.unlink()
    except OSError as error:
        raise UserError(f"Cannot unpack {path} into {folder}: {error.strerror or error}") from error
    expect(unpacking.result.sums, "an archive with videos in class folders", archive=str(path))
    return unpacking.result


class _Unpacking:
    """The unpacking of an archive and of those in it.

    result: what has been unpacked so far.
    """

    def __init__(
        self, folder: pathlib.Path, temporary: pathlib.Path, max_bytes: int, listener: FetchListener
    ):
        self._folder, self._temporary = folder, temporary
        self._num_bytes_left, self._listener = max_bytes, listener
        self._entries: dict[str, Entry] = {}
        self.result = Unpacked()

    def unpack(self, path: pathlib.Path, class_name: str | None) -> list[pathlib.Path]:
        """Unpacks one archive.

        Args:
          path: the archive.
          class_name: the class of videos that are in no folder; None ignores such videos.

        Returns:
          The paths of the archives in it, which are now in the temporary folder.
        """
        with archives.open_archive(path) as archive:
            self._check_size(path, archive)
            targets = {}
            for entry in archive.entries:
                target = self._inner_archive(entry) or self._video(path, entry, class_name)
                if target:
                    targets[entry] = target
            self._listener.start("unpacking", sum(entry.num_bytes for entry in targets), unit="B")
            for entry, chunks in archive.read(targets.keys()):
                self._write(targets[entry], chunks)
        return [target for target in targets.values() if target.parent == self._temporary]

    def _check_size(self, path: pathlib.Path, archive: Archive) -> None:
        num_bytes = sum(entry.num_bytes for entry in archive.entries)
        if num_bytes > self._num_bytes_left:
            raise UserError(
                f"The archive {path} is not safe to unpack: its files have {num_bytes} bytes, and at most "
                f"{self._num_bytes_left} are expected"
            )
        self._num_bytes_left -= num_bytes
        free = shutil.disk_usage(self._folder).free
        if num_bytes > free:
            raise UserError(
                f"Cannot unpack {path} into {self._folder}: {format_bytes(num_bytes)} are needed, and "
                f"{format_bytes(free)} are free"
            )

    def _inner_archive(self, entry: Entry) -> pathlib.Path | None:
        """Returns where to write an entry that is an archive; None for another entry."""
        if _is_hidden(entry) or entry.path.suffix.lower() not in ARCHIVE_SUFFIXES:
            return None
        return self._temporary / entry.path.name

    def _video(self, path: pathlib.Path, entry: Entry, class_name: str | None) -> pathlib.Path | None:
        """Returns where to write an entry that is a video; None for another entry, and for a copy of a video."""
        if len(entry.path.parts) > 1:
            class_name = entry.path.parts[-2]
        if _is_hidden(entry) or entry.path.suffix.lower() not in VIDEO_SUFFIXES or class_name is None:
            self.result.num_ignored += 1
            return None
        place = f"{class_name}/{entry.path.name}"
        first = self._entries.setdefault(place, entry)
        if first is not entry:
            if (first.num_bytes, first.crc) != (entry.num_bytes, entry.crc):
                raise UserError(
                    f"The archive {path} holds two different videos {place}, such as {entry.path}"
                )
            return None
        return self._folder / place

    def _write(self, target: pathlib.Path, chunks: Iterator[bytes]) -> None:
        """Writes a new file; adds a video to the result."""
        target.parent.mkdir(exist_ok=True)
        digest, num_bytes = hashlib.sha256(), 0
        with open(target, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
                self._listener.update(len(chunk))
        if target.parent != self._temporary:
            self.result.sums[f"{target.parent.name}/{target.name}"] = digest.hexdigest()
            self.result.num_bytes += num_bytes


def _is_hidden(entry: Entry) -> bool:
    """Tells whether a file or a folder above it is hidden, such as the notes of macOS in an archive."""
    return any(part.startswith(".") for part in entry.path.parts)
