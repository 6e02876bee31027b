"""Fetches a published video set into a folder of class folders, with checksums and facts about it beside them.

Until the set is complete, everything is in a folder of its own, `<output>-download`: the archive, or what has
arrived of it, and what is unpacked. The unpacked folder is renamed to `<output>` last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import urllib.parse

from ucf50_tfrecord import about, storage
from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.convert.catalog import CHECKSUMS_FILENAME
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.fetching import unpackers
from ucf50_tfrecord.fetching.download import DownloadOptions, check_url, download
from ucf50_tfrecord.fetching.listener import FetchListener
from ucf50_tfrecord.fetching.sources import Source
from ucf50_tfrecord.fetching.unpack import ARCHIVE_SUFFIXES, Unpacked, unpack

_KIND = "the download of a video set"
_UNPACKED, _INNER = "unpacked", "inner"
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<path>[^/]+/[^/]+)")
_MAX_SUMS_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class FetchedSet:
    """A video set in its folder.

    output: path of the folder.
    num_videos, num_classes: how many were found in it.
    num_bytes: total size of the videos.
    num_ignored: files of the archive that are not in the folder, because they are no videos.
    was_complete: whether an earlier call had fetched it, and this one has only checked it.
    """

    output: str
    num_videos: int
    num_classes: int
    num_bytes: int
    num_ignored: int = 0
    was_complete: bool = False


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Where a video set comes from, and how it is downloaded.

    archive: path of an archive that is there already; None downloads it.
    restart: whether to discard what an earlier call has downloaded.
    keep_archive: whether to keep a downloaded archive.
    download: see DownloadOptions.
    """

    archive: str | None = None
    restart: bool = False
    keep_archive: bool = False
    download: DownloadOptions = DownloadOptions()


def fetch(
    source: Source, output: str | os.PathLike, options: FetchOptions, listener: FetchListener
) -> FetchedSet:
    """Fetches a video set, or checks the files of one that is complete.

    Args:
      source: where the set is published.
      output: the folder for the class folders; new, empty, or made by this function.
      options: where the archive comes from.
      listener: receives the progress.

    Raises:
      UserError: if the folder holds other files or damaged videos, the download fails, the archive is damaged or not
        safe to unpack, or no program here can decompress it.
    """
    folder = pathlib.Path(os.path.abspath(output))
    names = storage.list_folder(folder)
    if CHECKSUMS_FILENAME in names:
        return check(folder, listener)
    if names:
        raise UserError(
            f"Expected a folder that is new, empty or fetched before. Received: {output}, which holds {min(names)!r}",
            Remedy(Action.SET, output=Change.OTHER),
        )
    if options.archive is None:
        # Else only gigabytes later would this stop the fetch.
        check_url(source.url)
        if _suffix(source.url) == ".rar":
            unpackers.find()
    elif not os.path.isfile(options.archive):
        raise UserError(f"Expected the file of an archive. Received: {options.archive}, which is none")
    work = folder.with_name(f"{folder.name}-download")
    storage.claim_folder(work, _KIND, lambda names: False)
    with storage.folder_lock(work):
        return _fetch(source, folder, work, options, listener)


def _suffix(url: str) -> str:
    """Returns the suffix of the file that a URL names: ".rar" or ".zip", else "" for an unknown one."""
    suffix = os.path.splitext(urllib.parse.urlsplit(url).path)[1].lower()
    return suffix if suffix in ARCHIVE_SUFFIXES else ""


def _fetch(
    source: Source, folder: pathlib.Path, work: pathlib.Path, options: FetchOptions, listener: FetchListener
) -> FetchedSet:
    """Fetches a video set by way of the work folder; removes from there what the next call does not need."""
    download_path = work / f"{source.title}{_suffix(source.url)}"

    def is_downloaded(name: str) -> bool:
        return name.startswith(download_path.name)

    if options.restart:
        storage.remove_files(work, is_downloaded)
    _remove_unpacked(work)  # of a process that was killed
    try:
        if options.archive is None:
            _download(source, download_path, options.download, listener)
        archive = pathlib.Path(options.archive or download_path)
        unpacked = _unpack(source, archive, work, listener)
        fetched = _describe(work / _UNPACKED, unpacked)
        _rename(work / _UNPACKED, folder)
        if not options.keep_archive:
            storage.remove_files(work, is_downloaded)
    except UserError as error:
        if not download_path.exists() or options.archive:
            raise
        # It stays, as another unpacker may be able to read it.
        again = Remedy(Action.SET, "to download it again", restart=True)
        raise UserError(f"{error}. The archive stays: {download_path}", *error.remedies, again) from error
    finally:
        _remove_unpacked(work)
        if not any(map(is_downloaded, storage.list_folder(work))):
            shutil.rmtree(work)
    return dataclasses.replace(fetched, output=str(folder))


def _download(source: Source, path: pathlib.Path, options: DownloadOptions, listener: FetchListener) -> None:
    download(
        source.url,
        path,
        num_bytes=source.num_bytes,
        max_bytes=source.max_bytes,
        options=options,
        listener=listener,
    )


def _remove_unpacked(work: pathlib.Path) -> None:
    for name in (_UNPACKED, _INNER):
        shutil.rmtree(work / name, ignore_errors=True)


def _unpack(source: Source, archive: pathlib.Path, work: pathlib.Path, listener: FetchListener) -> Unpacked:
    """Unpacks the archive in the work folder; writes the checksums and the facts about the set beside the class folders."""
    for name in (_UNPACKED, _INNER):
        storage.make_folder(work / name)
    unpacked = unpack(archive, work / _UNPACKED, work / _INNER, max_bytes=source.max_bytes, listener=listener)
    with storage.atomic_write(work / _UNPACKED / CHECKSUMS_FILENAME) as file:
        file.writelines(f"{sha256}  {path}\n".encode() for path, sha256 in sorted(unpacked.sums.items()))
    about.save(work / _UNPACKED, source.about)
    return unpacked


def _describe(folder: pathlib.Path, unpacked: Unpacked) -> FetchedSet:
    """Returns the counts of an unpacked set, as a conversion finds its videos.

    Raises:
      UserError: if a conversion would refuse the folder.
    """
    found = catalog.find_videos(folder)
    expect(
        len(found.videos) == len(unpacked.sums),
        f"{len(unpacked.sums)} videos in the unpacked folder",
        videos=len(found.videos),
    )
    return FetchedSet(
        output=str(folder),
        num_videos=len(found.videos),
        num_classes=len(found.classes),
        num_bytes=unpacked.num_bytes,
        num_ignored=unpacked.num_ignored,
    )


def _rename(unpacked: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        os.rename(unpacked, folder)  # fails if the folder is not empty any more
    except OSError as error:
        raise UserError(f"Cannot write the folder {folder}: {error.strerror}") from error


def check(folder: pathlib.Path, listener: FetchListener) -> FetchedSet:
    """Compares the videos of a fetched set with the checksums beside them.

    Raises:
      UserError: if a video is missing, damaged or not listed, or the list cannot be read.
    """
    sums = _read_sums(folder / CHECKSUMS_FILENAME)
    found = catalog.find_videos(folder)
    others = {video.relative_path for video in found.videos} - sums.keys()
    listener.start("checking", len(sums), unit="video")
    damaged = []
    for path, sha256 in sums.items():
        with contextlib.suppress(OSError):  # a video that cannot be read is damaged, too
            if storage.sha256(folder / path) == sha256:
                listener.update(1)
                continue
        damaged.append(path)
    if damaged or others:
        raise UserError(
            f"{folder} differs from its {CHECKSUMS_FILENAME}: {len(damaged)} of {len(sums)} videos are missing or damaged, "
            f"and {len(others)} are not listed: {catalog.examples([*damaged, *sorted(others)])}. Remove the folder to "
            "fetch it again"
        )
    num_bytes = sum(video.num_bytes for video in found.videos)
    return FetchedSet(str(folder), len(found.videos), len(found.classes), num_bytes, was_complete=True)


def _read_sums(path: pathlib.Path) -> dict[str, str]:
    """Returns the checksums in a list, by the videos' paths."""
    try:
        lines = storage.read_bytes(path, max_bytes=_MAX_SUMS_BYTES).decode().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        is_inside = match and ".." not in match["path"].split("/")
        expect(is_inside, f"a sha256 and the path of a video in line {number} of {path}", line=line)
        sums[match["path"]] = match["sha256"]
    return sums
