"""Converts a folder of class folders into TFRecord shards.

  python -m pipelines.convert --videos=/data/UCF50

Shards that already stand are kept: the same command goes on after an interruption,
and does nothing when nothing has changed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import sys
import time

from absl import flags

from pipelines import console
from ucf50_tfrecord import manifest
from ucf50_tfrecord.specs import FOLD_RULES, ClipFormat, FoldRule, UserError, expect, format_folds, parse_size

_VIDEOS = flags.DEFINE_string("videos", None, "Folder with one folder of videos a class.")
_DATA = flags.DEFINE_string(
    "data", None, "The dataset's folder, for its shards. Default: data/<name>-<frames>x<height>x<width>."
)
_NAME = flags.DEFINE_string("name", None, "The dataset's name. Default: from the videos' folder.")
_SIZE = flags.DEFINE_string("size", "64", "Frame size in pixels: 64, or height x width as in 112x96.")
_FRAMES = flags.DEFINE_integer("frames", 15, "Frames a clip, evenly spaced over the video.")
_FOLD_BY = flags.DEFINE_enum(
    "fold_by",
    "group",
    FOLD_RULES,
    "What keeps clips together in a fold: group (the recording, from UCF names), or video "
    "(each video by itself: the random split, which leaks recordings).",
)
_NUM_FOLDS = flags.DEFINE_integer(
    "num_folds", 25, "Folds for videos without a group, or with --fold_by=video."
)
_WORKERS = flags.DEFINE_integer("workers", None, "Processes that decode. Default: one a core.")
_SHARD_MIB = flags.DEFINE_integer("shard_mib", 32, "Largest size of a shard's pixels, in MiB.", lower_bound=1)
_SKIP_EMPTY = flags.DEFINE_boolean("skip_empty_classes", False, "Leave class folders without videos out.")

_VERIFY = flags.DEFINE_boolean("verify", False, "Read standing shards too, and convert damaged ones again.")

_MAX_QUARANTINED = flags.DEFINE_float(
    "max_quarantined", 0.01, "Share of videos without a clip above which to end with an error.", 0.0, 1.0
)

_FORMAT_FLAGS = ("name", "size", "frames", "fold_by", "num_folds")


def clip_format() -> ClipFormat:
    height, width = parse_size(_SIZE.value)
    return ClipFormat(num_frames=_FRAMES.value, height=height, width=width)


def fold_rule() -> FoldRule:
    return FoldRule(fold_by=_FOLD_BY.value, num_folds=_NUM_FOLDS.value)


def load_or_convert() -> manifest.Manifest:
    """Returns the dataset that the flags name, converting --videos if that is given.

    Raises:
      UserError: if the flags name no dataset, or one of another format than they ask for.
    """
    if _VIDEOS.value:
        return convert()
    if not _DATA.value:
        raise UserError("Pass --videos=<folder of class folders>, or --data=<folder of shards>.")
    loaded = manifest.load(_DATA.value)
    given = [name for name in _FORMAT_FLAGS if flags.FLAGS[name].present]
    _check_same_format(loaded, _asked_for(loaded.name), given)
    return loaded


def convert() -> manifest.Manifest:
    """Brings the shards of --videos up to date and says what was done.

    Raises:
      UserError: see catalog.find_videos and engines.build_dataset.
    """
    # Only a host that converts needs PyAV.
    from ucf50_tfrecord.convert import catalog, decode, engines, plan

    if not _VIDEOS.value:
        raise UserError("Pass --videos=<folder of class folders>.")
    num_workers = os.cpu_count() if _WORKERS.value is None else _WORKERS.value
    expect(num_workers >= 1, "at least 1 worker", workers=num_workers)
    name = _NAME.value or dataset_name(_VIDEOS.value)
    expect(re.fullmatch(r"[a-z]\w*", name), "a name of letters, digits and _, starting with a-z", name=name)
    data_dir = _DATA.value or default_data_dir(name)

    found = catalog.find_videos(_VIDEOS.value, skip_empty_classes=_SKIP_EMPTY.value)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if manifest.exists(data_dir):
        _check_same_format(manifest.load(data_dir), _asked_for(name), _FORMAT_FLAGS)
    planned = plan.plan_shards(
        found,
        name=name,
        clip_format=clip_format(),
        fold_rule=fold_rule(),
        decoder=decode.decoder_version(),
        shard_bytes=_SHARD_MIB.value << 20,
    )
    started, num_converted = time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        bar = None

        def start(num_videos: int) -> None:
            nonlocal bar
            if num_videos:
                print(
                    f"Converting {num_videos} of {len(found.videos)} videos, {num_workers} workers: {data_dir}"
                )
            bar = stack.enter_context(console.progress_bar(num_videos, "video", "converting"))

        def count(report: manifest.ShardReport) -> None:
            nonlocal num_converted
            num_converted += report.num_clips + len(report.quarantined)
            bar.update(report.num_clips + len(report.quarantined))

        built = engines.build_dataset(
            planned,
            data_dir,
            num_workers=num_workers,
            verify=_VERIFY.value,
            on_start=start,
            on_shard=count,
        )
    _print_result(built, num_converted, time.monotonic() - started)
    if len(built.quarantined) > _MAX_QUARANTINED.value * built.num_videos:
        raise UserError(
            f"{len(built.quarantined)} of {built.num_videos} videos gave no clip, more than the share of "
            f"--max_quarantined={_MAX_QUARANTINED.value}. All others are converted."
        )
    return built


def dataset_name(videos_dir: str) -> str:
    """Makes a dataset's name out of its videos' folder: "/data/UCF-50/" is "ucf_50"."""
    base = re.sub(r"\W+", "_", pathlib.Path(videos_dir).resolve().name.lower(), flags=re.ASCII).strip("_")
    return base if base[:1].isalpha() else f"videos_{base}".rstrip("_")


def default_data_dir(name: str) -> str:
    rule = fold_rule()
    by_video = f"-by-video{rule.num_folds}" if rule.fold_by == "video" else ""
    return os.path.join("data", f"{name}-{clip_format()}{by_video}")


def _asked_for(name: str) -> dict[str, object]:
    asked, rule = clip_format(), fold_rule()
    return {
        "name": _NAME.value or name,
        "size": f"{asked.height}x{asked.width}",
        "frames": asked.num_frames,
        "fold_by": rule.fold_by,
        "num_folds": rule.num_folds,
    }


def _check_same_format(found: manifest.Manifest, asked: dict[str, object], names) -> None:
    stored = {
        "name": found.name,
        "size": f"{found.format.height}x{found.format.width}",
        "frames": found.format.num_frames,
        "fold_by": found.fold_rule.fold_by,
        "num_folds": found.fold_rule.num_folds,
    }
    differing = [
        f"--{name} is {asked[name]}, there it is {stored[name]}"
        for name in names
        if asked[name] != stored[name]
    ]
    if differing:
        raise UserError(
            f"{found.data_dir} holds shards of another format: {'; '.join(differing)}. "
            "Choose another --data, or the same flags."
        )


def _print_result(built: manifest.Manifest, num_converted: int, secs: float) -> None:
    for item in built.quarantined:
        print(f"quarantined: {item.relative_path}: {item.reason}", file=sys.stderr)
    num_bytes = sum(shard.num_bytes for shard in built.shards)
    done = f"{num_converted / secs:.1f} videos/s" if num_converted else "nothing to convert"
    print(
        f"Shards: {built.data_dir} ({built.num_videos} videos, {built.num_clips} clips, "
        f"{len(built.quarantined)} quarantined, {len(built.classes)} classes, folds {format_folds(built.folds)}, "
        f"{len(built.shards)} shards, {num_bytes / 1e6:.1f} MB; {done})"
    )


def main() -> None:
    convert()


if __name__ == "__main__":
    console.run(main)
