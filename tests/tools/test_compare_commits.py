"""The comparison of two checkouts."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import REPOSITORY, flip_bit, run_module
from tools import compare_commits
from ucf50_tfrecord.specs import AugmentSpec
from ucf50_tfrecord.training import checkpoint

PREDICTED = {
    "videos": [{"path": "a.avi", "probabilities": [0.25, 0.75]}],
    "windows": {},
    "calibration": {"temperature": 1.0},
}


@pytest.fixture
def sides(data_dir, pool_run, tmp_path):
    """Two folders as both checkouts fill them, with equal contents."""
    found = tmp_path / "before", tmp_path / "after"
    for side in found:
        shutil.copytree(data_dir, side / "data")
        shutil.copytree(pool_run, side / "pool")
        (side / "pool" / "predicted").mkdir()
        document = PREDICTED | {"code": {"commit": side.name}}
        (side / "pool" / "predicted" / "predictions.json").write_text(json.dumps(document))
    return found


def differences(sides):
    return list(compare_commits.find_differences(*sides, ["pool"]))


def test_the_compared_training_uses_every_augmentation():
    for field in dataclasses.fields(AugmentSpec):
        assert f"--{field.name}" in compare_commits._TRAIN_FLAGS
    for name in ("mixup", "cutmix"):
        assert f"--{name}" in compare_commits._TRAIN_FLAGS


def test_equal_results_of_different_commits_are_equal(sides):
    assert differences(sides) == []


def test_each_difference_is_found(sides):
    _, after = sides
    shard = min(after.glob("data/*.tfrecord-*-of-????[0-9]"))
    flip_bit(shard, shard.stat().st_size // 2)
    lines = after / "pool" / "predictions.jsonl"
    lines.write_text(lines.read_text().replace("0", "1", 1))
    predicted = after / "pool" / "predicted" / "predictions.json"
    predicted.write_text(predicted.read_text().replace("0.25", "0.26"))
    reader = tf.train.load_checkpoint(checkpoint.find(after / "pool" / "checkpoints" / "last")[0])
    key = next(key for key in sorted(reader.get_variable_to_shape_map()) if key.startswith("model"))
    assert differences(sides) == [
        f"data/{shard.name}",
        "pool/predictions.jsonl",
        "pool/predicted/predictions.json",
    ]
    values = {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith("_CHECKPOINTABLE")
    }
    values[key] = np.nextafter(values[key], np.float32(9))
    folder = after / "pool" / "checkpoints" / "last"
    shutil.rmtree(folder)
    names = list(values)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "ckpt-1"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[values[name] for name in names],
    )
    assert differences(sides)[3:] == [f"pool/checkpoints/last: {key}"]


def test_a_missing_shard_is_a_difference(sides):
    min(sides[1].glob("data/*.tfrecord-*")).unlink()
    assert differences(sides)[0].startswith("names of shards: ")


@pytest.mark.slow
def test_a_checkout_makes_what_it_made_before(videos_dir, tmp_path):
    flags = [
        f"--before={REPOSITORY}",
        f"--videos={videos_dir}",
        f"--work={tmp_path / 'work'}",
        "--models=lstm",
        "--convert=--size=16x24 --frames=5",
        "--train=--epochs=2 --batch_size=4 --val_folds=1,2 --dropout=0.3 --horizontal_flip",
    ]
    result = run_module("tools.compare_commits", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Shards, weights and predictions of lstm: equal bit for bit." in result.stdout
    again = run_module("tools.compare_commits", *flags)
    assert again.returncode == 2 and "Expected a new folder as --work" in again.stderr
