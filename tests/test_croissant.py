"""croissant.json: what it says of files and records; when it is written. tests/readers/ loads it by mlcroissant."""

import dataclasses
import functools
import json
import os

import pytest

from tests.conftest import build, make_videos
from ucf50_tfrecord import about, building, croissant, dataset_card, manifest, storage, tfds
from ucf50_tfrecord.about import About
from ucf50_tfrecord.convert import decode, engines, lists, plan
from ucf50_tfrecord.shards import Named, Quarantined
from ucf50_tfrecord.specs import ClipFormat, FoldRule

DESCRIPTIONS = (*tfds.FILENAMES, croissant.FILENAME, dataset_card.FILENAME)


def read(folder):
    return json.loads((folder / "croissant.json").read_bytes().decode("utf-8"))


def nodes(value):
    """All JSON objects in a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def record_sets(value):
    return {item["@id"]: item for item in value["recordSet"]}


def convert(videos, data_dir):
    """Converts as the program does: with the facts beside the videos."""
    planned = plan.plan_shards(
        lists.find_videos(videos),
        name="small",
        clip_format=ClipFormat(num_frames=5, height=16, width=24),
        fold_rule=FoldRule(),
        decoder=decode.decoder_version(),
    )
    run = functools.partial(engines.run_local, num_workers=1)
    return building.build_dataset(planned, str(data_dir), run=run)


def test_every_file_has_its_size_and_checksum(data_dir):
    files = {item["@id"]: item for item in read(data_dir)["distribution"] if item["@type"] == "cr:FileObject"}
    assert set(files) == {path.name for path in data_dir.iterdir() if ".tfrecord-" in path.name}
    for name, item in files.items():
        assert item["sha256"] == storage.sha256(data_dir / name)
        assert item["contentUrl"] == name and item["contentSize"] == f"{os.path.getsize(data_dir / name)} B"


def test_every_reference_leads_to_a_node(data_dir):
    value = read(data_dir)
    named = [
        item["@id"]
        for item in nodes(value["distribution"] + value["recordSet"])
        if {"@id", "@type"} <= set(item)
    ]
    referred = {item["@id"] for item in nodes(value) if set(item) == {"@id"}}
    assert len(named) == len({*named})
    assert referred == {"sidecars", "classes/label", "folds/split", "clips/id"} and referred <= {*named}


def test_classes_and_folds_are_those_of_the_manifest(copy):
    loaded = manifest.load(str(copy))
    croissant.save(dataclasses.replace(loaded, fold_names=(Named(name="train", number=2),)))
    found = record_sets(read(copy))
    assert found["classes"]["data"] == [
        {"classes/label": label, "classes/name": name} for label, name in enumerate(loaded.classes)
    ]
    folds = [(row["folds/split"], row["folds/fold"], row["folds/name"]) for row in found["folds"]["data"]]
    assert folds[:3] == [("fold01", 1, "fold01"), ("fold02", 2, "train"), ("fold03", 3, "fold03")]
    assert found["folds"]["dataType"] == "cr:Split" and found["classes"]["dataType"] == "sc:Enumeration"


def test_unknown_facts_are_left_out(data_dir):
    unknown = {"license", "citeAs", "creator", "url", "datePublished", "rai:dataBiases", "rai:dataCollection"}
    value = read(data_dir)
    assert not unknown & set(value) and value["name"] == "small"
    assert (
        "rai:dataCollectionMissingData" not in value and "5 frames" in value["rai:dataPreprocessingProtocol"]
    )


def test_known_facts_are_stated(copy):
    loaded = manifest.load(str(copy))
    facts = About(
        title="T",
        description='d "1"\nü',
        license="MIT",
        citation="C",
        creator="O",
        url="https://a.b",
        published="2012",
    )
    quarantined = (Quarantined(relative_path="a/b.avi", reason="empty"),)
    croissant.save(dataclasses.replace(loaded, about=facts, quarantined=quarantined))
    value = read(copy)
    assert (value["name"], value["license"], value["citeAs"], value["url"]) == (
        "T",
        "MIT",
        "C",
        "https://a.b",
    )
    assert value["creator"] == {"@type": "sc:Organization", "name": "O"} and value["datePublished"] == "2012"
    assert value["description"].startswith('d "1"\nü\n\n30 clips of 3 kinds of action')
    assert value["rai:dataCollectionMissingData"].startswith("1 of 30 videos gave no clip")


def test_names_that_are_not_utf8_are_escaped(copy):
    loaded = manifest.load(str(copy))
    croissant.save(dataclasses.replace(loaded, classes=("\udcff", "b\n", "c")))
    names = [row["classes/name"] for row in record_sets(read(copy))["classes"]["data"]]
    assert names == ["\\udcff", "b\n", "c"] and all(name.encode() for name in names)


def test_equal_datasets_give_equal_bytes(copy):
    before = (copy / "croissant.json").read_bytes()
    croissant.save(manifest.load(str(copy)))
    assert (copy / "croissant.json").read_bytes() == before


@pytest.mark.parametrize("step", [tfds, croissant, dataset_card])
def test_an_interruption_leaves_no_half_written_file_and_no_manifest(tmp_path, monkeypatch, step):
    videos, data = make_videos(tmp_path / "videos", clips=1), tmp_path / "data"
    with monkeypatch.context() as patched:
        # It fails after it has written a part of its file.
        patched.setattr("os.fsync", _failing_for(step.FILENAMES[-1] if step is tfds else step.FILENAME))
        with pytest.raises(KeyboardInterrupt):
            build(videos, data)
    names = os.listdir(data)
    assert "manifest.json" not in names and not any(name.startswith(".tmp") for name in names)
    finished = set(DESCRIPTIONS[: DESCRIPTIONS.index(step.FILENAMES[-1] if step is tfds else step.FILENAME)])
    assert finished == set(DESCRIPTIONS) & set(names)
    whole = build(videos, data)
    assert set(DESCRIPTIONS) <= set(os.listdir(data))
    other = build(videos, tmp_path / "undisturbed")
    assert whole.fingerprint == other.fingerprint
    for name in DESCRIPTIONS:
        assert (data / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def _failing_for(filename):
    """An os.fsync that is interrupted at the temporary file of `filename`."""

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"-{filename}"):
            raise KeyboardInterrupt

    return fsync


def test_a_repair_writes_it_again(tmp_path, videos_dir):
    built = build(videos_dir, tmp_path / "data")
    before = (tmp_path / "data" / "croissant.json").read_bytes()
    (tmp_path / "data" / built.shards[0].filename).unlink()
    (tmp_path / "data" / "croissant.json").write_text("{")
    build(videos_dir, tmp_path / "data")
    assert (tmp_path / "data" / "croissant.json").read_bytes() == before


def test_changed_facts_reach_the_dataset_and_keep_its_shards(tmp_path):
    videos, data = make_videos(tmp_path / "videos", clips=1), tmp_path / "data"
    first = convert(videos, data)
    times = {path.name: path.stat().st_mtime_ns for path in data.iterdir() if ".tfrecord-" in path.name}
    about.save(videos, About(license="CC-BY-4.0"))
    second = convert(videos, data)
    assert second.about.license == "CC-BY-4.0" and second.fingerprint == first.fingerprint
    assert read(data)["license"] == "CC-BY-4.0"
    assert {
        path.name: path.stat().st_mtime_ns for path in data.iterdir() if ".tfrecord-" in path.name
    } == times
