import dataclasses
import errno
import functools
import gc
import os
import pathlib
import shutil

import crc32c
import numpy as np
import pytest

from tests.conftest import build, flip_bit, raises_with_remedies
from tests.dataset.helpers import indices, read_batches
from ucf50_tfrecord import example, manifest, record, remote, tfrecord
from ucf50_tfrecord.dataset import pipeline, shard_files
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.dataset.reader import Buffers, ClipReader, read_record, video_secs
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat, FetchSpec
from ucf50_tfrecord.tfrecord import Place

NAME = "small-fold01.tfrecord-00000-of-00002"
REMOVED, TRUNCATED = "remove", "truncate"


def stored_frames(clips):
    return [
        record.decode(payload)["video"]
        for path in clips.shard_paths
        for _, payload in tfrecord.read_file(path)
    ]


def test_clips_are_read_in_any_order(data_dir):
    clips = load_clips(manifest.load(str(data_dir)), [1, 2, 3])
    expected = stored_frames(clips)
    video, good = ClipReader(clips).read_raw(np.array([17, 0, 5, 5]))
    assert video.shape == (4, 5, 16, 24, 3) and video.dtype == np.uint8 and good.all()
    np.testing.assert_array_equal(video, np.stack([expected[i] for i in (17, 0, 5, 5)]))


def test_the_durations_of_videos_are_read_from_the_records(data_dir, copy):
    parts = [load_clips(manifest.load(str(copy)), folds) for folds in ([1, 2], [3, 4, 5])]
    lengths = [
        record.decode(payload)["clip/end/timestamp"][0] / 1e6
        for clips in parts
        for path in clips.shard_paths
        for _, payload in tfrecord.read_file(path)
    ]
    assert video_secs(parts) == (np.median(lengths), max(lengths)) == (0.98, 1.08)
    shutil.rmtree(copy)
    assert video_secs(parts) is None


def test_records_of_another_writer_are_read_too(data_dir, copy):
    """A record that says the same with its map entries in another order cannot be read in place."""
    import tensorflow as tf

    path = copy / NAME
    clips = load_clips(manifest.load(str(data_dir)), [1])
    records = list(tfrecord.read_file(path))
    rewritten = tf.train.SequenceExample.FromString(records[0][1])
    items = list(rewritten.context.feature.items())
    payload = b"".join(
        tf.train.Features(feature={key: value}).SerializeToString()
        for key, value in sorted(items, reverse=True)
    )
    payload = example.field(1, payload)
    assert record.decode(payload)["clip/media_id"] == [clips.ids[0].encode()]
    path.write_bytes(tfrecord.frame(payload))
    video, _ = ClipReader(load_clips(manifest.load(str(copy)), [1], check_shards=False)).read_raw(
        np.array([0])
    )
    np.testing.assert_array_equal(video[0], stored_frames(clips)[0])


def damage_position(path, clip):
    """A byte in the middle of a clip's record."""
    offset, payload = list(tfrecord.read_file(path))[clip]
    return offset + 12 + len(payload) // 2


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: flip_bit(path, damage_position(path, 1)), "damaged: it has another checksum"),
        (lambda path: flip_bit(path, 2), "the record at byte 0 is damaged: its length has another checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:7000]), "the record at byte 6.* is cut short"),
        (lambda path: path.unlink(), "is missing"),
        (
            lambda path: shutil.copy(path.with_name(path.name.replace("fold01", "fold02")), path),
            "the record at byte 0 is of clip '.*_g02_.*', expected '.*_g01_",
        ),
        (
            lambda path: path.write_bytes(tfrecord.frame(b"\x0a\x00")),
            r"the record at byte 0 \(2 bytes\) is not a clip's",
        ),
    ],
    ids=["a byte", "a length", "truncated", "missing", "another shard", "no clip"],
)
def test_damage_is_named_with_shard_offset_clip_and_remedy(copy, damage, message):
    clips = load_clips(manifest.load(str(copy)), [1])
    damage(copy / NAME)
    reader = ClipReader(clips)
    expected = f"{NAME}.* {message}.*v_.*_g01_c0.*To repair it: make repair .*VIDEOS=.*DATA={copy}"
    with raises_with_remedies(expected):
        reader.read_raw(np.arange(6))
    assert reader.error is not None and not reader.skipped


def test_a_damaged_streamed_record_names_a_remedy_that_works(data_dir, monkeypatch):
    """Streaming skips nothing."""
    monkeypatch.setattr(remote, "load_tf_filesystem", lambda url: None)
    clips = load_clips(manifest.load(str(data_dir)), [1], fetch=FetchSpec(method="stream"))
    there = dataclasses.replace(clips.manifest, data_dir="s3://bucket/set")
    reader = ClipReader(dataclasses.replace(clips, manifest=there))
    with raises_with_remedies("to train without such clips: --fetch=copy --on_bad_record=skip$"):
        reader.read_raw(np.array([0]), np.array([b"\x0a\x00"], object))


def test_a_badly_written_frame_is_named(videos_dir, tmp_path):
    build(videos_dir, tmp_path / "set", encoding="jpeg")
    clips = load_clips(manifest.load(str(tmp_path / "set")), [1])
    path = tmp_path / "set" / clips.manifest.shards[0].filename
    _, payload = next(tfrecord.read_file(path))
    bad = payload.replace(b"\xff\xd8\xff", b"\xff\xd8\x00")
    path.write_bytes(tfrecord.frame(bad) + path.read_bytes()[len(tfrecord.frame(bad)) :])
    with raises_with_remedies(f"{path}: the record at byte 0 holds a frame that cannot be decoded.*repair"):
        read_record(clips, 0)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_shards_of_another_format_are_named(data_dir, videos_dir, tmp_path, encoding):
    """The sidecars are right, the records in the shards hold more frames, or none that are raw."""
    other = {"raw": {"num_frames": 6}, "png": {"encoding": "png"}}[encoding]
    build(videos_dir, tmp_path / "other", shard_bytes=20_000, **other)
    copy = shutil.copytree(data_dir, tmp_path / "data")
    clips = load_clips(manifest.load(str(copy)), [1])
    shutil.copy(next((tmp_path / "other").glob("small-fold01.tfrecord-00000-of-0000?")), copy / NAME)
    with pytest.raises(UserError, match="the record at byte 0 (holds no clip of 5x16x24|is of clip)"):
        ClipReader(clips).read_raw(np.arange(1))
    built = manifest.load(str(tmp_path / "other"))
    wanted = ClipFormat(num_frames=4, height=16, width=24, encoding="png")
    clips = load_clips(built, [1])
    with open(copy / NAME, "rb") as file, pytest.raises(UserError, match="holds no clip of 4x16x24-png"):
        record.read_images(
            file.fileno(), Place(NAME, 0), (clips.ids[0], int(clips.labels[0])), clip_format=wanted
        )


def test_shards_of_another_shape_and_equal_size_are_named(videos_dir, tmp_path):
    """24x16 pixels take as much as 16x24."""
    for name, size in (("wide", {"height": 16, "width": 24}), ("high", {"height": 24, "width": 16})):
        build(videos_dir, tmp_path / name, shard_bytes=20_000, **size)
    clips = load_clips(manifest.load(str(tmp_path / "wide")), [1])
    shutil.copy(tmp_path / "high" / NAME, tmp_path / "wide" / NAME)
    with pytest.raises(UserError, match="the record at byte 0 holds no clip of 5x16x24"):
        ClipReader(clips).read_raw(np.arange(1))


@pytest.mark.parametrize(
    "crafted",
    [
        tfrecord.frame(example.field(1, b"")),
        tfrecord.frame(
            example.field(1, example.field(1, example.field(1, b"video") + example.field(2, b"")))
        ),
        tfrecord.frame(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" * 3),
        (length := (2**63 - 1).to_bytes(8, "little")) + tfrecord.checksum(crc32c.crc32c(length)) + bytes(64),
        b"",
        bytes(24),
    ],
)
def test_any_bytes_end_in_a_clip_or_a_user_error(data_dir, copy, crafted):
    clips = load_clips(manifest.load(str(data_dir)), [1])
    (copy / NAME).write_bytes(crafted)
    reader = ClipReader(load_clips(manifest.load(str(copy)), [1], check_shards=False))
    with pytest.raises(UserError, match=f"{NAME}: the record at byte 0"):
        reader.read_raw(np.array([0]))
    with open(copy / NAME, "rb") as file, pytest.raises(UserError, match="the record at byte 0"):
        record.read_images(
            file.fileno(),
            Place(NAME, 0),
            (clips.ids[0], int(clips.labels[0])),
            clip_format=clips.manifest.format,
        )


def test_failures_outside_the_shard_are_never_skipped(data_dir):
    reader = ClipReader(load_clips(manifest.load(str(data_dir)), [1]), skip_bad_records=True)

    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", path)

    reader._open = fail
    with pytest.raises(UserError, match=f"Cannot read .*{NAME}: Too many open files$"):
        reader.read_raw(np.array([0]))
    assert not reader.skipped


@pytest.mark.parametrize("damage", [REMOVED, TRUNCATED])
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_bad_records_are_skipped_and_reported(videos_dir, tmp_path, damage, encoding):
    built = build(videos_dir, tmp_path / "data", encoding=encoding, shard_bytes=20_000)
    whole = read_batches(load_clips(built, [1, 2]), 6, batch_size=4, seed=1)
    path = tmp_path / "data" / NAME
    offsets = [offset for offset, _ in tfrecord.read_file(path)]
    clips = load_clips(built, [1, 2])
    if damage == REMOVED:
        path.unlink()
        bad = set(np.flatnonzero(clips.shards == 0).tolist())
    else:
        path.write_bytes(path.read_bytes()[: offsets[-1] + 100])
        bad = {len(offsets) - 1}
    reader = ClipReader(clips, skip_bad_records=True)
    found = read_batches(clips, 6, batch_size=4, seed=1, reader=reader)
    assert reader.skipped.keys() == bad and all(clips.ids[i] in reader.skipped[i] for i in bad)
    assert indices(found) == [i for i in indices(whole) if i not in bad]  # the others keep their places
    for expected, batch in zip(whole, found):
        np.testing.assert_array_equal(batch["index"], expected["index"])
        np.testing.assert_array_equal(batch["video"][batch["mask"]], expected["video"][batch["mask"]])
        assert not batch["video"][np.isin(batch["index"], list(bad))].any()


@pytest.mark.parametrize("encoding, count", [("raw", 10_000), ("png", 2_000)])
def test_flipped_bytes_are_all_detected(tmp_path, data_dir, encoding, count):
    """Each record has one byte of its payload changed; not one reaches a batch."""
    clip_format = ClipFormat(num_frames=2, height=8, width=8, encoding=encoding)
    rng = np.random.default_rng(0)
    shard, ids, offsets = bytearray(), [], []
    for number in range(count):
        clip = record.Clip(
            clip_id=f"A/v_{number}",
            frames=rng.integers(0, 256, (2, 8, 8, 3), np.uint8),
            label=0,
            class_name="A",
            group=None,
            fold=1,
            data_path=f"A/v_{number}.avi",
            frame_rate=25.0,
            frame_indices=np.arange(2),
            timestamps_us=np.arange(2) * 40_000,
            end_us=80_000,
        )
        framed = bytearray(tfrecord.frame(record.encode(clip, clip_format)))
        framed[rng.integers(12, len(framed) - 4)] ^= rng.integers(1, 256)
        ids.append(clip.clip_id)
        offsets.append(len(shard))
        shard += framed
    path = tmp_path / "flipped"
    path.write_bytes(shard)
    some = manifest.load(str(data_dir))
    clips = ClipIndex(
        manifest=dataclasses.replace(some, format=clip_format),
        shard_paths=(str(path),),
        ids=tuple(ids),
        shards=np.zeros(count, np.int64),
        offsets=np.array(offsets),
        sizes=np.diff([*offsets, len(shard)]),
        labels=np.zeros(count, np.int32),
        groups=np.zeros(count, np.int64),
        folds=np.ones(count, np.int64),
    )
    reader = ClipReader(clips, skip_bad_records=True)
    reached = 0
    for batch in pipeline.read_frames(pipeline.index_batches(clips, batch_size=100, seed=0), reader).take(
        count // 100
    ):
        reached += int(batch["mask"].numpy().sum()) + int(batch["video"].numpy().any())
    assert (len(reader.skipped), reached) == (count, 0)


def test_buffers_are_reused_when_no_view_is_left():
    buffers = Buffers()
    first = buffers.take((2, 8))
    address, view = first.ctypes.data, first[1]
    assert address % 64 == 0
    del first
    gc.collect()
    assert buffers.take((2, 8)).ctypes.data != address  # the view still holds it
    del view
    gc.collect()
    assert address in {array.ctypes.data for array in [buffers.take((2, 8)), buffers.take((4, 4))]}
    assert buffers.take((3, 3)).shape == (3, 3)


@pytest.fixture
def two_open_files(monkeypatch):
    """Lets two shards be open at a time, none of them opened before."""
    monkeypatch.setattr(
        shard_files, "_open_version", functools.lru_cache(2)(shard_files._open_version.__wrapped__)
    )


def num_open_files(folder):
    targets = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return sum(target.startswith(f"{folder}/") for target in targets)


def test_open_files_are_bounded(copy, two_open_files):
    clips = load_clips(manifest.load(str(copy)), [1, 2, 3, 4, 5])
    readers = [ClipReader(clips) for _ in range(3)]  # TensorFlow keeps each until the process ends
    for reader in readers:
        video, _ = reader.read_raw(np.arange(30))
        np.testing.assert_array_equal(video, np.stack(stored_frames(clips)))
    assert num_open_files(copy) == 2


def test_a_new_reader_opens_a_shard_that_was_replaced(copy, two_open_files):
    clips = load_clips(manifest.load(str(copy)), [1])
    path, old = pathlib.Path(clips.shard_paths[0]), ClipReader(clips)
    whole, _ = old.read_raw(np.arange(1))
    start = path.read_bytes()[:10]
    path.rename(copy / "moved")
    path.write_bytes(start)
    np.testing.assert_array_equal(old.read_raw(np.arange(1))[0], whole)
    with pytest.raises(UserError, match="cut short"):
        ClipReader(clips).read_raw(np.arange(1))


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_record_of_another_label_is_not_trained_on(videos_dir, tmp_path, encoding):
    built = build(videos_dir, tmp_path / "data", shard_bytes=20_000, encoding=encoding)
    clips = load_clips(built, [1])
    wrong = dataclasses.replace(clips, labels=(clips.labels + 1) % 3)
    reader = ClipReader(wrong)
    read = reader.read_raw if record.stores_raw(built.format) else reader.read_images
    with pytest.raises(
        UserError, match=f"record at byte 0 has label {clips.labels[0]}, expected {wrong.labels[0]}"
    ):
        read(np.arange(1))
    assert not manifest.verify_shard(built, built.shards[0])
