"""Lists the functions and programs of this project that read JSON and Parquet files, for tools.fuzz.

This is the only module of the campaign that names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

from tools.fuzzing import documents, samples, tables
from ucf50_tfrecord import about
from ucf50_tfrecord import manifest as manifest_lib


@dataclasses.dataclass(frozen=True)
class Reader:
    """A function of the library that reads a JSON or Parquet file. Paths are relative to the folder of samples."""

    name: str
    path: str  # of the file
    read: Callable[[pathlib.Path], Any]  # called with the folder of samples
    writes: str = "(?!)"  # regular expression for the paths that it may create, change or remove
    seal: documents.Seal = lambda value: value


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that reads a JSON or Parquet file; `path` and `writes` as of Reader."""

    path: str
    module: str
    arguments: tuple[str, ...]  # in which {} stands for the folder of samples
    writes: str = "(?!)"
    statuses: tuple[int, ...] = (0, 2)  # that are right when the file is damaged


ABOUT = f"videos/{about.FILENAME}"
SHARD = "shards/videos-fold02.tfrecord-00000-of-00001"
MANIFEST, SIDECAR = "shards/manifest.json", f"{SHARD}.json"
STORE, STORE_SIDECAR = "store/manifest.json", f"store/{pathlib.Path(SHARD).name}.json"
CONFIG, SUMMARY, PREDICTIONS = "run/config.json", "run/summary.json", "run/predictions.jsonl"
RESULTS, TABLE = "comparison/results.json", "comparison/predictions.parquet"
COSTS, COST = "comparison/costs.json", "cell/cost.json"
LIST = samples.LIST
CELL, CELL_TABLE, PREDICTED = "cell/cell.json", "cell/predictions.parquet", "predictions/predictions.json"
# Patterns for all files of these folders except those named in samples.MINE.
_SHARDS, _STORE, _COMPARISON = (rf"{name}/(?!mine\.).*" for name in ("shards", "store", "comparison"))
_PICTURES = r"predictions/(predictions\.json|\d+-v_\w+\.png)"


def load_about(folder: pathlib.Path) -> None:
    """Reads the facts beside the videos, as a conversion does."""
    about.load(folder / "videos")


def load_set(folder: pathlib.Path) -> None:
    """Reads a dataset's manifest and sidecars (JSON files that describe a shard each), as training does."""
    from ucf50_tfrecord.dataset.clips import load_clips

    manifest = manifest_lib.load(str(folder / "shards"))
    load_clips(manifest, manifest.folds)
    manifest_lib.default_val_folds(manifest)
    manifest_lib.repair_remedy(manifest)


def load_sidecar(folder: pathlib.Path) -> None:
    """Reads the sidecar of one shard."""
    manifest_lib.load_report(str(folder / "shards"), pathlib.Path(SHARD).name)


def verify_set(folder: pathlib.Path) -> None:
    """Verifies all shards of a dataset, as pipelines.verify does."""
    manifest = manifest_lib.load(str(folder / "shards"))
    for shard in manifest.shards:
        manifest_lib.verify_shard(manifest, shard)


def fetch_set(folder: pathlib.Path) -> None:
    """Reads the clips of a dataset at a URL (store/), through a cache of copied shards."""
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.dataset.feed import read_clips
    from ucf50_tfrecord.specs import FetchSpec

    manifest = manifest_lib.load(f"file://{folder}/store")
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)  # cached state of an earlier call in this process may assume that it exists
    fetch = FetchSpec(cache_dir=str(cache), cache_bytes=1 << 30)
    clips = load_clips(manifest, manifest.folds, fetch=fetch)
    read_clips(clips)


def fetch_agreeing_set(folder: pathlib.Path) -> None:
    """Reads clips as fetch_set does, after copying the damaged sidecar's values into the manifest.

    The two files then agree, so that the reader's later checks are reached.
    """
    # Suppressed if the sidecar no longer holds a shard's values.
    with contextlib.suppress(AttributeError, RecursionError, ValueError):
        sidecar = json.loads((folder / STORE_SIDECAR).read_bytes())
        manifest = json.loads((folder / STORE).read_bytes())
        [shard] = [s for s in manifest["shards"] if s["filename"] == pathlib.Path(SHARD).name]
        shard.update({key: sidecar[key] for key in sidecar.keys() & shard.keys()})
        (folder / STORE).write_text(json.dumps(manifest))
    fetch_set(folder)


def publish_set(folder: pathlib.Path) -> None:
    """Copies a dataset to a URL (store/) that holds a copy with a damaged manifest."""
    from ucf50_tfrecord.convert import publish

    publish.publish(manifest_lib.load(str(folder / "shards")), f"file://{folder}/store")


def load_config(folder: pathlib.Path) -> None:
    """Reads the configuration of a run, as pipelines.predict does."""
    from ucf50_tfrecord.inference import predict
    from ucf50_tfrecord.training import run

    predict.complete_config(run.load_config(str(folder / "run")), None)


def gather_run(folder: pathlib.Path) -> None:
    """Reads the files of a finished run."""
    from ucf50_tfrecord.inference import finished_run

    finished_run.load(str(folder / "run"))


def calibrate_run(folder: pathlib.Path) -> None:
    """Calibrates a run's model, and chooses when it abstains, from the predictions that the run has stored."""
    from ucf50_tfrecord.inference import abstention, calibration, held_out
    from ucf50_tfrecord.training import run, trained

    config = run.load_config(str(folder / "run"))
    clips, reason = held_out.load(str(folder / "run"), config, trained.scored_weights(config))
    found = calibration.calibrate(clips) if clips else calibration.Calibration()
    abstention.make_rules(clips, reason, calibration=found, max_error=0.1, is_selected=False)


def load_results(folder: pathlib.Path) -> None:
    """Reads the results of a comparison as pipelines.compare does, and computes its verdicts."""
    from pipelines import stored_results
    from ucf50_tfrecord.evaluation import verdicts

    verdicts.judge(stored_results.load(folder / RESULTS))


def load_cell(folder: pathlib.Path) -> None:
    """Reads the result and the cost of one training of a comparison."""
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.evaluation import assembly, result_files

    manifest = manifest_lib.load(str(folder / "shards"))
    clips = assembly.compared_clips(load_clips(manifest, manifest.folds))
    dict(result_files.load_cell(folder / "cell", clips).logits)
    result_files.load_cost(folder / "cell")


def divide_predictions(folder: pathlib.Path) -> None:
    """Reads predictions.json as a stream of videos, and divides it by day."""
    from ucf50_tfrecord import parsing
    from ucf50_tfrecord.choices import BatchBy
    from ucf50_tfrecord.monitoring import stream
    from ucf50_tfrecord.monitoring.spec import MonitorSpec

    found = parsing.read(folder / PREDICTED, stream.Predicted, "a file of predictions", extra=True)
    stream.check_classes(found.videos, len(found.classes), PREDICTED)
    stream.divide(found.videos, len(found.classes), MonitorSpec(by=BatchBy.DAY))


def load_list(folder: pathlib.Path) -> None:
    """Reads a list of videos."""
    from ucf50_tfrecord.convert import lists

    lists.read_list(folder / LIST)


def save_predictions(folder: pathlib.Path) -> None:
    """Replaces the damaged predictions.json and its pictures by new, empty predictions."""
    from pipelines import predict

    predict.save({"videos": []}, folder / "predictions")


def seal_sidecar(value: dict) -> dict:
    """Returns the value of a sidecar (the JSON file that describes a shard) with a correct checksum."""
    del value["checksum"]
    return value | {"checksum": manifest_lib.fingerprint(value)}


READERS = (
    Reader("facts", ABOUT, load_about),
    Reader("manifest", MANIFEST, load_set),
    Reader("manifest, verified", MANIFEST, verify_set),
    Reader("sidecar", SIDECAR, load_set, seal=seal_sidecar),
    Reader("sidecar, alone", SIDECAR, load_sidecar, seal=seal_sidecar),
    Reader("sidecar, verified", SIDECAR, verify_set, seal=seal_sidecar),
    Reader("manifest, fetched", STORE, fetch_set, "cache/.*"),
    Reader("sidecar, fetched", STORE_SIDECAR, fetch_set, "cache/.*", seal_sidecar),
    Reader(
        "sidecar and manifest, fetched", STORE_SIDECAR, fetch_agreeing_set, f"cache/.*|{STORE}", seal_sidecar
    ),
    Reader("manifest, published over", STORE, publish_set, _STORE),
    Reader("config", CONFIG, load_config),
    Reader("config, gathered", CONFIG, gather_run),
    Reader("summary", SUMMARY, gather_run),
    Reader("run's predictions", PREDICTIONS, gather_run),
    Reader("run's predictions, calibrated", PREDICTIONS, calibrate_run),
    Reader("results", RESULTS, load_results),
    Reader("results, table", TABLE, load_results),
    Reader("costs", COSTS, load_results),
    Reader("cell", CELL, load_cell),
    Reader("cost", COST, load_cell),
    Reader("cell, table", CELL_TABLE, load_cell),
    Reader("list of videos, table", LIST, load_list),
    Reader("predictions", PREDICTED, save_predictions, _PICTURES),
    Reader("predictions, monitored", PREDICTED, divide_predictions),
)

_DATA, _RUN, _OUTPUT = "--data={}/shards", "--run={}/run", "--output={}/out"
_VIDEO = "--video={{}}/videos/{0}/v_{0}_g01_c01.avi".format(samples.CLASSES[0])
_CONVERT = ("--videos={}/videos", *samples.SIZE)
_EXPORT = (_RUN, _OUTPUT, "--formats=keras")
_SET, _OUT = (MANIFEST, SIDECAR), "out/.*"
PROGRAMS = (
    Program(ABOUT, "pipelines.convert", (*_CONVERT, _DATA), _SHARDS),
    *(Program(path, "pipelines.verify", (_DATA,), statuses=(0, 1, 2)) for path in _SET),
    *(Program(path, "pipelines.convert", (*_CONVERT, _DATA), _SHARDS) for path in _SET),
    *(Program(path, "tools.inspect_data", (_DATA,), statuses=(0, 1, 2)) for path in _SET),
    *(Program(path, "pipelines.evaluate", (_RUN, _DATA, _OUTPUT), _OUT) for path in _SET),
    Program(CONFIG, "pipelines.predict", (_RUN, _VIDEO, _OUTPUT), _OUT),
    Program(CONFIG, "pipelines.evaluate", (_RUN, _OUTPUT), _OUT),
    Program(CONFIG, "pipelines.export", _EXPORT, _OUT),
    Program(CONFIG, "tools.inspect_data", (_RUN,)),
    Program(SUMMARY, "pipelines.export", _EXPORT, _OUT),
    Program(PREDICTIONS, "pipelines.export", _EXPORT, _OUT),
    Program(PREDICTIONS, "pipelines.predict", (_RUN, _VIDEO, _OUTPUT), _OUT),
    Program(PREDICTED, "pipelines.predict", (_RUN, _VIDEO, "--output={}/predictions"), _PICTURES),
    Program(
        STORE,
        "pipelines.convert",
        (*_CONVERT, "--staging={}/shards", "--data=file://{}/store"),
        f"{_STORE}|{_SHARDS}",
    ),
    *(
        Program(path, "pipelines.compare", ("--results={}/" + RESULTS,), _COMPARISON)
        for path in (RESULTS, TABLE, COSTS)
    ),
)


def make_mutant(pristine: pathlib.Path, seed: int, number: int) -> tuple[Reader, bytes]:
    """Makes a campaign's mutant of a document with a given number from the intact samples in `pristine`.

    Returns a random reader and the contents of its damaged file.
    """
    rng = random.Random(f"{seed}/json/{number}")
    reader = rng.choice(READERS)
    names = documents.paths_like(str(pristine.parent / samples.VICTIM / "data"))
    text, is_lines = (pristine / reader.path).read_bytes(), reader.path.endswith(".jsonl")
    if reader.path.endswith(".parquet"):
        return reader, tables.damage(text, rng, names)
    return reader, documents.damage(text, rng, names, reader.seal, is_lines=is_lines)


def choose_program(path: str, seed: int, number: int) -> Program | None:
    """Returns a random program that reads the file `path` of the samples, or None if no program reads it."""
    fitting = [program for program in PROGRAMS if program.path == path]
    return random.Random(f"{seed}/program/{number}").choice(fitting) if fitting else None
