"""Catalogues the videos in a folder of class folders: <folder>/<class>/…/<video>.

A video named like `v_<Class>_gNN_cNN` (UCF11, UCF50, UCF101) has the recording group and the clip number in
its name. The label of a class is its position among the sorted class names.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import stat

from ucf50_tfrecord import about, storage
from ucf50_tfrecord.convert import groups
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Catalog, Video
from ucf50_tfrecord.shards import Named
from ucf50_tfrecord.specs import MAX_FOLD, FoldRule

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpe .mpeg "
    ".mpg .mts .mxf .nut .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)
# The list of checksums that a fetched set of videos has beside its class folders.
CHECKSUMS_FILENAME = "SHA256SUMS"
_NUM_EXAMPLES = 3


def find_videos(
    videos_dir: str | os.PathLike,
    *,
    rule: FoldRule = FoldRule(),
    skip_empty_classes: bool = False,
    checksum: bool = False,
) -> Catalog:
    """Catalogues the videos in a folder of class folders, ordered by video id.

    Class folders may be links and may hold subfolders. Hidden files and folders are ignored, and so are the list of
    checksums and the facts that a fetched set has. A warning in the catalogue counts the other entries that are
    ignored: files without a video's suffix, entries that are not regular files, and dangling links.

    Args:
      videos_dir: the folder of class folders.
      rule: the fold rule, whose pattern finds recording groups; without one, UCF names give them.
      skip_empty_classes: whether class folders without a video are left out; otherwise they are an error.
      checksum: whether every video file is read to compute its sha256.

    Raises:
      UserError: if the folder cannot be read or holds fewer than two class folders, a class folder holds no video
        (unless skip_empty_classes), two videos of a class differ only in their suffix, the number of a recording
        group is too large for a fold, or the pattern finds no group.
    """
    root = pathlib.Path(videos_dir)
    class_dirs, stray = list_class_dirs(root)
    files: dict[str, list[pathlib.Path]] = {}
    for class_dir in class_dirs:
        files[class_dir.name], strays = list_videos(class_dir)
        stray += strays
    empty = [name for name, paths in files.items() if not paths]
    if not class_dirs or len(empty) == len(files):
        _explain_no_videos(root, stray)
    if empty and not skip_empty_classes:
        raise UserError(
            f"{len(empty)} class folders of {root} hold no video: {examples(empty)}. Fill or remove them",
            Remedy(Action.SET, "to leave them out of the classes", skip_empty_classes=True),
        )
    classes = tuple(sorted(name for name in files if files[name]))
    if len(classes) < 2:
        raise UserError(f"Expected at least 2 class folders with videos in {root}; found only {classes[0]}")
    described = [
        (path, _describe(path, root, class_name, label))
        for label, class_name in enumerate(classes)
        for path in files[class_name]
    ]
    videos = [video for _, video in described if video]
    stray += [path for path, video in described if not video]
    _check_ids_are_unique(videos)
    videos, group_names = _with_groups(videos, rule, root)
    if checksum:
        videos = with_checksums(videos, root)
    warnings = []
    if empty:
        warnings.append(f"{len(empty)} empty class folders left out: {examples(empty)}")
    if stray:
        names = [str(path.relative_to(root)) for path in stray]
        warnings.append(f"{len(stray)} files and folders ignored, no videos: {examples(names)}")
    return Catalog(
        videos_dir=str(root),
        classes=classes,
        videos=tuple(sorted(videos, key=lambda video: video.video_id)),
        warnings=tuple(warnings),
        group_names=group_names,
    )


def list_class_dirs(root: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Lists a folder of class folders.

    Returns:
      A tuple of two sorted lists: the class folders, and the other entries beside them.
    """
    try:
        entries = sorted(
            entry
            for entry in root.iterdir()
            if not entry.name.startswith(".") and entry.name not in (CHECKSUMS_FILENAME, about.FILENAME)
        )
    except OSError as error:
        raise UserError(f"Cannot read the videos' folder {root}: {error.strerror}") from error
    dirs = [entry for entry in entries if entry.is_dir()]
    return dirs, [entry for entry in entries if not entry.is_dir()]


def list_videos(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Lists the videos below a folder, which are recognized by their suffix.

    Hidden entries are ignored. Links to folders are not followed below the folder, because they may form
    loops.

    Returns:
      A tuple of two sorted lists: the paths of the videos, and the paths of the other entries.

    Raises:
      UserError: if a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}") from error

    videos: list[pathlib.Path] = []
    stray: list[pathlib.Path] = []
    for parent, subfolders, names in os.walk(folder, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        stray += [
            pathlib.Path(parent, name) for name in subfolders if os.path.islink(os.path.join(parent, name))
        ]
        for name in names:
            if not name.startswith("."):
                path = pathlib.Path(parent, name)
                (videos if path.suffix.lower() in VIDEO_SUFFIXES else stray).append(path)
    return sorted(videos), sorted(stray)


def _describe(path: pathlib.Path, root: pathlib.Path, class_name: str, label: int) -> Video | None:
    """Returns the catalogue's entry for a video file, or None for a dangling link, a pipe or a device."""
    relative = path.relative_to(root)
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"Cannot read the video {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        return None
    group = groups.ucf_group(relative.as_posix())
    expect(
        group is None or group <= MAX_FOLD,
        f"a recording group of at most {MAX_FOLD} in the file name of the video {path}",
        group=group,
    )
    return Video(
        relative_path=relative.as_posix(),
        video_id=relative.with_suffix("").as_posix(),
        class_name=class_name,
        label=label,
        group=group,
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def _with_groups(
    videos: list[Video], rule: FoldRule, root: pathlib.Path
) -> tuple[list[Video], tuple[Named, ...]]:
    """Returns the videos with the groups that the rule's pattern finds in their paths, and the groups' names."""
    if not rule.group_pattern:
        return videos, ()
    found = [groups.find_group(video.relative_path, rule) for video in videos]
    groups.check_found(found, rule, str(root))
    numbers = groups.number(found, "groups", str(root))
    grouped = [dataclasses.replace(video, group=numbers.get(group)) for video, group in zip(videos, found)]
    return grouped, groups.names_of(numbers)


def with_checksums(videos: list[Video], root: pathlib.Path) -> list[Video]:
    """Returns the videos with the sha256 of their files.

    The sha256 of a file that cannot be read stays None; such a video fails when it is decoded.
    """

    def with_checksum(video: Video) -> Video:
        try:
            return dataclasses.replace(video, sha256=storage.sha256(root / video.relative_path))
        except OSError:
            return video

    with concurrent.futures.ThreadPoolExecutor() as threads:
        return list(threads.map(with_checksum, videos))


def _check_ids_are_unique(videos: list[Video]) -> None:
    paths = collections.defaultdict(list)
    for video in videos:
        paths[video.video_id].append(video.relative_path)
    duplicates = [" and ".join(sorted(same)) for same in paths.values() if len(same) > 1]
    if duplicates:
        raise UserError(
            f"{len(duplicates)} video ids belong to more than one file: {examples(sorted(duplicates))}. "
            "Remove or rename one of each."
        )


def _explain_no_videos(root: pathlib.Path, stray: list[pathlib.Path]) -> None:
    direct = [path for path in stray if path.parent == root and path.suffix.lower() in VIDEO_SUFFIXES]
    found = f"{len(direct)} videos outside class folders" if direct else "no videos"
    raise UserError(
        f"Expected {root} to hold one folder per class, each with its videos "
        f"({root}/<class>/<video>.avi); found {found}."
    )


def examples(names: list[str]) -> str:
    """Returns a text with the first few names and the number of the others, such as "a, b, c and 7 more"."""
    rest = len(names) - _NUM_EXAMPLES
    return ", ".join(names[:_NUM_EXAMPLES]) + (f" and {rest} more" if rest > 0 else "")
