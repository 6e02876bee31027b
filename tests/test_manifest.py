import dataclasses
import json
import os
import re

import pytest

from tests.conftest import CLASSES, raises_with_remedies
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.errors import UserError


def test_manifest_says_what_the_shards_hold(data_dir):
    loaded = manifest.load(str(data_dir))
    assert loaded.num_videos == loaded.num_clips == 30
    assert loaded.classes == CLASSES
    assert loaded.folds == (1, 2, 3, 4, 5)
    assert set(loaded.clips_per_class.values()) == {(2, 2, 2)}
    assert loaded.quarantined == ()
    value = json.loads((data_dir / "manifest.json").read_text())
    assert value["num_videos"] == value["num_clips"] == 30
    assert value["folds"]["1"] == {"num_clips": 6, "clips_per_class": [2, 2, 2]}
    assert value["classes"] == list(CLASSES) and value["quarantined"] == []


def test_sidecars_point_at_the_records(data_dir):
    loaded = manifest.load(str(data_dir))
    assert len(loaded.shards) > len(loaded.folds)
    for shard in loaded.shards:
        report = manifest.load_report(str(data_dir), shard.filename)
        records = list(tfrecord.read_file(data_dir / shard.filename))
        assert report.offsets == tuple(offset for offset, _ in records)
        features = [record.decode(payload) for _, payload in records]
        assert report.clip_ids == tuple(f["clip/media_id"][0].decode() for f in features)
        assert report.labels == tuple(f["label"][0] for f in features)
        assert {f["fold"][0] for f in features} == {shard.fold}
        assert report.groups == tuple(f["group"][0] for f in features)


def test_fingerprint_depends_on_the_contents_alone(data_dir, tmp_path):
    loaded = manifest.load(str(data_dir))
    assert (
        loaded.fingerprint
        == dataclasses.replace(loaded, data_dir="/elsewhere", shards=loaded.shards[::-1]).fingerprint
    )
    changed = dataclasses.replace(loaded.shards[0], sha256="0" * 64)
    assert loaded.fingerprint != dataclasses.replace(loaded, shards=(changed, *loaded.shards[1:])).fingerprint


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with raises_with_remedies("holds no manifest.json.*python -m pipelines.convert"):
        manifest.load(str(tmp_path))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: value.update(schema_version=99), "written with record schema 99"),
        (lambda value: value.pop("format"), "is not a dataset's manifest"),
        (lambda value: value["format"].update(depth=3), "is not a dataset's manifest"),
        (lambda value: value.update(folds=[]), "is not a dataset's manifest"),
    ],
)
def test_a_wrong_manifest_is_named(data_dir, tmp_path, change, message):
    value = json.loads((data_dir / "manifest.json").read_text())
    change(value)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        manifest.load(str(tmp_path))


@pytest.mark.parametrize("content", ['{"schema_version": 1, "for', "[1]"])
def test_a_damaged_manifest_says_how_to_repair_it(data_dir, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(
        UserError, match=r"manifest.json is not .*\. To write it again, remove it and repeat the conversion"
    ):
        manifest.load(str(tmp_path))


def with_folds(loaded, clips_per_class):
    return dataclasses.replace(loaded, clips_per_class=clips_per_class)


def test_default_validation_folds_are_the_first_fifth(data_dir):
    loaded = manifest.load(str(data_dir))
    assert manifest.default_val_folds(loaded) == (1,)
    ucf50 = with_folds(loaded, {fold: (5, 5, 5) for fold in range(1, 26)})
    assert manifest.default_val_folds(ucf50) == (1, 2, 3, 4, 5)


def test_default_validation_folds_cover_the_classes(data_dir):
    # As in a subset of UCF50 whose first groups hold one class only.
    counts = {fold: (5, 0, 0) for fold in range(1, 10)} | {10: (0, 3, 2), 11: (2, 2, 0), 12: (0, 1, 1)}
    assert manifest.default_val_folds(with_folds(manifest.load(str(data_dir)), counts)) == (1, 10)


def test_the_last_fold_with_a_class_stays_in_training(data_dir):
    counts = {fold: (5, 5, 0) for fold in range(1, 5)} | {5: (1, 1, 4)}
    assert manifest.default_val_folds(with_folds(manifest.load(str(data_dir)), counts)) == (1,)


def test_one_fold_cannot_be_split(data_dir):
    with pytest.raises(UserError, match="No fold of .* can be held out"):
        manifest.default_val_folds(with_folds(manifest.load(str(data_dir)), {3: (1, 1, 1)}))


def rename_shards(value, name):
    value["shards"][0]["filename"] = name


def count_differently(value):
    value["folds"]["1"] = {"num_clips": 7, "clips_per_class": [3, 2, 2]}


HOSTILE = {
    "shards[0].sha256: Expected str matching": lambda v: v["shards"][0].update(sha256="../../victim/data"),
    "shards[0]: Expected a filename <name>-fold": lambda v: rename_shards(
        v, "../small-fold01.tfrecord-00000-of-00002"
    ),
    "shards[0]: Expected a filename": lambda v: rename_shards(v, "mine.txt"),
    "shards[0]: Expected a filename <name>": lambda v: rename_shards(
        v, "small-fold02.tfrecord-00000-of-00002"
    ),
    "shards[0]: Expected a filename <": lambda v: rename_shards(v, "small-fold01.tfrecord-00002-of-00002"),
    "Expected shards of the dataset 'small'": lambda v: rename_shards(
        v, "other-fold01.tfrecord-00000-of-00002"
    ),
    "Expected each shard once": lambda v: v["shards"].append(v["shards"][0]),
    "shards[1].num_bytes: Expected int >= 0. Received: -5": lambda v: v["shards"][1].update(num_bytes=-5),
    "name: Expected str matching": lambda v: v.update(name="../small"),
    "Expected distinct classes. Received: repeated='Left'": lambda v: v.update(
        classes=["Left", "Left", "Right"]
    ),
    "classes[1]: Expected str of length": lambda v: v.update(classes=["Left", "", "Right"]),
    "classes: Expected array of length >= 1": lambda v: v.update(classes=[]),
    "Expected clips_per_class of fold 1 for 2 classes": lambda v: v.update(classes=["Left", "Right"]),
    "Expected 6 clips in fold 1, as its shards have. Received: num_clips=7": count_differently,
    "Expected 30 clips, the sum over all folds. Received: num_clips=31": lambda v: v.update(num_clips=31),
    "Expected at most 3 clips of num_videos=3": lambda v: v.update(num_videos=3),
    "format: Expected clips of at most 1073741824 bytes of pixels": lambda v: v["format"].update(
        num_frames=10_000, height=4096, width=4096
    ),
    "Expected known fields. Received: 'shards[0].more'": lambda v: v["shards"][0].update(more=1),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_hostile_manifest_is_refused_with_its_field(data_dir, tmp_path, message):
    value = json.loads((data_dir / "manifest.json").read_text())
    HOSTILE[message](value)
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=re.escape(f"manifest.json is not a dataset's manifest: {message}")):
        manifest.load(str(tmp_path))


def test_a_manifest_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(
        UserError, match="Expected a regular file. Received: .*manifest.json, which is a named pipe"
    ):
        manifest.load(str(tmp_path))


HOSTILE_SIDECARS = {
    "labels[0]: Expected int >= 0. Received: -1": {"labels": [-1, 0, 0]},
    "Expected an entry for each clip. Received: clip_ids=3, labels=2": {"labels": [0, 0]},
    "Expected distinct clip_ids. Received: repeated='a/b'": {"clip_ids": ["a/b", "a/b", "a/c"]},
    "Expected offsets that ascend from 0 and stay below num_bytes": {"offsets": [0, 50, 50]},
    "Expected offsets that ascend from 0 and stay": {"offsets": [1, 50, 90]},
    "Expected offsets that ascend from 0 and": {"offsets": [0, 50, 10**12]},
    "offsets[2]: Expected int. Received: 0.5": {"offsets": [0, 50, 0.5]},
    "fingerprint: Expected str matching": {"fingerprint": "x"},
    "sources[0].mtime_ns: Expected int <= ": {
        "sources": [{"num_bytes": 1, "mtime_ns": 2**64, "sha256": None}]
    },
}


@pytest.mark.parametrize("message", HOSTILE_SIDECARS)
def test_a_hostile_sidecar_is_refused_with_its_field(data_dir, tmp_path, message):
    name = "small-fold01.tfrecord-00000-of-00002"
    value = json.loads((data_dir / f"{name}.json").read_text()) | HOSTILE_SIDECARS[message]
    del value["checksum"]
    assert len(value["clip_ids"]) == 3
    (tmp_path / f"{name}.json").write_text(json.dumps(value | {"checksum": manifest.fingerprint(value)}))
    with pytest.raises(UserError, match=re.escape(f"{name}.json is not a shard's sidecar: {message}")):
        manifest.load_report(str(tmp_path), name)
