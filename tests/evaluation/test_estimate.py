"""The arithmetic of a comparison's estimate against numbers computed by hand, and a measurement of a model."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.test_compare import recipe, spec
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import compare, estimate, failures, side_by_side, trial
from ucf50_tfrecord.evaluation.cells import ComparisonListener
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.evaluation.estimate import Cost, Timeline, Work
from ucf50_tfrecord.evaluation.results import Cell
from ucf50_tfrecord.specs import TrainSpec
from ucf50_tfrecord.training.listener import Listener
from ucf50_tfrecord.training.strategy import make_strategy

COST = Cost(
    num_parameters=7,
    first_secs=20.0,
    start_secs=3.0,
    load_secs=0.01,
    frozen_step_secs=0.1,
    step_secs=0.5,
    test_start_secs=4.0,
    test_secs=0.002,
    inspect_secs=5.0,
    peak_bytes=600,
    cached_bytes=100,
    shared_bytes=50,
    checkpoint_bytes=1000,
)
WORK = Work(
    order="kept",
    num_clips=100,
    num_frozen_steps=30,
    num_steps=40,
    num_tests=500,
    num_epoch_tests=0,
    num_logits=10,
    inspects=True,
)


@pytest.fixture(scope="module")
def clips(data_dir):
    loaded = manifest.load(str(data_dir))
    return load_clips(loaded, loaded.folds)


def test_a_cell_takes_its_fixed_time_and_that_of_its_steps_and_tests():
    # 3 to start, 3 frozen steps, 20 steps, 4 + 1 to test, 5 to inspect
    assert estimate.cell_secs(COST, WORK) == pytest.approx(36.0)
    blind = dataclasses.replace(WORK, inspects=False, num_frozen_steps=0, num_epoch_tests=1000)
    assert estimate.cell_secs(COST, blind) == pytest.approx(30.0)


def test_each_process_takes_the_next_cell_when_it_is_free():
    assert estimate.total_secs([5, 1, 1, 1, 4], 2) == 7.0  # 5; 1, 1, 1, 4
    assert estimate.total_secs([5, 1], 1) == 6.0
    assert estimate.total_secs([5, 1], 8) == 5.0


def test_needs_add_up_over_unfinished_cells_and_processes():
    other = dataclasses.replace(COST, first_secs=1.0, start_secs=6.0, peak_bytes=900, checkpoint_bytes=2000)
    left = [("a", WORK), ("a", WORK), ("b", WORK)]
    needs = estimate.needs(
        {"a": COST, "b": other, "finished": dataclasses.replace(COST, first_secs=1e9, peak_bytes=10**9)},
        left,
        num_finished_logits=100,
        num_processes=2,
        launch_secs=8.0,
    )
    # Start, load 100 clips, compile a and b; one process runs a, the other a and b.
    assert needs.secs == pytest.approx(8 + 1 + 20 + 1 + 36 + 39)
    shuffled = [*left, ("a", dataclasses.replace(WORK, order="shuffled"))]
    later = estimate.needs({"a": COST, "b": other}, shuffled, num_processes=2, launch_secs=8.0)
    assert later.secs == pytest.approx(8 + 1 + 20 + 1 + 20 + 36 + 39)
    assert needs.memory_bytes == 2 * (900 + 100) + 50
    # A checkpoint and 10 logits per cell; results.json repeats these, and has those of finished cells.
    assert needs.disk_bytes == 1000 + 1000 + 2000 + 3 * 10 * 4 + (30 + 100) * 4
    tasks = estimate.needs({"a": COST}, 8 * [("a", WORK)], num_processes=2, num_tasks=2)
    assert tasks.secs == pytest.approx(1 + 20 + 2 * 36) and tasks.memory_bytes == 2 * 700 + 50
    assert estimate.needs({}, [], num_processes=2) == estimate.Needs(secs=0.0, memory_bytes=0, disk_bytes=0)


def test_long_and_evaluated_trainings_keep_more_checkpoints():
    long = dataclasses.replace(WORK, num_steps=1000)
    evaluated = dataclasses.replace(WORK, num_epoch_tests=1)
    assert [estimate.cell_bytes(COST, work) for work in (WORK, long, evaluated)] == [1040, 2040, 3040]


def test_times_are_split_into_fixed_ones_and_those_per_step_and_test():
    timeline = Timeline(
        # The call with the first step compiles, that with the last one saves: 2 s per step, 3 and 5 s more.
        reports=[(1, 5.0), (2, 7.0), (3, 9.0), (4, 16.0)],
        num_frozen_steps=0,
        # Two passes of three batches; the first batch of each compiles.
        tests=[20.0, 21.0, 23.0, 30.0, 31.0, 33.0],
        batches_per_pass=3,
        num_tested=10,
        secs=40.0,
    )
    assert timeline.costs(inspects=True) == pytest.approx(
        {
            "start_secs": 8.0,
            "frozen_step_secs": 0.0,
            "step_secs": 2.0,
            "test_start_secs": 4.0 + 7.0,
            "test_secs": 6.0 / 2 / 10,
            "inspect_secs": 7.0,
        }
    )
    found = timeline.costs(inspects=False)
    assert found["inspect_secs"] == 0.0 and found["test_start_secs"] == 18.0
    short = dataclasses.replace(timeline, reports=[(2, 16.0)], tests=[20.0, 30.0], batches_per_pass=1)
    found = short.costs(inspects=False)
    assert (found["step_secs"], found["start_secs"]) == (0.0, 16.0)
    assert (found["test_secs"], found["test_start_secs"]) == (0.0, 24.0)


def test_steps_with_a_frozen_encoder_are_timed_apart():
    timeline = Timeline(
        reports=[(1, 5.0), (2, 6.0), (3, 7.0), (4, 20.0), (5, 24.0), (6, 28.0)],
        num_frozen_steps=3,
        tests=[30.0],
        batches_per_pass=1,
        num_tested=1,
        secs=30.0,
    )
    found = timeline.costs(inspects=False)
    assert (found["frozen_step_secs"], found["step_secs"]) == (1.0, 4.0)
    assert found["start_secs"] == 28 - 3 - 12


@pytest.mark.parametrize(
    "given, epochs, expected",
    [
        ({"epochs": 20}, 1, (1, 0)),
        ({"epochs": 2}, 9, (2, 0)),
        ({"epochs": 20, "unfreeze_after_epoch": 5}, 1, (2, 1)),
        ({"epochs": 6, "unfreeze_after_epoch": 5}, 9, (6, 5)),
    ],
)
def test_a_short_training_has_fewer_epochs(given, epochs, expected):
    found = trial._shorten_train(TrainSpec(**given), epochs)
    assert (found.epochs, found.unfreeze_after_epoch) == expected
    warm = TrainSpec(epochs=20, schedule="cosine", warmup_epochs=5)
    assert trial._shorten_train(warm, 3).warmup_epochs == 3


def test_the_work_of_each_kind_of_cell_is_counted(clips):
    recipes = {"lstm": dataclasses.replace(recipe("lstm"), train=TrainSpec(epochs=3, batch_size=8))}
    comparison = compare.Comparison(
        folder="unused",
        spec=spec("lstm", recipes=recipes, num_parts=5, orders=("shuffled", "single"), audited=("lstm",)),
        clips=clips,
    )
    usual, shuffled, single, by_video = (
        Cell(model="lstm", **options)
        for options in ({}, {"training": "shuffled"}, {"training": "single"}, {"split": "video"})
    )
    kinds = [estimate.kind_of(cell) for cell in (usual, shuffled, single, by_video)]
    assert kinds == ["usual", "without order", "without order", "by video"]
    # 6 of 30 clips are tested, 24 trained on in 3 steps per epoch.
    works = [estimate.work_of(comparison, cell) for cell in (usual, shuffled, single, by_video)]
    assert {(work.num_clips, work.num_steps, work.num_frozen_steps) for work in works} == {(30, 9, 0)}
    assert [work.num_tests for work in works[1:]] == [6 * 4, 6 * 2, 6]
    assert works[0].num_tests > 6 * 10 and works[0].num_logits == 3 * works[0].num_tests
    assert [work.inspects for work in works] == [True, False, False, False]
    curves = dataclasses.replace(comparison, tensorboard=True)
    assert estimate.work_of(curves, usual).num_epoch_tests == 3 * 6


def test_a_model_is_measured_by_real_trainings_that_leave_only_their_cost(clips, tmp_path):
    trials = trial.Trials(
        folder=str(tmp_path), spec=spec("frame_pool", num_parts=0, val_folds=(1, 2)), clips=clips
    )
    [cell] = trials.claimable()
    reported = []
    outcome = trials.measure_cell(
        cell, strategy=make_strategy("one"), listener=Listener(report=reported.append)
    )
    assert outcome == Outcome.FINISHED and trials.claimable() == []
    [cost] = trials.costs("frame_pool")
    assert cost.num_parameters > 1000 and cost.checkpoint_bytes > 4 * cost.num_parameters
    assert min(cost.start_secs, cost.step_secs, cost.test_start_secs, cost.inspect_secs) > 0
    assert cost.peak_bytes > 1e8
    # 18 clips in batches of 8, one epoch; twice
    assert [progress.step for progress in reported] == [1, 2, 3, 1, 2, 3]


def test_a_measurement_whose_processes_crash_is_an_error(clips, tmp_path, monkeypatch):
    def crash(trials, listener, **_):
        listener.start(trials.spec.cells()[0], 0, 1)
        failures.save(trials.folder, trials.spec.cells()[0], "its process was killed by SIGKILL")
        return True

    monkeypatch.setattr(side_by_side, "run", crash)
    comparison = compare.Comparison(folder="unused", spec=spec("frame_pool"), clips=clips)
    with pytest.raises(UserError, match="Cannot measure the trainings. frame_pool: .* by SIGKILL, twice"):
        trial.measure(
            comparison, ["frame_pool"], ComparisonListener(), folder=str(tmp_path), environments=[{}]
        )


def test_a_short_cell_tests_no_class_that_it_has_not_seen(clips):
    many = clips.select(np.tile(np.arange(len(clips)), 40))
    trials = trial.Trials(folder="unused", spec=spec("lstm", num_parts=0, val_folds=(1,)), clips=many)
    chosen = trials._choose(10)
    tested = many.folds[chosen] == 1
    assert tested.sum() == 64 and 10 <= (~tested).sum() <= 13
    assert set(many.labels[chosen[tested]]) <= set(many.labels[chosen[~tested]])
