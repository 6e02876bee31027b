"""Converts a folder of class folders, or a list of videos, into TFRecord shards.

  python -m pipelines.convert --videos=/data/UCF50

Up-to-date shards are kept: the same command resumes after an interruption,
and does nothing when nothing has changed.

On several hosts with a shared file system, start it once per task, as in a
Slurm array:

  python -m pipelines.convert --videos=… --data=… \\
    --task_index=$SLURM_ARRAY_TASK_ID --task_count=100
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Self

from absl import flags

from pipelines import console, ray_flags, terminal
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import building, manifest, remote
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Plan, ShardJob
from ucf50_tfrecord.shards import DATASET_NAME, ShardReport
from ucf50_tfrecord.specs import (
    DEFAULT_SHARD_BYTES,
    ClipFormat,
    DecodeLimits,
    FoldRule,
    format_bytes,
    format_folds,
    parse_size,
)

if TYPE_CHECKING:
    from ucf50_tfrecord.building import Engine

_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder with one folder of videos per class, or a list of videos (.csv, .jsonl, .parquet).",
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "The dataset's folder; or a URL, such as s3://bucket/set, to which the finished dataset is copied. Default: "
    "data/<name>-<frames>x<height>x<width>.",
)
_STAGING = flags.DEFINE_string(
    "staging", None, "Local folder for the shards if --data is a URL. Default: the same as --data's default."
)
_NAME = flags.DEFINE_string(
    "name", None, "The dataset's name. Default: made from the name of the videos' folder or list."
)
_SIZE = flags.DEFINE_string(
    "size",
    str(ClipFormat.height),
    "Frame size in pixels: 64 for square frames, or <height>x<width> such as 112x96.",
)
_FORMAT = SpecFlags(ClipFormat)
_FOLD_RULE = SpecFlags(FoldRule)
_SHARD_MIB = flags.DEFINE_integer(
    "shard_mib", DEFAULT_SHARD_BYTES >> 20, "Largest size of a shard's pixels, in MiB.", lower_bound=1
)
_SKIP_EMPTY = flags.DEFINE_boolean("skip_empty_classes", False, "Ignore class folders without videos.")
_SKIP_MISSING = flags.DEFINE_boolean(
    "skip_missing_videos", False, "Leave out videos of a list, or of --split_files, that do not exist."
)

_VERIFY = flags.DEFINE_boolean(
    "verify",
    False,
    "Check the contents of existing shards, convert damaged ones again, and retry videos that failed.",
)
_CHECKSUM = flags.DEFINE_boolean(
    "checksum",
    False,
    "Recognise changed videos by their contents (sha256), not by size and time. Shards that were made "
    "without --checksum are converted again.",
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace shards of another format or of other videos in --data."
)
_MAX_QUARANTINED = flags.DEFINE_float(
    "max_quarantined", 0.01, "Fail if more than this fraction of the videos gave no clip.", 0.0, 1.0
)
_LIMITS = SpecFlags(DecodeLimits)

_WORKERS = flags.DEFINE_integer(
    "workers", None, "Number of processes that decode videos. Default: one per core."
)
_ENGINE = flags.DEFINE_enum(
    "engine",
    "local",
    ("local", "beam", "ray"),
    "Where to convert: on this host, by Apache Beam, or on a Ray cluster. With ray, the trainings of a comparison "
    "run there, too.",
)
_BEAM_ARGS = flags.DEFINE_string("beam_args", "", 'Options for Beam: "--runner=… --…".')
_TASK_INDEX = flags.DEFINE_integer(
    "task_index", None, "Do only this task's part of the work: 0 to task_count - 1."
)
_TASK_COUNT = flags.DEFINE_integer("task_count", None, "Number of tasks that share the work.")
_FINALIZE = flags.DEFINE_boolean(
    "finalize",
    False,
    "Only write the last file, from the work of finished tasks: the manifest, or a comparison's report.",
)

flags.adopt_module_key_flags(ray_flags)


def clip_format() -> ClipFormat:
    height, width = parse_size(_SIZE.value)
    return _FORMAT.build(height=height, width=width)


def use_format(stored: ClipFormat) -> None:
    """Makes the format of a finished dataset the default of the flags of the format."""
    flags.set_default(_SIZE, f"{stored.height}x{stored.width}")
    _FORMAT.set_defaults(stored)


def has_videos() -> bool:
    """Tells whether --videos is given."""
    return bool(_VIDEOS.value)


def has_data() -> bool:
    """Tells whether --data is given."""
    return bool(_DATA.value)


def load_or_convert(check: Callable[[Plan], None] = lambda plan: None) -> manifest.Manifest:
    """Returns the manifest of the dataset that the flags name; converts --videos first, if given.

    Args:
      check: called with the plan of the conversion before any video is converted. It may raise UserError.

    Raises:
      UserError: if the flags name no dataset, or a dataset of another format.
    """
    if _VIDEOS.value:
        expect(
            not is_task(),
            "--data=<folder of finished shards> instead of --videos with --task_index or --finalize",
            videos=_VIDEOS.value,
        )
        return convert(check)
    return load()


def load() -> manifest.Manifest:
    """Returns the manifest of the dataset that --data names.

    Raises:
      UserError: if there is no dataset, or its format differs from the flags that are given.
    """
    if not _DATA.value:
        raise UserError("Pass --videos=<folder of class folders>, or --data=<folder of shards>.")
    console.load_file_systems(_DATA.value)
    loaded = manifest.load(_DATA.value)
    stored = _format_flags(loaded.name, loaded.format, loaded.fold_rule)
    asked = {name: flags.FLAGS[name].value for name in stored if flags.FLAGS[name].present}
    if flags.FLAGS["split_files"].value:
        asked["official_split"] = flags.FLAGS["official_split"].value
    if "size" in asked:
        asked["size"] = "{}x{}".format(*parse_size(_SIZE.value))
    _check_same_format(loaded, asked)
    return loaded


def convert(check: Callable[[Plan], None] = lambda plan: None) -> manifest.Manifest | None:
    """Converts the videos of --videos, except those whose shards are up to date, and prints the result.

    Args:
      check: called with the plan before any video is converted. It may raise UserError.

    Returns:
      The dataset's manifest, or None if other tasks have not finished their parts of the dataset yet.

    Raises:
      UserError: if a flag is wrong, too many videos give no clip, or the conversion fails (see
        catalog.find_videos and the functions of engines).
    """
    if not _VIDEOS.value:
        raise UserError("Pass --videos=<folder of class folders, or list of videos>.")
    expect(
        not _FINALIZE.value or not (_TASK_COUNT.value or _VERIFY.value or _OVERWRITE.value),
        "no --task_index, --verify or --overwrite with --finalize, because --finalize converts no video",
    )
    task()  # raises an error for wrong flags
    run = _engine()
    name = _NAME.value or manifest.default_name(_VIDEOS.value)
    expect(re.fullmatch(DATASET_NAME, name), "a name of letters, digits and _, starting with a-z", name=name)
    data_dir, url = _DATA.value or default_data_dir(name), None
    if remote.is_remote(data_dir):
        console.load_file_systems(data_dir)
        data_dir, url = _STAGING.value or default_data_dir(name), data_dir
    for folder in (data_dir, url) if url else (data_dir,):
        before = None if _OVERWRITE.value else manifest.load_if_finished(folder)
        if before:
            _check_same_format(before, _format_flags(name, clip_format(), _FOLD_RULE.build()))
    planned = _plan(name)
    check(planned)
    with ConversionDisplay(planned, data_dir) as display:
        built = build(planned, data_dir, run, display)
    display.print_result(built)
    if built and len(built.quarantined) > _MAX_QUARANTINED.value * built.num_videos:
        raise UserError(
            f"{len(built.quarantined)} of {built.num_videos} videos gave no clip, more than the fraction "
            f"--max_quarantined={_MAX_QUARANTINED.value}. All others are converted."
        )
    return _publish(built, url) if built and url else built


def build(
    planned: Plan, data_dir: str, run: Engine, listener: building.BuildListener
) -> manifest.Manifest | None:
    """Makes a dataset, this task's part of it, or only its manifest, depending on the flags.

    Returns:
      The dataset's manifest, or None if other tasks have not finished their parts yet.
    """
    options = building.BuildOptions(verify=_VERIFY.value, overwrite=_OVERWRITE.value)
    if _FINALIZE.value:
        return building.finalize(planned, data_dir)
    if _TASK_INDEX.value is not None:
        return building.build_part(
            planned, data_dir, task=task(), run=run, options=options, listener=listener
        )
    return building.build_dataset(planned, data_dir, run=run, options=options, listener=listener)


def task() -> tuple[int, int]:
    """Returns the index of this task and the number of tasks; (0, 1) if the flags name no task.

    Raises:
      UserError: if the flags are wrong.
    """
    index, count = _TASK_INDEX.value, _TASK_COUNT.value
    expect(
        (index is None) == (count is None),
        "--task_index and --task_count together",
        task_index=index,
        task_count=count,
    )
    if index is None:
        return 0, 1
    building.check_task((index, count))
    return index, count


def finalizes() -> bool:
    """Tells whether --finalize is set: only the last file is written, from the work of finished tasks."""
    return _FINALIZE.value


def is_task() -> bool:
    """Tells whether the flags ask only for one task's part of a dataset (--task_index) or its manifest (--finalize)."""
    return _FINALIZE.value or _TASK_INDEX.value is not None


def overwrites() -> bool:
    """Tells whether shards of another format may be replaced."""
    return _OVERWRITE.value


def _publish(built: manifest.Manifest, url: str) -> manifest.Manifest:
    """Copies a finished dataset to the URL of --data; returns the copy's manifest."""
    from ucf50_tfrecord.convert import publish

    with console.progress_bar(len(built.shards), "shard", "uploading") as bar:
        copied = publish.publish(built, url, verify=_VERIFY.value, on_shard=bar.update)
    terminal.say(f"Copied to {url}", flush=True)
    return copied


def default_data_dir(name: str) -> str:
    rule = _FOLD_RULE.build()
    by_video = f"-by-video{rule.num_folds}" if rule.fold_by == FoldBy.VIDEO else ""
    split = f"-split{rule.official_split}" if rule.split_files else ""
    return os.path.join("data", f"{name}-{clip_format()}{by_video}{split}")


def uses_ray() -> bool:
    """Tells whether the flags choose Ray."""
    return _ENGINE.value == "ray"


def _engine() -> Engine:
    """Returns the engine that the flags choose: a function that converts videos.

    Raises:
      UserError: if a flag is out of its range or belongs to another engine, or the engine is not installed.
    """
    from ucf50_tfrecord.convert import engines

    limits = _LIMITS.build()
    if _ENGINE.value != "beam":
        expect(not _BEAM_ARGS.value, "--engine=beam with --beam_args", beam_args=_BEAM_ARGS.value)
    if _ENGINE.value != "local":
        expect(
            _WORKERS.value is None,
            f"no --workers with --engine={_ENGINE.value}, which has workers of its own",
            workers=_WORKERS.value,
        )
    if uses_ray():
        ray_flags.check_installed()
        return functools.partial(_run_ray, limits=limits)
    ray_flags.check_unused()
    if _ENGINE.value == "beam":
        return _beam_engine(limits)
    num_workers = len(os.sched_getaffinity(0)) if _WORKERS.value is None else _WORKERS.value
    expect(num_workers >= 1, "at least 1 worker", workers=num_workers)
    return functools.partial(engines.run_local, num_workers=num_workers, limits=limits)


def _beam_engine(limits: DecodeLimits) -> Engine:
    try:
        from ucf50_tfrecord.convert import beam

        beam_args = shlex.split(_BEAM_ARGS.value)
    except ImportError as error:
        raise UserError(
            f"The engine beam needs packages that are missing ({error})",
            Remedy(Action.INSTALL, extras="convert,beam"),
        ) from error
    except ValueError as error:
        raise UserError(f"Cannot read --beam_args={_BEAM_ARGS.value!r}: {error}") from error
    return functools.partial(beam.run_beam, beam_args=beam_args, limits=limits)


def _run_ray(
    jobs: Sequence[ShardJob], data_dir: str, on_videos: Callable[[int], None], *, limits: DecodeLimits
) -> Generator[ShardReport]:
    """Converts shards on the Ray cluster of the flags, as on_ray.run_ray does."""
    with ray_flags.connected():
        from ucf50_tfrecord.convert import on_ray
        from ucf50_tfrecord.ray_cluster import Resources

        resources = Resources(num_cpus=ray_flags.cpus_per_job(1.0))
        yield from on_ray.run_ray(
            jobs, os.path.abspath(data_dir), on_videos, resources=resources, limits=limits
        )


def _plan(name: str) -> Plan:
    """Finds the videos of --videos and plans their shards; prints warnings about the videos."""
    from ucf50_tfrecord.convert import decode, lists, plan

    rule = _FOLD_RULE.build()
    found = lists.find_videos(
        _VIDEOS.value,
        rule=rule,
        skip_empty_classes=_SKIP_EMPTY.value,
        skip_missing=_SKIP_MISSING.value,
        checksum=_CHECKSUM.value,
    )
    leak = plan.find_leak(found, rule)
    for warning in (*found.warnings, *([leak] if leak else [])):
        terminal.warn(warning)
    return plan.plan_shards(
        found,
        name=name,
        clip_format=clip_format(),
        fold_rule=rule,
        decoder=decode.decoder_version(),
        shard_bytes=_SHARD_MIB.value << 20,
    )


def _format_flags(name: str, fmt: ClipFormat, rule: FoldRule) -> dict[str, object]:
    """Returns the settings that decide a dataset's contents, by the names of their flags."""
    settings = dataclasses.asdict(fmt) | dataclasses.asdict(rule)
    if not settings.pop("split_files"):  # the files may have moved
        settings["official_split"] = "none"
    size = f"{settings.pop('height')}x{settings.pop('width')}"
    return {"name": name, "size": size, "frames": settings.pop("num_frames")} | settings


def _check_same_format(found: manifest.Manifest, asked: dict[str, object]) -> None:
    stored = _format_flags(found.name, found.format, found.fold_rule)
    differing = [
        f"--{name} is {value}, but the shards have {stored[name]}"
        for name, value in asked.items()
        if value != stored[name]
    ]
    if differing:
        raise UserError(
            f"{found.data_dir} holds shards of another format: {'; '.join(differing)}",
            Remedy(Action.SET, data_dir=Change.OTHER),
            Remedy(Action.SET, "to replace them", overwrite=True),
        )


class BuildDisplay(building.BuildListener):
    """Shows the progress of a build. It counts units, such as the frames of the items (videos or clips).

    num_units: number of units done so far.
    """

    def __init__(
        self, data_dir: str, num_items: int, *, verb: str, items: str, unit: str, units_per_item: int = 1
    ):
        self._data_dir, self._num_items, self._verb, self._items = data_dir, num_items, verb, items
        self._unit, self._units_per_item = unit, units_per_item
        self._started, self.num_units = time.monotonic(), 0
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def start(self, num_items: int) -> None:
        if num_items:
            terminal.say(
                f"{self._verb.capitalize()} {num_items} of {self._num_items} {self._items}: {self._data_dir}",
                flush=True,
            )
        total = num_items * self._units_per_item
        self._bar = self._stack.enter_context(console.progress_bar(total, self._unit, self._verb))

    def update(self, num_items: int) -> None:
        with self._lock:
            self.num_units += num_items * self._units_per_item
            self._bar.update(num_items * self._units_per_item)

    def rate(self) -> float:
        """Returns the number of units per second since the start."""
        return self.num_units / (time.monotonic() - self._started)


class ConversionDisplay(BuildDisplay):
    """Shows a conversion's progress and result."""

    def __init__(self, planned: Plan, data_dir: str):
        num_videos = sum(job.num_items for job in planned.jobs)
        super().__init__(data_dir, num_videos, verb="converting", items="videos", unit="video")

    def print_result(self, built: manifest.Manifest | None) -> None:
        done = f"{self.rate():.1f} videos/s" if self.num_units else "nothing to convert"
        if built is None:
            terminal.say(
                f"This task's part is done, {self.num_units} videos ({done}); other tasks finish {self._data_dir}"
            )
            return
        for item in built.quarantined:
            retry = " (--verify retries)" if item.cause in building.RETRIED_ONLY_BY_VERIFY else ""
            terminal.note(f"quarantined: {item.relative_path}: {item.reason}{retry}")
        num_bytes = sum(shard.num_bytes for shard in built.shards)
        terminal.say(
            f"Shards: {built.data_dir} ({built.num_videos} videos, {built.num_clips} clips, "
            f"{len(built.quarantined)} quarantined, {len(built.classes)} classes, "
            f"folds {format_folds(built.folds)}, {len(built.shards)} shards, {format_bytes(num_bytes)}; {done})"
        )


def main() -> None:
    convert()


if __name__ == "__main__":
    console.run(main)
