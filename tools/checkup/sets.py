"""Checks sets of shards (converted datasets) and a training run."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines import remedies
from pipelines.remedies import make_variable
from tools.checkup.finding import Finding, NoAnswer, Options, fail, ok, warn
from tools.checkup.packages import ask_tensorflow

if TYPE_CHECKING:
    from ucf50_tfrecord.manifest import Manifest, ManifestShard

_PARALLEL_LOOKUPS = 16  # of shards' sizes; each look-up may be a request to an object store


def check(options: Options) -> Iterator[Finding]:
    """Yields findings on the sets of shards and the run that the options name."""
    folders = find_folders(options)
    for folder in folders:
        yield from check_set(folder)
    if not folders:
        yield ok("no shards under data/ yet; make train or make shards VIDEOS=… converts videos")
    if options.run:
        yield from check_run(options.run)


def find_folders(options: Options) -> list[str]:
    """Returns the sets of shards to check: options.data if given, else all, unfinished ones too, under data/."""
    if options.data:
        return [options.data]
    patterns = ("*/manifest.json", "*/*.tfrecord-*-of-*")
    return sorted({str(path.parent) for name in patterns for path in pathlib.Path("data").glob(name)})


@functools.cache
def load_manifest(folder: str) -> Manifest | Exception:
    """Returns the manifest of a set of shards, or the UserError that reading it raised; reads it once."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord.errors import UserError

    try:
        return manifest_lib.load(folder)
    except UserError as error:
        return error


def check_set(folder: str) -> Iterator[Finding]:
    """Yields findings on a set of shards: its manifest, the files' sizes, two shards' contents, the folds."""
    from ucf50_tfrecord import remote, storage
    from ucf50_tfrecord.errors import UserError

    manifest = load_manifest(folder)
    try:
        if isinstance(manifest, Exception):
            raise manifest
        yield from _check_shards(manifest)
    except UserError as error:  # also if an object store cannot be reached
        if remote.is_remote(folder):
            yield fail(str(error), "check the keys and the endpoint in the environment")
        elif pathlib.Path(folder).is_dir() and storage.is_locked(folder):
            yield ok(f"{folder} is being converted")
        else:
            command = f"make shards VIDEOS=<folder of class folders> {make_variable('DATA', folder)}"
            yield fail(str(error), "repeat the conversion, which keeps complete shards", command=command)
        return
    if manifest.fold_rule.fold_by == "video":
        yield warn(
            f"{folder}: folds are by video, so training and test share recordings and scores are too high",
            "convert into another DATA without --fold_by=video",
        )


def _check_shards(manifest: Manifest) -> Iterator[Finding]:
    """Yields one finding on a set's shards and sidecars: the sizes of all, the contents of the first and last."""
    from ucf50_tfrecord import manifest as manifest_lib

    with concurrent.futures.ThreadPoolExecutor(_PARALLEL_LOOKUPS) as threads:
        looks = threads.map(functools.partial(_look, manifest), manifest.shards)
        problems = list(itertools.chain.from_iterable(looks))
    sample = manifest.shards[:: max(1, len(manifest.shards) - 1)] if not problems else ()  # first and last
    problems += [problem for shard in sample for problem in manifest_lib.verify_shard(manifest, shard)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield fail(f"{problems[0]}{more}", command=remedies.command(manifest_lib.repair_remedy(manifest)))
        return
    is_part = len(sample) < len(manifest.shards)
    rest = f"; all: make verify {make_variable('DATA', manifest.data_dir)}" if is_part else ""
    yield ok(
        f"{manifest.data_dir}: {manifest.num_clips} clips of {manifest.stored} in "
        f"{len(manifest.shards)} shards; all sizes are right, {len(sample)} shards read{rest}"
    )


def _look(manifest: Manifest, shard: ManifestShard) -> list[str]:
    """Returns the problems that a look-up shows: a missing or wrong-sized shard, or a missing sidecar."""
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord import storage

    problem = manifest_lib.size_problem(manifest, shard)
    sidecar = manifest_lib.sidecar_path(manifest.data_dir, shard.filename)
    found = [problem] if problem else []
    return found + ([] if storage.file_size(sidecar) is not None else [f"the sidecar {sidecar} is missing"])


def check_run(run_dir: str) -> Iterator[Finding]:
    """Yields findings on a run: whether its checkpoints are readable, and whether it is finished."""
    from ucf50_tfrecord import storage
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.training import run as run_lib

    try:
        config = run_lib.load_config(run_dir)
    except UserError as error:
        yield fail(str(error), "RUN=… names a folder that training has made, under runs/")
        return
    yield from _check_checkpoints(run_dir)
    if pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME).is_file():
        yield ok(f"{run_dir} is finished")
    elif storage.is_locked(run_dir):
        yield ok(f"{run_dir} is being trained")
    else:
        variables = {"RUN": run_dir, "DATA": config.data_dir, "MODEL": config.model.name}
        yield warn(
            f"{run_dir}: the training of {config.model.name} over {config.train.epochs} epochs is not finished",
            "resume it with the command that started it: this one, with its flags",
            command=f"make train {' '.join(make_variable(*item) for item in variables.items())}",
        )


def _check_checkpoints(run_dir: str) -> Iterator[Finding]:
    """Yields findings on which checkpoints of a run are readable."""
    answer = ask_tensorflow(run_dir)
    if isinstance(answer, NoAnswer):
        yield warn(f"{run_dir}: its checkpoints are not checked, as TensorFlow does not load")
        return
    checkpoints = answer.value["checkpoints"]
    sound = [name for name, problem in checkpoints if not problem]
    for _, problem in checkpoints:
        if problem and sound:
            yield warn(problem, f"training resumes from {sound[0]}")
        elif problem:
            yield fail(problem, "no other checkpoint is left: choose another RUN")
    if sound:
        yield ok(f"{run_dir}: its checkpoint {sound[0]} is readable")
    elif not checkpoints:
        yield warn(f"{run_dir} has no checkpoint yet: training starts from the beginning")
