"""Trainings without some classes, for real on a small set."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from tests.evaluation.test_compare import clips, loaded, spec  # noqa: F401
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import (
    assembly,
    cells,
    compare,
    compare_runs,
    estimate,
    result_files,
    unknown,
    workbench,
)
from ucf50_tfrecord.evaluation.results import Cell, Condition
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.report import build
from ucf50_tfrecord.training import loop
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training.listener import Listener
from ucf50_tfrecord.training.strategy import make_strategy

SETS = ((2,), (0,), (1,))


def test_each_set_of_classes_is_held_out_once_per_model_and_seed_and_takes_a_part_in_turn():
    listed = spec("frame_pool", "lstm", num_seeds=2, held_out=SETS).cells()
    usual, held_out = listed[:8], listed[8:]
    assert not any(cell.held_out for cell in usual)
    assert [(c.model, c.seed, c.held_out, c.part) for c in held_out[:4]] == [
        *[("frame_pool", 0, (2,), 0), ("lstm", 0, (2,), 0)],
        *[("frame_pool", 0, (0,), 1), ("lstm", 0, (0,), 1)],
    ]
    assert len(held_out) == len(set(map(str, held_out))) == 3 * 2 * 2
    assert str(held_out[0]) == "frame_pool-part1-seed0-without2"
    assert {cells.interventions_of(cell, 5) for cell in held_out} == {("none",)}


def test_held_out_classes_of_a_cell_are_distinct_and_in_order():
    assert str(Cell(model="lstm", held_out=(3, 17))) == "lstm-part1-seed0-without3+17"
    with pytest.raises(UserError, match="Expected distinct classes in ascending order"):
        Cell(model="lstm", held_out=(17, 3))


def test_training_clips_are_of_other_parts_and_of_known_classes(clips):  # noqa: F811
    parts = cells.assign_parts(clips, spec("lstm"), "group")
    cell = Cell(model="lstm", part=1, held_out=(0, 2))
    trained = cells.find_trained(clips, parts, cell)
    assert set(clips.labels[trained]) == {1} and set(parts[trained]) == {0}
    assert trained.sum() == ((parts == 0) & (clips.labels == 1)).sum()


def test_the_work_without_a_class_is_counted(clips, tmp_path):  # noqa: F811
    comparison = compare.Comparison(folder=str(tmp_path), spec=spec("lstm", held_out=SETS), clips=clips)
    usual, cell = comparison.spec.cells()[0], comparison.spec.cells()[-1]
    assert estimate.kind_of(cell) == "without classes"
    tested = int((comparison.parts["group"] == cell.part).sum())
    trained = int(cells.find_trained(clips, comparison.parts["group"], cell).sum())
    work = estimate.work_of(comparison, cell)
    assert work.num_steps == -(-trained // 8) < estimate.work_of(comparison, usual).num_steps
    # Logits of the test clips, and features of the training and test clips.
    assert (work.num_tests, work.num_logits) == (2 * tested + trained, 3 * tested)
    assert not work.inspects


@pytest.fixture(scope="module")
def comparison(clips, tmp_path_factory):  # noqa: F811
    """A finished comparison with the classes 2, 0 and 1 held out in turn."""
    folder = tmp_path_factory.mktemp("held_out")
    found = compare.Comparison(folder=str(folder), spec=spec("frame_pool", held_out=SETS), clips=clips)
    assert found.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    return found


def test_a_training_reads_no_clip_of_a_held_out_class(clips, tmp_path, monkeypatch):  # noqa: F811
    seen, train = [], loop.train

    def spied(feed, *args, **options):
        seen.append(set(feed.clips.labels.tolist()))
        return train(feed, *args, **options)

    monkeypatch.setattr(loop, "train", spied)
    short = spec("frame_pool", num_parts=0, val_folds=(1,), held_out=((1,),))
    compare.Comparison(folder=str(tmp_path), spec=short, clips=clips).run(
        cells.ComparisonListener(), strategy=make_strategy("one")
    )
    assert seen == [{0, 1, 2}, {0, 2}]


def test_clips_of_all_classes_are_tested_and_the_results_are_kept(clips, comparison, tmp_path):  # noqa: F811
    results = comparison.results()
    held_out = [result for result in results.cells if result.cell.held_out]
    assert [result.cell.held_out for result in held_out] == list(SETS)
    for result in held_out:
        assert set(clips.labels[result.clips]) == {0, 1, 2} and list(result.logits) == ["none"]
        assert result.logits["none"].shape == (len(result.clips), 3)
        assert result.neighbor_distances.shape == (len(result.clips),)
        assert 0 < result.neighbor_distances.max() <= 2
    result_files.save(tmp_path, results)
    read = result_files.load(tmp_path / "results.json")
    for one, other in zip(read.cells, results.cells, strict=True):
        assert one.cell == other.cell
        np.testing.assert_array_equal(one.logits["none"], other.logits["none"])
        np.testing.assert_equal(one.neighbor_distances, other.neighbor_distances)
    text = "".join(str(block) for block in build.build(read, []).blocks)
    assert "Unknown classes" in text and "distance to neighbors" in text


def test_distances_are_those_of_the_classifiers_inputs(clips, comparison):  # noqa: F811
    """They are computed again from the trained weights, by Keras's own functions."""
    cell = comparison.spec.cells()[-1]
    run_dir = comparison.run_dir(cell)
    config = run_lib.load_config(run_dir)
    bench = comparison.open_bench(make_strategy("one"))
    program = bench.program(config.model, config.train, num_clips=20)
    train, test, _ = comparison._make_feeds(cell, bench)
    restored = comparison._train(program, config, run_dir, train, test, listener=Listener())
    assert restored.finished
    model = program.compiled.predictor.model
    classifier = model.get_layer("logits")
    features = [Evaluator(program.compiled.features, feed, batch_size=7)().logits for feed in (train, test)]
    result = comparison.results().cells[-1]
    logits = features[1] @ classifier.kernel.numpy() + classifier.bias.numpy()
    np.testing.assert_allclose(logits, result.logits["none"], atol=1e-4)
    np.testing.assert_allclose(unknown.neighbor_scores(*features), result.neighbor_distances, atol=1e-5)


def test_trainings_without_classes_do_not_enter_other_scores(comparison):
    results = comparison.results()
    usual = dataclasses.replace(
        results, cells=tuple(result for result in results.cells if not result.cell.held_out)
    )
    condition = Condition("frame_pool")
    np.testing.assert_array_equal(results.correct(condition), usual.correct(condition))
    assert len(results.cells_of(condition)) == 2


def test_a_run_says_which_classes_it_lacks(comparison):
    configs = {
        cell.held_out: run_lib.load_config(comparison.run_dir(cell)) for cell in comparison.spec.cells()
    }
    assert configs[()].clip_split == ""
    assert configs[(1,)].clip_split == "by fold, and without Middle in training"


def test_a_run_that_lacks_classes_is_not_compared_as_if_it_knew_them(clips, comparison):  # noqa: F811
    run_dir = comparison.run_dir(comparison.spec.cells()[-1])
    with pytest.raises(UserError, match="all clips of its training folds.*without Middle in training"):
        compare_runs.examine_runs(
            [run_dir], clips, strategy=make_strategy("one"), listener=cells.ComparisonListener()
        )


def damage(folder, change):
    path = folder / "cell.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda v: v.update(neighbor_distances=None),
            "neighbor_distances just if there are held_out classes",
        ),
        (lambda v: v["neighbor_distances"].pop(), "neighbor_distances of frame_pool.*as many as predictions"),
        (lambda v: v["neighbor_distances"].__setitem__(0, -1.0), "neighbor_distances"),
        (lambda v: v.update(held_out=[3]), "Expected classes below 3 in held_out. Received: held_out=3"),
        (lambda v: v.update(held_out=[0, 1]), "at least 2 classes that are not in held_out"),
        (lambda v: v.update(held_out=[1, 0]), "distinct classes in ascending order"),
    ],
)
def test_a_hostile_result_is_refused(clips, comparison, tmp_path, change, message):  # noqa: F811
    result = comparison.results().cells[-1]
    compared = assembly.compared_clips(clips)
    result_files.save_cell(tmp_path, compared, result)
    assert result_files.load_cell(tmp_path, compared).cell == result.cell
    damage(tmp_path, change)
    with pytest.raises(UserError, match=f"{pathlib.Path(tmp_path, 'cell.json')}.*{message}"):
        result_files.load_cell(tmp_path, compared)


def test_features_are_in_the_order_of_the_feed(clips):  # noqa: F811
    strategy, recipe = make_strategy("one"), spec("frame_pool").recipes["frame_pool"]
    state = loop.build_state(recipe.model, recipe.train, num_clips=len(clips), strategy=strategy)
    predictor = workbench.CompiledModel(state.model, strategy).features
    whole = Evaluator(predictor, Feed(clips, strategy=strategy), batch_size=8)().logits
    few = Feed(clips.select(np.array([7, 3, 20])), strategy=strategy)
    np.testing.assert_allclose(Evaluator(predictor, few, batch_size=8)().logits, whole[[7, 3, 20]], atol=1e-5)
