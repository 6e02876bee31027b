"""Compares models: trains them, and tests them on clips that are held out.

  python -m pipelines.compare --data=data/ucf50-15x64x64 --models=rnn,lstm
  python -m pipelines.compare --runs=runs/one,runs/other
  python -m pipelines.compare --results=runs/…-compare/results.json

The first command trains each recipe that is named; flags of training override
the recipes. Finished trainings are kept, so the same command resumes an
interrupted comparison. Several processes, also on several hosts with a shared
file system, may run it at the same time, such as the tasks of a job array:

  python -m pipelines.compare --data=… --task_index=$SLURM_ARRAY_TASK_ID \\
    --task_count=8

The processes share the trainings. The last process to finish writes the report.
With --dry_run, only the plan and an estimate of its time are printed.
The second command tests existing runs. The third one writes a report again.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from pipelines import (
    code_flags,
    console,
    convert,
    devices,
    dry_run,
    features,
    inputs,
    ray_flags,
    remedies,
    terminal,
    train_flags,
)
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import recipes, storage
from ucf50_tfrecord.choices import FrameOrder, Strategy
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.errors import Advice, expect
from ucf50_tfrecord.specs import check_folds, parse_folds

if TYPE_CHECKING:
    from ucf50_tfrecord.dataset.clips import ClipIndex
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe
    from ucf50_tfrecord.evaluation.results import Cell, Results

_MODELS = flags.DEFINE_list("models", ["frame_pool", "rnn", "lstm"], "Recipes to compare.")
_CV = flags.DEFINE_string(
    "cv",
    None,
    "Number of parts of the cross-validation, each of whole folds; logo: one part per fold. Default: 5; with "
    "--val_folds, these folds are the only part that is tested.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    3,
    "Number of trainings of each model on each part, with seeds 0, 1, …. With 1, no claim about recipes is possible.",
    lower_bound=1,
)
_TRAINED_ORDERS = (FrameOrder.SHUFFLED, FrameOrder.SINGLE)
_ORDERS = flags.DEFINE_list(
    "orders",
    list(_TRAINED_ORDERS),
    "Also train models that see frame order with these orders: shuffled, single, or none (empty).",
)
_AUDIT = flags.DEFINE_list(
    "audit",
    ["all"],
    "Models to train also on clips that are split by video, to audit leaks: all, none, or names.",
)
_HOLD_OUT_CLASSES = flags.DEFINE_integer(
    "hold_out_classes",
    0,
    "Also train each model without this many classes at a time, each class once, to test how well it tells unknown "
    "classes from known ones. 0 is off.",
    lower_bound=0,
)
_RUNS = flags.DEFINE_list("runs", None, "Folders of finished runs to compare, in place of --models.")
_RESULTS = flags.DEFINE_string("results", None, "Write the report of this results.json again.")
_OUTPUT = flags.DEFINE_string("output", None, "The comparison's folder. Default: runs/<data>-compare.")
_JOBS = flags.DEFINE_string(
    "jobs",
    "auto",
    "Number of trainings at a time, each in its own process; auto uses all GPUs, or all cores without GPUs. With "
    "--engine=ray, auto uses the whole cluster.",
)
_THREADS_PER_JOB = flags.DEFINE_integer(
    "threads_per_job",
    1,
    "CPU threads per training, if there is no GPU. It changes the rounding of results; --jobs does not.",
    lower_bound=1,
)
_JOBS_PER_GPU = flags.DEFINE_integer(
    "jobs_per_gpu", 1, "Number of trainings that share a GPU.", lower_bound=1
)
_GPUS_PER_JOB = flags.DEFINE_float(
    "gpus_per_job",
    None,
    "With --engine=ray: GPUs that Ray reserves per training; 0.5 lets two share a GPU. Default: 1 if the cluster "
    "has GPUs, else 0.",
    lower_bound=0.0,
)
_GIB_PER_JOB = flags.DEFINE_float(
    "gib_per_job",
    2.0,
    "With --engine=ray: host memory that Ray reserves per training, in GiB.",
    lower_bound=0.0,
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    Strategy.AUTO,
    [Strategy.AUTO, Strategy.ONE, Strategy.MIRRORED],
    "Devices per training: one; mirrored (all, one training at a time); or auto. With several trainings at a "
    "time, each uses one device.",
)

_PIXEL_INTERVENTIONS = flags.DEFINE_boolean(
    "pixel_interventions",
    True,
    "If the dataset holds features: encode its clips again under each intervention that changes pixels.",
)

_TENSORBOARD = flags.DEFINE_boolean(
    "tensorboard",
    False,
    "Also write curves and pictures of each training. Models are then evaluated after each epoch.",
)

_DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Train nothing. Print the number of trainings, and an estimate of their time, memory and disk space from a "
    "few measured steps of each model.",
)

for _module in (train_flags, features, inputs):
    flags.adopt_module_key_flags(_module)

_FOLDER_KIND = "a comparison"
# Host memory that each training side by side is given: TensorFlow and a small model take about half of it.
_JOB_BYTES = 2 << 30
# Beginnings of the names of environment variables that change what a training computes.
_NUMERIC_VARIABLES = ("TF_", "XLA_", "KERAS_", "ONEDNN_", "DNNL_", "OMP_")
# Longest wait for another process that writes the report.
_REPORT_SECS = 600.0
# Flags of a training that the comparison sets by itself.
_DECIDED = ("recipe", "model", "seed", "frame_order", "early_stopping", "train_folds", "test_folds")


def main() -> int:
    given = [name for name in ("runs", "results") if flags.FLAGS[name].value]
    expect(len(given) < 2, "either --runs or --results", given=given)
    expect(
        not (_DRY_RUN.value and (given or convert.finalizes())),
        "--dry_run without --runs, --results and --finalize",
    )
    if _OUTPUT.value:
        check_folder(_OUTPUT.value)
    if _RESULTS.value:
        write_again(pathlib.Path(_RESULTS.value))
    elif _RUNS.value:
        compare_runs()
    else:
        return compare_recipes()
    return 0


def compare_recipes() -> int:
    """Trains and tests the recipes of --models, except for finished trainings, and writes the report.

    Returns:
      The exit status: 1 if trainings have failed, here or in other processes; else 0.
    """
    # Reads the flags first, so that mistakes show before any work starts.
    models = list(dict.fromkeys(_MODELS.value))
    for model in models:
        read_settings(model)
    asked = spec_flags(models)
    input_spec = inputs.INPUTS.build()
    environments, task = job_environments(), convert.task()
    manifest = features.load_data()
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import compare

    of_features = manifest.features is not None
    made = {model: make_recipe(read_settings(model, of_features=of_features), manifest) for model in models}
    spec = make_spec(manifest, made, asked)
    folder = _OUTPUT.value or os.path.join("runs", f"{pathlib.Path(manifest.data_dir).name}-compare")
    check_folder(folder)
    comparison = compare.Comparison(
        folder=folder,
        spec=spec,
        clips=input_spec.load_clips(manifest, manifest.folds),
        changed=load_changed(manifest),
        cache=input_spec.cache,
        skip_bad_records=input_spec.skips_bad_records,
        tensorboard=_TENSORBOARD.value,
    )
    comparison.parts  # raises an error if the clips cannot be split as the flags ask for
    if _DRY_RUN.value:
        engine = dry_run.Engine(environments, task, _STRATEGY.value, num_on_ray=count_on_ray())
        changes = manifest.features and _PIXEL_INTERVENTIONS.value
        num_missing = len(features.changed_datasets(manifest)) - len(comparison.changed) if changes else 0
        dry_run.show(comparison, engine, num_missing=num_missing, warn=Display().warn)
        return 0
    if not convert.finalizes():
        describe(comparison, num_jobs=len(environments))
        if warning := comparison.find_lookalikes():
            terminal.warn(warning)
        claim_folder(folder)
        if not train_cells(comparison, environments, task):
            terminal.say("Stopped. Finished trainings are kept. To continue:", f"  {remedies.this_command()}")
            return 0
    failed = comparison.failures()
    left = [cell for cell in comparison.unfinished() if cell not in failed]
    if not left:
        with storage.folder_lock(folder, wait_secs=_REPORT_SECS):
            report_cells(pathlib.Path(folder), comparison)
    elif not convert.finalizes():
        terminal.say(
            f"Other processes are running {len(left)} trainings. The last process to finish writes the report."
        )
    show_failures(failed, num_cells=len(spec.cells()))
    expect(
        not (left and convert.finalizes()),
        "that all trainings are finished",
        unfinished=", ".join(map(str, left)),
    )
    return 1 if failed else 0


def report_cells(folder: pathlib.Path, comparison) -> None:
    """Writes the results and the report of an evaluation.compare.Comparison, unless each seed has a failed training."""
    results = comparison.results()
    if results.cells:
        save(folder, results)
        publish(folder, results, comparison.clips)
    else:
        terminal.note("There is no report: in each seed, a training has failed.")


def show_failures(failed: Mapping[Cell, str], *, num_cells: int) -> None:
    """Prints which of a comparison's trainings failed, why, and the command that tries them again, if any failed."""
    if failed:
        terminal.note(
            f"error: {len(failed)} of {num_cells} trainings failed twice. The report leaves out their seeds:",
            *(f"  {cell}: {reason}" for cell, reason in failed.items()),
            "To try them again:",
            f"  {remedies.this_command(without='finalize')}",
        )


def train_cells(comparison, environments: Sequence[Mapping[str, str]], task: tuple[int, int]) -> bool:
    """Trains and tests the cells of an evaluation.compare.Comparison, and shows the progress.

    Args:
      comparison: the comparison.
      environments: the environment variables of each process, see side_by_side.run. If empty, this process
        runs the cells.
      task: as in Comparison.claimable.

    Returns:
      False if the user stopped the comparison. True if all cells are finished, except cells that failed and cells
      that other processes are running.
    """
    if convert.uses_ray():
        return train_cells_on_ray(comparison, task)
    from ucf50_tfrecord.evaluation import side_by_side
    from ucf50_tfrecord.training import strategy as strategy_lib

    with console.stop_requests() as should_stop, Display() as display:
        to_display = listener(display, should_stop)
        if environments:
            return side_by_side.run(
                comparison,
                to_display,
                environments=environments,
                prepare=console.load_tensorflow,
                task=task,
            )
        strategy = strategy_lib.make_strategy(_STRATEGY.value, environment={})
        return comparison.run(to_display, strategy=strategy, task=task)


def train_cells_on_ray(comparison, task: tuple[int, int]) -> bool:
    """Does the same as train_cells on the Ray cluster of the flags."""
    with ray_flags.connected(), console.stop_requests() as should_stop, Display() as display:
        from ucf50_tfrecord import ray_cluster
        from ucf50_tfrecord.evaluation import on_ray

        resources = ray_resources()
        slots = ray_cluster.slots(resources)
        terminal.say(f"Ray holds {sum(slots)} trainings at a time, each with {resources}", flush=True)
        return on_ray.run(
            comparison,
            listener(display, should_stop),
            resources=resources,
            environment=ray_environment(resources.num_cpus, resources.num_gpus),
            max_processes=None if _JOBS.value == "auto" else int(_JOBS.value),
            prepare=ray_flags.prepare_process,
            task=task,
        )


def ray_resources():
    """Returns what Ray reserves for each training, a ray_cluster.Resources. Call it while connected to Ray."""
    from ucf50_tfrecord import ray_cluster

    num_gpus = _GPUS_PER_JOB.value
    return ray_cluster.Resources(
        num_cpus=ray_flags.cpus_per_job(_THREADS_PER_JOB.value),
        num_gpus=float(ray_cluster.has_gpus()) if num_gpus is None else num_gpus,
        memory_bytes=int(_GIB_PER_JOB.value * 2**30),
    )


def count_on_ray() -> int:
    """Returns the number of trainings that would run on Ray at a time; 0 if another engine runs them."""
    if not convert.uses_ray():
        return 0
    with ray_flags.connected():
        from ucf50_tfrecord import ray_cluster

        held = sum(ray_cluster.slots(ray_resources()))
    return held if _JOBS.value == "auto" else min(held, int(_JOBS.value))


def ray_environment(num_cpus: float, num_gpus: float) -> dict[str, str]:
    """Returns the environment variables of a training on Ray with the given resources."""
    numeric = {name: value for name, value in os.environ.items() if name.startswith(_NUMERIC_VARIABLES)}
    if num_gpus:  # Ray chooses them
        return numeric | {"TF_NUM_INTRAOP_THREADS": str(max(1, int(num_cpus)))}
    return {
        "TF_NUM_INTRAOP_THREADS": str(_THREADS_PER_JOB.value),
        **numeric,
        "CUDA_VISIBLE_DEVICES": "-1",  # Ray hides no GPU from a training without one
    }


def check_ray_flags() -> None:
    """Checks the flags that depend on whether Ray runs the trainings.

    Raises:
      UserError: if a flag belongs to another engine, or Ray is asked for but not installed.
    """
    if not convert.uses_ray():
        ray_flags.check_unused("gpus_per_job", "gib_per_job")
        return
    for name, instead in (("strategy", "one device per training"), ("jobs_per_gpu", "--gpus_per_job")):
        expect(
            not flags.FLAGS[name].present,
            f"{instead}, not --{name}, with --engine=ray",
            **{name: flags.FLAGS[name].value},
        )
    ray_flags.check_installed()


def job_environments() -> list[dict[str, str]]:
    """Returns the environment variables of each process that --jobs asks for.

    The list is empty if this process runs all trainings itself, or Ray does. Without GPUs, also sets the number
    of threads of this process and its children. Call this function before TensorFlow is loaded.

    Raises:
      UserError: if flags contradict each other, or Ray is not installed.
    """
    expect(
        _JOBS.value == "auto" or (_JOBS.value.isdecimal() and int(_JOBS.value) >= 1),
        "--jobs=auto or --jobs=<a number from 1 on>",
        jobs=_JOBS.value,
    )
    check_ray_flags()
    if _STRATEGY.value == Strategy.MIRRORED:
        expect(_JOBS.value in ("auto", "1"), "--jobs=1 with --strategy=mirrored", jobs=_JOBS.value)
        return []
    gpus = devices.visible_gpus()
    if not gpus:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(_THREADS_PER_JOB.value))
    if convert.uses_ray():
        return []
    if gpus:
        most = len(gpus) * _JOBS_PER_GPU.value
    else:
        most = max(1, len(os.sched_getaffinity(0)) // _THREADS_PER_JOB.value)
        free = memory.available_host_bytes()
        if _JOBS.value == "auto" and free is not None:
            most = min(most, max(1, free // _JOB_BYTES))
    num_jobs = most if _JOBS.value == "auto" else int(_JOBS.value)
    expect(
        not gpus or num_jobs <= most,
        f"at most {most} jobs on {len(gpus)} GPUs with --jobs_per_gpu={_JOBS_PER_GPU.value}",
        jobs=num_jobs,
    )
    return devices.environments(num_jobs, gpus) if num_jobs > 1 else []


def compare_runs() -> None:
    """Tests the models of the runs that --runs names, and writes the report."""
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import compare
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    data_dir = flags.FLAGS["data"].value or run_lib.load_config(_RUNS.value[0]).data_dir
    manifest = manifest_lib.load(data_dir)
    input_spec = inputs.INPUTS.build()
    clips = input_spec.load_clips(manifest, manifest.folds)
    strategy = strategy_lib.make_strategy(_STRATEGY.value, environment={})
    folder = _OUTPUT.value or os.path.join("runs", f"{pathlib.Path(data_dir).name}-compare-runs")
    check_folder(folder)
    changed = load_changed(manifest)
    with (
        strategy_lib.explain_exhausted_memory(),
        console.stop_requests() as should_stop,
        Display() as display,
    ):
        results = compare.examine_runs(
            _RUNS.value,
            clips,
            strategy=strategy,
            changed=changed,
            skip_bad_records=input_spec.skips_bad_records,
            allowed_code=code_flags.allowed_code(),
            listener=listener(display, should_stop),
        )
    if results is None:
        terminal.say("Stopped.")
        return
    save(pathlib.Path(folder), results)
    publish(pathlib.Path(folder), results, clips)


def load_changed(manifest: manifest_lib.Manifest) -> dict[str, ClipIndex]:
    """Indexes the features of a dataset's changed clips, for each intervention that changes pixels.

    Encodes missing features, unless --dry_run is set. Returns an empty dictionary for a dataset of frames,
    because the tests themselves change the pixels of frames.

    Raises:
      UserError: as features.encode_changed does.
    """
    if not (manifest.features and _PIXEL_INTERVENTIONS.value):
        return {}
    load = inputs.INPUTS.build().load_clips
    found = features.find_changed(manifest) if _DRY_RUN.value else features.encode_changed(manifest)
    return {name: load(other, other.folds) for name, other in found.items()}


def write_again(path: pathlib.Path) -> None:
    """Writes the report of an existing results.json again, into the same folder.

    The report shows pictures of clips if --data names the dataset.
    """
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import result_files

    results = result_files.load(path)
    check_folder(path.parent)
    clips = None
    if flags.FLAGS["data"].value:
        manifest = manifest_lib.load(flags.FLAGS["data"].value)
        clips = inputs.INPUTS.build().load_clips(manifest, manifest.folds)
        expect(
            clips.ids == results.ids, f"exactly the clips of {path} in --data", data=flags.FLAGS["data"].value
        )
    publish(path.parent, results, clips)


def claim_folder(folder: str | os.PathLike) -> None:
    """Makes a folder for a comparison, unless it exists, and marks it as a comparison's.

    Raises:
      UserError: if the folder holds something else, such as a run.
    """
    storage.claim_folder(folder, _FOLDER_KIND, _is_comparison)


def check_folder(folder: str | os.PathLike) -> None:
    """Raises UserError if a folder holds something other than a comparison; does not make the folder."""
    storage.check_own(folder, _FOLDER_KIND, _is_comparison)


def _is_comparison(names: set[str]) -> bool:
    """Tells from an unmarked folder's file names whether an earlier version wrote a comparison into it."""
    written = {"cells", "results.json", "report.html", "report.md", "figures", "tensorboard"}
    is_other = bool({"config.json", "manifest.json"} & names)
    return not is_other and ("cells" in names or (names <= written and "results.json" in names))


def save(folder: pathlib.Path, results: Results) -> None:
    """Writes the results of a comparison into its folder."""
    from ucf50_tfrecord.evaluation import result_files

    claim_folder(folder)
    result_files.save(folder, results)


def publish(folder: pathlib.Path, results: Results, clips: ClipIndex | None) -> None:
    """Writes the report and TensorBoard's pictures; prints the verdicts.

    A verdict is the answer to a question about the models: yes, no or cannot tell.

    Args:
      folder: the comparison's folder.
      results: the predictions of all models of the comparison.
      clips: the comparison's clips, for pictures of them; None if the clips are not available.
    """
    from ucf50_tfrecord.dataset.clips import frames_of
    from ucf50_tfrecord.dataset.feed import read_clips
    from ucf50_tfrecord.evaluation import verdicts
    from ucf50_tfrecord.report import build as report

    claim_folder(folder)
    judged = verdicts.judge(results)
    frames = None if clips is None else frames_of(clips)
    reader = None if frames is None else lambda chosen: read_clips(frames.select(np.asarray(chosen)))
    pictures = report.write(folder, results, judged, read_clips=reader)
    write_tensorboard(folder / "tensorboard", pictures)
    for answer in verdicts.Answer:
        chosen = [verdict for verdict in judged if verdict.answer == answer]
        if chosen:
            terminal.say("", f"{answer.capitalize()}:")
            for verdict in chosen:
                terminal.say_wrapped(verdict.text, initial_indent="  ", subsequent_indent="    ")
    terminal.say("", f"Report:      {folder / 'report.html'}")


def write_tensorboard(folder: pathlib.Path, pictures: dict[str, np.ndarray]) -> None:
    """Writes pictures into a folder for TensorBoard, replacing the pictures of an earlier report.

    Args:
      folder: the folder of the event files.
      pictures: the pictures by name, each uint8 [H, W, 3].
    """
    import tensorflow as tf

    from ucf50_tfrecord.training import logs

    storage.make_folder(folder)
    storage.remove_files(folder, lambda name: name.startswith("events.out.tfevents."))
    with logs.explain_unwritable(folder):
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            for name, picture in pictures.items():
                tf.summary.image(name, picture[np.newaxis])
        writer.close()


def read_settings(model: str, *, of_features: bool = False) -> dict[str, Any]:
    """Returns the settings of a recipe, overridden by the flags that are given.

    Args:
      model: the recipe's name, which is also its model's name in the comparison.
      of_features: whether the clips are stored as features. The recipe features_<model> then replaces <model>.

    Raises:
      UserError: if there is no such recipe, a flag or a setting is wrong, or a flag sets a value that the
        comparison chooses itself.
    """
    expect(model in recipes.names(), f"each model to be one of {', '.join(recipes.names())}", models=model)
    for flag in _DECIDED:
        expect(
            not flags.FLAGS[flag].present,
            f"no --{flag}: the comparison chooses it",
            **{flag: flags.FLAGS[flag].value},
        )
    for_features = f"features_{model}"
    replaces = of_features and for_features in recipes.names()
    settings = train_flags.settings(for_features if replaces else model)
    recipes.train_spec(settings)
    return settings


def make_recipe(settings: Mapping[str, Any], manifest: manifest_lib.Manifest) -> Recipe:
    """Builds a Recipe for a dataset's clips from settings. The Recipe's precision is never AUTO."""
    from ucf50_tfrecord.evaluation.cells import Recipe
    from ucf50_tfrecord.training import strategy as strategy_lib

    train = recipes.train_spec(settings)
    if manifest.features:
        train.augment.check_chooses_frames()
    return Recipe(
        model=recipes.model_spec(settings, manifest),
        train=dataclasses.replace(train, precision=strategy_lib.choose_precision(train.precision)),
    )


def spec_flags(models: Sequence[str]) -> dict[str, Any]:
    """Returns those arguments of ComparisonSpec that the flags set, as a dictionary.

    A cross-validation divides the dataset's folds into parts. Models are tested on each part, after training on
    the other parts. In the dictionary, "num_parts" is the number of parts; it is None if each fold is a part of
    its own (--cv=logo). In place of "held_out", it has "hold_out_classes", the number of classes per set.

    Args:
      models: the names of the models to compare.

    Raises:
      UserError: if a flag is wrong, or flags contradict each other.
    """
    val_folds, cv = flags.FLAGS["val_folds"].value, _CV.value or "5"
    expect(not (val_folds and _CV.value), "either --cv or --val_folds", cv=_CV.value, val_folds=val_folds)
    expect(cv == "logo" or (cv.isdecimal() and int(cv) >= 2), "--cv=<a number from 2 on> or --cv=logo", cv=cv)
    orders = [order for order in _ORDERS.value if order]
    for order in orders:
        expect(
            order in _TRAINED_ORDERS, f"each order to be one of {', '.join(_TRAINED_ORDERS)}", orders=order
        )
    asked = ",".join(_AUDIT.value)
    audited = {"all": list(models), "none": []}.get(asked, _AUDIT.value)
    unknown = sorted(set(audited) - set(models))
    expect(not unknown, f"only compared models ({', '.join(models)}) in --audit", audit=unknown)
    num_parts = None if cv == "logo" else int(cv)
    if val_folds:
        check_folds(val_folds)
        expect(
            not flags.FLAGS["audit"].present or not audited,
            "--cv, not --val_folds, with --audit",
            audit=asked,
        )
        num_parts, audited = 0, []  # there are no parts to assign videos to
    return {
        "num_parts": num_parts,
        "val_folds": val_folds,
        "num_seeds": _SEEDS.value,
        "orders": tuple(orders),
        "audited": tuple(audited),
        "hold_out_classes": _HOLD_OUT_CLASSES.value,
    }


def make_spec(
    manifest: manifest_lib.Manifest, recipes: dict[str, Recipe], asked: dict[str, Any]
) -> ComparisonSpec:
    """Builds the specification of a comparison on a dataset.

    Args:
      manifest: the dataset's manifest.
      recipes: the recipes to compare, by the names of their models.
      asked: the other arguments of ComparisonSpec, as spec_flags returns them.

    Raises:
      UserError: if too few classes remain when the classes that the flags ask for are held out.
    """
    from ucf50_tfrecord.evaluation import unknown
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec

    num_parts = len(manifest.folds) if asked["num_parts"] is None else asked["num_parts"]
    text = asked["val_folds"]
    val_folds = parse_folds(text, manifest.fold_numbers) if text else ()
    others = {name: value for name, value in asked.items() if name != "hold_out_classes"}
    return ComparisonSpec(
        recipes=recipes,
        held_out=unknown.class_sets(manifest.classes, asked["hold_out_classes"]),
        **others | {"num_parts": num_parts, "val_folds": val_folds},
    )


def describe(comparison, *, num_jobs: int) -> None:
    """Prints what a comparison, an evaluation.compare.Comparison, will train, and in how many processes."""
    spec, wanted, clips = comparison.spec, comparison.spec.cells(), comparison.clips
    how = f"{spec.num_parts} parts" if spec.num_parts else f"folds {flags.FLAGS['val_folds'].value}"
    jobs = f", {num_jobs} at a time" if num_jobs else ""
    terminal.say(
        f"Comparing {', '.join(spec.recipes)} on {len(clips)} clips of {clips.manifest.data_dir}: "
        f"{how}, {spec.num_seeds} seed(s); {len(wanted)} trainings{jobs} in {comparison.folder}"
    )


class Display:
    """Shows a comparison's progress: a bar for all trainings on a terminal, else a line per training."""

    def __init__(self):
        self._bar: console.ProgressBar | None = None
        self._running: dict[Cell, str] = {}  # the trainings in progress, as text
        self._num_failed = 0
        self._warned: set[str] = set()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, cell: Cell, number: int, total: int) -> None:
        if self._bar is None:
            self._bar = console.progress_bar(total, "run", "comparing")
            self._bar.update(number)
        self._show(cell, "")
        if not sys.stderr.isatty():
            terminal.say(f"{number + 1}/{total}  {cell}", flush=True)

    def report(self, cell: Cell, progress) -> None:
        """Shows the progress of a training, a training.listener.TrainProgress, after each epoch."""
        if progress.epoch_done:
            shown = [name for name in ("accuracy", "train_loss") if name in progress.scores][:1]
            score = "".join(f" {name} {progress.scores[name]:.2f}" for name in shown)
            self._show(cell, f" {progress.epoch}/{progress.num_epochs}{score}")

    def finish(self, cell: Cell) -> None:
        self._running.pop(cell, None)
        if self._bar is not None:
            self._bar.update()

    def fail(self, cell: Cell, reason: str) -> None:
        self._running.pop(cell, None)
        self._num_failed += 1
        if self._bar is not None:
            self._bar.set_description_str(f"comparing, {self._num_failed} failed")
        terminal.warn(f"{cell} failed twice: {reason}. The other trainings go on")

    def warn(self, text: str) -> None:
        """Shows a warning, unless it was shown before; advice is the same even if its numbers differ."""
        kind = re.sub(r"[0-9]+", "", text) if isinstance(text, Advice) else text
        if kind not in self._warned:
            self._warned.add(kind)
            terminal.warn(text)

    def _show(self, cell: Cell, text: str) -> None:
        self._running[cell] = f"{cell}{text}"
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._running.values()))


def listener(display: Display, should_stop: Callable[[], bool]):
    from ucf50_tfrecord.evaluation.cells import ComparisonListener

    return ComparisonListener(
        start=display.start,
        report=display.report,
        finish=display.finish,
        fail=display.fail,
        warn=display.warn,
        should_stop=should_stop,
    )


if __name__ == "__main__":
    console.run(main)
