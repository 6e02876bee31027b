"""Finds videos in folders of splits: <folder>/train/<class>/…/<video>, and the same in test/ and perhaps val/."""

from __future__ import annotations

import pathlib

from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.convert.entries import Entry, make_catalog
from ucf50_tfrecord.convert.groups import SPLITS
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.jobs import Catalog
from ucf50_tfrecord.specs import FoldRule


def is_split(root: pathlib.Path) -> bool:
    """Tells whether a folder is divided into splits.

    It is if it holds the folder train and another split's folder, no other visible folder, and all of these hold
    folders but no video. Otherwise train may be a class.
    """
    try:
        dirs = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        names = {path.name for path in dirs}
        if "train" not in names or len(names) < 2 or not names <= set(SPLITS):
            return False
        inside = [entry for path in dirs for entry in path.iterdir()]
    except OSError:  # catalog.find_videos explains it
        return False
    return not any(entry.suffix.lower() in catalog.VIDEO_SUFFIXES for entry in inside)


def find_videos(root: pathlib.Path, *, rule: FoldRule, checksum: bool) -> Catalog:
    """Catalogues the videos in a folder of splits. Each split is a fold of its name.

    An id is <class>/<split>/<video>, since splits may hold videos of equal names.

    Raises:
      UserError: if a folder cannot be read or a class folder holds no video, and as entries.make_catalog does.
    """
    entries, stray = [], []
    for split in sorted(path for path in root.iterdir() if path.name in SPLITS):
        class_dirs, others = catalog.list_class_dirs(split)
        stray += others
        for class_dir in class_dirs:
            videos, strays = catalog.list_videos(class_dir)
            stray += strays
            expect(videos, "a video in each class folder", folder=str(class_dir))
            entries += [_entry(path, root) for path in videos]
    names = [str(path.relative_to(root)) for path in stray]
    ignored = f"{len(stray)} files and folders ignored, no videos: {catalog.examples(names)}"
    warnings = (ignored,) if stray else ()
    return make_catalog(root, entries, source=str(root), rule=rule, checksum=checksum, warnings=warnings)


def _entry(path: pathlib.Path, root: pathlib.Path) -> Entry:
    relative = path.relative_to(root)
    split, label, *rest = relative.with_suffix("").parts
    return Entry(
        place=relative.as_posix(),
        path=relative.as_posix(),
        label=label,
        id="/".join((label, split, *rest)),
        fold=split,
    )
