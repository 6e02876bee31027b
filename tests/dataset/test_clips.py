import json
import shutil

import numpy as np
import pytest

from pipelines import remedies
from tests.conftest import build, raises_with_remedies
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.errors import UserError


def test_clips_are_indexed_from_the_sidecars(data_dir):
    clips = load_clips(manifest.load(str(data_dir)), [1, 2, 3])
    assert len(clips) == 18 and len(clips.shard_paths) == 6
    assert clips.num_bytes == 18 * 5 * 16 * 24 * 3
    assert sorted(set(clips.folds.tolist())) == sorted(set(clips.groups.tolist())) == [1, 2, 3]
    offsets, payloads = zip(*tfrecord.read_file(clips.shard_paths[1]))
    mine = [i for i in range(len(clips)) if clips.shards[i] == 1]
    assert tuple(clips.offsets[mine]) == offsets
    assert [clips.ids[i] for i in mine] == [record.clip_id_and_labels(payload)[0] for payload in payloads]
    assert clips.labels[mine].tolist() == [record.decode(payload)["label"][0] for payload in payloads]


def test_clips_are_selected_by_index_and_by_mask(data_dir):
    clips = load_clips(manifest.load(str(data_dir)), [1, 2, 3])
    odd = clips.select(np.arange(18) % 2 == 1)
    assert odd.ids == clips.ids[1::2] and odd.offsets.tolist() == clips.offsets[1::2].tolist()
    assert clips.select(np.array([3, 0])).ids == (clips.ids[3], clips.ids[0])


def test_unknown_folds_are_named(data_dir):
    with pytest.raises(UserError, match=r"Expected folds out of 1-5 in .* Received: folds=\[9\]"):
        load_clips(manifest.load(str(data_dir)), [1, 9])


NAME = "small-fold01.tfrecord-00001-of-00002"


def swap_sidecar(path):
    """As after a conversion that was stopped before it wrote the manifest."""
    shutil.copy(path.with_name(path.name.replace("fold01", "fold02") + ".json"), f"{path}.json")


DAMAGES = {
    f"The shard .*{NAME} is missing": lambda path: path.unlink(),
    f"The shard .*{NAME} has .* bytes, expected": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    f"The shard .*{NAME} is not the one that manifest.json lists": swap_sidecar,
    f"{NAME}.json: No such file": lambda path: path.with_name(f"{NAME}.json").unlink(),
    f"{NAME}.json is damaged": lambda path: path.with_name(f"{NAME}.json").write_text(
        path.with_name(f"{NAME}.json").read_text().replace('"label', '"lable', 1).replace("g01", "g02", 1)
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_dataset_is_reported_with_its_repair(data_dir, videos_dir, tmp_path, message):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    DAMAGES[message](copy / NAME)
    repair = (
        f"make repair 'VIDEOS={videos_dir}' DATA={copy} SIZE=16x24 FRAMES=5 "
        "'FLAGS=--name=small --num_folds=4 --shard_mib=1'"
    )
    with raises_with_remedies(f"{message}.* To repair it: {repair}"):
        load_clips(manifest.load(str(copy)), [1])


def test_the_repair_command_asks_for_the_same_format(videos_dir, tmp_path):
    options = {"encoding": "jpeg", "jpeg_quality": 80, "height": 64, "width": 64}
    built = build(videos_dir, tmp_path / "da$ta", shard_bytes=32 << 20, **options)
    assert manifest.load(built.data_dir) == built
    command = remedies.command(manifest.repair_remedy(built))
    assert command.endswith("FRAMES=5 'FLAGS=--name=small --encoding=jpeg --jpeg_quality=80 --num_folds=4'")
    assert "SIZE" not in command and f"'DATA={tmp_path}/da$$ta'" in command  # make reads $$ as $


def test_missing_shards_are_accepted_when_bad_records_are_skipped(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    (copy / NAME).unlink()
    assert len(load_clips(manifest.load(str(copy)), [1], check_shards=False)) == 6


def change_sidecar(path, **fields):
    value = json.loads(path.read_text()) | fields
    del value["checksum"]
    path.write_text(json.dumps(value | {"checksum": manifest.fingerprint(value)}))


def swap_ids(copy):
    """Each clip's id is still of its class."""
    paths = [copy / f"small-fold01.tfrecord-0000{number}-of-00002.json" for number in (0, 1)]
    first, second = (json.loads(path.read_text())["clip_ids"] for path in paths)
    match = next(
        (a, b) for a in range(3) for b in range(3) if first[a].split("/")[0] == second[b].split("/")[0]
    )
    second[match[1]] = first[match[0]]
    change_sidecar(paths[1], clip_ids=second)


def turn_labels(copy):
    path = copy / f"{NAME}.json"
    change_sidecar(path, labels=[(label + 1) % 3 for label in json.loads(path.read_text())["labels"]])


MISFITS = {
    f"{NAME}.json is not the one manifest.json lists: Expected filename": lambda copy: change_sidecar(
        copy / f"{NAME}.json", fold=2, filename=NAME.replace("fold01", "fold02")
    ),
    "Expected the label of the clip's class. Received: ": turn_labels,
    "Expected the label of the clip's class. Received: 70": lambda copy: change_sidecar(
        copy / f"{NAME}.json", labels=[70, 0, 0]
    ),
    "Expected records of 5760 to 16782976 bytes. Received: 8 at offset 0": lambda copy: change_sidecar(
        copy / f"{NAME}.json", offsets=[0, 8, 9000]
    ),
    "holds the clip 'Left/v_Left_g01_c01' in two shards|holds the clip": swap_ids,
}


@pytest.mark.parametrize("message", MISFITS)
def test_a_sidecar_that_does_not_fit_the_manifest_is_refused(data_dir, tmp_path, message):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    MISFITS[message](copy)
    with pytest.raises(UserError, match=message):
        load_clips(manifest.load(str(copy)), [1])
