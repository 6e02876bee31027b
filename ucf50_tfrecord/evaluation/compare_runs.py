"""Compares the models of finished runs: tests each of them on clips that its run has not trained on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import parsing
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import cells, result_files
from ucf50_tfrecord.evaluation.assembly import assemble
from ucf50_tfrecord.evaluation.cells import ComparisonListener, Recipe, Subject
from ucf50_tfrecord.evaluation.compare import changed_feeds
from ucf50_tfrecord.evaluation.results import Cell, Results, TrainingCost
from ucf50_tfrecord.evaluation.workbench import CompiledModel, forget_models
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import trained


def examine_runs(
    run_dirs: Sequence[str],
    clips: ClipIndex,
    *,
    strategy: tf.distribute.Strategy,
    changed: Mapping[str, ClipIndex] | None = None,
    skip_bad_records: bool = False,
    allowed_code: Collection[str] = (),
    listener: ComparisonListener,
) -> Results | None:
    """Compares the models of finished runs. Tests each model on the folds of its run's own final scores.

    See `name_runs` for the models' names in the results. Nothing is written into the runs' folders.

    Args:
      run_dirs: folders of the runs.
      clips: index of all clips of the data set.
      strategy: distribution strategy of the devices to test on.
      changed: as in Comparison.
      skip_bad_records: whether unreadable clips are left out; otherwise, they are errors.
      allowed_code: names of the model builders, as <module>:<builder>, that may be imported; see
        trained.load_model.
      listener: functions that receive the progress and may stop the tests.

    Returns:
      The results, without an audit; None if the listener stopped the tests.

    Raises:
      UserError: if a run is not finished, does not fit the shards, is not trained on all clips of its folds, or names
        code that is not allowed. Also if the runs' models take different numbers of frames, or a run states no
        possible cost.
    """
    configs = {run_dir: run_lib.load_classifier(run_dir) for run_dir in run_dirs}
    counts = {run_dir: config.model.num_frames for run_dir, config in configs.items()}
    expect(len(set(counts.values())) == 1, "runs whose models take equally many frames", sample_frames=counts)
    num_frames, found = next(iter(counts.values())), []
    costs = {run_dir: _cost_of_run(run_dir) for run_dir in run_dirs}
    for number, (cell, run_dir) in enumerate(zip(name_runs(configs), configs)):
        config = configs[run_dir]
        trained.check_fits(clips.manifest, config)
        _check_run(run_dir, config, clips.manifest)
        listener.start(cell, number, len(configs))
        forget_models()
        weights = trained.scored_weights(config)
        model = trained.load_model(run_dir, config, weights, strategy=strategy, allowed_code=allowed_code)
        tested = np.isin(clips.folds, config.scored_folds)
        trained_on = np.isin(clips.folds, config.train_folds)
        recipe = Recipe(model=config.model, train=config.train)
        result = cells.examine(
            Subject(cell=cell, recipe=recipe, compiled=CompiledModel(model, strategy), run_dir=run_dir),
            clips.select(trained_on),
            Feed(clips.select(tested), strategy=strategy, skip_bad_records=skip_bad_records),
            changed=changed_feeds(
                changed or {},
                cell,
                tested,
                num_frames=num_frames,
                strategy=strategy,
                skip_bad_records=skip_bad_records,
            ),
            all_ids=clips.ids,
            listener=listener.of(cell),
        )
        if result is None:
            return None
        listener.finish(cell)
        found.append(dataclasses.replace(result, cost=costs[run_dir]))
    return assemble(clips, found, audit=None, num_frames=num_frames)


def name_runs(configs: dict[str, run_lib.RunConfig]) -> list[Cell]:
    """Makes a comparison's cell (one training of a named model) for each run.

    Runs whose configurations differ only in seed, frame order and folds share a model's name. If several
    models have the same architecture, the folder of a run is added to the names of all but the first.

    Args:
      configs: dictionary from each run's folder to its configuration.

    Returns:
      The runs' cells, in the order of `configs`.

    Raises:
      UserError: if two runs of one model have the same seed, frame order and tested folds.
    """
    kinds: dict[str, list[dict]] = {}
    named: list[Cell] = []
    taken: dict[tuple[str, str, int], list[tuple[int, ...]]] = {}
    for run_dir, config in configs.items():
        order = config.train.augment.frame_order
        shared = to_json(config.model) | to_json(config.train)
        shared = {key: value for key, value in shared.items() if key not in ("seed", "augment")}
        shared |= {key: v for key, v in to_json(config.train.augment).items() if key != "frame_order"}
        alike = kinds.setdefault(config.model.name, [])
        if shared not in alike:
            alike.append(shared)
        number = alike.index(shared)
        name = config.model.name if number == 0 else f"{config.model.name} ({pathlib.Path(run_dir).name})"
        tested = config.scored_folds
        parts = taken.setdefault((name, order, config.train.seed), [])
        if tested in parts:
            raise UserError(
                f"{run_dir} has the same model, seed and tested folds as another run: {name}, seed {config.train.seed}"
            )
        parts.append(tested)
        named.append(Cell(model=name, training=order, part=len(parts) - 1, seed=config.train.seed))
    return named


def _cost_of_run(run_dir: str) -> TrainingCost | None:
    """Returns the cost of a run's training; None if it is unknown, as in runs of earlier versions.

    The run may be a cell of another comparison.

    Raises:
      UserError: if the run's summary states no possible cost.
    """
    if not pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME).exists():
        return result_files.load_cost(pathlib.Path(run_dir))
    summary = run_lib.load_summary(run_dir)
    if not (summary.clips_per_sec and summary.num_train_clips):
        return None
    cost = {
        "num_clips": summary.trained_epochs * summary.num_train_clips,
        "clips_per_sec": summary.clips_per_sec,
        "num_parameters": summary.params,
    }
    return parsing.convert(cost, TrainingCost, f"The cost of {run_dir}, from its summary, is not possible")


def _check_run(run_dir: str, config: run_lib.RunConfig, manifest: Manifest) -> None:
    written_last = (run_lib.SUMMARY_FILENAME, result_files.CELL_FILENAME)
    if not any(pathlib.Path(run_dir, name).exists() for name in written_last):
        raise UserError(f"{run_dir} holds a run that is not finished: there is no {written_last[0]}")
    expect(
        not config.clip_split,
        f"a run that is trained on all clips of its training folds in {run_dir}",
        clip_split=config.clip_split,
    )
    if config.fingerprint != manifest.fingerprint:
        raise UserError(
            f"{run_dir} was trained on other shards than those in {manifest.data_dir}, so it is unknown which "
            "of these clips the model has seen"
        )
