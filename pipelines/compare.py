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

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pipelines import (
    code_flags,
    comparison_flags,
    comparison_jobs,
    comparison_progress,
    console,
    convert,
    dry_run,
    features,
    inputs,
    remedies,
    stored_results,
    terminal,
    train_flags,
)
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import expect

if TYPE_CHECKING:
    from ucf50_tfrecord.dataset.clips import ClipIndex
    from ucf50_tfrecord.evaluation.results import Cell, Results

_RUNS = flags.DEFINE_list("runs", None, "Folders of finished runs to compare, in place of --models.")
_RESULTS = flags.DEFINE_string("results", None, "Write the report of this results.json again.")
_OUTPUT = flags.DEFINE_string("output", None, "The comparison's folder. Default: runs/<data>-compare.")
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

for _module in (comparison_flags, comparison_jobs, train_flags, features, inputs):
    flags.adopt_module_key_flags(_module)

_FOLDER_KIND = "a comparison"
# Longest wait for another process that writes the report.
_REPORT_SECS = 600.0


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
    named = comparison_flags.name_recipes()
    for recipe in named.values():
        comparison_flags.read_settings(recipe)
    asked = comparison_flags.spec_flags(list(named))
    input_spec = inputs.INPUTS.build()
    environments, task = comparison_jobs.job_environments(), convert.task()
    manifest = features.load_data()
    manifest.expect_one_label(_FOLDER_KIND)
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import compare

    of_features = manifest.features is not None
    made = {
        model: comparison_flags.make_recipe(
            comparison_flags.read_settings(recipe, of_features=of_features), manifest
        )
        for model, recipe in named.items()
    }
    spec = comparison_flags.make_spec(manifest, made, asked)
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
        engine = dry_run.Engine(
            environments, task, comparison_jobs.STRATEGY.value, num_on_ray=comparison_jobs.count_on_ray()
        )
        changes = manifest.features and _PIXEL_INTERVENTIONS.value
        num_missing = len(features.changed_datasets(manifest)) - len(comparison.changed) if changes else 0
        dry_run.show(comparison, engine, num_missing=num_missing, warn=comparison_progress.Display().warn)
        return 0
    if not convert.finalizes():
        describe(comparison, num_jobs=len(environments))
        comparison.check_encoders(terminal.warn)
        if warning := comparison.find_lookalikes():
            terminal.warn(warning)
        claim_folder(folder)
        if not comparison_jobs.train_cells(comparison, environments, task):
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


def compare_runs() -> None:
    """Tests the models of the runs that --runs names, and writes the report."""
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import compare_runs
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    data_dir = flags.FLAGS["data"].value or run_lib.load_classifier(_RUNS.value[0]).data_dir
    manifest = manifest_lib.load(data_dir)
    manifest.expect_one_label(_FOLDER_KIND)
    input_spec = inputs.INPUTS.build()
    clips = input_spec.load_clips(manifest, manifest.folds)
    strategy = strategy_lib.make_strategy(comparison_jobs.STRATEGY.value, environment={})
    folder = _OUTPUT.value or os.path.join("runs", f"{pathlib.Path(data_dir).name}-compare-runs")
    check_folder(folder)
    changed = load_changed(manifest)
    with (
        strategy_lib.explain_exhausted_memory(),
        console.stop_requests() as should_stop,
        comparison_progress.Display() as display,
    ):
        results = compare_runs.examine_runs(
            _RUNS.value,
            clips,
            strategy=strategy,
            changed=changed,
            skip_bad_records=input_spec.skips_bad_records,
            allowed_code=code_flags.allowed_code(),
            listener=comparison_progress.listener(display, should_stop),
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
    results = stored_results.load(path)
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
    from ucf50_tfrecord.dataset import segments
    from ucf50_tfrecord.dataset.clips import frames_of
    from ucf50_tfrecord.dataset.feed import read_clips
    from ucf50_tfrecord.evaluation import verdicts
    from ucf50_tfrecord.report import build as report

    claim_folder(folder)
    judged = verdicts.judge(results)
    frames = None if clips is None else frames_of(clips)

    def read(chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the frames of clips that the models see, uint8 [N, T, H, W, 3]."""
        return segments.take_middles(read_clips(frames.select(np.asarray(chosen))), results.num_frames)

    reader = None if frames is None else read
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


def describe(comparison, *, num_jobs: int) -> None:
    """Prints what a comparison, an evaluation.compare.Comparison, will train, and in how many processes."""
    spec, wanted, clips = comparison.spec, comparison.spec.cells(), comparison.clips
    how = f"{spec.num_parts} parts" if spec.num_parts else f"folds {flags.FLAGS['val_folds'].value}"
    jobs = f", {num_jobs} at a time" if num_jobs else ""
    terminal.say(
        f"Comparing {', '.join(spec.recipes)} on {len(clips)} clips of {clips.manifest.data_dir}: "
        f"{how}, {spec.num_seeds} seed(s); {len(wanted)} trainings{jobs} in {comparison.folder}"
    )


if __name__ == "__main__":
    console.run(main)
