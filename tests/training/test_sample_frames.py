"""Runs whose models take some of the stored frames: trained, evaluated, predicted, exported, compared alike."""

import json
import pathlib

import numpy as np
import pytest
from scipy import special

import ucf50_tfrecord as ucf
from tests.dataset.helpers import EVERY_AUGMENTATION
from tests.features.test_encode import COLORS, build_for_module, clips_of, own_module  # noqa: F401
from tests.training.test_loop import assert_same_weights, train
from tests.untrained import write_run
from tests.warm import run_module
from ucf50_tfrecord import manifest, recipes
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import compare, compare_runs, interventions, runner
from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec, Recipe
from ucf50_tfrecord.inference import decoding, export, finished_run
from ucf50_tfrecord.inference.session import Session
from ucf50_tfrecord.robustness import measure
from ucf50_tfrecord.specs import ModelSpec, to_json
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained as trained_lib

NUM_FRAMES = 3
MIDDLES = [0, 2, 4]  # of the three segments of five frames


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """An untrained run whose model takes three of the five stored frames. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "sampled"
    return pathlib.Path(write_run(folder, data_dir, weight_std=0.5, num_frames=NUM_FRAMES))


def predicted(folder) -> dict[str, dict[str, list[float]]]:
    """The logits in a folder's predictions, by intervention and clip id."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in pathlib.Path(folder, "predictions.jsonl").read_text().splitlines():
        value = json.loads(line)
        found.setdefault(value["perturbation"], {})[value["clip_id"]] = value["logits"]
    return found


def held_out(data_dir, ids):
    clips = clips_of(data_dir)
    return clips.select(np.array([clip_id in ids for clip_id in clips.ids]))


def load_model(run_dir):
    devices = strategy_lib.make_strategy("one", environment={})
    config = run_lib.load_config(str(run_dir))
    return trained_lib.load_model(str(run_dir), config, "last", strategy=devices), devices


def test_a_training_resumes_in_mid_epoch_to_the_same_weights(data_dir, tmp_path):
    options = {"encoder": {"num_frames": NUM_FRAMES}, "dropout": 0.3, "augment": EVERY_AUGMENTATION}
    whole = train(data_dir, tmp_path / "whole", **options)
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 2}
    assert not train(data_dir, tmp_path / "stopped", listener=listener, **options).finished
    resumed = train(data_dir, tmp_path / "stopped", cache="device", **options)
    assert_same_weights(resumed, whole)


def test_evaluation_sees_the_middle_frames_and_changes_these_alone(run_dir, data_dir):
    found, (model, _) = predicted(run_dir), load_model(run_dir)
    assert model.input_shape == (None, NUM_FRAMES, 16, 24, 3)
    clips = held_out(data_dir, found["none"])
    frames = read_clips(clips)[:, MIDDLES]
    np.testing.assert_allclose(
        model(frames, training=False), [found["none"][clip_id] for clip_id in clips.ids], atol=1e-3
    )
    orders = interventions.make("shuffle1", clips, NUM_FRAMES).table
    assert sorted(orders[0].tolist()) == [0, 1, 2]


def test_prediction_sees_the_frames_that_evaluation_sees(run_dir, videos_dir):
    found, session = predicted(run_dir)["none"], Session.load(str(run_dir), calibrate=False)
    videos, _ = decoding.find_videos([str(videos_dir)])
    num_compared = 0
    for video, prediction in session.predict(videos, num_workers=2):
        clip_id = pathlib.Path(video.path).relative_to(videos_dir).with_suffix("").as_posix()
        if clip_id in found:
            np.testing.assert_allclose(prediction.logits[0, 0], found[clip_id], rtol=1e-4, atol=1e-4)
            num_compared += 1
    assert num_compared == len(found) == 12


def test_test_views_of_predictions_and_evaluations_average_other_places_of_the_segments(
    run_dir, data_dir, videos_dir
):
    model, devices = load_model(run_dir)
    config = run_lib.load_config(str(run_dir))
    found = manifest.load(str(data_dir))
    views = runner.choose_views(2, found, config.model, config.train)
    assert [view.part for view in views] == [0, 1]
    clips = load_clips(found, [1, 2])
    feed, predictor = Feed(clips, strategy=devices), runner.Predictor(model, devices)
    averaged = runner.Evaluator(predictor, feed, batch_size=5, test_views=views)(runner.VIEWS)
    frames = read_clips(clips)
    places = [0, 2, 3], [1, 2, 4]
    each = [model(frames[:, place], training=False).numpy() for place in places]
    assert np.abs(each[0] - each[1]).max() > 0.01
    logs = special.log_softmax(np.float64(each), axis=2)
    np.testing.assert_allclose(
        averaged.logits, special.logsumexp(logs, axis=0) - np.log(2), rtol=1e-5, atol=1e-3
    )

    session = Session.load(str(run_dir), calibrate=False, test_views=2)
    videos, _ = decoding.find_videos([str(videos_dir)])
    expected, num_compared = dict(zip(clips.ids, np.stack(each, axis=1))), 0
    for video, prediction in session.predict(videos, num_workers=2):
        clip_id = pathlib.Path(video.path).relative_to(videos_dir).with_suffix("").as_posix()
        assert prediction.logits.shape == (1, 2, 3)
        if clip_id in expected:
            np.testing.assert_allclose(prediction.logits[0], expected[clip_id], rtol=1e-4, atol=1e-3)
            num_compared += 1
    assert num_compared == len(clips)


def test_exports_take_the_chosen_frames_and_their_card_says_which(run_dir, tmp_path):
    result = export.export_run(finished_run.load(str(run_dir)), str(tmp_path / "export"), formats=["keras"])
    assert result.own.mean < 1e-3 and result.own.num_other == 0
    facts = json.loads((tmp_path / "export" / "export.json").read_text())
    assert facts["input"]["shape"] == [None, NUM_FRAMES, 16, 24, 3]
    card = " ".join((tmp_path / "export" / "MODEL_CARD.md").read_text().split())
    assert "of 5 such frames per clip, the model takes these, counted from 0: 0, 2, 4" in card


def test_robustness_corrupts_the_frames_that_the_model_sees(run_dir, data_dir):
    found, (model, strategy) = predicted(run_dir)["none"], load_model(run_dir)
    clips = held_out(data_dir, found)
    tester = measure.Tester(model, Feed(clips, strategy=strategy), strategy=strategy, batch_size=5)
    np.testing.assert_array_equal(tester.plain, [np.argmax(found[clip_id]) for clip_id in clips.ids])
    stored = read_clips(clips)
    assert {video.shape[1] for _, video in tester._batches()} == {NUM_FRAMES}
    np.testing.assert_array_equal(tester._predict(stored), tester.plain)  # as of videos that are coded again
    _, shown = tester.example(["stride"], None, (0, 5))
    assert {clip.shape for clip in shown["stride"]} == {(NUM_FRAMES, 16, 24, 3)}


def test_evaluating_again_and_training_take_the_flag_and_the_runs_own_number(data_dir, run_dir, tmp_path):
    result = run_module(
        "pipelines.train",
        *(
            f"--data={data_dir}",
            "--model=seed_pool",
            "--sample_frames=3",
            "--epochs=1",
            "--precision=float32",
            "--test_views=2",
        ),
        f"--run={tmp_path / 'run'}",
    )
    assert result.returncode == 0, result.stderr
    config = run_lib.load_config(str(tmp_path / "run"))
    assert (config.model.num_frames, config.num_stored_frames) == (3, 5)
    again = run_module(
        "pipelines.evaluate",
        f"--run={tmp_path / 'run'}",
        f"--output={tmp_path / 'again'}",
        "--test_views=2",
        "--test_views=2",
    )
    assert again.returncode == 0, again.stderr
    first, second = predicted(tmp_path / "run"), predicted(tmp_path / "again")
    assert first.keys() == second.keys() == {"none", "shuffle1", "views"}
    for name, logits in first.items():
        for clip_id, row in logits.items():
            np.testing.assert_allclose(second[name][clip_id], row, atol=1e-4)


def test_more_frames_than_are_stored_are_refused(data_dir):
    settings = {"model": "lstm", "sample_frames": 6}
    with pytest.raises(
        UserError, match="sample_frames of at most 5, the frames per clip in .*: sample_frames=6"
    ):
        recipes.model_spec(settings, manifest.load(str(data_dir)))
    with pytest.raises(UserError, match="sample_frames=-1"):
        recipes.model_spec(settings | {"sample_frames": -1}, manifest.load(str(data_dir)))
    for count in (0, 5):
        spec = recipes.model_spec(settings | {"sample_frames": count}, manifest.load(str(data_dir)))
        assert spec == recipes.model_spec({"model": "lstm"}, manifest.load(str(data_dir)))


def recipe(name, num_frames):
    model = ModelSpec(name=name, num_classes=3, num_frames=num_frames, height=16, width=24)
    return Recipe(
        model=model, train=recipes.train_spec({"epochs": 1, "batch_size": 8, "precision": "float32"})
    )


def test_a_comparison_tests_the_frames_that_its_models_take(data_dir, tmp_path):
    spec = ComparisonSpec(
        recipes={"seed_lstm": recipe("seed_lstm", NUM_FRAMES)},
        num_parts=0,
        num_seeds=1,
        val_folds=(1, 2),
        orders=(),
    )
    devices = strategy_lib.make_strategy("one", environment={})
    found = manifest.load(str(data_dir))
    clips = load_clips(found, found.folds)
    comparison = compare.Comparison(folder=str(tmp_path / "out"), spec=spec, clips=clips)
    assert comparison.run(ComparisonListener(), strategy=devices)
    results = comparison.results()
    assert results.num_frames == NUM_FRAMES
    [cell] = results.cells
    assert set(cell.logits) == set(interventions.names(NUM_FRAMES)) and "first4" not in cell.logits
    assert {len(one.contributions) for one in cell.attributions} == {NUM_FRAMES}
    again = compare_runs.examine_runs([cell.run_dir], clips, strategy=devices, listener=ComparisonListener())
    assert again.num_frames == NUM_FRAMES
    np.testing.assert_array_equal(again.cells[0].logits["none"], cell.logits["none"])
    assert again.cells[0].cost == cell.cost


def test_models_that_take_different_numbers_of_frames_are_not_compared(data_dir, run_dir, pool_run):
    with pytest.raises(UserError, match="models that take equally many frames.*'one': 3, 'two': 5"):
        ComparisonSpec(recipes={"one": recipe("lstm", 3), "two": recipe("lstm", 5)}, num_seeds=1)
    with pytest.raises(UserError, match="runs whose models take equally many frames"):
        compare_runs.examine_runs(
            [str(run_dir), str(pool_run)], clips_of(data_dir), strategy=None, listener=ComparisonListener()
        )


def test_a_head_takes_some_of_the_stored_features_and_its_model_as_many_frames(
    data_dir,
    tmp_path_factory,
    tmp_path,
    own_module,  # noqa: F811
):
    folder = build_for_module(data_dir, tmp_path_factory, grid=3)
    run = ucf.train(folder, "features_lstm", tmp_path / "run", epochs=1, sample_frames=NUM_FRAMES)
    found = predicted(run.run_dir)["none"]
    model = ucf.api.Run(run.run_dir, allowed_code=[COLORS]).model
    assert model.input.shape == (None, NUM_FRAMES, 16, 24, 3)
    clips = held_out(data_dir, found)
    logits = model(read_clips(clips)[:, MIDDLES], training=False)
    np.testing.assert_allclose(logits, [found[clip_id] for clip_id in clips.ids], atol=0.05)


def test_runs_on_all_frames_are_stored_as_before(pool_run):
    stored = json.loads(pathlib.Path(pool_run, "config.json").read_text())
    assert "sample_frames" not in json.dumps(stored) and stored["model"]["num_frames"] == 5
    assert stored["model"] == to_json(run_lib.load_config(str(pool_run)).model)
