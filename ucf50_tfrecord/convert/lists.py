"""Finds videos: those that a list or an official split names, or those in a folder of class folders or of splits.

A list is a file of comma-separated values (.csv), of one JSON object per line (.jsonl), or a Parquet file (.parquet).
Its columns:
  path         the video's file, relative to the list's folder; or an absolute path
  label        the name of the video's class; or the names of several, separated by ";" (in JSON lines also a list)
  id           optional: the video's id; by default its path without the suffix
  group        optional: the recording group, a name or a number
  split, fold  optional, one of the two: the fold, a name such as test, or a number
  start, end   optional: the part of the video that is converted, in seconds from its first frame
  playback     optional: forward, or backward if the clip's frames are to come in reverse order

If one row names several labels, or JSON lines hold a list of labels, all videos of the list have several labels, even
those with one: the data set is multi-label.

A list may come from a stranger, and its paths end up in shards. So a relative path must not leave the list's folder.
An absolute path is accepted, because its text shows where it leads, and a warning lists such videos.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from ucf50_tfrecord import about, labels, manifest, parsing, storage
from ucf50_tfrecord.choices import Playback
from ucf50_tfrecord.convert import catalog, official_splits, split_folders
from ucf50_tfrecord.convert.entries import Entry, Mistakes, make_catalog
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Catalog, Segment
from ucf50_tfrecord.specs import FoldRule, printable

_MAX_BYTES = 256 << 20  # a million videos take about 100 MB
_MAX_ID = 1000  # characters
_MAX_LABEL = 255  # characters, as in a folder's name
_MAX_LABELS = 200  # of a video
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_ID)]
_Secs = Annotated[float, msgspec.Meta(ge=0, le=10**7)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    """One row of a list, checked when built; the fields are the columns."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    label: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_LABELS * (_MAX_LABEL + 1))]
        | Annotated[list[str], msgspec.Meta(min_length=1, max_length=_MAX_LABELS)]
    )
    id: _Text | None = None
    group: _Text | int | None = None
    split: _Text | int | None = None
    fold: _Text | int | None = None
    start: _Secs | None = None
    end: _Secs | None = None
    playback: str | None = None

    def __post_init__(self):
        self._check_labels()
        for name in ("path", "id", "group", "split", "fold"):
            text = str(getattr(self, name))
            expect(
                printable(text) == text and text == text.strip(),
                f"a {name} of printable characters, without spaces around it",
                **{name: text},
            )
        for name in ("group", "split", "fold"):
            value = getattr(self, name)
            expect(not isinstance(value, int) or value >= 0, f"a {name} of 0 or more", **{name: value})
        expect(self.split is None or self.fold is None, "split or fold, not both", split=self.split)
        expect(self.end is None or self.end > (self.start or 0.0), "an end after the start", end=self.end)
        expect(
            self.playback in (None, *Playback), f"a playback out of {tuple(Playback)}", playback=self.playback
        )

    @property
    def class_name(self) -> labels.ClassName:
        """The label; a sorted tuple if there are several, or a list of them."""
        if isinstance(self.label, str) and labels.SEPARATOR not in self.label:
            return self.label
        return tuple(sorted(self._names))

    @property
    def _names(self) -> list[str]:
        return self.label.split(labels.SEPARATOR) if isinstance(self.label, str) else self.label

    def _check_labels(self) -> None:
        names = self._names
        expect(len(names) <= _MAX_LABELS, f"at most {_MAX_LABELS} labels", labels=len(names))
        for name in names:
            expect(name, "a name before, between and after each separator of labels", label=self.label)
            expect(len(name) <= _MAX_LABEL, f"labels of at most {_MAX_LABEL} characters", length=len(name))
            expect("/" not in name and name[0] != ".", "a label like a folder's name", label=name)
            expect(labels.SEPARATOR not in name, f"labels without {labels.SEPARATOR!r} in a list", label=name)
            expect(
                printable(name) == name and name == name.strip(),
                "a label of printable characters, without spaces around it",
                label=name,
            )
        expect(len(set(names)) == len(names), "each label of a video once", label=self.label)


COLUMNS = tuple(field.name for field in dataclasses.fields(_Row))


def find_videos(
    videos: str | os.PathLike,
    *,
    rule: FoldRule = FoldRule(),
    skip_empty_classes: bool = False,
    skip_missing: bool = False,
    checksum: bool = False,
) -> Catalog:
    """Catalogues the videos in a folder of class folders or of splits, or those of a list, with the facts beside them.

    Args:
      videos: the folder or the list.
      rule: the fold rule, whose pattern finds recording groups, and which may name an official split.
      skip_empty_classes, checksum: as in catalog.find_videos.
      skip_missing: whether videos of a list or an official split that do not exist are left out; otherwise they are an
        error.

    Raises:
      UserError: as catalog.find_videos, read_list, official_splits.find_videos, entries.make_catalog and about.load
        do.
    """
    found = _find_videos(videos, rule, skip_empty_classes, skip_missing, checksum)
    return dataclasses.replace(found, about=about.load(found.videos_dir))


def _find_videos(
    videos: str | os.PathLike, rule: FoldRule, skip_empty_classes: bool, skip_missing: bool, checksum: bool
) -> Catalog:
    """Catalogues videos as find_videos does, but without the facts beside them."""
    if rule.split_files:
        root = pathlib.Path(videos)
        expect(
            not (manifest.is_list(videos) or split_folders.is_split(root) or skip_empty_classes),
            "a folder of class folders, and no skip_empty_classes, with split_files",
            videos=os.fspath(videos),
        )
        return official_splits.find_videos(root, rule=rule, skip_missing=skip_missing, checksum=checksum)
    if split_folders.is_split(pathlib.Path(videos)):
        expect(
            not skip_empty_classes, "no skip_empty_classes with folders of splits", videos=os.fspath(videos)
        )
        return split_folders.find_videos(pathlib.Path(videos), rule=rule, checksum=checksum)
    if not manifest.is_list(videos):
        return catalog.find_videos(
            videos, rule=rule, skip_empty_classes=skip_empty_classes, checksum=checksum
        )
    expect(
        not skip_empty_classes, "a folder of class folders with skip_empty_classes", videos=os.fspath(videos)
    )
    path = pathlib.Path(videos)
    made = make_catalog(
        path.parent,
        read_list(path),
        source=str(path),
        rule=rule,
        skip_missing=skip_missing,
        checksum=checksum,
    )
    return dataclasses.replace(made, videos_list=str(path))


def read_list(path: pathlib.Path) -> list[Entry]:
    """Reads a list of videos.

    Raises:
      UserError: if the list cannot be read, has unknown columns or no video, or a value is wrong. The text names
        the line (in a Parquet file, the row) and the column of each mistake.
    """
    suffix = path.suffix.lower()
    mistakes = Mistakes(str(path))
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}[suffix]
    entries = []
    for place, values in rows(path, mistakes):
        try:
            row = parsing.convert(values, _Row, "", lax=suffix == ".csv")
        except UserError as error:
            mistakes.add(place, str(error).removeprefix(": "))
            continue
        entries.append(_entry(row, place))
    mistakes.check()
    if not entries:
        raise UserError(f"{path} names no video")
    return entries


def _entry(row: _Row, place: str) -> Entry:
    segment = None
    if row.start or row.end is not None:
        end_us = None if row.end is None else round(row.end * 1e6)
        segment = Segment(start_us=round((row.start or 0.0) * 1e6), end_us=end_us)
    return Entry(
        place=place,
        path=row.path,
        label=row.class_name,
        id=row.id or "",
        group=row.group,
        fold=row.split if row.fold is None else row.fold,
        segment=segment,
        playback=Playback(row.playback or Playback.FORWARD),
    )


def _read_text(path: pathlib.Path) -> str:
    try:
        return storage.read_bytes(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read the list of videos {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text, at byte {error.start}") from error


# Each function yields the place of each row, such as "line 7", and the row's values by column.


def _csv_rows(path: pathlib.Path, mistakes: Mistakes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a CSV file. Empty values are left out."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(path, header)
        start = reader.line_num + 1
        for fields in reader:
            line, start = start, reader.line_num + 1
            if len(fields) == len(header):
                yield f"line {line}", {name: value for name, value in zip(header, fields) if value}
            elif fields:  # an empty line has none
                mistakes.add(f"line {line}", f"Expected {len(header)} values. Received: {len(fields)}")
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV, at line {reader.line_num}: {error}") from error


def _check_columns(path: pathlib.Path, header: list[str]) -> None:
    for name in ("path", "label"):
        expect(name in header, f"a column {name} in the first line of {path}", columns=header)
    expect(len(set(header)) == len(header), f"distinct columns in {path}", columns=header)
    unknown = [name for name in header if name not in COLUMNS]
    expect(not unknown, f"columns out of {', '.join(COLUMNS)} in {path}", columns=unknown)


def _jsonl_rows(path: pathlib.Path, mistakes: Mistakes) -> Iterator[tuple[str, Any]]:
    """Yields the JSON object of each line."""
    for line, content in enumerate(_read_text(path).split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = storage.parse_json(content)
        except ValueError as error:
            mistakes.add(f"line {line}", f"Expected a JSON object. Received: {error}")
            continue
        unknown = [name for name in values if name not in COLUMNS] if isinstance(values, dict) else []
        if unknown:
            mistakes.add(
                f"line {line}", f"Expected columns out of {', '.join(COLUMNS)}. Received: {unknown[0]!r}"
            )
        else:
            yield f"line {line}", values


def _parquet_rows(path: pathlib.Path, mistakes: Mistakes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a Parquet file. Missing values are left out.

    A whole number may be stored as a float: pandas does so for a column of whole numbers with a missing value.
    """
    try:
        from ucf50_tfrecord.convert import parquet_lists
    except ImportError as error:
        raise UserError(
            f"Cannot read {path}: lists as Parquet need PyArrow ({error})",
            Remedy(Action.INSTALL, extras="convert"),
        ) from error
    for row, values in parquet_lists.read_rows(path, COLUMNS, max_bytes=_MAX_BYTES):
        for name in ("group", "split", "fold"):
            value = values.get(name)
            if isinstance(value, float) and value.is_integer():
                values[name] = int(value)
        yield f"row {row}", values
