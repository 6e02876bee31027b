"""mlcroissant validates croissant.json and reads the clips of a dataset."""

import pytest

from tests.conftest import build, make_videos, write_numbered_video
from tests.readers import document
from tests.test_croissant import convert
from ucf50_tfrecord import about, manifest
from ucf50_tfrecord.about import About

mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed: make test-readers")

from tests.features.test_encode import build as encode_features  # noqa: E402
from tests.features.test_encode import own_module  # noqa: E402, F401  (a fixture)

ODD_NAMES = ('quo"te', "it's", "line\nbreak", "ünï 😀", "comma, semi;", "N", "NA", "007", "a\\b")
FACTS = About(
    title='A "set"',
    description="Line\nbreak, ünï.",
    license="CC-BY-4.0",
    citation="@misc{a, title={b}}",
    creator="O",
    url="https://example.org/set",
    published="2026-11",
    collection="By us.",
    people="None.",
    biases="Few.",
    limits="Small.",
)


def load(folder):
    """Validates a dataset's croissant.json; returns the dataset as mlcroissant sees it."""
    found = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert not found.metadata.ctx.issues.errors
    return found


def clips_by_mlcroissant(found):
    records = list(found.records("clips"))
    names = ("id", "label", "group", "fold", "split")
    rows = [tuple(record[f"clips/{name}"] for name in names) for record in records]
    return sorted((row[0].decode(), *row[1:4], row[4].decode()) for row in rows)


def clips_by_sidecars(folder):
    loaded, rows = manifest.load(str(folder)), []
    for shard in loaded.shards:
        report = manifest.load_report(str(folder), shard.filename)
        rows += [
            (clip_id, label, group, shard.fold, f"fold{shard.fold:02d}")
            for clip_id, label, group in zip(report.clip_ids, report.labels, report.groups)
        ]
    assert len(rows) == loaded.num_clips > 0
    return sorted(rows)


def assert_it_reads(folder):
    found, loaded = load(folder), manifest.load(str(folder))
    assert clips_by_mlcroissant(found) == clips_by_sidecars(folder)
    classes = [(row["classes/label"], row["classes/name"]) for row in found.records("classes")]
    assert classes == list(enumerate(loaded.classes))
    assert [row["folds/fold"] for row in found.records("folds")] == list(loaded.folds)


def test_it_reads_the_clips_of_frames(data_dir):
    assert_it_reads(data_dir)


def test_the_example_of_mlcroissant(project, data_dirs, monkeypatch):
    found = document.run("import mlcroissant", project, monkeypatch)
    assert found["classes"] == ["Left", "Right"]
    assert [(clip["clips/fold"], clip["clips/label"]) for clip in found["train"]] == [
        (fold, label) for fold in (6, 7, 12, 21) for label in by_fold(data_dirs["raw"], fold)
    ]


def by_fold(folder, fold):
    """The labels of a fold's clips, in the order of its shards."""
    shards = [shard for shard in manifest.load(str(folder)).shards if shard.fold == fold]
    return [label for shard in shards for label in manifest.load_report(str(folder), shard.filename).labels]


def test_it_reads_the_clips_of_features(data_dir, tmp_path, own_module):  # noqa: F811
    encode_features(data_dir, tmp_path / "features")
    assert_it_reads(tmp_path / "features")


def test_it_reads_odd_names_of_classes_and_videos(tmp_path):
    for number, name in enumerate(ODD_NAMES):
        write_numbered_video(tmp_path / "videos" / name / f"v_x_g{1 + number % 3:02d}_c01.avi", 8)
        write_numbered_video(tmp_path / "videos" / name / "A.avi", 8)  # without a group, and N/A
    build(tmp_path / "videos", tmp_path / "data")
    assert_it_reads(tmp_path / "data")


def test_it_reads_named_folds_and_all_facts(tmp_path):
    videos = make_videos(tmp_path / "videos", clips=1)
    about.save(videos, FACTS)
    lines = [f"{path.relative_to(videos)},{path.parent.name}" for path in sorted(videos.rglob("*.avi"))]
    rows = [f"{line},{'test' if number % 3 else 'train'}" for number, line in enumerate(lines)]
    (videos / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    convert(videos / "list.csv", tmp_path / "data")
    assert_it_reads(tmp_path / "data")
    found = load(tmp_path / "data")
    assert [row["folds/name"] for row in found.records("folds")] == ["train", "test"]
    metadata = found.metadata
    assert not metadata.ctx.issues.warnings
    assert (metadata.name, metadata.license, metadata.cite_as) == ('A "set"', ["CC-BY-4.0"], FACTS.citation)
    assert metadata.description.startswith("Line\nbreak, ünï.") and metadata.creators[0].name == "O"
    assert metadata.data_collection == "By us." and metadata.personal_sensitive_information == ["None."]
    assert metadata.data_biases == ["Few."] and metadata.data_limitations == ["Small."]


def test_names_that_are_not_utf8_are_valid_but_not_read(tmp_path):
    """docs/readers.md says so."""
    for name in ("\udcff", "b"):
        write_numbered_video(tmp_path / "videos" / name / "v_x_g01_c01.avi", 8)
    build(tmp_path / "videos", tmp_path / "data")
    found = load(tmp_path / "data")
    with pytest.raises(mlcroissant.GenerationError):
        list(found.records("clips"))


def test_a_resumed_conversion_is_read(tmp_path, videos_dir):
    built = build(videos_dir, tmp_path / "data")
    for path in ("manifest.json", "croissant.json", built.shards[1].filename):
        (tmp_path / "data" / path).unlink()
    build(videos_dir, tmp_path / "data")
    assert_it_reads(tmp_path / "data")
