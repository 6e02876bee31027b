"""Cells of comparisons, trained for real on a small set."""

import dataclasses
import gc
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from tensorflow.python.framework.func_graph import FuncGraph

from tests.conftest import flip_bit
from tests.warm import run_code
from ucf50_tfrecord import manifest
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.reader import ClipReader
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import audit, cells, compare, compare_runs, recurrence, workbench
from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.evaluation.results import Cell, TrainingCost
from ucf50_tfrecord.specs import AugmentSpec, ModelSpec, TrainSpec
from ucf50_tfrecord.storage import folder_lock
from ucf50_tfrecord.training import step
from ucf50_tfrecord.training.listener import Listener
from ucf50_tfrecord.training.run import RunConfig
from ucf50_tfrecord.training.strategy import make_strategy


@pytest.fixture(scope="module")
def loaded(data_dir):
    return manifest.load(str(data_dir))


@pytest.fixture(scope="module")
def clips(loaded):
    return load_clips(loaded, loaded.folds)


def recipe(name, **options):
    model = ModelSpec(name=name, num_classes=3, num_frames=5, height=16, width=24)
    return Recipe(model=model, train=TrainSpec(epochs=1, batch_size=8, precision="float32", **options))


def spec(*names, **options):
    return ComparisonSpec(
        **{"recipes": {name: recipe(name) for name in names}, "num_parts": 2, "num_seeds": 1, "orders": ()}
        | options
    )


def test_each_training_is_listed_once_and_the_most_informative_first():
    listed = spec("frame_pool", "lstm", num_seeds=2, orders=("shuffled",), audited=("lstm",)).cells()
    assert len(listed) == len(set(map(str, listed))) == 8 + 4 + 4
    assert {cell.model for cell in listed[:2]} == {"frame_pool", "lstm"}
    assert {cell.model for cell in listed if cell.training != "kept"} == {"lstm"}  # the other sees no order
    assert [cell.split for cell in listed].index("video") == 12


def test_a_cell_has_its_own_seed_and_frame_order():
    cell = Cell(model="lstm", training="single", seed=3)
    found = cells.cell_recipe(recipe("lstm", augment=AugmentSpec(horizontal_flip=True)), cell)
    assert found.train.seed == 3
    assert found.train.augment == AugmentSpec(horizontal_flip=True, frame_order="single")


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_parts_by_group_are_whole_folds_and_by_video_are_not(clips, num_parts):
    by_group = cells.assign_parts(clips, spec("lstm", num_parts=num_parts), "group")
    assert set(by_group) == set(range(num_parts))
    assert all(len(set(by_group[clips.folds == fold])) == 1 for fold in set(clips.folds))
    by_video = cells.assign_parts(clips, spec("lstm", num_parts=num_parts), "video")
    counts = np.bincount(by_video, minlength=num_parts)
    assert counts.sum() == len(clips) and counts.max() - counts.min() <= 3
    assert any(len(set(by_video[clips.folds == fold])) > 1 for fold in set(clips.folds))


def test_clips_of_a_video_stay_together(clips):
    twice = dataclasses.replace(
        clips, ids=tuple(f"{clips.ids[i // 2 * 2]}#{i % 2}" for i in range(len(clips)))
    )
    parts = cells.assign_parts(twice, spec("lstm", num_parts=3), "video")
    videos = [clip_id.rsplit("#", 1)[0] for clip_id in twice.ids]
    same_class = [i for i in range(0, len(clips), 2) if clips.labels[i] == clips.labels[i + 1]]
    assert same_class and all(videos[i] == videos[i + 1] and parts[i] == parts[i + 1] for i in same_class)


def test_only_the_named_folds_are_tested(clips):
    parts = cells.assign_parts(clips, spec("lstm", num_parts=0, val_folds=(2, 4)), "group")
    assert set(clips.folds[parts == 0]) == {2, 4}


def test_a_split_by_video_is_refused_without_parts(clips):
    with pytest.raises(
        UserError, match="Expected a cross-validation for a split by video. Received: parts=0"
    ):
        cells.assign_parts(clips, spec("lstm", num_parts=0, val_folds=(1,)), "video")


def test_a_part_with_all_clips_of_a_class_is_refused(clips):
    lonely = clips.select((clips.labels != 1) | (clips.folds == 2))
    with pytest.raises(UserError, match="Part 2 of 2 takes all clips of Middle.* another number of parts"):
        cells.assign_parts(lonely, spec("lstm"), "group")
    with pytest.raises(UserError, match="The test on folds 2-3 takes all clips of Middle.* Try other folds"):
        cells.assign_parts(lonely, spec("lstm", num_parts=0, val_folds=(2, 3)), "group")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_parts": 6},
        {"num_parts": 1},
        {"num_parts": 0},
        {"audited": ("rnn",)},
        {"num_seeds": 0},
        {"num_parts": 0, "val_folds": (1,), "audited": ("lstm",)},
    ],
)
def test_a_wrong_request_is_refused(clips, wrong):
    with pytest.raises(UserError):
        cells.assign_parts(clips, spec("lstm", **wrong), "group")


def test_a_control_that_sees_order_ends_the_comparison(loaded, tmp_path, monkeypatch):
    sees_order = dataclasses.replace(MODELS["frame_pool"], builder=MODELS["lstm"].builder)
    monkeypatch.setitem(MODELS, "frame_pool", sees_order)
    comparison = compare.Comparison(
        folder=str(tmp_path),
        spec=spec("frame_pool"),
        clips=load_clips(loaded, loaded.folds),
    )
    with pytest.raises(UserError, match="must not see the order of frames, but shuffle1 changes its logits"):
        comparison.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    assert not list(tmp_path.glob("cells/*/cell.json"))


def test_a_task_begins_with_its_part_and_leaves_out_what_others_run(clips, tmp_path):
    comparison = compare.Comparison(folder=str(tmp_path), spec=spec("frame_pool", "lstm"), clips=clips)
    wanted = comparison.spec.cells()
    assert comparison.claimable((0, 1)) == comparison.unfinished() == wanted
    assert comparison.claimable((1, 3)) == [wanted[1], wanted[2], wanted[0], wanted[3]]
    folder = pathlib.Path(comparison.run_dir(wanted[2]))
    folder.mkdir(parents=True)
    with folder_lock(folder):
        assert comparison.claimable((1, 3)) == [wanted[1], wanted[0], wanted[3]]
        assert comparison.run_cell(wanted[2], bench=None, listener=None) == Outcome.ELSEWHERE
    assert comparison.unfinished() == wanted and not list(folder.glob("*.json"))


def test_an_unreadable_record_is_skipped_on_request(data_dir, tmp_path):
    data = shutil.copytree(data_dir, tmp_path / "data")
    damaged = manifest.load(str(data))
    all_clips = load_clips(damaged, damaged.folds)
    bad = int(np.flatnonzero(all_clips.folds == 1)[0])
    path = pathlib.Path(all_clips.shard_paths[all_clips.shards[bad]])
    flip_bit(path, int(all_clips.offsets[bad]) + 2000)  # among the pixels
    comparison = compare.Comparison(
        folder=str(tmp_path / "out"),
        spec=spec("frame_pool", num_parts=0, val_folds=(1,)),
        clips=all_clips,
    )
    with pytest.raises(UserError, match="damaged"):
        comparison.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    warned = []
    skipping = dataclasses.replace(comparison, skip_bad_records=True)
    assert skipping.run(cells.ComparisonListener(warn=warned.append), strategy=make_strategy("one"))
    [result] = skipping.results().cells
    assert set(result.clips) == set(np.flatnonzero(all_clips.folds == 1)) - {bad}
    assert any("1 of 6 clips were skipped" in text for text in warned)


def test_a_cell_of_an_earlier_version_is_tested_again_with_its_weights(clips, tmp_path):
    """Earlier versions stored logits in cell.json."""
    one_cell = spec("frame_pool", num_parts=0, val_folds=(1,))
    comparison = compare.Comparison(folder=str(tmp_path), spec=one_cell, clips=clips)
    comparison.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    [cell] = one_cell.cells()
    folder = pathlib.Path(comparison.run_dir(cell))
    names = ("cell.json", "predictions.parquet")
    written = {name: (folder / name).read_bytes() for name in names}
    [cost] = [result.cost for result in comparison.results().cells]
    assert cost.num_clips == (clips.folds != 1).sum() * one_cell.recipes["frame_pool"].train.epochs
    assert cost.secs > 0 and cost.num_parameters > 0
    weights = {
        path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*") if path.is_file()
    }
    assert weights and not comparison.unfinished()
    (folder / "cell.json").write_text(
        json.dumps(json.loads(written["cell.json"]) | {"clips": [], "logits": {}})
    )
    (folder / "predictions.parquet").unlink()
    assert comparison.unfinished() == [cell]
    comparison.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    assert {name: (folder / name).read_bytes() for name in names} == written
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert [result.cost for result in comparison.results().cells] == [cost]


REPLICAS = """
import json, sys, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.evaluation.test_compare import spec
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.evaluation import cells, compare
from ucf50_tfrecord.training.strategy import make_strategy
data, folder = sys.argv[1:]
found = manifest.load(data)
for name in ("one", "mirrored"):
    comparison = compare.Comparison(
        folder=f"{folder}/{name}", spec=spec("lstm", num_parts=0, val_folds=(1,)),
        clips=load_clips(found, found.folds))
    comparison.run(cells.ComparisonListener(), strategy=make_strategy(name))
    [result] = comparison.results().cells
    logits = {name: rows.tolist() for name, rows in result.logits.items()}
    print(json.dumps({"clips": result.clips.tolist(), "logits": logits, "recurrence": result.recurrence}))
"""


@pytest.mark.slow
def test_two_replicas_give_the_results_of_one_device(data_dir, tmp_path):
    """Training, every intervention and the inspected recurrence: 24 clips to train on, 6 to test."""
    result = run_code(REPLICAS, data_dir, tmp_path, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    one, mirrored = (json.loads(line) for line in result.stdout.splitlines())
    assert one["clips"] == mirrored["clips"] and one["logits"].keys() == mirrored["logits"].keys()
    for name, logits in one["logits"].items():
        np.testing.assert_allclose(mirrored["logits"][name], logits, rtol=1e-3, atol=1e-3, err_msg=name)
    for name in recurrence.GRADIENTS:
        np.testing.assert_allclose(mirrored["recurrence"][name], one["recurrence"][name], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cache, options",
    [
        ("host", {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 0.5, "ema": 0.9, "epochs": 2}),
        ("device", {"precision": "float16", "augment": AugmentSpec(horizontal_flip=True, temporal_shift=1)}),
        ("device", {"class_weight": "balanced", "label_smoothing": 0.1}),
        ("host", {"sampler": "balanced"}),
        ("host", {"mixup": 0.4, "cutmix": 1.0}),
    ],
)
def test_cells_that_share_a_compiled_model_equal_cells_that_do_not(clips, tmp_path, cache, options):
    """Bit for bit, with parts of different sizes: seeds, schedule, moments, averages and loss scale start anew."""
    own = recipe("lstm")
    own = dataclasses.replace(
        own,
        model=dataclasses.replace(own.model, dropout=0.5),
        train=dataclasses.replace(own.train, batch_size=4, **options),
    )
    shared = compare.Comparison(
        folder=str(tmp_path / "shared"),
        spec=spec("lstm", recipes={"lstm": own}, num_seeds=2, orders=("shuffled",)),
        clips=clips.select(np.arange(len(clips) - 4)),
        cache=cache,
    )
    shared.run(cells.ComparisonListener(), strategy=make_strategy("one"))
    alone = dataclasses.replace(shared, folder=str(tmp_path / "alone"))
    for cell in alone.spec.cells():
        bench = alone.open_bench(make_strategy("one"))
        assert alone.run_cell(cell, bench=bench, listener=Listener()) == Outcome.FINISHED
    found, expected = shared.results(), alone.results()
    for one, other in zip(found.cells, expected.cells, strict=True):
        assert one.cell == other.cell and one.recurrence == other.recurrence
        for name, logits in other.logits.items():
            np.testing.assert_array_equal(one.logits[name], logits, err_msg=f"{one.cell} {name}")
    assert len({result.logits["none"].tobytes() for result in found.cells}) == len(found.cells)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_trainings_of_equal_shape_are_traced_once(clips, tmp_path, monkeypatch, class_weight):
    """Two seeds, two parts of different sizes, and a split by video; the weights of classes differ between parts."""
    made = []
    make = step.make_train_steps
    monkeypatch.setattr(
        step, "make_train_steps", lambda *arguments: made.append(make(*arguments)) or made[-1]
    )
    compare.Comparison(
        folder=str(tmp_path),
        spec=spec(
            recipes={"frame_pool": recipe("frame_pool", class_weight=class_weight)},
            num_seeds=2,
            audited=("frame_pool",),
        ),
        clips=clips.select(np.arange(len(clips) - 4)),
        cache="host",
    ).run(cells.ComparisonListener(), strategy=make_strategy("one"))
    assert [function.experimental_get_tracing_count() for function in made] == [1]


def test_the_inputs_of_finished_cells_are_freed(clips, tmp_path):
    counts = []

    def count(*_):
        gc.collect()
        counts.append(sum(isinstance(thing, ClipReader) for thing in gc.get_objects()))

    compare.Comparison(
        folder=str(tmp_path), spec=spec("frame_pool", num_parts=4), clips=clips, cache="none"
    ).run(cells.ComparisonListener(start=count), strategy=make_strategy("one"))
    assert len(counts) == 4 and counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize("limit, kept", [(1 << 30, 2), (1, 0)])
def test_the_models_that_a_process_keeps_have_a_limited_size(clips, monkeypatch, limit, kept):
    monkeypatch.setattr(workbench, "_MAX_BYTES", limit)
    bench = workbench.Workbench(clips, strategy=make_strategy("one"), cache="none")
    models = [recipe(name).model for name in ("seed_pool", "frame_pool", "seed_rnn")]
    seen = [bench.program(model, recipe("lstm").train, num_clips=8).state for model in models]
    # Weights and two moments in float32; the number of updates in int64, the learning rate in float32.
    assert seen[0].num_bytes == 3 * 4 * seen[0].model.count_params() + 8 + 4
    again = [
        bench.program(model, recipe("lstm").train, num_clips=8).state for model in models[-kept:] if kept
    ]
    assert all(one is other for one, other in zip(again, seen[-kept:]))


@pytest.mark.slow
def test_cells_share_models_in_memory_and_a_comparison_leaves_none(clips, tmp_path):
    def count():
        workbench.forget_models()
        return sum(isinstance(thing, (ClipReader, keras.Model, FuncGraph)) for thing in gc.get_objects())

    before, counts = count(), []
    compare.Comparison(
        folder=str(tmp_path),
        spec=spec("frame_pool", "seed_lstm", num_seeds=3),
        clips=clips,
        cache="host",
    ).run(cells.ComparisonListener(start=lambda *_: counts.append(count())), strategy=make_strategy("one"))
    assert counts[0] <= before and len(counts) == 12
    assert counts[0] < counts[1] < counts[2] and len(set(counts[4:])) == 1
    assert count() == counts[0]


def test_the_check_of_order_blind_models_tolerates_rounding_alone():
    plain = np.array([[10.0, -3.0], [2.0, 0.0]])
    cells.check_order_blind("cell", {"none": plain, "reverse": plain + 5e-4}, "float32")
    with pytest.raises(UserError, match="reverse"):
        cells.check_order_blind("cell", {"none": plain, "reverse": plain + 5e-3}, "float32")
    cells.check_order_blind("cell", {"none": plain, "reverse": plain + 5e-3}, "bfloat16")
    with pytest.raises(UserError, match="shuffle2"):
        cells.check_order_blind("cell", {"none": plain, "shuffle2": np.full_like(plain, np.nan)}, "bfloat16")


def config(**options):
    value = dict(train_folds=(1, 2), val_folds=(3,), test_folds=(), model=recipe("lstm").model)
    value |= {"train": recipe("lstm").train} | options
    return RunConfig(data_dir="", fingerprint="", classes=("a", "b", "c"), **value)


def test_the_cost_of_a_run_is_that_of_its_summary(clips, pool_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(pool_run, run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"trained_epochs": 3, "num_train_clips": 20, "params": 99}

    def cost(clips_per_sec):
        (run_dir / "summary.json").write_text(json.dumps(summary | {"clips_per_sec": clips_per_sec}))
        options = {"strategy": make_strategy("one"), "listener": cells.ComparisonListener()}
        return compare_runs.examine_runs([str(run_dir)], clips, **options).cells[0].cost

    assert cost(12.5) == TrainingCost(num_clips=60, clips_per_sec=12.5, num_parameters=99)
    assert cost(None) is None
    message = f"The cost of {run_dir}, .* is not possible: clips_per_sec: Expected float >= "
    with pytest.raises(UserError, match=message):
        cost(-5.0)


def test_runs_that_differ_in_seed_and_folds_alone_are_one_model():
    other = dataclasses.replace(recipe("lstm").train, seed=1)
    longer = dataclasses.replace(recipe("lstm").train, epochs=9)
    found = compare_runs.name_runs(
        {
            "runs/a": config(),
            "runs/b": config(train=other),
            "runs/c": config(train_folds=(2, 3), val_folds=(1,)),
            "runs/d": config(train=longer),
        }
    )
    assert [(cell.model, cell.seed, cell.part) for cell in found] == [
        ("lstm", 0, 0),
        ("lstm", 1, 0),
        ("lstm", 0, 1),
        ("lstm (d)", 0, 0),
    ]
    with pytest.raises(UserError, match="runs/b has the same model, seed and tested folds as another run"):
        compare_runs.name_runs({"runs/a": config(), "runs/b": config()})


def test_the_audit_finds_recordings_on_both_sides():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 256, (12, 1, 16, 16, 3))  # of 12 recordings, each shown by 4 clips
    video = np.clip(places.repeat(4, 0).repeat(6, 1) + rng.normal(0, 8, (48, 6, 16, 16, 3)), 0, 255)
    groups, labels = (np.arange(48) // 4) % 4, np.arange(48) // 16
    pictures = audit.fingerprints([video[:20].astype(np.uint8), video[20:].astype(np.uint8)])
    assert pictures.shape == (48, 3 * 16 * 16 * 3)
    by_group = audit.find_nearest(pictures, groups % 2, labels=labels, groups=groups)
    by_video = audit.find_nearest(pictures, np.arange(48) % 2, labels=labels, groups=groups)
    assert by_video.accuracy == by_video.same_recording == by_video.near_duplicates == 1.0
    assert by_group.same_recording == by_group.near_duplicates == 0.0
    test, train, similarity = by_video.pairs[0]
    assert test // 4 == train // 4 and similarity > 0.98
    unknown = audit.find_nearest(pictures, groups % 2, labels=labels, groups=np.full(48, -1))
    assert unknown.same_recording is None


def test_the_audit_counts_tested_clips_alone():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(6, 12))  # of 6 recordings, each shown by 4 clips
    pictures = places.repeat(4, 0) + rng.normal(0, 0.01, (24, 12))
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    recordings = np.arange(24) // 4
    tested = [0, 4]  # one clip of the first recording, one of the second
    parts = np.full(24, audit.NOT_TESTED)
    parts[tested] = 0
    found = audit.find_nearest(pictures, parts, labels=recordings, groups=recordings)
    assert found.accuracy == found.same_recording == found.near_duplicates == 1.0
    assert sorted(test for test, _, _ in found.pairs) == tested
    assert [train // 4 for _, train, _ in sorted(found.pairs)] == [0, 1]
