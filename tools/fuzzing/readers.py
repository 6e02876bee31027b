"""The functions and programs that read JSON. A reader that is renamed is changed in this file alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

from tools.fuzzing import documents, samples
from ucf50_tfrecord import manifest as manifest_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """A function of the library that reads a file.

    path: the damaged file, relative to the samples' folder.
    read: called with that folder.
    writes: a pattern of relative paths that it may create, change or remove; none by default.
    seal: corrects the checksum that the document holds of itself.
    """

    name: str
    path: str
    read: Callable[[pathlib.Path], Any]
    writes: str = "(?!)"
    seal: Callable[[Any], Any] = lambda value: value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A program that reads a file. `path` and `writes` are as in Reader; {} is the samples' folder."""

    path: str
    module: str
    arguments: tuple[str, ...]
    statuses: tuple[int, ...] = (0, 2)
    writes: str = "(?!)"


SHARD = "shards/videos-fold02.tfrecord-00000-of-00001"
MANIFEST, SIDECAR = "shards/manifest.json", f"{SHARD}.json"
STORE, STORE_SIDECAR = "store/manifest.json", f"store/{pathlib.Path(SHARD).name}.json"
CONFIG, SUMMARY, PREDICTIONS = "run/config.json", "run/summary.json", "run/predictions.jsonl"
RESULTS, CELL, PREDICTED = "comparison/results.json", "comparison/cell.json", "predictions/predictions.json"
# All files of these folders except samples.MINE.
_SHARDS, _STORE, _COMPARISON = (rf"{name}/(?!mine\.).*" for name in ("shards", "store", "comparison"))
_PICTURES = r"predictions/(predictions\.json|\d+-v_\w+\.png)"


def load_set(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.dataset.clips import load_clips

    manifest = manifest_lib.load(str(folder / "shards"))
    load_clips(manifest, manifest.folds)
    manifest_lib.default_val_folds(manifest)
    manifest_lib.repair_remedy(manifest)


def load_sidecar(folder: pathlib.Path) -> None:
    manifest_lib.load_report(str(folder / "shards"), pathlib.Path(SHARD).name)


def verify_set(folder: pathlib.Path) -> None:
    manifest = manifest_lib.load(str(folder / "shards"))
    for shard in manifest.shards:
        manifest_lib.verify_shard(manifest, shard)


def fetch_set(folder: pathlib.Path) -> None:
    """Reads clips of a set behind a URL through a cache of its shards."""
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.dataset.feed import read_clips
    from ucf50_tfrecord.specs import FetchSpec

    manifest = manifest_lib.load(f"file://{folder}/store")
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)  # an earlier call's cache in this process may take it to exist
    fetch = FetchSpec(cache_dir=str(cache), cache_bytes=1 << 30)
    clips = load_clips(manifest, manifest.folds, fetch=fetch)
    read_clips(clips)


def fetch_agreeing_set(folder: pathlib.Path) -> None:
    """Reads as fetch_set does, after copying the damaged sidecar's values into the manifest."""
    with contextlib.suppress(
        AttributeError, RecursionError, ValueError
    ):  # the sidecar no longer holds a shard's values
        sidecar = json.loads((folder / STORE_SIDECAR).read_bytes())
        manifest = json.loads((folder / STORE).read_bytes())
        [shard] = [s for s in manifest["shards"] if s["filename"] == pathlib.Path(SHARD).name]
        shard.update({key: sidecar[key] for key in sidecar.keys() & shard.keys()})
        (folder / STORE).write_text(json.dumps(manifest))
    fetch_set(folder)


def publish_set(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.convert import publish

    publish.publish(manifest_lib.load(str(folder / "shards")), f"file://{folder}/store")


def load_config(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.inference import predict
    from ucf50_tfrecord.training import run

    predict.complete_config(run.load_config(str(folder / "run")), None)


def gather_run(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.inference import sources

    sources.gather(str(folder / "run"))


def calibrate_run(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.inference import calibration
    from ucf50_tfrecord.training import run, trained

    config = run.load_config(str(folder / "run"))
    calibration.calibrate(str(folder / "run"), config, trained.scored_weights(config))


def load_results(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.evaluation import results, verdicts

    verdicts.judge(results.load(folder / RESULTS))


def load_cell(folder: pathlib.Path) -> None:
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.evaluation import results

    manifest = manifest_lib.load(str(folder / "shards"))
    results.load_cell(
        folder / CELL,
        num_clips=len(load_clips(manifest, manifest.folds)),
        num_classes=len(manifest.classes),
        num_frames=manifest.format.num_frames,
    )


def save_predictions(folder: pathlib.Path) -> None:
    """Replaces predictions and their pictures."""
    from pipelines import predict

    predict.save({"videos": []}, folder / "predictions")


def seal_sidecar(value: dict) -> dict:
    del value["checksum"]
    return value | {"checksum": manifest_lib.fingerprint(value)}


READERS = (
    Reader(name="manifest", path=MANIFEST, read=load_set),
    Reader(name="manifest, verified", path=MANIFEST, read=verify_set),
    Reader(name="sidecar", path=SIDECAR, read=load_set, seal=seal_sidecar),
    Reader(name="sidecar, alone", path=SIDECAR, read=load_sidecar, seal=seal_sidecar),
    Reader(name="sidecar, verified", path=SIDECAR, read=verify_set, seal=seal_sidecar),
    Reader(name="manifest, fetched", path=STORE, read=fetch_set, writes="cache/.*"),
    Reader(name="sidecar, fetched", path=STORE_SIDECAR, read=fetch_set, writes="cache/.*", seal=seal_sidecar),
    Reader(
        name="sidecar and manifest, fetched",
        path=STORE_SIDECAR,
        read=fetch_agreeing_set,
        writes="cache/.*|store/manifest.json",
        seal=seal_sidecar,
    ),
    Reader(name="manifest, published over", path=STORE, read=publish_set, writes=_STORE),
    Reader(name="config", path=CONFIG, read=load_config),
    Reader(name="config, gathered", path=CONFIG, read=gather_run),
    Reader(name="summary", path=SUMMARY, read=gather_run),
    Reader(name="run's predictions", path=PREDICTIONS, read=gather_run),
    Reader(name="run's predictions, calibrated", path=PREDICTIONS, read=calibrate_run),
    Reader(name="results", path=RESULTS, read=load_results),
    Reader(name="cell", path=CELL, read=load_cell),
    Reader(name="predictions", path=PREDICTED, read=save_predictions, writes=_PICTURES),
)

_DATA, _RUN = "--data={}/shards", "--run={}/run"
_CONVERT = ("--videos={}/videos", "--size=16x24", "--frames=5")
PROGRAMS = (
    *(
        Program(path=path, module=module, arguments=arguments, statuses=statuses, writes=writes)
        for path in (MANIFEST, SIDECAR)
        for module, arguments, statuses, writes in (
            ("pipelines.verify", (_DATA,), (0, 1, 2), "(?!)"),
            ("pipelines.convert", (*_CONVERT, _DATA), (0, 2), _SHARDS),
            ("tools.inspect_data", (_DATA,), (0, 1, 2), "(?!)"),
            ("pipelines.evaluate", (_RUN, _DATA, "--output={}/out"), (0, 2), "out/.*"),
        )
    ),
    *(
        Program(path=path, module=module, arguments=(_RUN, *arguments), writes="out/.*")
        for path, module, *arguments in (
            (CONFIG, "pipelines.predict", "--video={}/videos/Left/v_Left_g01_c01.avi", "--output={}/out"),
            (CONFIG, "pipelines.evaluate", "--output={}/out"),
            (CONFIG, "pipelines.export", "--output={}/out", "--formats=keras"),
            (CONFIG, "tools.inspect_data"),
            (SUMMARY, "pipelines.export", "--output={}/out", "--formats=keras"),
            (PREDICTIONS, "pipelines.export", "--output={}/out", "--formats=keras"),
            (
                PREDICTIONS,
                "pipelines.predict",
                "--video={}/videos/Left/v_Left_g01_c01.avi",
                "--output={}/out",
            ),
        )
    ),
    Program(
        path=PREDICTED,
        module="pipelines.predict",
        arguments=(_RUN, "--video={}/videos/Left/v_Left_g01_c01.avi", "--output={}/predictions"),
        writes=_PICTURES,
    ),
    Program(
        path=STORE,
        module="pipelines.convert",
        arguments=(*_CONVERT, "--staging={}/shards", "--data=file://{}/store"),
        writes=f"{_STORE}|{_SHARDS}",
    ),
    Program(
        path=RESULTS, module="pipelines.compare", arguments=("--results={}/" + RESULTS,), writes=_COMPARISON
    ),
)


def make_mutant(pristine: pathlib.Path, seed: int, number: int) -> tuple[Reader, bytes]:
    """Returns a mutant's reader and contents.

    Args:
      pristine: the folder of the undamaged samples.
      seed: the campaign's seed.
      number: the mutant's number.
    """
    rng = random.Random(f"{seed}/json/{number}")
    reader = rng.choice(READERS)
    names = documents.paths_like(str(pristine.parent / samples.VICTIM / "data"))
    text, is_lines = (pristine / reader.path).read_bytes(), reader.path.endswith(".jsonl")
    return reader, documents.damage(text, rng, names, reader.seal, is_lines=is_lines)


def choose_program(path: str, seed: int, number: int) -> Program | None:
    """Returns one of the programs that read a file, or None without one."""
    fitting = [program for program in PROGRAMS if program.path == path]
    return random.Random(f"{seed}/program/{number}").choice(fitting) if fitting else None
