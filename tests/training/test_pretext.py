"""The pretext task of frame order: its labels, trainings on it, and trainings that start with their encoders."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import ucf50_tfrecord as ucf
from tests import several_labels
from tests.conftest import build, raises_with_remedies, write_video
from tests.training.test_loop import assert_same_weights, train
from ucf50_tfrecord import building, manifest, recipes
from ucf50_tfrecord.dataset import pretext
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import compare
from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe
from ucf50_tfrecord.features import encode
from ucf50_tfrecord.features.encoders import load_encoder
from ucf50_tfrecord.inference import finished_run
from ucf50_tfrecord.inference.session import Session
from ucf50_tfrecord.specs import FeatureSpec, ModelSpec, TrainSpec, to_json
from ucf50_tfrecord.training import logs
from ucf50_tfrecord.training import run as run_lib

PRETEXT = {"pretext": "order", "batch_size": 8, "precision": "float32"}
FOLDS = {"train_folds": "2-5", "val_folds": "1"}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Leaves out TensorBoard's pictures: to draw them takes longer than such a training."""
    monkeypatch.setattr(logs.TensorBoardLog, "evaluation", lambda *_: None)


@pytest.fixture(scope="module")
def rising(tmp_path_factory):
    """A dataset of clips whose frames become brighter from one to the next, so that their order is visible."""
    videos = tmp_path_factory.mktemp("rising")
    for group in range(1, 6):
        for clip in range(8):
            rng = np.random.default_rng([group, clip])
            level = rng.integers(0, 60) + 9 * np.arange(20)
            frames = np.zeros((20, 32, 48, 3), np.uint8) + level[:, None, None, None].astype(np.uint8)
            name = ("Up", "Rise")[clip % 2]
            write_video(videos / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi", frames)
    build(videos, videos / "data")
    return videos / "data"


@pytest.fixture(scope="module")
def pretrained(rising, tmp_path_factory):
    """A finished run on the pretext task. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "pretext"
    return ucf.train(
        rising,
        "pretext_lstm",
        folder,
        epochs=30,
        learning_rate=3e-3,
        batch_size=8,
        precision="float32",
        train_folds="2-4",
        val_folds="1,5",
    )


def draw(count, *, step=3, seed=1, num_frames=5, places=None):
    """Draws labels for a batch of equal clips, whose pixels are the frames' numbers; returns orders and labels."""
    position = np.arange(count) if places is None else np.array(places)
    video = np.zeros((len(position), num_frames, 2, 2, 3), np.uint8)
    video += np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    found, labels = pretext.draw(
        tf.constant(video),
        position=tf.constant(position, tf.int64),
        batch_size=count,
        seed=seed,
        step=tf.constant(step, tf.int64),
    )
    assert found.dtype == tf.uint8 and labels.dtype == tf.int32
    assert (found.numpy() == found.numpy()[:, :, :1, :1, :1]).all()
    return found.numpy()[:, :, 0, 0, 0], labels.numpy()


@pytest.mark.parametrize("num_frames", [2, 3, 5])
def test_labels_tell_which_clips_are_in_order(num_frames):
    orders, labels = draw(400, num_frames=num_frames)
    is_kept = (orders == np.arange(num_frames)).all(axis=1)
    np.testing.assert_array_equal(labels, np.where(is_kept, 0, 1))
    assert 150 < labels.sum() < 250
    assert (np.sort(orders, axis=1) == np.arange(num_frames)).all()


def test_labels_follow_from_seed_step_and_position_alone():
    orders, labels = draw(16)
    again = draw(16)
    np.testing.assert_array_equal(again[0], orders)
    np.testing.assert_array_equal(again[1], labels)
    part = draw(16, places=[9, 2])  # as on one of several devices
    np.testing.assert_array_equal(part[0], orders[[9, 2]])
    np.testing.assert_array_equal(part[1], labels[[9, 2]])
    for other in (draw(16, step=4), draw(16, seed=2)):
        assert (other[1] != labels).any()


def test_labels_of_an_evaluation_follow_from_a_clips_id_alone(data_dir):
    clips = load_clips(manifest.load(str(data_dir)), [1, 2, 3, 4, 5])
    found = pretext.relabel(clips)
    assert found.manifest.classes == ("in order", "shuffled") and found.ids == clips.ids
    assert set(found.labels.tolist()) == {0, 1}
    part = pretext.relabel(clips.select(np.arange(3, 9)))
    np.testing.assert_array_equal(part.labels, found.labels[3:9])
    for num_frames in (2, 5):
        orders = pretext.fixed_orders(clips.ids, num_frames)
        is_kept = (orders == np.arange(num_frames)).all(axis=1)
        np.testing.assert_array_equal(found.labels, np.where(is_kept, 0, 1))


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_training_resumes_in_mid_epoch_to_the_same_weights(data_dir, tmp_path, precision):
    options = {"model": "lstm", "encoder": {"num_classes": 2}, "pretext": "order", "precision": precision}
    options |= {"make_evaluator": lambda predictor: None}  # the helper's evaluator expects the clips' classes
    whole = train(data_dir, tmp_path / "whole", **options)
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 2}
    assert not train(data_dir, tmp_path / "stopped", listener=listener, **options).finished
    assert_same_weights(train(data_dir, tmp_path / "stopped", cache="device", **options), whole)


def test_visible_order_is_learned_and_scored_by_the_tasks_own_classes(pretrained, rising):
    config, summary = pretrained.config, pretrained.summary
    assert config.classes == pretext.CLASSES and config.model.num_classes == 2
    assert config.fingerprint == manifest.load(str(rising)).fingerprint
    lines = pathlib.Path(pretrained.run_dir, "predictions.jsonl").read_text().splitlines()
    plain = [value for value in map(json.loads, lines) if value["perturbation"] == "none"]
    assert {value["class"] for value in plain} == {"in order", "shuffled"}
    right = [value["label"] == value["predicted"] for value in plain]
    assert summary.accuracy == pytest.approx(np.mean(right))
    labels = pretext.fixed_labels([value["clip_id"] for value in plain])
    assert labels.tolist() == [value["label"] for value in plain]
    assert summary.accuracy >= 0.875
    shuffled = [value for value in map(json.loads, lines) if value["perturbation"] == "shuffle1"]
    assert np.mean([value["predicted"] for value in shuffled]) >= 0.75  # all of them are shuffled


def test_a_training_starts_with_the_pretrained_encoder_and_states_its_folds(pretrained, rising, tmp_path):
    path = pathlib.Path(pretrained.run_dir, run_lib.ENCODER_FILENAME)
    settings = {"epochs": 1, "batch_size": 8, "precision": "float32", "seed": 3}
    settings |= {"train_folds": "2-4", "val_folds": "1"}
    plain = ucf.train(rising, "lstm", tmp_path / "plain", **settings)
    tuned = ucf.train(rising, "lstm", tmp_path / "tuned", encoder_weights=str(path), **settings)
    assert tuned.config.classes == ("Rise", "Up")
    weights = zip(plain.model.get_weights(), tuned.model.get_weights(), strict=True)
    assert any((one != other).any() for one, other in weights)
    assert tuned.summary.encoder_folds == (2, 3, 4)
    assert "encoder_folds" not in json.loads((tmp_path / "plain" / "summary.json").read_text())
    frozen = ucf.train(
        rising, "lstm", tmp_path / "frozen", encoder_weights=str(path), freeze_encoder=True, **settings
    )
    found = zip(frozen.model.get_layer("encoder").get_weights(), own_encoder(pretrained), strict=True)
    assert all((one == other).all() for one, other in found)


def own_encoder(run):
    from ucf50_tfrecord.training import strategy, trained

    devices = strategy.make_strategy("one", environment={})
    model = trained.load_model(run.run_dir, run_lib.load_config(run.run_dir), "last", strategy=devices)
    return model.get_layer("encoder").get_weights()


def test_clips_with_several_labels_are_pretrained_on_as_others(tmp_path):
    run = ucf.train(
        several_labels.make_data(tmp_path), "pretext_lstm", tmp_path / "run", epochs=1, precision="float32"
    )
    assert run.config.classes == pretext.CLASSES and not run.config.multi_label
    assert run.summary.mean_average_precision is None


def test_an_encoder_that_was_pretrained_on_held_out_folds_is_refused(pretrained, rising, tmp_path):
    path = pathlib.Path(pretrained.run_dir, run_lib.ENCODER_FILENAME)
    settings = {"epochs": 1, "encoder_weights": str(path), "precision": "float32"}
    with pytest.raises(
        UserError, match="trained on folds 2-4. .* on folds 1 and tests on 3: .* folds 3, which"
    ):
        ucf.train(
            rising, "lstm", tmp_path / "run", train_folds="2", val_folds="1", test_folds="3", **settings
        )
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_has_seen_held_out_videos_in_other_shards_is_refused(data_dir, tmp_path, videos_dir):
    build(videos_dir, tmp_path / "png", encoding="png")
    settings = {"epochs": 1, "precision": "float32"}
    first = ucf.train(tmp_path / "png", "pretext_lstm", tmp_path / "first", **settings, **FOLDS)
    settings["encoder_weights"] = str(pathlib.Path(first.run_dir, run_lib.ENCODER_FILENAME))
    seen = []
    with pytest.raises(
        UserError, match="trained on folds 2-5 of .*png.* its scores on clips of folds 2, which"
    ):
        ucf.train(data_dir, "frame_pool", tmp_path / "run", train_folds="3", val_folds="1-2", **settings)
    unseen = ucf.train(data_dir, "frame_pool", tmp_path / "unseen", warn=seen.append, **FOLDS, **settings)
    assert unseen.summary.encoder_folds == (2, 3, 4, 5)
    assert not any("encoder" in text for text in seen), seen
    shutil.rmtree(tmp_path / "png")
    ucf.train(data_dir, "frame_pool", tmp_path / "gone", warn=seen.append, **FOLDS, **settings)
    assert any("cannot be told: there is no set of shards" in text for text in seen), seen


def test_features_whose_encoder_has_seen_held_out_clips_are_refused(pretrained, rising, tmp_path):
    source = manifest.load(str(rising))
    run_dir = tmp_path / "encoder"
    shutil.copytree(pretrained.run_dir, run_dir)
    encoder = load_encoder(FeatureSpec(encoder=str(run_dir)), source.format)
    planned = encode.plan_features(source, encoder.format)
    building.build_dataset(
        planned, str(tmp_path / "features"), run=functools.partial(encode.run_encoder, encoders=[encoder])
    )

    def train_head(name, warn=pytest.fail, **folds):
        return ucf.train(
            tmp_path / "features",
            "features_lstm",
            tmp_path / name,
            epochs=1,
            batch_size=8,
            warn=warn,
            **folds,
        )

    with raises_with_remedies(
        "were trained on folds 2-4.* folds 3, which the encoder has seen.* another --features"
    ):
        train_head("leaks", train_folds="2,4", val_folds="1,3")
    assert not (tmp_path / "leaks").exists()
    loaded = manifest.load(str(tmp_path / "features"))
    recipe = Recipe(
        model=recipes.model_spec(recipes.load("features_lstm"), loaded), train=TrainSpec(precision="float32")
    )
    comparison = compare.Comparison(
        folder=str(tmp_path / "compare"),
        spec=ComparisonSpec(recipes={"lstm": recipe}, num_seeds=1),
        clips=load_clips(loaded, loaded.folds),
    )
    with pytest.raises(UserError, match="trained on folds 2-4.* which the encoder has seen"):
        comparison.check_encoders(warn=pytest.fail)
    assert train_head("fits", train_folds="2-4", val_folds="1,5").summary.encoder_folds == (2, 3, 4)
    config = run_dir / "config.json"
    config.write_text(
        json.dumps(
            json.loads(config.read_text()) | {"data_dir": "http://127.0.0.1:1/x", "fingerprint": "0" * 64}
        )
    )
    seen = []
    train_head("remote", seen.append, train_folds="2,4", val_folds="1,3")
    assert [text for text in seen if "cannot be told: http://127.0.0.1:1/x is behind a URL" in text], seen
    shutil.rmtree(run_dir)
    seen = []
    assert train_head("gone", seen.append, train_folds="2-4", val_folds="1,5").summary.encoder_folds is None
    assert [text for text in seen if f"Whether the encoder {run_dir} of the features" in text], seen


def test_a_comparison_refuses_an_encoder_that_has_seen_tested_clips(pretrained, rising, tmp_path):
    loaded = manifest.load(str(rising))
    spec = ModelSpec(
        name="lstm",
        num_classes=2,
        num_frames=5,
        height=16,
        width=24,
        encoder_weights=str(pathlib.Path(pretrained.run_dir, run_lib.ENCODER_FILENAME)),
    )
    recipes = {"lstm": Recipe(model=spec, train=TrainSpec(precision="float32"))}

    def check(**split):
        compare.Comparison(
            folder=str(tmp_path),
            spec=ComparisonSpec(recipes=recipes, num_seeds=1, **split),
            clips=load_clips(loaded, loaded.folds),
        ).check_encoders(warn=pytest.fail)

    check(num_parts=0, val_folds=(1, 5))
    with pytest.raises(UserError, match="its scores on clips of folds 2, which the encoder has seen"):
        check(num_parts=0, val_folds=(1, 2))
    with pytest.raises(UserError, match="trained on folds 2-4"):
        check(num_parts=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame_order": "shuffled"}, "frame_order=kept with a pretext task"),
        ({"class_weight": "balanced"}, "no class_weight and no sampler"),
        ({"sampler": "balanced"}, "no class_weight and no sampler"),
        ({"mixup": 0.2}, "no mixup and no cutmix"),
        ({"teachers": "runs/teacher"}, "no teachers with a pretext task"),
        ({"model": "frame_pool"}, "a model out of .*'lstm'"),
        ({"model": "two_path"}, "a model out of"),
        ({"model": "conv3d"}, "a model out of"),
        ({"sample_frames": 1}, "at least 2 frames"),
        ({"pretext": "colour"}, "Expected a pretext out of"),
    ],
)
def test_settings_without_a_solvable_task_are_refused(data_dir, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        ucf.train(data_dir, "pretext_lstm", tmp_path / "run", **FOLDS, **settings)
    assert not (tmp_path / "run").exists()


def test_a_frozen_encoder_cannot_be_pretrained(pretrained, rising, tmp_path):
    path = pathlib.Path(pretrained.run_dir, run_lib.ENCODER_FILENAME)
    with pytest.raises(UserError, match="an encoder that is not frozen with a pretext task"):
        ucf.train(
            rising, "pretext_lstm", tmp_path / "run", encoder_weights=str(path), freeze_encoder=True, **FOLDS
        )


def test_a_pretext_run_predicts_no_classes(pretrained):
    message = "trained on the pretext task order, not on classes"
    for load in (run_lib.load_classifier, Session.load, finished_run.load):
        with pytest.raises(UserError, match=message):
            load(pretrained.run_dir)
    spec = ModelSpec(name="lstm", num_classes=2, num_frames=5, height=16, width=24)
    with pytest.raises(UserError, match="no pretext task in a comparison"):
        ComparisonSpec(recipes={"lstm": Recipe(model=spec, train=TrainSpec(**PRETEXT))}, num_seeds=1)


def test_configurations_without_a_pretext_task_are_stored_as_before():
    assert "pretext" not in to_json(TrainSpec())
    assert to_json(TrainSpec(pretext="order"))["pretext"] == "order"
