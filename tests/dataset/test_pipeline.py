import collections
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import build, flip_bit
from ucf50_tfrecord import manifest, record
from ucf50_tfrecord.dataset import augment, perturb, pipeline
from ucf50_tfrecord.specs import UserError


@pytest.fixture(scope="module")
def clips(data_dir):
    return pipeline.load_clips(manifest.load(str(data_dir)), [1, 2, 3])


def batches(clips, count=None, **options):
    dataset = pipeline.make_dataset(clips, **options)
    return [
        {k: v.numpy() for k, v in batch.items()} for batch in dataset.take(-1 if count is None else count)
    ]


def indices(found, counted_only=True):
    return [int(i) for b in found for i, m in zip(b["index"], b["mask"]) if m or not counted_only]


def test_clips_are_indexed_from_the_sidecars(clips, data_dir):
    assert len(clips) == 18 and len(clips.shard_paths) == 6
    assert sorted(set(clips.folds.tolist())) == sorted(set(clips.groups.tolist())) == [1, 2, 3]
    offsets, payloads = zip(*record.read_records(clips.shard_paths[1]))
    mine = [i for i in range(len(clips)) if clips.shards[i] == 1]
    assert tuple(clips.offsets[mine]) == offsets
    assert [clips.ids[i] for i in mine] == [record.decode(p)["clip/media_id"][0].decode() for p in payloads]


def test_batches_hold_the_records_they_claim(clips):
    stored = {}
    for path in clips.shard_paths:
        for _, payload in record.read_records(path):
            features = record.decode(payload)
            stored[features["clip/media_id"][0].decode()] = features
    for batch in batches(clips, batch_size=4):
        assert batch["video"].shape == (4, 5, 16, 24, 3) and batch["video"].dtype == np.uint8
        assert batch["label"].dtype == np.int32 and batch["mask"].dtype == bool
        for row, index in enumerate(batch["index"]):
            features = stored[clips.ids[index]]
            np.testing.assert_array_equal(batch["video"][row], features["video"])
            assert batch["label"][row] == features["label"][0] == clips.labels[index]


@pytest.mark.parametrize("encoding", ["png", "raw+jpeg", "jpeg"])
def test_compressed_frames_are_read_as_raw_ones(clips, videos_dir, tmp_path, encoding):
    built = build(videos_dir, tmp_path / "data", encoding=encoding, shard_bytes=20_000)
    compressed = pipeline.load_clips(built, [1, 2, 3])
    for expected, batch in zip(batches(clips, batch_size=6), batches(compressed, batch_size=6), strict=True):
        np.testing.assert_array_equal(batch["label"], expected["label"])
        difference = np.abs(batch["video"].astype(int) - expected["video"])
        assert difference.mean() < 12 if encoding == "jpeg" else difference.max() == 0


@pytest.mark.parametrize("batch_size", [1, 4, 5, 18, 64])
def test_evaluation_counts_every_clip_once_in_order(clips, batch_size):
    found = batches(clips, batch_size=batch_size)
    assert indices(found) == list(range(18))
    assert all(len(batch["index"]) == batch_size for batch in found)
    assert len(found) == -(-18 // batch_size)


def test_training_is_shuffled_complete_repeated_and_reproducible(clips):
    found = batches(clips, 15, batch_size=4, seed=3)
    epochs = [indices(found[5 * e : 5 * e + 5]) for e in range(3)]
    assert all(sorted(epoch) == list(range(18)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(18))
    assert indices(batches(clips, 15, batch_size=4, seed=3)) == sum(epochs, [])
    assert indices(batches(clips, 5, batch_size=4, seed=4)) != epochs[0]


def test_fillers_are_real_clips_of_the_same_epoch(clips):
    last = batches(clips, 5, batch_size=4, seed=3)[-1]
    first = batches(clips, 1, batch_size=4, seed=3)[0]
    assert last["mask"].tolist() == [True, True, False, False]
    assert last["index"][2:].tolist() == first["index"][:2].tolist()


def test_a_start_at_any_step_gives_exactly_the_rest(clips):
    whole = batches(clips, 12, batch_size=4, seed=3)
    for start in range(12):
        rest = batches(clips, 12 - start, batch_size=4, seed=3, start_step=start)
        for expected, found in zip(whole[start:], rest, strict=True):
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key])


@pytest.mark.parametrize("num_workers, replicas", [(2, 1), (1, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize("seed", [None, 3])
def test_workers_and_replicas_share_each_global_batch(clips, num_workers, replicas, seed):
    steps = 5
    whole = batches(clips, steps, batch_size=4, seed=seed)
    parts = [
        batches(
            clips,
            steps * replicas,
            batch_size=4,
            seed=seed,
            num_workers=num_workers,
            worker=worker,
            replicas_per_worker=replicas,
        )
        for worker in range(num_workers)
    ]
    for step in range(steps):
        dealt = [b for part in parts for b in part[step * replicas : (step + 1) * replicas]]
        for key in ("index", "mask", "label"):
            np.testing.assert_array_equal(np.concatenate([b[key] for b in dealt]), whole[step][key])


def test_a_batch_that_cannot_be_shared_is_an_error(clips):
    with pytest.raises(UserError, match="3 replicas can share evenly. Received: batch_size=4"):
        pipeline.make_dataset(clips, batch_size=4, num_workers=3)


def test_unknown_folds_are_named(data_dir):
    with pytest.raises(UserError, match=r"Expected folds out of 1-5 in .* Received: folds=\[9\]"):
        pipeline.load_clips(manifest.load(str(data_dir)), [1, 9])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (
            lambda path: shutil.copy(
                path.with_name(path.name.replace("fold01", "fold02") + ".json"), f"{path}.json"
            ),
            "is not the one that manifest.json lists",
        ),
    ],
)
def test_a_damaged_set_is_named_before_training(data_dir, tmp_path, damage, message):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    damage(copy / "small-fold01.tfrecord-00001-of-00002")
    with pytest.raises(
        UserError,
        match=f"small-fold01.tfrecord-00001-of-00002 {message}|small-fold01.tfrecord-00001-of-00002 has .* {message}",
    ):
        pipeline.load_clips(manifest.load(str(copy)), [1])


def test_a_flipped_byte_never_reaches_a_batch(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    path = copy / "small-fold01.tfrecord-00000-of-00002"
    flip_bit(path, 3000)
    clips = pipeline.load_clips(manifest.load(str(copy)), [1])
    with pytest.raises(tf.errors.DataLossError):
        batches(clips, batch_size=4)


def test_shuffled_frames_are_the_same_frames_in_a_fixed_random_order(clips):
    def shuffled(batch_size, seed=0):
        dataset = pipeline.make_dataset(clips, batch_size=batch_size)
        dataset = perturb.shuffle_frames(dataset, num_clips=len(clips), num_frames=5, seed=seed)
        return {
            int(i): v
            for b in dataset
            for i, v, m in zip(b["index"].numpy(), b["video"].numpy(), b["mask"].numpy())
            if m
        }

    plain = {int(i): v for b in batches(clips, batch_size=6) for i, v in zip(b["index"], b["video"])}
    by_4, by_7, other = shuffled(4), shuffled(7), shuffled(4, seed=1)
    assert set(by_4) == set(plain)
    moved = 0
    for index, video in plain.items():
        np.testing.assert_array_equal(by_4[index], by_7[index])
        frames = [frame.tobytes() for frame in video]
        assert collections.Counter(frames) == collections.Counter(frame.tobytes() for frame in by_4[index])
        moved += by_4[index].tobytes() != video.tobytes()
    assert moved > 12
    assert any(by_4[index].tobytes() != other[index].tobytes() for index in plain)


def test_flips_mirror_half_of_the_clips_whole_and_do_not_depend_on_the_batch():
    video = tf.reshape(tf.range(1000 * 2 * 1 * 2 * 3, dtype=tf.int32), [1000, 2, 1, 2, 3])
    index = tf.range(1000, dtype=tf.int64)

    def flip(rows, epoch=0, seed=0):
        rows = tf.constant(rows, tf.int64)
        epoch = tf.constant(epoch, tf.int64)
        return augment.horizontal_flip(
            tf.gather(video, rows), rows, num_clips=1000, seed=seed, epoch=epoch
        ).numpy()

    whole = flip(index)
    mirrored = (whole == video.numpy()[:, :, :, ::-1]).all(axis=(1, 2, 3, 4))
    assert (mirrored | (whole == video.numpy()).all(axis=(1, 2, 3, 4))).all()
    assert 430 < mirrored.sum() < 570
    np.testing.assert_array_equal(flip([7, 500, 3]), whole[[7, 500, 3]])
    assert (flip(index, epoch=1) != whole).any() and (flip(index, seed=1) != whole).any()
