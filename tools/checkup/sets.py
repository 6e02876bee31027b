"""The health of sets of shards, and of a run."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tools.checkup.finding import Finding, NoAnswer, Options, fail, ok, warn
from tools.checkup.packages import ask_tensorflow
from ucf50_tfrecord.texts import make_variable

if TYPE_CHECKING:
    from ucf50_tfrecord.manifest import Manifest, ManifestShard

_SAMPLE_SHARDS, _SAMPLE_BYTES = 3, 256 << 20
_MAX_QUARANTINED_SHARE = 0.01
_NUM_NAMED = 5
_LOOKUPS_AT_ONCE = 16


def check(options: Options) -> Iterator[Finding]:
    if options.videos:
        yield from check_videos(options.videos)
    folders = find_folders(options)
    for folder in folders:
        yield from check_set(folder)
    if not folders:
        yield ok("no shards under data/ yet: make train, or make shards VIDEOS=…, makes them")
    if options.run:
        yield from check_run(options.run)


def find_folders(options: Options) -> list[str]:
    """Returns the folder that was asked for, else those under data/ that hold shards, finished or not."""
    if options.data:
        return [options.data]
    names = ("*/manifest.json", "*/*.tfrecord-*-of-*")
    return sorted({str(path.parent) for name in names for path in pathlib.Path("data").glob(name)})


def sound_manifests(options: Options) -> list[Manifest]:
    """Returns the manifests that can be read; of the others check_set tells."""
    found = map(load_manifest, find_folders(options))
    return [manifest for manifest in found if not isinstance(manifest, Exception)]


@functools.cache
def load_manifest(folder: str) -> Manifest | Exception:
    """Returns a set's manifest, or the UserError that says what is wrong with it; looks once."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord.errors import UserError

    try:
        return manifest_lib.load(folder)
    except UserError as error:
        return error


def check_videos(folder: str) -> Iterator[Finding]:
    """Looks at which videos there are; none is opened."""
    from ucf50_tfrecord.convert import catalog
    from ucf50_tfrecord.errors import UserError

    try:
        found = catalog.find_videos(folder)
    except UserError as error:
        yield fail(str(error), "VIDEOS=… names a folder with one folder of videos a class")
        return
    for text in found.warnings:
        yield warn(text)
    groups = {video.group for video in found.videos}
    yield ok(
        f"{folder}: {len(found.videos)} videos, {len(found.classes)} classes, {len(groups - {None})} groups"
    )
    if groups == {None}:
        yield warn(
            f"{folder}: no name holds a recording group (_g07_), so videos of one recording may be on both sides of "
            "a split, and scores too high",
            "name them as UCF50 does: v_<Class>_g<recording>_c<clip>",
        )


def check_set(folder: str) -> Iterator[Finding]:
    """Looks at a folder of shards: all files' sizes, and the contents of a few."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord import remote, storage

    if remote.is_remote(folder):
        yield from _check_remote_set(folder)
        return
    if not os.path.isdir(folder):
        what = "no folder" if os.path.exists(folder) else "not there"
        yield fail(f"{folder} is {what}", "convert videos into it", command=_convert_command(folder))
        return
    if not manifest_lib.exists(folder):
        if storage.is_locked(folder):
            yield ok(f"{folder} is being converted")
            return
        count = len(list(pathlib.Path(folder).glob("*.tfrecord-*-of-?????")))
        yield fail(
            f"{folder} is not finished: it holds {count} shard(s) and no {manifest_lib.MANIFEST_FILENAME}",
            "the same conversion again goes on with it",
            command=_convert_command(folder),
        )
        return
    manifest = load_manifest(folder)
    if isinstance(manifest, Exception):
        yield fail(str(manifest), "convert the videos again", command=_convert_command(folder))
        return
    yield from _check_shards(manifest)
    yield from _check_contents(manifest)


def _check_remote_set(url: str) -> Iterator[Finding]:
    from ucf50_tfrecord.errors import UserError

    manifest = load_manifest(url)
    try:
        if isinstance(manifest, Exception):
            raise manifest
        yield from _check_shards(manifest)
    except UserError as error:  # it may not be reached at all, or not any more
        yield fail(
            str(error), "see the keys and the endpoint in the environment, and the section on object stores"
        )
        return
    yield from _check_contents(manifest)


def _convert_command(folder: str) -> str:
    return f"make shards VIDEOS=<folder of class folders> {make_variable('DATA', folder)}"


def _check_shards(manifest: Manifest) -> Iterator[Finding]:
    from ucf50_tfrecord import manifest as manifest_lib

    with concurrent.futures.ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as threads:  # each may be a request
        looks = threads.map(functools.partial(_look, manifest), manifest.shards)
        problems = [problem for found in looks for problem in found]
    sample = sample_shards(manifest.shards) if not problems else []
    problems += [problem for shard in sample for problem in manifest_lib.verify_shard(manifest, shard)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield fail(f"{problems[0]}{more}", command=manifest_lib.repair_command(manifest))
        return
    text = (
        f"{manifest.data_dir}: {manifest.num_clips} clips of {manifest.format} in {len(manifest.shards)} shards; "
        f"all sizes are right, {len(sample)} read through"
    )
    verify = f"; all: make verify {make_variable('DATA', manifest.data_dir)}"
    yield ok(text + (verify if len(sample) < len(manifest.shards) else ""))


def _look(manifest: Manifest, shard: ManifestShard) -> list[str]:
    """Returns what is wrong with a shard and its sidecar, as far as sizes tell."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord import storage

    problem = manifest_lib.size_problem(manifest, shard)
    sidecar = manifest_lib.sidecar_path(manifest.data_dir, shard.filename)
    found = [problem] if problem else []
    return found + ([] if storage.file_size(sidecar) is not None else [f"{sidecar}, a sidecar, is missing"])


def sample_shards(shards: tuple[ManifestShard, ...]) -> list[ManifestShard]:
    """Chooses the first, the last and those in the middle, as far as they are quickly read."""
    places = {round(i * (len(shards) - 1) / (_SAMPLE_SHARDS - 1)) for i in range(_SAMPLE_SHARDS)}
    chosen, num_bytes = [], 0
    for place in sorted(places):
        num_bytes += shards[place].num_bytes
        if not chosen or num_bytes <= _SAMPLE_BYTES:
            chosen.append(shards[place])
    return chosen


def _check_contents(manifest: Manifest) -> Iterator[Finding]:
    """Looks at what a sound set is good for."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.specs import format_folds

    folder = manifest.data_dir
    share = len(manifest.quarantined) / max(1, manifest.num_videos)
    if share > _MAX_QUARANTINED_SHARE:
        first = manifest.quarantined[0]
        yield warn(
            f"{folder}: {len(manifest.quarantined)} of {manifest.num_videos} videos ({share:.1%}) gave no clip, such "
            f"as {first.relative_path}: {first.reason}",
            "make inspect lists them; this tries those again that cost too much",
            command=manifest_lib.repair_command(manifest),
        )
    if manifest.fold_rule.fold_by == "video":
        yield warn(
            f"{folder}: folds are by video, so recordings are on both sides of a split: scores are too high",
            "without FLAGS=--fold_by=video, into another DATA, folds are by recording group",
        )
    try:
        val_folds = manifest_lib.default_val_folds(manifest)
    except UserError as error:
        yield warn(str(error))
        return
    missing = manifest.missing_classes(val_folds)
    if missing:
        more = ", …" if len(missing) > _NUM_NAMED else ""
        yield warn(
            f"{folder}: the default validation folds {format_folds(val_folds)} hold no clip of {len(missing)} classes "
            f"({', '.join(missing[:_NUM_NAMED])}{more}), which are not measured then",
            "VAL_FOLDS=… chooses others; make inspect shows which folds hold which classes",
        )
    else:
        yield ok(
            f"{folder}: {len(manifest.classes)} classes in {len(manifest.folds)} folds by "
            f"{manifest.fold_rule.fold_by}; validation folds {format_folds(val_folds)} hold all classes"
        )


def check_run(run_dir: str) -> Iterator[Finding]:
    """Looks at a run: its checkpoints, whether it is finished, and whether its shards are there."""
    from ucf50_tfrecord import storage
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.training import run as run_lib

    try:
        config = run_lib.load_config(run_dir)
    except UserError as error:
        yield fail(str(error), "RUN=… names a folder under runs/ that training has made")
        return
    manifest = load_manifest(config.data_dir)
    if isinstance(manifest, Exception):
        yield warn(f"the run's shards: {manifest}", "DATA=… names where they are now")
    elif manifest.fingerprint != config.fingerprint:
        yield warn(
            f"{config.data_dir} holds other shards than those {run_dir} was trained on",
            "name theirs by DATA=…",
        )
    yield from _check_checkpoints(run_dir)
    if pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME).is_file():
        yield ok(f"{run_dir} is finished")
        return
    if storage.is_locked(run_dir):
        yield ok(f"{run_dir} is being trained")
        return
    variables = {"RUN": run_dir, "DATA": config.data_dir, "MODEL": config.model.name}
    command = f"make train {' '.join(make_variable(*item) for item in variables.items())}"
    yield warn(
        f"{run_dir} is not finished: {config.model.name}, {config.train.epochs} epochs",
        "it goes on with the command that started it, which is this one and that one's flags",
        command=command,
    )


def _check_checkpoints(run_dir: str) -> Iterator[Finding]:
    answer = ask_tensorflow(run_dir)
    if isinstance(answer, NoAnswer):
        yield warn(f"{run_dir}: its checkpoints are not looked at, as TensorFlow does not load")
        return
    checkpoints = answer.value["checkpoints"]
    sound = [name for name, problem in checkpoints if not problem]
    for name, problem in checkpoints:
        if problem:
            last = (
                f"training goes on from {sound[0]}" if sound else "no sound one is left: choose another RUN"
            )
            yield (warn if sound else fail)(problem, last)
    if sound:
        yield ok(f"{run_dir}: its checkpoint {sound[0]} is sound")
    elif not checkpoints:
        yield warn(f"{run_dir} has no checkpoint yet: it starts from the beginning")
