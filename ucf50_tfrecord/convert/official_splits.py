"""Reads the official splits of UCF101 and HMDB51 into folds, from the files that their publishers offer.

UCF101 has trainlist01.txt and testlist01.txt. Each line is a video's path, in the first file with the class's number:
  ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
HMDB51 has a file <class>_test_split1.txt for each class. Each line is a video and its use: 1 is train, 2 is test, and 0
is neither:
  April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
The number at the end of the names is that of the split.

The files may come from a stranger. Their names are looked up in the class folders, and lead nowhere else.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from ucf50_tfrecord import storage
from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.convert.entries import Entry, Mistakes, make_catalog
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.jobs import Catalog
from ucf50_tfrecord.specs import FoldRule, printable, shorten

_UCF_FILES = {"train": "trainlist{:02d}.txt", "test": "testlist{:02d}.txt"}
_HMDB_ENDING = "_test_split{}.txt"
_UCF_LINE = re.compile(r"(?P<label>[^/]+)/(?P<video>[^/]+?)(?:\s+\d{1,4})?", re.ASCII)
_HMDB_LINE = re.compile(r"(?P<video>[^/]+?)\s+(?P<use>[012])", re.ASCII)
_HMDB_FOLDS = {"1": "train", "2": "test", "0": None}
# UCF101's largest file has 600 KB.
_MAX_FILES, _MAX_FILE_BYTES, _MAX_BYTES = 10_000, 16 << 20, 64 << 20
_MAX_LINE, _MAX_NAME, _MAX_SHOWN = 1024, 255, 200  # characters


def find_videos(
    root: pathlib.Path, *, rule: FoldRule, skip_missing: bool = False, checksum: bool = False
) -> Catalog:
    """Catalogues the videos in class folders that an official split names. Their folds are named train and test.

    Other videos are left out, and a warning counts them. A video's id is that of class folders without a split.

    Args:
      root: the folder of class folders.
      rule: the fold rule, which names the folder of the split's files and the split's number.
      skip_missing: whether named videos that do not exist are left out; otherwise they are an error.
      checksum: as in catalog.find_videos.

    Raises:
      UserError: if a folder cannot be read, and as read and entries.make_catalog do.
    """
    folder = pathlib.Path(rule.split_files)
    entries = read(folder, rule.official_split)
    return make_catalog(
        root,
        entries,
        source=str(folder),
        rule=rule,
        skip_missing=skip_missing,
        checksum=checksum,
        warnings=tuple(_left_out(root, entries)),
    )


def read(folder: pathlib.Path, split: int) -> list[Entry]:
    """Reads the files of an official split.

    Args:
      folder: the folder of the files.
      split: the split's number.

    Returns:
      An entry for each video of the split, with the fold "train" or "test".

    Raises:
      UserError: if the files are missing, too large or not UTF-8 text, or a line is malformed. The text names the file
        and the line of each mistake.
    """
    mistakes = Mistakes(str(folder))
    entries, num_bytes = [], 0
    for name, label, fold in _find_files(folder, split):
        text = _read_text(folder / name)
        num_bytes += len(text)
        expect(num_bytes <= _MAX_BYTES, f"at most {_MAX_BYTES} characters in the files of {folder}")
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                place = f"{name}, line {number}"
                entry = _parse(line.strip(), place, label, fold)
                if isinstance(entry, Entry):
                    entries.append(entry)
                elif entry:
                    mistakes.add(place, entry)
    mistakes.check()
    used = {entry.fold for entry in entries}
    expect(
        used == set(_UCF_FILES), f"videos for train and for test in {folder}", found=sorted(map(str, used))
    )
    return entries


def _find_files(folder: pathlib.Path, split: int) -> list[tuple[str, str | None, str | None]]:
    """Finds the files of a split in a folder.

    Returns:
      For each file its name; and the class of all its lines, or their fold. The other of the two is None.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"Cannot read the folder of split files {folder}: {error.strerror}") from error
    ending = _HMDB_ENDING.format(split)
    of_hmdb = [name for name in names if name.endswith(ending) and name != ending]
    of_ucf = {fold: name.format(split) for fold, name in _UCF_FILES.items()}
    found = [name for name in of_ucf.values() if name in names]
    expect(
        bool(of_hmdb) != (len(found) == len(of_ucf)) and not (of_hmdb and found),
        f"{' and '.join(of_ucf.values())} (UCF101), or <class>{ending} (HMDB51) in the folder of split files {folder}",
        found=[shorten(name, _MAX_SHOWN) for name in (found + of_hmdb or names)[:3]],
    )
    expect(len(of_hmdb) <= _MAX_FILES, f"at most {_MAX_FILES} files in {folder}", files=len(of_hmdb))
    if of_hmdb:
        return [(name, name.removesuffix(ending), None) for name in of_hmdb]
    return [(name, None, fold) for fold, name in of_ucf.items()]


def _read_text(path: pathlib.Path) -> str:
    try:
        return storage.read_bytes(path, max_bytes=_MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read the split file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The split file {path} is not UTF-8 text, at byte {error.start}") from error


def _parse(line: str, place: str, label: str | None, fold: str | None) -> Entry | str | None:
    """Parses a line; returns its entry, the text of its mistake, or None if no fold has the video.

    Args:
      line: the line, without spaces at its ends.
      place: the file's name and the line's number.
      label: the class of the file's lines (HMDB51); None if the line has it (UCF101).
      fold: the fold of the file's lines (UCF101); None if the line has it (HMDB51).
    """
    pattern = _UCF_LINE if label is None else _HMDB_LINE
    match = pattern.fullmatch(line) if len(line) <= _MAX_LINE else None
    label = match["label"] if match and label is None else label
    if not match or not all(_is_name(name) for name in (label, match["video"])):
        form = "<class>/<video>" if pattern is _UCF_LINE else "<video> and 0, 1 or 2"
        return f"Expected {form}. Received: {shorten(line, _MAX_SHOWN)!r}"
    if pathlib.PurePosixPath(match["video"]).suffix.lower() not in catalog.VIDEO_SUFFIXES:
        return f"Expected the name of a video. Received: {shorten(match['video'], _MAX_SHOWN)!r}"
    fold = _HMDB_FOLDS[match["use"]] if fold is None else fold
    return Entry(place=place, path=f"{label}/{match['video']}", label=str(label), fold=fold) if fold else None


def _is_name(name: str | None) -> bool:
    """Tells whether a text can be the name of a visible file or folder."""
    return bool(name) and len(name) <= _MAX_NAME and name[0] != "." and printable(name) == name.strip()


def _left_out(root: pathlib.Path, entries: Sequence[Entry]) -> Iterator[str]:
    """Yields warnings about videos and class folders that the split does not name."""
    named = {entry.path for entry in entries}
    classes = {entry.label for entry in entries}
    class_dirs, _ = catalog.list_class_dirs(root)
    found = {path.name: catalog.list_videos(path)[0] for path in class_dirs}
    paths = [path.relative_to(root).as_posix() for videos in found.values() for path in videos]
    others = [path for path in paths if path not in named]
    if others:
        yield f"{len(others)} of {len(paths)} videos are not in the split and left out: {catalog.examples(others)}"
    unknown = [name for name, videos in found.items() if videos and name not in classes]
    if unknown:
        yield f"The split has no video of {len(unknown)} class folders: {catalog.examples(unknown)}"
