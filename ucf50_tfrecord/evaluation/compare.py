"""Runs a comparison of models: trains and tests each of its cells once, and assembles their results.

A cell is one training of the comparison: a model, a split and its tested part, an order of frames, and a
seed. Several processes, also on several hosts, may run the same comparison. A process holds the lock of a
cell's folder while it runs the cell. The system releases the lock when the process exits.

<folder>/cells/<cell>/                      the folder of the cell's training, as of any other run
<folder>/cells/<cell>/predictions.parquet   the model's predictions for the cell's test clips
<folder>/cells/<cell>/cost.json             the cost of the training, which depends on the process; missing if it
                                            is unknown
<folder>/cells/<cell>/cell.json             the rest of the cell's result; it is written last, so a cell that
                                            has this file and the predictions is finished
<folder>/failed/                            the cells that failed; see evaluation.failures
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import jobs, storage
from ucf50_tfrecord.choices import Cache, FoldBy, Strategy
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, choose_cache
from ucf50_tfrecord.errors import Advice, UserError, expect
from ucf50_tfrecord.evaluation import assembly, cells, failures, lookalikes, pretrained, result_files
from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec, Recipe, Subject
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.evaluation.results import (
    Cell,
    CellResult,
    ComparedClips,
    Results,
    TrainingCost,
    incomplete,
)
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.evaluation.workbench import (
    Program,
    Workbench,
    forget_inputs,
)
from ucf50_tfrecord.training import loop
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training.listener import Listener
from ucf50_tfrecord.training.logs import TensorBoardLog
from ucf50_tfrecord.training.strategy import explain_exhausted_memory, make_strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of models, which can be stopped and resumed.

    folder: the comparison's folder. It holds a folder for each cell (one training).
    spec: the compared models, and how they are trained and tested.
    clips: index of all clips of the data set.
    changed: if the clips are stored as features, a dictionary from the name of each intervention that changes
      pixels to an index. The index is of the features of the changed clips.
    cache: where decoded clips are kept; a value of choices.Cache.
    num_processes: number of processes that run cells on this host at the same time.
    shared_dir: folder through which these processes share the clips that they keep in host memory; None if they
      do not share them.
    skip_bad_records: whether unreadable clips are left out; otherwise, they are errors.
    tensorboard: whether each training writes curves and pictures for TensorBoard; its model is then evaluated
      after each epoch.
    """

    folder: str
    spec: ComparisonSpec
    clips: ClipIndex
    changed: Mapping[str, ClipIndex] = dataclasses.field(default_factory=dict)
    cache: str = Cache.AUTO
    num_processes: int = 1
    shared_dir: str | None = None
    skip_bad_records: bool = False
    tensorboard: bool = False

    @functools.cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Dictionary from each split to the index of the part in which each clip is tested, int64 [N].

        Raises:
          UserError: if the clips cannot be split; see cells.assign_parts.
        """
        splits = {cell.split for cell in self.spec.cells()}
        return {
            split: cells.assign_parts(self.clips, self.spec, split) for split in FoldBy if split in splits
        }

    def run(
        self,
        listener: ComparisonListener,
        *,
        strategy: tf.distribute.Strategy,
        task: tuple[int, int] = (0, 1),
    ) -> bool:
        """Trains and tests the cells that are not finished yet, one after another, in this process.

        Args:
          listener: functions that receive the progress and may stop the comparison.
          strategy: distribution strategy of the devices.
          task: as in `claimable`.

        Returns:
          False if the listener stopped the comparison. True if all cells are finished, except cells that
          other processes are running.

        Raises:
          UserError: if a cell's folder holds a run with another configuration, a clip cannot be read,
            or training fails.
        """
        bench = self.open_bench(strategy)
        failures.forget(self.folder, self.spec.cells())
        while wanted := self.claimable(task):
            num_done, num_run = len(self.spec.cells()) - len(wanted), 0
            for number, cell in enumerate(wanted, num_done):
                outcome = self.run_cell(
                    cell,
                    bench=bench,
                    listener=listener.of(cell),
                    on_start=functools.partial(listener.start, cell, number, num_done + len(wanted)),
                )
                if outcome == Outcome.STOPPED:
                    return False
                if outcome == Outcome.FINISHED:
                    listener.finish(cell)
                    num_run += 1
            if not num_run:
                break
        return True

    def unfinished(self) -> list[Cell]:
        """Lists the cells that are not finished.

        Raises:
          UserError: if a finished cell has another configuration, or the clips cannot be split as asked for.
        """
        left = []
        for cell in self.spec.cells():
            if result_files.has_cell(self.run_dir(cell)):
                run_lib.check_run(self.run_dir(cell), self._config(cell))
            else:
                left.append(cell)
        return left

    def failures(self) -> dict[Cell, str]:
        """Returns the unfinished cells that failed since the comparison was last started, and the reason of each.

        Raises:
          UserError: as failures.load does.
        """
        noted = failures.load(self.folder, self.spec.cells())
        return {cell: why for cell, why in noted.items() if not result_files.has_cell(self.run_dir(cell))}

    def claimable(self, task: tuple[int, int] = (0, 1)) -> list[Cell]:
        """Lists the unfinished cells that no other process runs, in the order in which this process runs them.

        Args:
          task: tuple (index, count): the index of this process, and the number of processes that run the
            comparison. Each process begins with its own part of the cells, then runs cells of other parts.

        Raises:
          UserError: as `unfinished` does.
        """
        left = set(self.unfinished())
        ordered = jobs.own_part_first(self.spec.cells(), task)
        return [cell for cell in ordered if cell in left and not storage.is_locked(self.run_dir(cell))]

    def run_cell(
        self,
        cell: Cell,
        *,
        bench: Workbench,
        listener: Listener,
        on_start: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Trains and tests one cell, unless it is finished or another process runs it.

        The written files, except for the cost, depend only on the cell and the fields of this object, not on the
        process.

        Args:
          cell: the cell.
          bench: the clips and compiled models of this process, as `open_bench` returns them.
          listener: functions that receive the progress and may stop the training.
          on_start: called once this process has the lock of the cell's folder.

        Raises:
          UserError: as `run` does.
        """
        config, run_dir = self._config(cell), self.run_dir(cell)
        recipe = Recipe(model=config.model, train=config.train)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(run_lib.open_run(run_dir, config))
            except storage.LockedError:
                return Outcome.ELSEWHERE
            if result_files.has_cell(run_dir):  # another process finished it meanwhile
                return Outcome.FINISHED
            on_start()
            stack.enter_context(explain_exhausted_memory())
            forget_inputs()  # of the cell before
            train, test, changed = self._make_feeds(cell, bench)
            program = bench.program(config.model, config.train, num_clips=len(train.clips))
            done = self._train(program, config, run_dir, train, test, listener=listener)
            if not done.finished:
                return Outcome.STOPPED
            if done.clips_per_sec:  # else, no step was timed; see loop.Trained
                result_files.save_cost(
                    pathlib.Path(run_dir), _cost(done, done.clips_per_sec, len(train.clips))
                )
            result = cells.examine(
                Subject(cell=cell, recipe=recipe, compiled=program.compiled, run_dir=run_dir),
                train.clips,
                test,
                changed=changed,
                all_ids=self.clips.ids,
                listener=listener,
                look_inside=self.spec.inside,
            )
            if result is None:
                return Outcome.STOPPED
            if cell.held_out:
                distances = cells.measure_neighbors(program.compiled, train, test)
                result = dataclasses.replace(result, neighbor_distances=distances)
            result_files.save_cell(pathlib.Path(run_dir), self._compared_clips, result)
        return Outcome.FINISHED

    def on_one_device(self) -> Callable[..., Outcome]:
        """Returns `run_cell` for one device: the first GPU that this process sees, or the CPU."""
        return functools.partial(
            self.run_cell, bench=self.open_bench(make_strategy(Strategy.ONE, environment={}))
        )

    def open_bench(self, strategy: tf.distribute.Strategy) -> Workbench:
        """Returns a workbench for running this comparison's cells on the devices of a strategy.

        Raises:
          UserError: if the clips do not fit into the memory that the field `cache` names.
        """
        return Workbench(
            self.clips,
            strategy=strategy,
            cache=self.choose_cache(),
            skip_bad_records=self.skip_bad_records,
            shared_dir=self.shared_dir,
        )

    def results(self) -> Results:
        """Assembles the results of all cells, once they are finished or have failed.

        If a cell has failed, the finished cells of the same seed are left out, too; see results.incomplete.

        Raises:
          UserError: if the results of a cell are missing or damaged, or a clip cannot be read.
        """
        failed = self.failures()
        found = [self._load_result(cell) for cell in self.spec.cells() if cell not in failed]
        left_out = incomplete((result.cell for result in found), failed)
        kept = [result for result in found if result.cell not in left_out]
        found_results = assembly.assemble(
            self.clips, kept, audit=self._audit(), num_frames=self.spec.num_frames
        )
        return dataclasses.replace(found_results, failed=failed, left_out=left_out)

    def run_dir(self, cell: Cell) -> str:
        """Returns the folder of a cell's training and predictions."""
        return os.path.join(self.folder, "cells", str(cell))

    def _config(self, cell: Cell) -> run_lib.RunConfig:
        recipe = cells.cell_recipe(self.spec.recipes[cell.model], cell)
        train_folds, val_folds = self._folds[cell.split, cell.part]
        return run_lib.RunConfig(
            data_dir=storage.absolute(self.clips.manifest.data_dir),
            fingerprint=self.clips.manifest.fingerprint,
            classes=self.clips.manifest.classes,
            train_folds=train_folds,
            val_folds=val_folds,
            test_folds=(),
            model=recipe.model,
            train=recipe.train,
            clip_split=cells.describe_split(cell, self.spec.num_parts, self.clips.manifest.classes),
            clip_format=self.clips.manifest.format,
            features=self.clips.manifest.features,
            video_secs=self._video_secs,
        )

    @functools.cached_property
    def _folds(self) -> dict[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]]:
        """Dictionary from a split and its tested part to the folds that are trained on and those that are tested."""
        return {
            (split, part): (
                cells.folds_of(self.clips.folds[parts != part]),
                cells.folds_of(self.clips.folds[parts == part]),
            )
            for split, parts in self.parts.items()
            for part in range(max(1, self.spec.num_parts))
        }

    @functools.cached_property
    def _compared_clips(self) -> ComparedClips:
        return assembly.compared_clips(self.clips, self.spec.num_frames)

    @functools.cached_property
    def _video_secs(self) -> tuple[float, float] | None:
        return reader.video_secs([self.clips])

    def _load_result(self, cell: Cell) -> CellResult:
        folder = pathlib.Path(self.run_dir(cell))
        try:
            found = result_files.load_cell(folder, self._compared_clips)
            expect(found.cell == cell, f"the cell {cell}", cell=str(found.cell))
        except UserError as error:
            path = folder / result_files.CELL_FILENAME
            raise UserError(f"{error}. Remove {path} to test again", *error.remedies) from error
        return dataclasses.replace(found, cost=result_files.load_cost(folder))

    def choose_cache(self) -> Cache:
        """Chooses where this process keeps the clips of a cell, by the free memory. The result is never AUTO.

        Raises:
          UserError: if the clips do not fit into the memory that the field `cache` names.
        """
        return choose_cache(
            self.cache,
            self.clips.num_bytes,
            num_processes=self.num_processes,
            shares_host=self.shared_dir is not None,
            steps_are_short=self.clips.manifest.features is not None,
        ).cache

    def _make_feeds(self, cell: Cell, bench: Workbench) -> tuple[Feed, Feed, dict[str, Feed]]:
        """Returns feeds of a cell's training clips and test clips, and of changed test clips by name."""
        is_test = self.parts[cell.split] == cell.part
        is_trained = cells.find_trained(self.clips, self.parts[cell.split], cell)
        mixed = self.spec.recipes[cell.model].train.shuffle_shards
        train, test = (bench.feed.select(chosen, shuffle_shards=mixed) for chosen in (is_trained, is_test))
        changed = changed_feeds(
            self.changed,
            cell,
            is_test,
            num_frames=self.spec.num_frames,
            strategy=bench.strategy,
            skip_bad_records=self.skip_bad_records,
        )
        return train, test, changed

    def _train(
        self,
        program: Program,
        config: run_lib.RunConfig,
        run_dir: str,
        train: Feed,
        test: Feed,
        *,
        listener: Listener,
    ) -> loop.Trained:
        strategy = program.state.strategy

        def open_log(step: int) -> TensorBoardLog:
            log = TensorBoardLog(run_dir, start_step=step, writes=self.tensorboard)
            log.hparams(run_lib.hparams(config) | {"devices": strategy.num_replicas_in_sync})
            return log

        evaluate = Evaluator(program.compiled.predictor, test, batch_size=cells.TEST_BATCH_SIZE)
        return loop.train(
            train,
            program.state,
            config.train,
            run_dir=run_dir,
            evaluate=evaluate if self.tensorboard else None,
            open_log=open_log,
            listener=listener,
        )

    def check_encoders(self, warn: Callable[[str], None]) -> None:
        """Checks that encoders out of other runs have not seen clips that a cell is tested on.

        Args:
          warn: as in pretrained.check_held_out.

        Raises:
          UserError: as pretrained.check_held_out does.
        """
        # Every split tests the same clips, in other parts.
        tested = self.clips.select(self.parts[FoldBy.GROUP] != cells.NOT_TESTED)
        models = {recipe.model.encoder_weights: recipe.model for recipe in self.spec.recipes.values()}
        for model in models.values():
            pretrained.check_held_out(model, [tested], warn)

    def find_lookalikes(self) -> Advice | None:
        """Returns a warning if clips of the first tested part look like training clips; see lookalikes.find."""
        is_test = self.parts[FoldBy.GROUP] == 0
        return lookalikes.find(self.clips.select(~is_test), self.clips.select(is_test))

    def _audit(self) -> dict[str, dict]:
        """Finds near-duplicates between training and test clips.

        With cross-validation, compares the clips of the splits by group and by video; without it, those of
        the tested split alone.
        """
        parts = self.parts
        if self.spec.num_parts:
            parts = {split: cells.assign_parts(self.clips, self.spec, split) for split in FoldBy}
        return assembly.find_near_duplicates(self.clips, parts)


def _cost(done: loop.Trained, clips_per_sec: float, num_clips: int) -> TrainingCost:
    """Returns the cost of a training of `num_clips` clips."""
    return TrainingCost(
        num_clips=done.epochs * num_clips,
        clips_per_sec=clips_per_sec,
        num_parameters=done.model.count_params(),
    )


def changed_feeds(
    changed: Mapping[str, ClipIndex],
    cell: Cell,
    tested: np.ndarray,
    *,
    num_frames: int,
    strategy: tf.distribute.Strategy,
    skip_bad_records: bool,
) -> dict[str, Feed]:
    """Returns feeds of the changed test clips of a cell, for each intervention that the cell is tested under.

    Args:
      changed: as in Comparison.
      cell: the cell.
      tested: mask of the clips that the cell is tested on, bool [N].
      num_frames: frames per clip that the model takes.
      strategy, skip_bad_records: as in Feed.
    """
    return {
        name: Feed(clips.select(tested), strategy=strategy, skip_bad_records=skip_bad_records)
        for name, clips in changed.items()
        if name in cells.interventions_of(cell, num_frames)
    }
