"""Features of several views of each clip: how they are stored, drawn in training, and averaged in tests."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import ucf50_tfrecord as ucf
from tests.conftest import REPOSITORY
from tests.dataset.helpers import read_batches
from tests.features.test_encode import COLORS, build, build_for_module, clips_of, contents, own_module  # noqa: F401
from tests.warm import run_module
from ucf50_tfrecord import building, job, manifest, recipes, record, tfrecord
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.dataset.reader import ClipReader
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation.runner import VIEWS
from ucf50_tfrecord.features import encode
from ucf50_tfrecord.features.encoders import load_encoder, reload_encoder
from ucf50_tfrecord.inference import finished_run
from ucf50_tfrecord.specs import FeatureFormat, FeatureSpec, to_json
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained as trained_lib
from ucf50_tfrecord.training.folds import AskedFolds, choose_folds
from ucf50_tfrecord.training.run import RunOptions

NUM_VIEWS = 3
FORMAT = FeatureFormat(
    encoder="efficientnet_lite0",
    weights="0" * 64,
    num_frames=15,
    num_features=1280,
    height=128,
    width=128,
)


@pytest.fixture(scope="module")
def plain_dir(data_dir, tmp_path_factory, own_module):  # noqa: F811
    return build_for_module(data_dir, tmp_path_factory, grid=2)


@pytest.fixture(scope="module")
def views_dir(data_dir, tmp_path_factory, own_module):  # noqa: F811
    return build_for_module(data_dir, tmp_path_factory, grid=2, num_views=NUM_VIEWS)


def read_views(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The features of all clips as their records hold them, by id."""
    found = {}
    for shard in manifest.load(str(folder)).shards:
        for _, payload in tfrecord.read_file(folder / shard.filename):
            clip = record.decode(payload)
            found[clip[record.MEDIA_ID][0].decode()] = clip[record.FEATURES]
    return found


def run_job(folder, run_dir, *, should_stop=lambda: False, cache="none", options=RunOptions(), **settings):
    """Trains a head; returns the outcome and the weights."""
    values = {"model": "frame_pool", "precision": "float32", "batch_size": 4, **settings}
    found = manifest.load(str(folder))
    listener = job.JobListener(should_stop=should_stop)
    with contextlib.ExitStack() as stack:
        prepared = job.prepare(
            found,
            choose_folds(found, AskedFolds(), lambda text: None),
            model=recipes.model_spec(values, found),
            train=recipes.train_spec(values),
            inputs=InputSpec(cache=cache),
            strategy=strategy_lib.make_strategy("one", environment={}),
            run_dir=str(run_dir),
            stack=stack,
            listener=listener,
        )
        outcome = job.run(prepared, options, listener=listener)
    return outcome, outcome.trained.model.get_weights()


def assert_equal_weights(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_datasets_of_one_view_keep_their_fingerprints():
    assert "num_views" not in to_json(FORMAT)
    # As computed before there were views.
    assert manifest.fingerprint(FORMAT) == "ef1047555ebb67a75743d3128b9e0fbb6d463bd4eb63c3043e1a20f31d6036c9"


def test_the_fingerprint_covers_the_number_and_the_changes_of_views(data_dir, monkeypatch):
    source = manifest.load(str(data_dir))

    def fingerprint(num_views):
        spec = FeatureSpec(encoder=COLORS, grid=2, num_views=num_views)
        return encode.plan_features(source, load_encoder(spec, source.format).format).jobs[0].fingerprint

    before = [fingerprint(num_views) for num_views in (1, 2, 3)]
    assert len(set(before)) == 3
    monkeypatch.setitem(encode._VIEW_CHANGES, "crop_area", 0.4)
    after = [fingerprint(num_views) for num_views in (1, 2, 3)]
    assert after[0] == before[0] and after[1] != before[1] and after[2] != before[2]


def test_view_0_is_the_plain_clip_and_the_others_differ(plain_dir, views_dir):
    plain, views = read_views(plain_dir), read_views(views_dir)
    assert plain.keys() == views.keys()
    for clip_id, features in views.items():
        assert features.shape == (NUM_VIEWS, 5, 2, 2, 3) and features.dtype == np.float16
        np.testing.assert_array_equal(features[0], plain[clip_id])
        for view in range(1, NUM_VIEWS):
            assert all(not np.array_equal(features[view], features[other]) for other in range(view))
    np.testing.assert_array_equal(read_clips(clips_of(views_dir)), read_clips(clips_of(plain_dir)))


def test_a_view_is_a_crop_that_is_the_same_for_all_frames_of_a_clip():
    rows, columns = np.mgrid[0:32, 0:48]
    frame = np.stack([4 * rows, 4 * columns, 0 * rows], axis=2).astype(np.uint8)
    frames = np.broadcast_to(frame, (8, 3, 32, 48, 3))
    ids = [f"clip{i}" for i in range(8)]
    views = [encode.make_view(frames, ids, view) for view in (1, 2)]
    flipped = []
    for view in views:
        assert (view == view[:, :1]).all()
        across = view[:, 0, 16, -1, 1].astype(int) - view[:, 0, 16, 0, 1]
        flipped += (across < 0).tolist()
        assert (abs(across) >= 4 * 47 / 2 - 4).all()  # a crop of half the area is half as wide or wider
    assert 0 < sum(flipped) < len(flipped)
    assert len({view[i].tobytes() for view in views for i in range(8)}) == 16


def test_a_view_depends_on_the_clips_id_and_on_no_other_clip():
    frames = np.random.default_rng(0).integers(0, 256, (4, 2, 16, 24, 3), np.uint8)
    ids = ["a", "b", "c", "d"]
    views = encode.make_view(frames, ids, 1)
    np.testing.assert_array_equal(encode.make_view(frames, ids, 0), frames)
    np.testing.assert_array_equal(encode.make_view(frames[2:], ids[2:], 1), views[2:])
    assert not np.array_equal(encode.make_view(frames, ids[::-1], 1), views)


def test_views_are_the_same_by_one_task_by_two_and_by_several_devices(
    data_dir,
    views_dir,
    tmp_path,
    own_module,  # noqa: F811
):
    source = manifest.load(str(data_dir))
    spec = FeatureSpec(encoder=COLORS, grid=2, num_views=NUM_VIEWS)
    encoders = [load_encoder(spec, source.format) for _ in range(2)]
    planned = encode.plan_features(source, encoders[0].format)
    run = functools.partial(encode.run_encoder, encoders=encoders)
    for index in (1, 0):
        building.build_part(planned, str(tmp_path / "f"), task=(index, 2), run=run)
    assert contents(tmp_path / "f") == contents(views_dir)
    command = [sys.executable, "-m", "pipelines.features", f"--data={data_dir}", f"--features={COLORS}"]
    command += ["--feature_grid=2", f"--feature_views={NUM_VIEWS}", f"--features_data={tmp_path / 'p'}"]
    environment = {**os.environ, "PYTHONPATH": f"{own_module}:{REPOSITORY}"}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True
    )
    assert f"{NUM_VIEWS} views of 5x2x2x3 features of {COLORS}" in result.stdout
    assert contents(tmp_path / "p") == contents(views_dir)


def test_the_default_folder_names_the_views(data_dir):
    source = manifest.load(str(data_dir))
    names = [
        encode.default_dir(
            source, load_encoder(FeatureSpec(encoder=COLORS, num_views=k), source.format).format
        )
        for k in (1, 4)
    ]
    assert names[1] == f"{names[0]}-v4"


def test_verify_and_inspect_accept_views_and_readers_check_their_number(views_dir, tmp_path):
    verified = run_module("pipelines.verify", f"--data={views_dir}")
    assert verified.returncode == 0, verified.stderr
    inspected = run_module("tools.inspect_data", f"--data={views_dir}", "--sheet=")
    assert inspected.returncode == 0, inspected.stderr
    assert f"{NUM_VIEWS} views of 5x2x2x3 features" in inspected.stdout
    damaged = shutil.copytree(views_dir, tmp_path / "damaged")
    value = json.loads((damaged / "manifest.json").read_text())
    value["features"]["num_views"] = 2
    (damaged / "manifest.json").write_text(json.dumps(value))
    clips = clips_of(damaged)
    with pytest.raises(UserError, match="holds no clip of 2 views of 5x2x2x3 features"):
        ClipReader(clips).read_raw(np.arange(2))


def test_a_damaged_shard_is_repaired_with_all_its_views(views_dir):
    remedy = manifest.repair_remedy(manifest.load(str(views_dir)))
    assert remedy.details["num_views"] == NUM_VIEWS


def test_tensorflow_datasets_reads_all_views(views_dir):
    import tensorflow_datasets as tfds

    builder, views = tfds.builder_from_directory(views_dir), read_views(views_dir)
    for example in tfds.as_numpy(builder.as_dataset("fold01")):
        np.testing.assert_array_equal(example[record.FEATURES], views[example[record.MEDIA_ID].decode()])


def test_an_epoch_of_training_draws_one_view_per_clip(views_dir, plain_dir):
    clips, views = clips_of(views_dir), read_views(views_dir)
    drawn = [pipeline.epoch_views(clips, seed=5, epoch=epoch) for epoch in range(4)]
    assert len({view.tobytes() for view in drawn}) == 4
    assert set(np.concatenate(drawn).tolist()) == set(range(NUM_VIEWS))
    steps = pipeline.num_steps(len(clips), 4)
    batches = read_batches(clips, 2 * steps, batch_size=4, seed=5)
    for number, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["view"], drawn[number // steps][batch["index"]])
        for clip, view, found in zip(batch["index"], batch["view"], pipeline.take_view(batch).numpy()):
            np.testing.assert_array_equal(found, views[clips.ids[clip]][view])
    assert "view" not in read_batches(clips_of(plain_dir), 1, batch_size=4, seed=5)[0]


def test_a_clip_that_a_balanced_epoch_repeats_has_a_view_of_its_own_each_time(views_dir):
    clips = clips_of(views_dir)
    rare = clips.select(np.sort([*np.flatnonzero(clips.labels == 0), np.flatnonzero(clips.labels == 1)[0]]))
    drawn = pipeline.epoch_views(rare, seed=5, epoch=0)
    batches = list(pipeline.index_batches(rare, batch_size=4, seed=5, sampler="balanced").take(3))
    views, mask, label = (np.concatenate([b[name] for b in batches]) for name in ("view", "mask", "label"))
    np.testing.assert_array_equal(views[mask], drawn)
    assert len(set(views[mask & (label == 1)].tolist())) > 1


def test_batches_for_keras_fit_draw_views_and_take_the_plain_one_without_a_seed(views_dir, plain_dir):
    clips = clips_of(views_dir)
    views = np.concatenate([features for features, _ in clips.batches(8)])
    np.testing.assert_array_equal(views, read_clips(clips_of(plain_dir)))
    drawn, _ = next(iter(clips.batches(30, seed=1)))
    order = pipeline.epoch_order(clips, seed=1, epoch=0)
    assert drawn.shape == (30, 5, 2, 2, 3) and not np.array_equal(drawn, views[order])


@pytest.mark.parametrize("cache", ["none", "host", "device"])
def test_a_feed_gives_the_named_view_wherever_clips_are_kept(views_dir, cache):
    clips, views = clips_of(views_dir), read_views(views_dir)
    strategy = strategy_lib.make_strategy("one", environment={})
    feed = Feed(clips, strategy=strategy, cache=cache)
    frames = tf.function(lambda batch: strategy.run(feed.frames, args=(batch,)))
    for view in range(NUM_VIEWS):
        for batch in feed.batches(batch_size=8, view=view):
            expected = [views[clips.ids[clip]][view] for clip in batch["index"].numpy()]
            np.testing.assert_array_equal(frames(batch).numpy(), expected)


def test_training_on_views_resumes_to_the_same_weights(views_dir, plain_dir, tmp_path):
    _, undisturbed = run_job(views_dir, tmp_path / "undisturbed", epochs=2)
    calls = []
    outcome, _ = run_job(
        views_dir,
        tmp_path / "stopped",
        epochs=2,
        should_stop=lambda: calls.append(1) or len(calls) >= 9,  # in the second epoch
        options=RunOptions(steps_per_call=1),
    )
    assert outcome.summary is None and outcome.trained.step == 9
    _, resumed = run_job(views_dir, tmp_path / "stopped", epochs=2, cache="device")
    assert_equal_weights(resumed, undisturbed)
    _, plain = run_job(plain_dir, tmp_path / "plain", epochs=2)
    assert not all(np.array_equal(one, other) for one, other in zip(plain, undisturbed))


@pytest.fixture(scope="module")
def plain_run(plain_dir, tmp_path_factory):
    """A run that was trained on features of one view."""
    return ucf.train(plain_dir, "features_frame_pool", tmp_path_factory.mktemp("runs") / "plain", epochs=2)


def predictions(folder: pathlib.Path) -> dict[str, dict[str, list[float]]]:
    """The logits in a folder's predictions, by intervention and clip id."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in (folder / "predictions.jsonl").read_text().splitlines():
        value = json.loads(line)
        found.setdefault(value["perturbation"], {})[value["clip_id"]] = value["logits"]
    return found


def averaged(run, folder) -> dict[str, np.ndarray]:
    """The averaged probabilities of a run's held-out clips, computed from the records by hand."""
    devices = strategy_lib.make_strategy("one", environment={})
    model = trained_lib.load_model(run.run_dir, run.config, "last", strategy=devices)
    views = read_views(folder)
    held_out = predictions(pathlib.Path(run.run_dir))["none"]
    return {
        clip_id: special.softmax(model(views[clip_id], training=False), axis=1).mean(axis=0)
        for clip_id in held_out
    }


def test_an_evaluation_takes_the_plain_view_and_on_request_the_average(plain_run, views_dir, tmp_path):
    command = [
        "pipelines.evaluate",
        f"--run={plain_run.run_dir}",
        f"--data={views_dir}",
        f"--test_views={NUM_VIEWS}",
    ]
    result = run_module(*command, f"--output={tmp_path / 'views'}")
    assert result.returncode == 0, result.stderr
    assert "mean of views" in result.stdout
    plain, views = predictions(pathlib.Path(plain_run.run_dir)), predictions(tmp_path / "views")
    assert plain.keys() == {"none", "shuffle1"} and views.keys() == {"none", "shuffle1", VIEWS}
    expected = averaged(plain_run, views_dir)
    for clip_id, logits in plain["none"].items():
        np.testing.assert_allclose(views["none"][clip_id], logits, atol=1e-5)
        np.testing.assert_allclose(special.softmax(views[VIEWS][clip_id]), expected[clip_id], atol=1e-2)
        assert np.exp(views[VIEWS][clip_id]).sum() == pytest.approx(1, abs=1e-4)
    summary = json.loads((tmp_path / "views" / "summary.json").read_text())
    labels = {clip_id: label for clip_id, label in zip(clips_of(views_dir).ids, clips_of(views_dir).labels)}
    right = [np.argmax(expected[clip_id]) == labels[clip_id] for clip_id in expected]
    assert summary["views"]["accuracy"] == pytest.approx(np.mean(right))
    assert plain_run.summary.views is None


def test_a_training_scores_the_average_at_its_end_and_its_card_still_reads(views_dir, tmp_path):
    outcome, _ = run_job(views_dir, tmp_path / "run", epochs=1, options=RunOptions(test_views=NUM_VIEWS))
    assert outcome.summary.views is not None
    run = ucf.api.Run(tmp_path / "run", allowed_code=[COLORS])
    assert run.summary.views == outcome.summary.views
    expected = averaged(run, views_dir)
    found = predictions(tmp_path / "run")[VIEWS]
    for clip_id, logits in found.items():
        np.testing.assert_allclose(special.softmax(logits), expected[clip_id], atol=1e-3)
    assert run.model.input.shape == (None, 5, 16, 24, 3)  # the model of frames takes the plain view
    assert VIEWS not in finished_run.load(str(tmp_path / "run")).results.cells[0].logits


def test_views_are_refused_where_there_is_one(plain_run, plain_dir, tmp_path):
    commands = (
        ["pipelines.evaluate", f"--run={plain_run.run_dir}", f"--output={tmp_path / 'out'}"],
        ["pipelines.train", f"--data={plain_dir}", "--model=frame_pool", f"--run={tmp_path / 'out'}"],
    )
    for command in commands:
        result = run_module(*command, "--test_views=2")
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert "because test_views averages" in result.stderr and "test_views=2" in result.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_views", [0, 65])
def test_a_wrong_number_of_views_is_refused(num_views):
    with pytest.raises(UserError, match=f"Expected num_views from 1 to 64. Received: num_views={num_views}"):
        FeatureSpec(encoder=COLORS, num_views=num_views)
    with pytest.raises(UserError, match=f"Expected 1 to 64 views. Received: num_views={num_views}"):
        FeatureFormat(**{**to_json(FORMAT), "num_views": num_views})


def test_clips_that_an_intervention_changes_have_one_view():
    with pytest.raises(UserError, match="Expected one view of clips that an intervention changes"):
        FeatureFormat(**to_json(FORMAT) | {"num_views": 2, "intervention": "grey"})


def test_the_encoder_of_views_is_found_again(data_dir):
    source = manifest.load(str(data_dir))
    stored = load_encoder(FeatureSpec(encoder=COLORS, num_views=4), source.format).format
    assert reload_encoder(stored, source.format, allowed_code=[COLORS]).format.num_views == 1
