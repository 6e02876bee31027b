"""Measures the cost of a comparison's cells: runs short cells of each model by the comparison's own code.

A cell is one training and the test of its model. A short cell trains and tests on a few of the comparison's
clips, for a few steps. Each model is measured in all processes at the same time, because processes on one
host slow each other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import models, parsing, storage
from ucf50_tfrecord.choices import Cache, FoldBy, Strategy
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import cells, failures, side_by_side
from ucf50_tfrecord.evaluation.cells import ComparisonListener
from ucf50_tfrecord.evaluation.compare import Comparison
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.evaluation.estimate import Cost, Timeline
from ucf50_tfrecord.evaluation.results import Cell
from ucf50_tfrecord.specs import TrainSpec, to_json
from ucf50_tfrecord.training.listener import Listener, TrainProgress
from ucf50_tfrecord.training.strategy import keras_policy, make_strategy

# Steps of a short training. Steps on features are short, and up to 20 of them are taken in one call.
_NUM_STEPS, _NUM_FEATURE_STEPS = 10, 60
_NUM_TESTED = 2 * cells.TEST_BATCH_SIZE
# A model is not measured a second time if its first short cell took longer, in seconds.
_MAX_REPEATED_SECS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured costs of a comparison.

    costs: dictionary from a model's name to the cost of its cells.
    launch_secs: seconds from the start of the processes to the first cell.
    """

    costs: dict[str, Cost]
    launch_secs: float


def measure(
    comparison: Comparison,
    names: Sequence[str],
    listener: ComparisonListener,
    *,
    folder: str,
    environments: Sequence[Mapping[str, str]],
    prepare: Callable[[], None] | None = None,
    strategy: str = Strategy.ONE,
) -> Measured | None:
    """Measures the cost of the cells of some models of a comparison.

    Args:
      comparison: the comparison. Nothing is written into its folder.
      names: names of the models.
      listener: functions that receive the progress and may stop the measurement.
      folder: an empty folder for temporary files.
      environments, prepare: as in side_by_side.run.
      strategy: name of the distribution strategy of each process.

    Returns:
      The costs, or None if the listener stopped the measurement.

    Raises:
      UserError: as Comparison.run does. Also if a cell's process crashed twice.
    """
    started, launched = time.monotonic(), []

    def start(cell: Cell, number: int, total: int) -> None:
        launched.append(time.monotonic())
        listener.start(cell, number, total)

    parts = comparison.parts[FoldBy.GROUP]
    spec = dataclasses.replace(
        comparison.spec,
        recipes={name: comparison.spec.recipes[name] for name in names},
        num_parts=0,
        val_folds=cells.folds_of(comparison.clips.folds[parts == 0]),
        num_seeds=len(environments),
        orders=(),
        audited=(),
        held_out=(),
    )
    trials = Trials(**_fields(comparison) | {"folder": folder, "spec": spec}, strategy=strategy)
    heard = dataclasses.replace(listener, start=start)
    if not side_by_side.run(trials, heard, environments=environments, prepare=prepare):
        return None
    failed = [
        f"{cell.model}: {reason}, twice" for cell, reason in failures.load(folder, spec.cells()).items()
    ]
    if failed:
        raise UserError(f"Cannot measure the trainings. {'; '.join(dict.fromkeys(failed))}")
    return Measured(
        costs={name: _average(trials.costs(name)) for name in names}, launch_secs=launched[0] - started
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials(Comparison):
    """A comparison whose cells are short. Running a cell writes its cost into a file of the folder.

    Its `spec` has a usual cell for each model and process: the seed is the number of the process.

    strategy: name of the distribution strategy of each process.
    """

    strategy: str = Strategy.ONE

    def claimable(self, task: tuple[int, int] = (0, 1)) -> list[Cell]:
        """Lists the cells that are not measured yet, model by model."""
        names = list(self.spec.recipes)
        left = [cell for cell in self.spec.cells() if not self._cost_path(cell).exists()]
        return sorted(left, key=lambda cell: names.index(cell.model))

    def on_one_device(self) -> Callable[..., Outcome]:
        """Returns the function that measures a cell on the devices of this process."""
        return functools.partial(self.measure_cell, strategy=make_strategy(self.strategy, environment={}))

    def costs(self, name: str) -> list[Cost]:
        """Reads the costs that the processes have measured for a model."""
        own = [cell for cell in self.spec.cells() if cell.model == name]
        return [parsing.read(self._cost_path(cell), Cost, "a cell's cost") for cell in own]

    def measure_cell(
        self,
        cell: Cell,
        *,
        strategy: tf.distribute.Strategy,
        listener: Listener,
        on_start: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Runs short cells of a model, and writes their cost; see Comparison.run_cell.

        Two short cells are run, one after another: the first one also loads the clips and compiles the model.
        """
        on_start()
        short = self._shorten(cell)
        timelines: list[Timeline] = []
        bench = short.open_bench(strategy)
        for part in short.spec.cells():
            if timelines and timelines[0].secs > _MAX_REPEATED_SECS:
                break
            clock = _Clock(listener)
            outcome = short.run_cell(part, bench=bench, listener=clock.listener, on_start=clock.start)
            if outcome != Outcome.FINISHED:
                return outcome
            timelines.append(self._timeline(short, clock))
        storage.write_json(self._cost_path(cell), to_json(self._cost(cell, short, timelines, strategy)))
        return Outcome.FINISHED

    def _shorten(self, cell: Cell) -> Comparison:
        """Returns a comparison of two short cells of a cell's model, on a few of the clips."""
        recipe, of_features = self.spec.recipes[cell.model], self.clips.manifest.features is not None
        num_steps = _NUM_FEATURE_STEPS if of_features else _NUM_STEPS
        chosen = self._choose(num_steps * recipe.train.batch_size)
        is_tested = self.parts[FoldBy.GROUP][chosen] == 0
        steps_per_epoch = math.ceil((~is_tested).sum() / recipe.train.batch_size)
        train = _shorten_train(recipe.train, max(1, num_steps // steps_per_epoch))
        clips = self.clips.select(chosen)
        spec = dataclasses.replace(
            self.spec,
            recipes={cell.model: dataclasses.replace(recipe, train=train)},
            val_folds=cells.folds_of(clips.folds[is_tested]),
            num_seeds=2,
        )
        changes = {
            "folder": os.path.join(self.folder, str(cell)),
            "spec": spec,
            "clips": clips,
            "changed": {name: changed.select(chosen) for name, changed in self.changed.items()},
            "cache": self.choose_cache(),
            "shared_dir": None,
            "tensorboard": False,
        }
        return Comparison(**_fields(self) | changes)

    def _choose(self, num_trained: int) -> np.ndarray:
        """Returns the positions of about `num_trained` training clips and of a few test clips, int64 [M].

        The training clips include all classes of the test clips.
        """
        is_tested = self.parts[FoldBy.GROUP] == 0
        tested = _spread(np.flatnonzero(is_tested), _NUM_TESTED)
        trained, labels = np.flatnonzero(~is_tested), self.clips.labels
        classes, first = np.unique(labels[trained], return_index=True)
        needed = trained[first[np.isin(classes, labels[tested])]]
        return np.unique(np.concatenate([tested, needed, _spread(trained, num_trained)]))

    def _timeline(self, short: Comparison, clock: _Clock) -> Timeline:
        [recipe] = short.spec.recipes.values()
        [cell, _] = short.spec.cells()
        num_trained = int((short.parts[FoldBy.GROUP] != 0).sum())
        num_tested = len(short.clips) - num_trained
        features, num_frames = short.clips.manifest.features, recipe.model.num_frames
        names = cells.interventions_of(cell, num_frames, of_features=features is not None)
        steps_per_epoch = math.ceil(num_trained / recipe.train.batch_size)
        return Timeline(
            reports=clock.reports,
            num_frozen_steps=recipe.train.unfreeze_after_epoch * steps_per_epoch,
            tests=clock.tests,
            batches_per_pass=math.ceil(num_tested / cells.TEST_BATCH_SIZE),
            num_tested=cells.TEST_BATCH_SIZE * (len(names) + len(short.changed)),
            secs=clock.elapsed(),
        )

    def _cost(
        self,
        cell: Cell,
        short: Comparison,
        timelines: Sequence[Timeline],
        strategy: tf.distribute.Strategy,
    ) -> Cost:
        recipe = self.spec.recipes[cell.model]
        load_secs = _measure_loading(short, strategy)
        found = timelines[-1].costs(inspects=self.spec.inside)
        more_bytes = max(0, self.clips.num_bytes - short.clips.num_bytes)
        has_no_gpu = memory.available_device_bytes() is None
        checkpoints = pathlib.Path(short.run_dir(short.spec.cells()[0]), "checkpoints")
        # Before the model is built once more, only to count its weights.
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Cost(
            **found,
            num_parameters=models.build_model(
                recipe.model, dtype=keras_policy(recipe.train.precision)
            ).count_params(),
            first_secs=max(0.0, timelines[0].secs - timelines[-1].secs - load_secs * len(short.clips)),
            load_secs=load_secs,
            peak_bytes=peak_bytes,
            cached_bytes=more_bytes if short.cache == Cache.DEVICE and has_no_gpu else 0,
            shared_bytes=more_bytes if short.cache == Cache.HOST else 0,
            checkpoint_bytes=sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file()),
        )

    def _cost_path(self, cell: Cell) -> pathlib.Path:
        return pathlib.Path(self.folder, f"{cell}.json")


class _Clock:
    """Notes the times at which a short cell makes progress, in seconds from its start.

    listener: the cell's listener.
    reports, tests: as in Timeline.
    """

    def __init__(self, listener: Listener):
        self.listener = Listener(report=self._report, warn=listener.warn, should_stop=self._should_stop)
        self.reports: list[tuple[int, float]] = []
        self.tests: list[float] = []
        self._given, self._is_trained, self._started = listener, False, time.monotonic()

    def start(self) -> None:
        self._started = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def _report(self, progress: TrainProgress) -> None:
        self.reports.append((progress.step, self.elapsed()))
        self._is_trained = progress.step == progress.num_steps
        self._given.report(progress)

    def _should_stop(self) -> bool:
        """Notes the time of each call after the training: there is one after each batch of tested clips."""
        if self._is_trained:
            self.tests.append(self.elapsed())
        return self._given.should_stop()


def _fields(comparison: Comparison) -> dict[str, Any]:
    """Returns the fields of a comparison by name, without those of a subclass."""
    return {field.name: getattr(comparison, field.name) for field in dataclasses.fields(Comparison)}


def _shorten_train(spec: TrainSpec, epochs: int) -> TrainSpec:
    """Returns a training of fewer epochs, of which half have a frozen encoder if `spec` unfreezes it later."""
    unfreeze_after_epoch = 0
    if spec.unfreeze_after_epoch:
        unfreeze_after_epoch = min(epochs, spec.unfreeze_after_epoch)
        epochs = unfreeze_after_epoch + min(epochs, spec.epochs - spec.unfreeze_after_epoch)
    epochs = min(epochs, spec.epochs)
    return dataclasses.replace(
        spec,
        epochs=epochs,
        unfreeze_after_epoch=unfreeze_after_epoch,
        warmup_epochs=min(spec.warmup_epochs, epochs),
    )


def _spread(positions: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` evenly spread entries of an array [N]."""
    chosen = np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(int)
    return positions[chosen]


def _measure_loading(short: Comparison, strategy: tf.distribute.Strategy) -> float:
    """Returns the seconds to load a clip into memory, or 0 if clips are not kept in memory."""
    if short.cache == Cache.NONE:
        return 0.0
    started = time.monotonic()
    Feed(short.clips, strategy=strategy, cache=short.cache, skip_bad_records=short.skip_bad_records)
    return (time.monotonic() - started) / len(short.clips)


def _average(costs: Sequence[Cost]) -> Cost:
    """Returns the mean of the times that several processes measured, and the maximum of all else."""
    kinds = {field.name: field.name.endswith("_secs") for field in dataclasses.fields(Cost)}
    return Cost(
        **{
            name: (statistics.mean if is_time else max)(getattr(cost, name) for cost in costs)
            for name, is_time in kinds.items()
        }
    )
