"""Copies of datasets in stores that need no server; tests/stores has a real one."""

import json
import os

import pytest

from tests.conftest import build
from ucf50_tfrecord import manifest, remote
from ucf50_tfrecord.convert import publish
from ucf50_tfrecord.errors import UserError


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    return f"{request.param}://{tmp_path}/store/set"


@pytest.fixture
def sent(monkeypatch):
    """The names of the files that are sent, in their order."""
    names, upload = [], remote.upload

    def note(path, url):
        upload(path, url)
        names.append(url.rpartition("/")[2])

    monkeypatch.setattr(remote, "upload", note)
    return names


def files_of(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def test_the_manifest_comes_last_and_nothing_is_sent_twice(data_dir, url, sent):
    built, told = manifest.load(str(data_dir)), []
    copied = publish.publish(built, url, on_shard=lambda: told.append(1))
    assert sent[-1] == "manifest.json" and sorted(sent) == files_of(data_dir)
    assert sorted(remote.list_names(url)) == files_of(data_dir) and len(told) == len(built.shards)
    assert manifest.load(url) == copied and copied.fingerprint == built.fingerprint
    sent.clear()
    assert publish.publish(built, url) == copied and not sent


def test_a_sidecar_follows_its_shard(data_dir, url, sent):
    publish.publish(manifest.load(str(data_dir)), url)
    for shard in manifest.load(url).shards:
        assert sent.index(shard.filename) < sent.index(f"{shard.filename}.json")


def test_what_an_interrupted_copy_left_is_removed_by_the_next(
    data_dir, videos_dir, url, tmp_path, monkeypatch
):
    """Else readers that go by the shards' names would read clips of two datasets."""
    publish.publish(manifest.load(str(data_dir)), url)
    remote.write(f"{url}/notes-fold01.tfrecord.txt", b"mine")
    other = build(videos_dir, tmp_path / "other", shard_bytes=60_000)
    assert {shard.filename for shard in other.shards}.isdisjoint(files_of(data_dir))
    upload = remote.upload

    def fail(path, url):
        if url.endswith(other.shards[-1].filename):
            raise UserError(f"Cannot write {url}")
        upload(path, url)

    monkeypatch.setattr(remote, "upload", fail)
    with pytest.raises(UserError, match="Cannot write"):
        publish.publish(other, url)
    assert manifest.load_if_finished(url) is None
    monkeypatch.setattr(remote, "upload", upload)
    publish.publish(other, url)
    expected = [*files_of(tmp_path / "other"), "notes-fold01.tfrecord.txt"]
    assert sorted(remote.list_names(url)) == sorted(expected)
    assert manifest.load(url).fingerprint == other.fingerprint


def test_shards_of_another_name_are_removed(data_dir, videos_dir, url, tmp_path):
    publish.publish(manifest.load(str(data_dir)), url)
    renamed = build(videos_dir, tmp_path / "renamed", name="renamed")
    publish.publish(renamed, url)
    assert sorted(remote.list_names(url)) == files_of(tmp_path / "renamed")


def test_verifying_sends_what_is_damaged_again(data_dir, url, sent):
    built = manifest.load(str(data_dir))
    publish.publish(built, url)
    damaged = f"{url}/{built.shards[2].filename}"
    content = bytearray(remote.read(damaged))
    content[900] ^= 1
    remote.write(damaged, bytes(content))
    sent.clear()
    publish.publish(built, url)
    assert not sent  # its size is right
    publish.publish(built, url, verify=True)
    assert sent == [built.shards[2].filename, f"{built.shards[2].filename}.json"]
    assert manifest.verify_shard(manifest.load(url), built.shards[2]) == []


def test_a_hostile_manifest_removes_no_file(data_dir, url):
    """It may list shards; what is no shard's name, or has a path in it, it cannot list."""
    built = manifest.load(str(data_dir))
    value = json.loads((data_dir / "manifest.json").read_text())
    for name in ("victim.txt", "../victim.txt", "sub/small-fold01.tfrecord-00000-of-00002"):
        remote.write(f"{url}/{name}", b"mine")
        hostile = value | {"shards": [*value["shards"], value["shards"][0] | {"filename": name}]}
        remote.write(f"{url}/manifest.json", json.dumps(hostile).encode())
        publish.publish(built, url)
        assert remote.read(f"{url}/{name}") == b"mine"
        remote.remove(f"{url}/{name}")


def test_a_description_that_differs_is_sent_again_though_the_manifest_does_not(copy, url, sent):
    """Sidecars, whose sizes one of them holds, may change without their shards."""
    built = manifest.load(str(copy))
    publish.publish(built, url)
    (copy / "croissant.json").write_text("{}")
    sent.clear()
    publish.publish(built, url)
    assert sent == ["croissant.json"] and remote.read(f"{url}/croissant.json", 0, 2) == b"{}"


def test_a_dataset_of_an_earlier_version_is_published_without_what_it_lacks(copy, url):
    built = manifest.load(str(copy))
    publish.publish(built, url)
    for name in ("croissant.json", "DATASET_CARD.md"):
        (copy / name).unlink()
    assert publish.publish(built, url) == manifest.load(url)
    assert sorted(remote.list_names(url)) == files_of(copy)
