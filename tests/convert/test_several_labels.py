"""Lists with several labels per video: catalogue, shards, sidecars, manifest, and the files that describe them."""

import dataclasses
import json

import pytest

from tests.conftest import build, flip_bit
from tests.convert.test_lists import find, write
from tests.convert.test_plan import make_plan
from tests.several_labels import make_data
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, tfrecord
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("several"))


def test_a_list_with_several_labels_of_one_video_is_multi_label(tmp_path):
    found = find(tmp_path, "path,label\na/x.avi,run;jump\nb.avi,run\nc.avi,hop\n")
    assert found.multi_label and found.classes == ("hop", "jump", "run")
    assert [(v.video_id, v.class_name, v.label) for v in found.videos] == [
        ("a/x", ("jump", "run"), (1, 2)),
        ("b", ("run",), (2,)),
        ("c", ("hop",), (0,)),
    ]
    assert make_plan(found).multi_label


def test_json_lines_name_labels_as_text_or_as_a_list(tmp_path):
    rows = [{"path": "a.avi", "label": ["y", "x"]}, {"path": "b.avi", "label": "y;z"}]
    rows += [{"path": "c.avi", "label": "z"}, {"path": "d.avi", "label": ["z"]}]
    found = find(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "list.jsonl")
    table = "path,label\na.avi,x;y\nb.avi,z;y\nc.avi,z\nd.avi,z\n"
    assert found.videos == find(tmp_path, table).videos


def test_a_list_of_one_label_each_in_json_is_multi_label(tmp_path):
    rows = [{"path": "a.avi", "label": ["x"]}, {"path": "b.avi", "label": ["y"]}]
    assert find(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "list.jsonl").multi_label


@pytest.mark.parametrize(
    "cell, mistake",
    [
        ("", "Expected a field label. Received: none"),
        (";", "Expected a name before, between and after each separator of labels. Received: label=';'"),
        (
            "x;;y",
            "Expected a name before, between and after each separator of labels. Received: label='x;;y'",
        ),
        (
            "x;y;",
            "Expected a name before, between and after each separator of labels. Received: label='x;y;'",
        ),
        ("x;y;x", "Expected each label of a video once. Received: label='x;y;x'"),
        ("x; y", "Expected a label of printable characters, without spaces around it. Received: label=' y'"),
        ("x;a/b", "Expected a label like a folder's name. Received: label='a/b'"),
        (f"x;{'y' * 256}", "Expected labels of at most 255 characters. Received: length=256"),
        (";".join(map(str, range(201))), "Expected at most 200 labels. Received: labels=201"),
    ],
)
def test_mistakes_in_labels_are_named(tmp_path, cell, mistake):
    path = write(tmp_path, f"path,label\na.avi,x;y\nb.avi,{cell}\n")
    with pytest.raises(UserError) as raised:
        find(tmp_path, path.read_text())
    assert str(raised.value) == f"{path} has a mistake. line 3: {mistake}"


def test_jobs_change_with_each_label(tmp_path):
    text = "path,label\na.avi,x;y\nb.avi,y\n"
    jobs = make_plan(find(tmp_path, text)).jobs
    assert jobs == make_plan(find(tmp_path, text.replace("x;y", "y;x"))).jobs
    others = make_plan(find(tmp_path, text.replace("b.avi,y", "b.avi,x"))).jobs
    changed = {job.fingerprint for job in jobs} - {job.fingerprint for job in others}
    assert changed == {jobs[[job.videos[0].video_id for job in jobs].index("b")].fingerprint}


def test_records_hold_all_labels(data_dir):
    manifest = manifest_lib.load(str(data_dir))
    clips = load_clips(manifest, manifest.folds)
    seen = {}
    for shard in manifest.shards:
        for _, payload in tfrecord.read_file(data_dir / shard.filename):
            features = record.decode(payload)
            [clip_id] = features[record.MEDIA_ID]
            names = tuple(name.decode() for name in features[record.LABEL_STRING])
            assert features[record.LABEL_INDEX] == features[record.LABEL]
            assert names == tuple(manifest.classes[label] for label in features[record.LABEL])
            seen[clip_id.decode()] = tuple(features[record.LABEL])
    assert seen == {
        clip_id: tuple(row.nonzero()[0].tolist()) for clip_id, row in zip(clips.ids, clips.labels)
    }
    assert clips.labels.dtype == "uint8" and clips.labels.sum(axis=1).max() == 2
    for label in range(len(manifest.classes)):
        assert (clips.has_class(label) == clips.labels[:, label]).all()


def test_the_manifest_counts_a_clip_in_each_of_its_classes(data_dir):
    manifest = manifest_lib.load(str(data_dir))
    assert manifest.multi_label and manifest.clips_per_class[1] == (3, 2, 2, 2)
    assert manifest.num_clips == 30 and manifest.clips_per_fold == dict.fromkeys(range(1, 6), 6)
    value = json.loads((data_dir / "manifest.json").read_bytes())
    assert value["multi_label"] is True and value["folds"]["1"]["num_clips"] == 6
    assert manifest.fingerprint != dataclasses.replace(manifest, multi_label=False).fingerprint


@pytest.mark.parametrize("counts", [[7, 2, 2, 2], [1, 1, 1, 1], [3, 2, 2]])
def test_impossible_counts_of_a_manifest_are_an_error(data_dir, tmp_path, counts):
    value = json.loads((data_dir / "manifest.json").read_bytes())
    value["folds"]["1"]["clips_per_class"] = counts
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(
        UserError, match="Expected clips_per_class of fold 1 for 4 classes, each at most and toge"
    ):
        manifest_lib.load(str(tmp_path))


def test_a_dataset_with_one_label_does_not_mention_several(tmp_path, videos_dir):
    build(videos_dir, tmp_path / "data")
    assert b"multi_label" not in (tmp_path / "data/manifest.json").read_bytes()


def test_sidecars_must_fit_the_manifest(data_dir):
    manifest = manifest_lib.load(str(data_dir))
    shard = manifest.shards[0]
    report = manifest_lib.load_report(str(data_dir), shard.filename)
    manifest_lib.check_report(manifest, shard, report)
    for labels, message in (
        ((4,), "Expected labels of the dataset's classes. Received: \\(4,\\)"),
        (0, "Expected several labels per clip. Received: 0"),
    ):
        changed = dataclasses.replace(report, labels=(labels, *report.labels[1:]))
        with pytest.raises(UserError, match=message):
            manifest_lib.check_report(manifest, shard, changed)
    single = dataclasses.replace(manifest, multi_label=False)
    with pytest.raises(UserError, match="Expected one label per clip. Received: "):
        manifest_lib.check_report(single, shard, report)
    for labels in ((1, 0), (1, 1)):
        with pytest.raises(UserError, match="Expected distinct labels in ascending order"):
            dataclasses.replace(report, labels=(labels, *report.labels[1:]))


def test_records_of_other_labels_are_found(data_dir, tmp_path):
    manifest = manifest_lib.load(str(data_dir))
    shard = manifest.shards[0]
    assert manifest_lib.verify_shard(manifest, shard) == []
    report = manifest_lib.load_report(str(data_dir), shard.filename)
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    moved = dataclasses.replace(manifest, data_dir=str(tmp_path))
    several = next(i for i, labels in enumerate(report.labels) if len(labels) > 1)
    labels = (*report.labels[:several], report.labels[several][:1], *report.labels[several + 1 :])
    manifest_lib.save_report(str(tmp_path), dataclasses.replace(report, labels=labels))
    [problem] = manifest_lib.verify_shard(moved, shard)
    assert problem.endswith("holds clips of other labels than its sidecar says")
    flip_bit(tmp_path / shard.filename, report.offsets[1] + 400)
    assert "is damaged" in manifest_lib.verify_shard(moved, shard)[0]


def test_descriptions_name_several_labels(data_dir):
    card = (data_dir / "DATASET_CARD.md").read_text()
    assert "30 clips of 4 kinds of action, one or several per clip, from 30 videos" in card
    assert [row.split("|")[-2].strip() for row in card.splitlines() if row.startswith("| fold")] == ["6"] * 5
    croissant = json.loads((data_dir / "croissant.json").read_bytes())
    clips = next(item for item in croissant["recordSet"] if item["@id"] == "clips")
    label = next(field for field in clips["field"] if field["@id"] == "clips/label")
    assert label["repeated"] is True


def test_tensorflow_datasets_reads_several_labels(data_dir):
    tfds = pytest.importorskip("tensorflow_datasets")
    manifest = manifest_lib.load(str(data_dir))
    clips = load_clips(manifest, [1])
    expected = {clip_id: row.nonzero()[0].tolist() for clip_id, row in zip(clips.ids, clips.labels)}
    found = tfds.as_numpy(tfds.builder_from_directory(str(data_dir)).as_dataset(split="fold01"))
    assert {clip["clip/media_id"].decode(): clip["label"].tolist() for clip in found} == expected
