import itertools
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import build, flip_bit, raises_with_remedies
from tests.dataset.helpers import assert_equal_batches
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset import feed as feed_lib
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training.strategy import make_strategy

KEPT = ("none", "host", "device")


def feed_batches(clips, count, *, cache, reader_options=None, **options):
    feed = Feed(clips, strategy=make_strategy("one"), cache=cache, **(reader_options or {}))
    stream = feed.batches(**options)
    batches = []
    for _ in range(count):
        batch = next(stream)
        named = {name: np.array(batch[name]) for name in ("index", "label", "position", "mask")}
        batches.append(named | {"video": np.array(feed.frames(batch))})
    return feed, batches


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("seed", [None, 3])
def test_all_caches_give_the_same_batches(videos_dir, tmp_path, encoding, seed):
    built = build(videos_dir, tmp_path / "data", encoding=encoding, shard_bytes=20_000)
    clips = load_clips(built, [1, 2, 3])
    options = {"batch_size": 4, "seed": seed, "start_step": 2}
    found = [feed_batches(clips, 3 if seed is None else 9, cache=cache, **options)[1] for cache in KEPT]
    for batches in found[1:]:
        for expected, batch in zip(found[0], batches, strict=True):
            for name in expected:
                np.testing.assert_array_equal(batch[name], expected[name])


def test_loading_reports_its_progress(data_dir, monkeypatch):
    told = []
    monkeypatch.setattr(feed_lib, "_LOADED_AT_ONCE_BYTES", 5 * 5760)
    clips = load_clips(manifest.load(str(data_dir)), [1, 2])
    Feed(clips, strategy=make_strategy("one"), cache="host", on_loaded=told.append)
    assert told == [5, 5, 2]


def test_a_few_clips_are_read_without_a_feed(data_dir):
    clips = load_clips(manifest.load(str(data_dir)), [1, 2])
    feed, [whole] = feed_batches(clips, 1, cache="none", batch_size=12)
    np.testing.assert_array_equal(read_clips(feed.clips.spread(3)), whole["video"][[0, 6, 11]])


@pytest.mark.parametrize("cache", KEPT)
def test_all_caches_name_a_damaged_record(data_dir, tmp_path, cache):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    flip_bit(copy / "small-fold02.tfrecord-00000-of-00002", 3000)
    clips = load_clips(manifest.load(str(copy)), [1, 2])
    with raises_with_remedies(r"fold02.*byte 0 is damaged.*v_.*_g02.*make repair.*--on_bad_record=skip"):
        feed_batches(clips, 6, cache=cache, batch_size=2)


@pytest.mark.parametrize("cache", KEPT)
def test_a_skipped_record_counts_in_no_cache(data_dir, tmp_path, cache):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    flip_bit(copy / "small-fold02.tfrecord-00000-of-00002", 3000)
    clips = load_clips(manifest.load(str(copy)), [1, 2])
    skip = {"skip_bad_records": True}
    feed, batches = feed_batches(clips, 8, cache=cache, reader_options=skip, batch_size=3, seed=0)
    bad = int(np.flatnonzero(clips.folds == 2)[0])
    assert list(feed.skipped) == [bad]
    for batch in batches:
        np.testing.assert_array_equal(batch["mask"], batch["index"] != bad)
    assert f"1 of 12 clips were skipped: {clips.shard_paths[2]}: the record at byte 0 is damaged" in (
        feed.describe_skipped()
    )


def test_an_undecodable_frame_is_a_clear_error(videos_dir, tmp_path, monkeypatch):
    """Sound records of pictures that are none, as a broken encoder would leave them."""
    from ucf50_tfrecord import record

    clips = load_clips(build(videos_dir, tmp_path / "data", encoding="png", shard_bytes=20_000), [1])
    monkeypatch.setattr(record, "read_images", lambda *place, clip_format: [b"no picture"] * 5)
    message = "A frame in .* cannot be decoded, although .*: Unknown image.* Convert the videos again"
    with pytest.raises(UserError, match=message):
        read_clips(clips.spread(2))
    with pytest.raises(UserError, match=message):
        feed_batches(clips, 1, cache="none", batch_size=2)


GB = 10**9


@pytest.mark.parametrize(
    "asked, gpu_gb, host_gb, expected, reason",
    [
        ("none", 80, 100, "none", "as asked"),
        (
            "auto",
            None,
            100,
            "host",
            "the clips take 1.23 GB, at most half of the 100.00 GB of free host memory",
        ),
        (
            "auto",
            None,
            2,
            "none",
            "the clips take 1.23 GB, more than half of the 2.00 GB of free host memory",
        ),
        ("auto", None, None, "none", "the free host memory is unknown"),
        ("auto", 80, 100, "device", "half of the 80.00 GB of free memory of each device"),
        ("auto", 80, 2, "device", "half of the 80.00 GB of free memory of each device"),
        ("auto", 2, 100, "host", "half of the 100.00 GB of free host memory"),
        ("auto", 2, 2, "none", "more than half of the 2.00 GB of free host memory"),
        ("device", 2, 1, "device", "as asked"),
        ("device", None, 100, "device", "as asked"),
        ("host", 2, 2, "host", "as asked"),
        ("host", None, None, "host", "as asked"),
        ("host", 80, 1, None, "The cache host needs 1.23 GB, but there are only 1.00 GB of free host memory"),
        (
            "device",
            1,
            100,
            None,
            "The cache device needs 1.23 GB, but there are only 1.00 GB of free memory of each",
        ),
        (
            "device",
            None,
            1,
            None,
            "The cache device needs 1.23 GB, but there are only 1.00 GB of free memory of each",
        ),
    ],
)
def test_free_memory_decides_the_cache(monkeypatch, asked, gpu_gb, host_gb, expected, reason):
    monkeypatch.setattr(memory, "available_host_bytes", lambda: host_gb and host_gb * GB)
    monkeypatch.setattr(memory, "available_device_bytes", lambda: gpu_gb and gpu_gb * GB)
    if expected is None:
        with pytest.raises(UserError, match=reason):
            feed_lib.choose_cache(asked, 1_230_000_000)
    else:
        choice = feed_lib.choose_cache(asked, 1_230_000_000)
        assert choice.cache == expected and reason in choice.reason


def test_workers_of_a_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_host_bytes", lambda: 4 * GB)
    monkeypatch.setattr(memory, "available_device_bytes", lambda: None)
    assert feed_lib.choose_cache("auto", 1_230_000_000).cache == "host"
    choice = feed_lib.choose_cache("auto", 1_230_000_000, num_processes=2)
    assert choice.cache == "none"
    assert "half of the 2.00 GB of free host memory for each of 2 workers" in choice.reason


def test_free_memory_is_measured():
    free = memory.available_host_bytes()
    assert 0 < free < 1e15
    assert (memory.available_device_bytes() is None) == (not tf.config.list_logical_devices("GPU"))


def test_a_control_group_limits_the_free_memory(tmp_path, monkeypatch):
    """Of both versions; the tightest of the groups around a process counts."""
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    entries = tmp_path / "cgroup"
    read = pathlib.Path.read_text
    monkeypatch.setattr(
        memory.pathlib.Path,
        "read_text",
        lambda path: read(entries if str(path) == "/proc/self/cgroup" else path),
    )

    def write(folder, **files):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / folder / name.replace("memory_", "memory.")).write_text(text)

    stat = "anon 300\ninactive_file 250\ntotal_inactive_file 250\n"
    entries.write_text("0::/job/step\n")
    write("job", memory_max="5000\n", memory_current="700\n", memory_stat=stat)
    write("job/step", memory_max="max\n", memory_current="700\n", memory_stat=stat)
    assert memory._cgroups_free() == [5000 - 700 + 250]
    entries.write_text("5:cpu,cpuacct:/job\n4:memory:/job/step\n")
    write("memory/job", memory_limit_in_bytes="4000\n", memory_usage_in_bytes="700\n", memory_stat=stat)
    unlimited = f"{(1 << 63) - 4096}\n"
    write("memory", memory_limit_in_bytes=unlimited, memory_usage_in_bytes="700\n", memory_stat=stat)
    assert memory._cgroups_free() == [4000 - 700 + 250]
    assert memory.available_host_bytes() == 4000 - 700 + 250


@pytest.mark.parametrize("cache", KEPT)
def test_a_feed_of_some_clips_shares_the_kept_ones(data_dir, tmp_path, cache):
    """Equal to a feed of its own, with the place of a skipped clip; and the kept clips serve one compiled step."""
    copy = shutil.copytree(data_dir, tmp_path / "data")
    flip_bit(copy / "small-fold02.tfrecord-00000-of-00002", 3000)
    clips = load_clips(manifest.load(str(copy)), [1, 2])
    whole = Feed(clips, strategy=make_strategy("one"), cache=cache, skip_bad_records=True)
    chosen = np.arange(11, 2, -2)
    bad = int(np.flatnonzero(clips.folds == 2)[0])
    chosen = np.append(chosen[chosen != bad], bad)
    some, again = whole.select(chosen), whole.select(chosen).select(np.arange(len(chosen)))
    assert some.frames == whole.frames == again.frames
    alone = Feed(clips.select(chosen), strategy=make_strategy("one"), skip_bad_records=True)
    batches = [
        [
            {name: np.array(batch[name]) for name in ("index", "label", "mask")}
            | {"video": np.array(feed.frames(batch))[np.array(batch["mask"])]}
            for batch in itertools.islice(feed.batches(batch_size=2, seed=5), 6)
        ]
        for feed in (some, again, alone)
    ]
    for found in batches[:2]:
        assert_equal_batches(found, batches[2])
    assert [list(feed.skipped) for feed in (some, again, alone)] == [[len(chosen) - 1]] * 3
