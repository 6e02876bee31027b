import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.conftest import REPOSITORY, flip_bit, raises_with_remedies
from tests.web import serving
from ucf50_tfrecord import manifest, remote, storage
from ucf50_tfrecord.dataset import shard_cache, shard_files
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.reader import ClipReader, read_record
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import FetchSpec

GIB = 1 << 30


@pytest.fixture
def server(data_dir):
    with serving(data_dir) as server:
        yield server


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(shard_cache, "_RETRY_SECS", (0.01, 0.01))


def clips_of(url, cache_dir, *, cache_bytes=GIB, folds=None, shuffle_shards=0):
    loaded = manifest.load(url)
    fetch = FetchSpec(cache_dir=str(cache_dir), cache_bytes=cache_bytes)
    return load_clips(loaded, folds or loaded.folds, fetch=fetch, shuffle_shards=shuffle_shards)


def read_all(clips, order=None):
    index = np.arange(len(clips)) if order is None else order
    reader = ClipReader(clips)
    return np.concatenate([reader.read_raw(index[i : i + 1])[0] for i in range(len(index))])


@pytest.fixture(scope="module")
def expected(data_dir):
    loaded = manifest.load(str(data_dir))
    return read_all(load_clips(loaded, loaded.folds))


def copies(folder):
    return sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix == ".tfrecord")


def test_copies_give_the_same_clips_and_are_fetched_once(server, tmp_path, expected):
    clips = clips_of(server.url, tmp_path)
    assert (read_all(clips) == expected).all()
    shards = {shard.filename: shard.num_bytes for shard in clips.manifest.shards}
    assert {name: server.num_bytes_sent[name] for name in shards} == shards
    shard_files._CACHES.clear()  # another process
    assert (read_all(clips_of(server.url, tmp_path)) == expected).all()
    assert {name: server.num_bytes_sent[name] for name in shards} == shards


def wait_for_copies(folder, count):
    deadline = time.monotonic() + 20
    while len(copies(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_shards_are_fetched_ahead_of_their_use(server, tmp_path):
    clips = clips_of(server.url, tmp_path)
    reader = ClipReader(clips)
    ClipReader(
        clips_of(server.url, tmp_path, shuffle_shards=1)
    )  # as pictures are made of a few clips meanwhile
    reader.expect(np.arange(len(clips)))
    wait_for_copies(tmp_path, len(clips.shard_paths))


def test_a_copy_resumes_where_it_was_stopped(server, data_dir, tmp_path, expected):
    clips = clips_of(server.url, tmp_path)
    shard = clips.manifest.shards[0]
    content = (data_dir / shard.filename).read_bytes()
    (tmp_path / f"{shard.sha256}-{shard.num_bytes}.part").write_bytes(content[:5000])
    assert (read_all(clips) == expected).all()
    assert server.num_bytes_sent[shard.filename] == shard.num_bytes - 5000
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_partial_copy_is_fetched_again(server, tmp_path, expected):
    clips = clips_of(server.url, tmp_path)
    shard = clips.manifest.shards[0]
    (tmp_path / f"{shard.sha256}-{shard.num_bytes}.part").write_bytes(b"x" * 5000)
    assert (read_all(clips) == expected).all()


def test_a_server_without_ranges_works(server, data_dir, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(shard_cache, "_CHUNK_BYTES", 7000)
    clips = clips_of(server.url, tmp_path)
    server.behaviour = {s.filename: (data_dir / s.filename).read_bytes() for s in clips.manifest.shards}
    assert (read_all(clips) == expected).all()


@pytest.mark.parametrize("window", [0, 1, 2])
def test_the_folder_holds_no_more_than_it_may(server, tmp_path, expected, window):
    clips = clips_of(server.url, tmp_path)
    largest = max(shard.num_bytes for shard in clips.manifest.shards)
    room = 2 * max(window, 1) * largest
    clips = clips_of(server.url, tmp_path, cache_bytes=room, shuffle_shards=window or 1)
    order = np.arange(len(clips)) if not window else np.argsort(clips.shards % 5, kind="stable")
    most, done = [0], threading.Event()

    def watch():
        while not done.is_set():
            sizes = []
            for path in tmp_path.iterdir():
                try:
                    sizes.append(path.stat().st_size if path.suffix in (".tfrecord", ".part") else 0)
                except FileNotFoundError:
                    pass
            most[0] = max(most[0], sum(sizes))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            assert (read_all(clips, order) == expected[order]).all()
    finally:
        done.set()
        watcher.join()
    assert largest <= most[0] <= room
    assert server.num_bytes_sent[clips.manifest.shards[0].filename] > clips.manifest.shards[0].num_bytes


READ = """
import sys, numpy as np
from tests.dataset import test_shard_files as tests
url, folder, room, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
clips = tests.clips_of(url, folder, cache_bytes=room, shuffle_shards=1)
for epoch in range(3):
    order = np.random.default_rng([seed, epoch]).permutation(len(clips.shard_paths))
    order = np.concatenate([np.flatnonzero(clips.shards == shard) for shard in order])
    video = tests.read_all(clips, order)
    print(epoch, int(video[np.argsort(order)].astype(np.int64).sum()), flush=True)
"""


def test_processes_share_a_folder_that_holds_less_than_they_read(server, tmp_path, expected):
    loaded = manifest.load(server.url)
    room = 8 * max(shard.num_bytes for shard in loaded.shards)
    command = [sys.executable, "-c", READ, server.url, tmp_path, str(room)]
    processes = [
        subprocess.Popen([*command, str(seed)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for seed in range(3)
    ]
    for process in processes:
        lines = process.communicate(timeout=500)[0].splitlines()
        assert process.returncode == 0
        assert lines == [f"{epoch} {expected.astype(np.int64).sum()}" for epoch in range(3)]
    assert sum(path.stat().st_size for path in copies(tmp_path)) <= room


def test_a_folder_full_of_shards_in_use_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_ROOM_WAIT_SECS", 0.2)
    clips = clips_of(server.url, tmp_path)
    room = 3 * max(shard.num_bytes for shard in clips.manifest.shards)
    clips = clips_of(server.url, tmp_path, cache_bytes=room, shuffle_shards=1)
    others = shard_cache.ShardCache(shard_files.open_files(clips).shards, clips.fetch)
    others.check_room([others.shards[path] for path in clips.shard_paths[:3]], 0)
    for path in clips.shard_paths[:3]:
        others.open(path)
    with raises_with_remedies("is full of shards in use.*--fetch_cache_gib"):
        read_all(clips, np.flatnonzero(clips.shards > 2))


def test_a_cache_too_small_is_an_error_before_anything_is_fetched(server, tmp_path):
    clips = clips_of(server.url, tmp_path, cache_bytes=20_000)
    with raises_with_remedies("shuffled together take .* GiB.*--fetch_cache_gib.*--shuffle_shards"):
        ClipReader(clips)
    assert not copies(tmp_path)


def test_a_damaged_shard_is_named_and_leaves_no_copy(server, data_dir, tmp_path):
    clips = clips_of(server.url, tmp_path)
    shard = clips.manifest.shards[0]
    content = bytearray((data_dir / shard.filename).read_bytes())
    content[700] ^= 1
    server.behaviour[shard.filename] = bytes(content)
    with pytest.raises(UserError, match=f"{server.url}/{shard.filename} is damaged: it has another sha256"):
        read_all(clips)
    reader = ClipReader(clips, skip_bad_records=True)
    good = reader.read_raw(np.arange(len(clips)))[1]
    assert (good == (clips.shards != 0)).all()
    assert not list(tmp_path.glob(f"{shard.sha256}*"))


def test_a_missing_shard_is_named(server, tmp_path):
    clips = clips_of(server.url, tmp_path)
    server.behaviour[clips.manifest.shards[1].filename] = 404
    with raises_with_remedies(f"{clips.manifest.shards[1].filename} is missing.*make repair"):
        read_all(clips)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_failing_server_is_not_a_bad_record(server, tmp_path, status):
    clips = clips_of(server.url, tmp_path)
    server.behaviour = {shard.filename: status for shard in clips.manifest.shards}
    reader = ClipReader(clips, skip_bad_records=True)
    with pytest.raises(UserError, match=f"Cannot read {server.url}/.*{status}") as raised:
        reader.read_raw(np.arange(4))
    assert reader.error is raised.value and not reader.skipped


def test_a_lost_server_is_an_error_in_bounded_time(data_dir, tmp_path):
    with serving(data_dir) as server:
        clips = clips_of(server.url, tmp_path)
    started = time.monotonic()
    with pytest.raises(UserError, match=f"Cannot read {server.url}/"):
        read_all(clips)
    assert time.monotonic() - started < 60


def copy_of(shard, folder):
    return folder / f"{shard.sha256}.tfrecord"


def test_a_copy_that_the_disk_damages_is_fetched_again_once(server, tmp_path, expected):
    clips = clips_of(server.url, tmp_path)
    read_all(clips)
    shard = clips.manifest.shards[0]
    flip_bit(copy_of(shard, tmp_path), 3000)
    reader = ClipReader(clips, skip_bad_records=True)
    video, good = reader.read_raw(np.arange(len(clips)))
    assert good.all() and (video == expected).all() and not reader.skipped
    assert server.num_bytes_sent[shard.filename] == 2 * shard.num_bytes
    flip_bit(copy_of(shard, tmp_path), 3000)  # this disk will not do
    with pytest.raises(UserError, match=f"copied to {tmp_path}.*: the record at byte 0 is damaged"):
        read_all(clips)
    assert server.num_bytes_sent[shard.filename] == 2 * shard.num_bytes


def test_a_damaged_copy_is_fetched_once_for_all_threads(server, tmp_path):
    clips = clips_of(server.url, tmp_path)
    cache, path, shard = shard_files.open_files(clips), clips.shard_paths[0], clips.manifest.shards[0]
    other = shard_cache.ShardCache(cache.shards, clips.fetch)  # another process
    files = [cache.open(path), cache.open(path), other.open(path)]
    flip_bit(copy_of(shard, tmp_path), 3000)
    assert [cache.renew(path, files[0]), cache.renew(path, files[1])] == [True, True]
    content = cache.open(path).read()
    assert other.renew(path, files[2]) and other.open(path).read() == content
    assert server.num_bytes_sent[shard.filename] == 2 * shard.num_bytes
    sound = cache.open(path)
    assert not cache.renew(path, sound) and cache.open(path) is sound


def test_a_record_published_damaged_is_named_and_not_fetched_again(data_dir, tmp_path):
    folder = shutil.copytree(data_dir, tmp_path / "set")
    loaded = manifest.load(str(folder))
    shard = loaded.shards[0]
    flip_bit(folder / shard.filename, 3000)
    sha256 = storage.sha256(folder / shard.filename)
    report = manifest.load_report(str(folder), shard.filename)
    manifest.save_report(str(folder), dataclasses.replace(report, sha256=sha256))
    shards = (dataclasses.replace(shard, sha256=sha256), *loaded.shards[1:])
    dataclasses.replace(loaded, shards=shards).save()
    with serving(folder) as server:
        clips = clips_of(server.url, tmp_path / "cache")
        with pytest.raises(UserError, match="the record at byte 0 is damaged"):
            read_all(clips)
        assert server.num_bytes_sent[shard.filename] == shard.num_bytes


def test_other_files_in_the_folder_are_left_alone(server, tmp_path, expected):
    clips = clips_of(server.url, tmp_path)
    room = 2 * max(shard.num_bytes for shard in clips.manifest.shards)
    assert (read_all(clips) == expected).all()
    mine = [tmp_path / name for name in ("mine.tfrecord", "film.part", "a-b.part")]
    for path in mine:
        path.write_bytes(bytes(room))
    clips = clips_of(server.url, tmp_path, cache_bytes=room, shuffle_shards=1)
    assert (read_all(clips) == expected).all()
    assert [path.stat().st_size for path in mine] == [room] * 3


def test_a_copy_that_is_removed_meanwhile_is_no_error(tmp_path):
    gone = tmp_path / f"{'0' * 64}.tfrecord"
    assert shard_cache._counted_bytes(gone) == 0 and not shard_cache._remove_unlocked(gone)


def test_shards_fetched_ahead_make_room_for_one_that_is_needed(server, tmp_path, expected, monkeypatch):
    """Training has been told which shards come next, and fills the folder; evaluation needs others."""
    monkeypatch.setattr(shard_cache, "_ROOM_WAIT_SECS", 2.0)
    room = 4 * max(shard.num_bytes for shard in manifest.load(server.url).shards)
    training, evaluation = (
        clips_of(server.url, tmp_path, cache_bytes=room, folds=f) for f in ([1, 2], [3, 4])
    )
    reader = ClipReader(training)
    shard_files.open_files(evaluation)
    reader.expect(np.arange(len(training)))
    wait_for_copies(tmp_path, len(training.shard_paths))
    wanted = expected[[3 <= fold <= 4 for fold in clips_of(server.url, tmp_path).folds]]
    assert (read_all(evaluation) == wanted).all()


def test_a_disk_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    clips = clips_of(server.url, tmp_path)
    shard_files.open_files(clips)
    monkeypatch.setattr(shard_cache.os, "replace", fail)
    with pytest.raises(UserError, match=f"^Cannot write {tmp_path}/.*part: No space left on device"):
        read_all(clips)


def test_a_manifest_is_requested_once(server):
    manifest.load(server.url)
    assert server.num_requests == {"manifest.json": 1}
    server.behaviour["manifest.json"] = 404
    assert manifest.load_if_finished(server.url) is None
    assert server.num_requests == {"manifest.json": 2}


def test_a_few_records_are_read_without_their_shards(server, tmp_path, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = clips_of(server.url, tmp_path / "cache")
    for index in (0, 7):
        np.testing.assert_array_equal(read_record(clips, index)["video"], expected[index])
    sent = sum(n for name, n in server.num_bytes_sent.items() if "tfrecord" in name and "json" not in name)
    assert sent == clips.sizes[[0, 7]].sum() and not list(tmp_path.iterdir())
    server.behaviour[clips.manifest.shards[0].filename] = 404
    with pytest.raises(UserError, match=f"Cannot read {clips.shard_paths[0]}"):
        read_record(clips, 0)


def test_a_missing_manifest_is_named(server):
    server.behaviour["manifest.json"] = 404
    with pytest.raises(UserError, match=f"{server.url} holds no manifest.json"):
        manifest.load(server.url)


def test_a_web_server_cannot_be_written(server):
    with pytest.raises(UserError, match="Cannot write http://.*/x: "):
        remote.write(f"{server.url}/x", b"")


def test_threads_that_wait_for_a_shard_share_its_failure(server, tmp_path, monkeypatch):
    clips = clips_of(server.url, tmp_path)
    attempts, begun, go_on = [], threading.Event(), threading.Event()

    def fail(url, *_):
        attempts.append(url)
        begun.set()
        assert go_on.wait(20)
        raise UserError(f"Cannot read {url}: gone")

    monkeypatch.setattr(shard_cache, "_download", fail)
    cache, url = shard_files.open_files(clips), clips.shard_paths[0]
    found = []

    def open_it():
        with pytest.raises(UserError, match="gone") as error:
            cache.open(url)
        found.append(error.value)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    time.sleep(0.2)  # the others wait by now; one that does not would only try for itself
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(attempts) == 1
    with pytest.raises(UserError):  # a later one tries again
        cache.open(url)
    assert len(attempts) == 2


def test_a_shard_without_end_is_copied_no_further_than_its_size(server, tmp_path):
    clips = clips_of(server.url, tmp_path, folds=[1])
    name = clips.manifest.shards[0].filename
    server.behaviour[name] = ...
    cache, sizes = shard_files.open_files(clips), []
    remove = pathlib.Path.unlink

    def note(path, **options):
        sizes.append(path.stat().st_size)
        remove(path, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="it has another sha256"):
        patch.setattr(pathlib.Path, "unlink", note)
        cache.open(f"{server.url}/{name}")
    assert sizes == [clips.manifest.shards[0].num_bytes] * 2


def test_a_manifest_cannot_name_a_copy_outside_the_cache(server, tmp_path):
    value = json.loads(manifest_text := (server_folder := server._folder / "manifest.json").read_text())
    value["shards"][0]["sha256"] = "../../victim/data"
    server.behaviour["manifest.json"] = json.dumps(value).encode()
    with pytest.raises(UserError, match="manifest.json is not a dataset's manifest: .*sha256: Expected str"):
        manifest.load(server.url)
    assert server_folder.read_text() == manifest_text


def test_a_folder_of_something_else_is_no_cache(server, tmp_path):
    (tmp_path / "mine.txt").touch()
    clips = clips_of(server.url, tmp_path)
    with pytest.raises(UserError, match="a folder for a cache of shards: .*, such as 'mine.txt'"):
        shard_files.open_files(clips)
    (tmp_path / f"{'0' * 64}.tfrecord").touch()  # as earlier versions left it
    shard_files.open_files(clips)
