import dataclasses
import json

import pytest

from tests.conftest import CLASSES
from ucf50_tfrecord import manifest, record
from ucf50_tfrecord.specs import UserError


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
        records = list(record.read_records(data_dir / shard.filename))
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
    with pytest.raises(UserError, match="holds no manifest.json.*python -m pipelines.convert"):
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
def test_a_damaged_manifest_says_how_to_mend_it(data_dir, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(
        UserError, match=r"manifest.json is not .*\. To write it anew remove it and convert again"
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
