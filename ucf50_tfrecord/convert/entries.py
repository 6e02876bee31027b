"""Makes a catalogue from entries, which name each video with its label, and perhaps its group, fold and segment.

Lists and folders such as train/ and test/ give the entries. Names of groups and folds become numbers here, since
records hold numbers.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import posixpath
import stat
from collections.abc import Sequence

from ucf50_tfrecord.choices import Playback
from ucf50_tfrecord.convert import catalog, groups
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Catalog, Segment, Video
from ucf50_tfrecord.labels import ClassName, Label, as_tuple
from ucf50_tfrecord.specs import FoldRule, is_fold_name

_MAX_MISTAKES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One video as a list or a folder names it.

    place: where the entry is, for messages, such as "line 7".
    path: the file's path, relative to the folder of all entries, or absolute.
    label: the class's name; a sorted tuple of names if the video has several labels.
    id: the video's id without the class name; "" if none is given.
    group, fold: the group and the fold, each a name or a number; None if none is given.
    segment: the part of the video; None is the whole video.
    playback: the direction in which its clips play.
    """

    place: str
    path: str
    label: ClassName
    id: str = ""
    group: groups.Given = None
    fold: groups.Given = None
    segment: Segment | None = None
    playback: Playback = Playback.FORWARD


class Mistakes:
    """Collects the mistakes of a list, so that one message names several of them."""

    def __init__(self, source: str):
        self._source, self._texts = source, list[str]()

    def add(self, place: str, text: str) -> None:
        self._texts.append(f"{place}: {text}")

    def check(self, *remedies: Remedy) -> None:
        """Raises UserError if there are mistakes. The text shows the first few of them and counts the others."""
        if self._texts:
            rest = len(self._texts) - _MAX_MISTAKES
            more = f"; and {rest} more" if rest > 0 else ""
            count = f"{len(self._texts)} mistakes" if len(self._texts) > 1 else "a mistake"
            raise UserError(
                f"{self._source} has {count}. {'; '.join(self._texts[:_MAX_MISTAKES])}{more}", *remedies
            )


def make_catalog(
    root: pathlib.Path,
    entries: Sequence[Entry],
    *,
    source: str,
    rule: FoldRule = FoldRule(),
    skip_missing: bool = False,
    checksum: bool = False,
    warnings: tuple[str, ...] = (),
) -> Catalog:
    """Makes a catalogue from entries. If one of them has several labels, the catalogue is multi-label.

    Args:
      root: the folder that relative paths start from.
      entries: the entries, in any order.
      source: path of the list or the folder, for messages.
      rule: the fold rule, whose pattern finds the groups of entries without one.
      skip_missing: whether videos that do not exist are left out; otherwise they are an error.
      checksum: whether every video file is read to compute its sha256.
      warnings: the catalogue's first warnings.

    Raises:
      UserError: if a path leaves the folder or is no regular file, two entries have the same id or the same
        video, segment and playback, only some entries have a fold, there are too many groups or folds, or fewer than
        two classes.
    """
    mistakes = Mistakes(source)
    multi_label = any(isinstance(entry.label, tuple) for entry in entries)
    if multi_label:
        entries = [dataclasses.replace(entry, label=as_tuple(entry.label)) for entry in entries]
    found, missing = _with_files(root, entries, mistakes)
    remedies = []
    if missing and skip_missing:
        paths = [entry.path for entry in missing]
        warnings = (
            *warnings,
            f"{len(paths)} videos do not exist and are left out: {catalog.examples(paths)}",
        )
    elif missing:
        for entry in missing:
            mistakes.add(entry.place, f"path: The video {entry.path!r} does not exist")
        remedies = [Remedy(Action.SET, "to leave out such videos", skip_missing_videos=True)]
    _check_distinct(found, mistakes)
    mistakes.check(*remedies)
    classes = tuple(sorted({name for entry, _ in found for name in as_tuple(entry.label)}))
    expect(len(classes) >= 2, f"at least 2 classes in {source}", classes=list(classes))
    found_groups = [_group_of(entry, rule) for entry, _ in found]
    groups.check_found(found_groups, rule, source)
    group_numbers = groups.number(found_groups, "groups", source)
    fold_numbers = groups.number((entry.fold for entry, _ in found), "folds", source)
    numbers = {name: number for number, name in enumerate(classes)}

    def label_of(name: ClassName) -> Label:
        return tuple(numbers[part] for part in name) if isinstance(name, tuple) else numbers[name]

    videos = [
        Video(
            relative_path=entry.path,
            video_id=_id_of(entry),
            class_name=entry.label,
            label=label_of(entry.label),
            group=group_numbers.get(group),
            num_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            fold=fold_numbers.get(entry.fold),
            segment=entry.segment,
            playback=entry.playback,
        )
        for (entry, status), group in zip(found, found_groups)
    ]
    if checksum:
        videos = catalog.with_checksums(videos, root)
    return Catalog(
        videos_dir=str(root),
        classes=classes,
        videos=tuple(sorted(videos, key=lambda video: video.video_id)),
        warnings=(*warnings, *_warnings(videos)),
        multi_label=multi_label,
        fold_names=groups.names_of(fold_numbers),
        group_names=groups.names_of(group_numbers),
    )


def _with_files(
    root: pathlib.Path, entries: Sequence[Entry], mistakes: Mistakes
) -> tuple[list[tuple[Entry, os.stat_result]], list[Entry]]:
    """Looks the entries' files up, and reports mistakes in paths and folds.

    Returns:
      A tuple: the entries with paths in normal form, each with the state of its file; and those without a file.
    """
    found, missing = [], []
    for entry in entries:
        path = _normal_path(root, entry.path)
        if path is None:
            mistakes.add(
                entry.place,
                "path: Expected a path in the folder of the list, or an absolute path. "
                f"Received: {entry.path!r}",
            )
            continue
        try:
            status = (root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(entry)
            continue
        except OSError as error:
            mistakes.add(entry.place, f"path: Cannot read the video {entry.path!r}: {error.strerror}")
            continue
        if not stat.S_ISREG(status.st_mode):
            mistakes.add(entry.place, f"path: Expected a regular file. Received: {entry.path!r}")
            continue
        found.append((dataclasses.replace(entry, path=path), status))
    _check_folds([entry for entry, _ in found], mistakes)
    return found, missing


def _check_folds(entries: Sequence[Entry], mistakes: Mistakes) -> None:
    """Reports folds that are missing where other videos have one, and names among numbers."""
    given = [entry.fold is not None for entry in entries]
    if any(given) and not all(given):
        entry = entries[given.index(False)]
        mistakes.add(entry.place, "fold: Expected a fold, as other videos have one. Received: none")
    named = {entry.fold: entry.place for entry in entries if is_fold_name(str(entry.fold or ""))}
    for entry in entries if named else ():
        if entry.fold is not None and entry.fold not in named:
            mistakes.add(
                entry.place,
                f"fold: Expected a name without a comma, as other folds have names. Received: {entry.fold!r}",
            )


def _normal_path(root: pathlib.Path, path: str) -> str | None:
    """Returns a path relative to the root; an absolute path outside it unchanged; None for a relative one."""
    normal = posixpath.normpath(path)
    if posixpath.isabs(normal):
        folder = pathlib.PurePosixPath(os.path.abspath(root))
        inside = pathlib.PurePosixPath(normal)
        return str(inside.relative_to(folder)) if inside.is_relative_to(folder) else normal
    return None if normal in (".", "..") or normal.startswith("../") else normal


def _group_of(entry: Entry, rule: FoldRule) -> groups.Given:
    return groups.find_group(entry.path, rule) if entry.group is None else entry.group


def _id_of(entry: Entry) -> str:
    """Returns a video's id, which begins with the class name if there is one label per video."""
    name = entry.id
    if not name:
        name = str(pathlib.PurePosixPath(entry.path).with_suffix("")).lstrip("/")
        if entry.segment:
            end = "" if entry.segment.end_us is None else f"{entry.segment.end_us / 1e6:g}"
            name += f"@{entry.segment.start_us / 1e6:g}-{end}"
    if isinstance(entry.label, tuple) or name.startswith(f"{entry.label}/"):
        return name
    return f"{entry.label}/{name}"


def _check_distinct(found: Sequence[tuple[Entry, os.stat_result]], mistakes: Mistakes) -> None:
    """Reports entries that have the id, or the video, the segment and the playback, of an earlier entry."""
    ids: dict[str, str] = {}
    parts: dict[tuple[str, Segment | None, Playback], str] = {}
    for entry, _ in found:
        video_id = _id_of(entry)
        first = parts.setdefault((entry.path, entry.segment, entry.playback), entry.place)
        if first != entry.place:
            mistakes.add(
                entry.place, f"path: {entry.path!r} is already in {first}, with the same segment and playback"
            )
            continue
        first = ids.setdefault(video_id, entry.place)
        if first != entry.place:
            mistakes.add(entry.place, f"id: {video_id!r} is already the id of {first}")


def _warnings(videos: Sequence[Video]) -> list[str]:
    """Returns warnings about videos outside the folder and about groups in several folds."""
    warnings = []
    outside = sorted(video.relative_path for video in videos if video.relative_path.startswith("/"))
    if outside:
        warnings.append(
            f"{len(outside)} videos are outside the list's folder, at absolute paths: {catalog.examples(outside)}"
        )
    folds: dict[int, set[int]] = collections.defaultdict(set)
    for video in videos:
        if video.group is not None and video.fold is not None:
            folds[video.group].add(video.fold)
    divided = [group for group, used in folds.items() if len(used) > 1]
    if divided:
        warnings.append(
            f"{len(divided)} of {len(folds)} groups have videos in more than one fold: a split may put one "
            "recording on both sides"
        )
    return warnings
