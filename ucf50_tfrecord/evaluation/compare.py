"""Trains and tests the cells of a comparison, each once, and assembles their results.

<folder>/cells/<cell>/            a run's folder, as training leaves it
<folder>/cells/<cell>/cell.json   the model's predictions for its test clips, written last: it marks a finished cell
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, choose_cache, read_in_batches
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import audit, cells
from ucf50_tfrecord.evaluation import results as results_lib
from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec, Recipe, Subject
from ucf50_tfrecord.evaluation.results import Cell, CellResult, Results
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.training import loop, trained
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training.logs import TensorBoardLog

CELL_FILENAME = "cell.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that can be stopped and resumed.

    folder: of its cells. clips: all of the dataset's.
    cache, skip_bad_records: where clips are kept, and whether unreadable ones are left out.
    tensorboard: whether each training writes curves and pictures, for which each epoch is evaluated.
    """

    folder: str
    spec: ComparisonSpec
    clips: ClipIndex
    strategy: tf.distribute.Strategy
    cache: str = "auto"
    skip_bad_records: bool = False
    tensorboard: bool = True

    @functools.cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """The part that each clip is tested in, int64 [N], for each split that a cell has."""
        splits = {cell.split for cell in self.spec.cells()}
        return {
            split: cells.assign_parts(self.clips, self.spec, split) for split in FoldBy if split in splits
        }

    def run(self, listener: ComparisonListener) -> Results | None:
        """Runs the unfinished cells; returns None if it is stopped.

        Raises:
          UserError: if a cell's folder holds a run with another configuration, a clip cannot be read,
            or training fails.
        """
        wanted = self.spec.cells()
        self.parts  # a wrong request fails before any training
        found: list[CellResult] = []
        for number, cell in enumerate(wanted):
            result = self._finished(cell)
            if result is None:
                listener.start(cell, number, len(wanted))
                result = self._run_cell(cell, listener)
            if result is None:
                return None
            found.append(result)
        return assemble(self.clips, found, audit=self._audit())

    def run_dir(self, cell: Cell) -> str:
        return os.path.join(self.folder, "cells", str(cell))

    def _config(self, cell: Cell) -> run_lib.RunConfig:
        recipe = cells.cell_recipe(self.spec.recipes[cell.model], cell)
        parts = self.parts[cell.split]
        return run_lib.RunConfig(
            data_dir=storage.absolute(self.clips.manifest.data_dir),
            fingerprint=self.clips.manifest.fingerprint,
            classes=self.clips.manifest.classes,
            train_folds=cells.folds_of(self.clips.select(parts != cell.part)),
            val_folds=cells.folds_of(self.clips.select(parts == cell.part)),
            test_folds=(),
            model=recipe.model,
            train=recipe.train,
            clip_split=cells.describe_split(cell, self.spec.num_parts),
            clip_format=self.clips.manifest.format,
            video_secs=self._video_secs,
        )

    @functools.cached_property
    def _video_secs(self) -> tuple[float, float] | None:
        return reader.video_secs([self.clips])

    def _finished(self, cell: Cell) -> CellResult | None:
        path = pathlib.Path(self.run_dir(cell), CELL_FILENAME)
        if not path.exists():
            return None
        run_lib.check_run(self.run_dir(cell), self._config(cell))
        manifest = self.clips.manifest
        try:
            found = results_lib.load_cell(
                path,
                num_clips=len(self.clips),
                num_classes=len(manifest.classes),
                num_frames=manifest.format.num_frames,
            )
            expect(found.cell == cell, f"the cell {cell}", cell=str(found.cell))
        except UserError as error:
            raise UserError(f"{error}. Remove {path} to test again", *error.remedies) from error
        return found

    def _run_cell(self, cell: Cell, listener: ComparisonListener) -> CellResult | None:
        config, run_dir = self._config(cell), self.run_dir(cell)
        recipe = cells.cell_recipe(self.spec.recipes[cell.model], cell)
        _forget_models()
        with run_lib.open_run(run_dir, config):
            train, test = self._make_feeds(cell)
            done = self._train(cell, recipe, train, test, listener=listener)
            if not done.finished:
                return None
            result = cells.examine(
                Subject(cell=cell, recipe=recipe, model=done.model, run_dir=run_dir),
                train.clips,
                test,
                all_ids=self.clips.ids,
                strategy=self.strategy,
                listener=listener,
                look_inside=self.spec.inside,
            )
            if result is not None:
                results_lib.save_cell(pathlib.Path(run_dir, CELL_FILENAME), result)
        return result

    def _make_feeds(self, cell: Cell) -> tuple[Feed, Feed]:
        """Returns the feeds of a cell's training and test clips."""
        is_test = self.parts[cell.split] == cell.part
        mixed = self.spec.recipes[cell.model].train.shuffle_shards
        train, test = (
            Feed(
                dataclasses.replace(self.clips.select(chosen), shuffle_shards=mixed),
                strategy=self.strategy,
                cache=choose_cache(self.cache, self.clips.num_bytes).cache,
                skip_bad_records=self.skip_bad_records,
            )
            for chosen in (~is_test, is_test)
        )
        return train, test

    def _train(
        self, cell: Cell, recipe: Recipe, train: Feed, test: Feed, *, listener: ComparisonListener
    ) -> loop.Trained:
        config, run_dir = self._config(cell), self.run_dir(cell)

        def open_log(step: int) -> TensorBoardLog:
            log = TensorBoardLog(run_dir, start_step=step, writes=self.tensorboard)
            log.hparams(run_lib.hparams(config) | {"devices": self.strategy.num_replicas_in_sync})
            return log

        def make_evaluator(model: keras.Model) -> Callable[[], Any]:
            if not self.tensorboard:
                return _NoEvaluation
            return Evaluator(model, test, strategy=self.strategy, batch_size=cells.TEST_BATCH_SIZE)

        state = loop.build_state(
            recipe.model, recipe.train, num_clips=len(train.clips), strategy=self.strategy
        )
        return loop.train(
            train,
            state,
            recipe.train,
            strategy=self.strategy,
            options=run_lib.RunOptions(run_dir=run_dir),
            make_evaluator=make_evaluator,
            open_log=open_log,
            listener=listener,
        )

    def _audit(self) -> dict[str, dict]:
        """Finds near-duplicates between the parts of both splits; without parts, of the tested split alone."""
        parts = self.parts
        if self.spec.num_parts:
            parts = {split: cells.assign_parts(self.clips, self.spec, split) for split in FoldBy}
        return find_near_duplicates(self.clips, parts)


def examine_runs(
    run_dirs: Sequence[str],
    clips: ClipIndex,
    *,
    strategy: tf.distribute.Strategy,
    skip_bad_records: bool = False,
    allowed_code: Collection[str] = (),
    listener: ComparisonListener,
) -> Results | None:
    """Tests the models of existing runs, each on the folds of its own final scores.

    Runs of one model that differ in the seed alone count as seeds of one model. Other runs of that model are
    named after their folders. Nothing is written into the runs' folders. `allowed_code`: see trained.load_model.

    Raises:
      UserError: if a run is not finished, does not fit the shards, or names code that is not allowed.
    """
    configs = {run_dir: run_lib.load_config(run_dir) for run_dir in run_dirs}
    found = []
    for number, (cell, run_dir) in enumerate(zip(name_runs(configs), configs)):
        config = configs[run_dir]
        trained.check_fits(clips.manifest, config)
        _check_run(run_dir, config, clips.manifest)
        listener.start(cell, number, len(configs))
        _forget_models()
        weights = trained.scored_weights(config)
        model = trained.load_model(run_dir, config, weights, strategy=strategy, allowed_code=allowed_code)
        tested = np.isin(clips.folds, config.test_folds or config.val_folds)
        trained_on = np.isin(clips.folds, config.train_folds)
        recipe = Recipe(model=config.model, train=config.train)
        result = cells.examine(
            Subject(cell=cell, recipe=recipe, model=model, run_dir=run_dir),
            clips.select(trained_on),
            Feed(clips.select(tested), strategy=strategy, skip_bad_records=skip_bad_records),
            all_ids=clips.ids,
            strategy=strategy,
            listener=listener,
        )
        if result is None:
            return None
        found.append(result)
    return assemble(clips, found, audit=None)


def name_runs(configs: dict[str, run_lib.RunConfig]) -> list[Cell]:
    """Makes a cell for each run; runs that differ in seed and folds alone share a model's name.

    Raises:
      UserError: if two runs are the same but for their folder.
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
        tested = config.test_folds or config.val_folds
        parts = taken.setdefault((name, order, config.train.seed), [])
        if tested in parts:
            raise UserError(f"{run_dir} is the same as another run: {name}, seed {config.train.seed}")
        parts.append(tested)
        named.append(Cell(model=name, training=order, part=len(parts) - 1, seed=config.train.seed))
    return named


def assemble(clips: ClipIndex, found: Iterable[CellResult], *, audit: dict | None) -> Results:
    """Assembles the results of cells and their clips."""
    return Results(
        name=pathlib.Path(clips.manifest.data_dir).name,
        classes=clips.manifest.classes,
        num_frames=clips.manifest.format.num_frames,
        ids=clips.ids,
        labels=clips.labels.astype(np.int64),
        groups=clips.groups,
        folds=clips.folds,
        cells=tuple(found),
        audit=audit,
    )


def find_near_duplicates(clips: ClipIndex, parts: dict[str, np.ndarray]) -> dict[str, dict]:
    """Returns audit.find_nearest for each split, as JSON."""
    pictures = audit.fingerprints(read_in_batches(clips))
    return {
        split: to_json(audit.find_nearest(pictures, part, labels=clips.labels, groups=clips.groups))
        for split, part in parts.items()
    }


class _NoEvaluation:
    """Replaces an epoch's evaluation where nothing reads it: the last weights are tested anyway."""

    scores = {"macro_f1": float("nan")}


def _check_run(run_dir: str, config: run_lib.RunConfig, manifest: Manifest) -> None:
    written_last = (run_lib.SUMMARY_FILENAME, CELL_FILENAME)
    if not any(pathlib.Path(run_dir, name).exists() for name in written_last):
        raise UserError(f"{run_dir} holds a run that is not finished: there is no {written_last[0]}")
    if config.fingerprint != manifest.fingerprint:
        raise UserError(
            f"{run_dir} was trained on other shards than those in {manifest.data_dir}: which of their clips it has "
            "seen is unknown"
        )


def _forget_models() -> None:
    """Frees the memory that Keras and TensorFlow keep of earlier models: a comparison builds hundreds.

    TensorFlow registers the gradient of each call of a tf.custom_gradient (its own all_reduce and ours) under a
    new name and for ever. Each holds the graph, the weights and the clips cached in memory. After this, functions
    traced before cannot be differentiated any more.
    """
    keras.backend.clear_session()
    gradients = tf_ops.gradient_registry._registry  # it has no public way to remove an entry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    gc.collect()
