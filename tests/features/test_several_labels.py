"""Stored features of clips with several labels."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

import ucf50_tfrecord as ucf
from tests.features.test_encode import COLORS, build, own_module  # noqa: F401
from tests.several_labels import make_data
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, tfrecord
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.inference import export, finished_run


@pytest.fixture(scope="module")
def frames_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("several"))


def test_features_keep_all_labels(frames_dir, tmp_path, own_module):  # noqa: F811
    features = build(frames_dir, tmp_path / "features")
    frames = manifest_lib.load(str(frames_dir))
    assert features.multi_label and features.clips_per_class == frames.clips_per_class
    one, other = (load_clips(manifest, manifest.folds) for manifest in (frames, features))
    assert one.ids == other.ids
    np.testing.assert_array_equal(one.labels, other.labels)
    for shard in features.shards:
        assert manifest_lib.verify_shard(features, shard) == []
    _, payload = next(iter(tfrecord.read_file(tmp_path / "features" / features.shards[0].filename)))
    place = other.ids.index(record.clip_id_and_labels(payload)[0])
    assert record.clip_id_and_labels(payload)[1] == tuple(np.flatnonzero(other.labels[place]))


def test_views_average_the_probabilities_of_each_class(frames_dir):
    manifest = manifest_lib.load(str(frames_dir))
    clips = load_clips(manifest, [1])
    logits = np.random.default_rng(0).normal(0, 4, (2, len(clips), 4)).astype(np.float32)
    logits[:, 0] = [[200], [190]]  # whose probabilities round to 1
    evaluations = [{"none": runner.Evaluation(clips=clips, logits=part)} for part in logits]
    evaluator = types.SimpleNamespace(_test_views=[0, 1], evaluate_each=lambda names, view: evaluations[view])
    found = runner.Evaluator.average_views(evaluator)
    assert dataclasses.replace(found, logits=logits[0]).scores.keys() == found.scores.keys()
    np.testing.assert_allclose(special.expit(found.logits), special.expit(logits).mean(axis=0), atol=1e-6)
    assert 190 < found.logits[0].min() < 191


def test_a_run_on_features_is_exported_with_its_encoder(frames_dir, tmp_path, own_module):  # noqa: F811
    build(frames_dir, tmp_path / "features", grid=3)
    run_dir = tmp_path / "run"
    ucf.train(
        tmp_path / "features", "features_frame_pool", run_dir, epochs=2, val_folds="1,2", precision="float32"
    )
    run = finished_run.load(str(run_dir))
    export.export_run(run, tmp_path / "export", formats=["saved_model"], allowed_code=[COLORS])
    clips = load_clips(manifest_lib.load(str(frames_dir)), (1, 2))
    serve = tf.saved_model.load(str(tmp_path / "export" / "saved_model")).signatures["serving_default"]
    answer = serve(frames=tf.constant(read_clips(clips)))
    place = {clip_id: i for i, clip_id in enumerate(run.results.ids)}
    found = run.label_scores.found[[place[clip_id] for clip_id in clips.ids]]
    # Stored features are rounded to 16 bits.
    np.testing.assert_allclose(answer["probabilities"], found, atol=2e-3)
    is_near = np.abs(found - run.thresholds.values) < 2e-3
    assert (is_near | (answer["predicted"].numpy() == run.decide(found))).all() and not is_near.all()
