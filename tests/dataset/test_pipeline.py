import itertools

import numpy as np
import pytest

from tests.conftest import build, real_folder
from tests.dataset.helpers import assert_equal_batches, indices, read_batches
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.dataset.pipeline import WorkerSlice
from ucf50_tfrecord.dataset.reader import Buffers
from ucf50_tfrecord.errors import UserError


@pytest.fixture(scope="module")
def clips(data_dir):
    """18 clips in 6 shards, so that batches span shards."""
    return load_clips(manifest.load(str(data_dir)), [1, 2, 3])


def test_batches_hold_the_records_they_claim(clips):
    stored = {}
    for path in clips.shard_paths:
        for _, payload in tfrecord.read_file(path):
            stored[record.clip_id_and_labels(payload)[0]] = record.decode(payload)
    for batch in read_batches(clips, batch_size=4):
        assert batch["video"].shape == (4, 5, 16, 24, 3) and batch["video"].dtype == np.uint8
        assert batch["label"].dtype == np.int32 and batch["mask"].dtype == bool
        assert batch["position"].tolist() == [0, 1, 2, 3]
        for row, index in enumerate(batch["index"]):
            features = stored[clips.ids[index]]
            np.testing.assert_array_equal(batch["video"][row], features["video"])
            assert batch["label"][row] == features["label"][0] == clips.labels[index]


@pytest.mark.parametrize("encoding", [encoding for encoding in Encoding if encoding != Encoding.RAW])
def test_compressed_frames_are_read_as_raw_ones(clips, videos_dir, tmp_path, encoding):
    built = build(videos_dir, tmp_path / "data", encoding=encoding, shard_bytes=20_000)
    compressed = load_clips(built, [1, 2, 3])
    plain = read_batches(clips, batch_size=6)
    for expected, batch in zip(plain, read_batches(compressed, batch_size=6), strict=True):
        np.testing.assert_array_equal(batch["label"], expected["label"])
        difference = np.abs(batch["video"].astype(int) - expected["video"])
        assert difference.mean() < 12 if record.is_lossy(built.format) else difference.max() == 0


def test_frames_in_memory_give_the_same_batches(clips):
    whole = read_batches(clips, 12, batch_size=4, seed=3)
    table, rows = np.empty((20, 5, 16, 24, 3), np.uint8), np.arange(19, 1, -1)
    for batch in whole[:5]:
        table[rows[batch["index"]]] = batch["video"]
    index = pipeline.index_batches(clips, batch_size=4, seed=3, rows=rows)
    found = [
        {k: np.array(v) for k, v in batch.items()}
        for batch in pipeline.gather_frames(index, table, Buffers()).take(12)
    ]
    assert all((batch.pop("row") == rows[batch["index"]]).all() for batch in found)
    assert_equal_batches(found, whole)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 18, 64])
def test_evaluation_counts_every_clip_once_in_order(clips, batch_size):
    found = read_batches(clips, batch_size=batch_size)
    assert indices(found) == list(range(18))
    assert all(len(batch["index"]) == batch_size for batch in found)
    assert len(found) == -(-18 // batch_size)


def test_training_is_shuffled_complete_repeated_and_reproducible(clips):
    found = read_batches(clips, 15, batch_size=4, seed=3)
    epochs = [indices(found[5 * e : 5 * e + 5]) for e in range(3)]
    assert all(sorted(epoch) == list(range(18)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(18))
    assert indices(read_batches(clips, 15, batch_size=4, seed=3)) == sum(epochs, [])
    assert indices(read_batches(clips, 5, batch_size=4, seed=4)) != epochs[0]


def test_padding_clips_are_real_clips_of_the_same_epoch(clips):
    last = read_batches(clips, 5, batch_size=4, seed=3)[-1]
    first = read_batches(clips, 1, batch_size=4, seed=3)[0]
    assert last["mask"].tolist() == [True, True, False, False]
    assert last["index"][2:].tolist() == first["index"][:2].tolist()


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("encoding", ["raw", pytest.param("png", marks=pytest.mark.slow)])
def test_a_start_at_any_step_gives_exactly_the_rest(clips, videos_dir, tmp_path, num_workers, encoding):
    """Every position of two epochs and a bit, for every worker; the batches span shards."""
    if encoding != "raw":
        clips = load_clips(
            build(videos_dir, tmp_path / "data", encoding=encoding, shard_bytes=20_000), [1, 2, 3]
        )
    for worker in range(num_workers):
        options = {
            "batch_size": 4,
            "seed": 3,
            "worker_slice": WorkerSlice(num_workers=num_workers, worker=worker),
        }
        whole = read_batches(clips, 12, **options)
        assert any(len(set(clips.shards[batch["index"]])) > 1 for batch in whole)
        for start in range(12):
            rest = read_batches(clips, 12 - start, start_step=start, **options)
            assert_equal_batches(rest, whole[start:])


@pytest.mark.parametrize("num_workers, replicas", [(2, 1), (1, 2), (2, 2), (4, 1), (3, 1), (5, 3), (1, 7)])
@pytest.mark.parametrize("batch_size, seed", [(4, 3), (5, 3), (18, 3), (5, None)])
def test_workers_and_replicas_share_each_global_batch(clips, num_workers, replicas, batch_size, seed):
    """Whatever the number of workers: the same clips in each batch, each once an epoch."""
    steps = pipeline.num_steps(18, batch_size)
    whole = read_batches(clips, steps, batch_size=batch_size, seed=seed)
    parts = [
        read_batches(
            clips,
            steps * replicas,
            batch_size=batch_size,
            seed=seed,
            worker_slice=WorkerSlice(num_workers=num_workers, worker=worker, num_replicas=replicas),
        )
        for worker in range(num_workers)
    ]
    for step in range(steps):
        slices = [b for part in parts for b in part[step * replicas : (step + 1) * replicas]]
        joined = {name: np.concatenate([batch[name] for batch in slices]) for name in slices[0]}
        counts = joined["mask"]
        for name in ("index", "label", "position", "video"):
            np.testing.assert_array_equal(joined[name][counts], whole[step][name][whole[step]["mask"]])
        assert (joined["position"] < batch_size).all()


def bare_clips(num_clips, shards=None, shuffle_shards=0):
    """Clips of which only their number and their shards are known."""
    none = np.zeros(num_clips, np.int64)
    shards = none if shards is None else shards
    return ClipIndex(
        manifest=None,
        shard_paths=tuple(f"shard {number}" for number in range(shards.max() + 1)),
        ids=("",) * num_clips,
        shards=shards,
        offsets=none,
        sizes=none,
        labels=none,
        groups=none,
        folds=none,
        shuffle_shards=shuffle_shards,
    )


@pytest.mark.parametrize("window", [1, 3, 7, 20])
def test_clips_are_mixed_within_a_window_of_shards(window):
    shards = np.sort(np.random.default_rng(0).integers(0, 7, 200))
    clips = bare_clips(200, shards, window)
    orders = [pipeline.epoch_order(clips, seed=1, epoch=epoch) for epoch in (0, 0, 1)]
    assert (orders[0] == orders[1]).all() and (orders[0] != orders[2]).any()
    for order in orders:
        assert (np.sort(order) == np.arange(200)).all()
        visits = [number for number, _ in itertools.groupby(shards[order])]
        firsts = list(dict.fromkeys(visits))
        for shard in firsts:  # none is visited before or after its window's own
            window_of = firsts.index(shard) // window
            seen = np.flatnonzero(shards[order] == shard)
            others = [s for s in firsts if firsts.index(s) // window < window_of]
            assert seen.min() >= np.isin(shards, others).sum()
    if window > 1:
        assert len(visits) > 20  # within a window clips really mix


def test_clips_of_one_class_or_group_are_neighbours_by_chance_only():
    """Over the real clips: the share of neighbours of one class, and of one group, against its expectation."""
    from ucf50_tfrecord.convert import catalog

    found = catalog.find_videos(real_folder("UCF50_VIDEOS"))
    labels = np.array([video.label for video in found.videos])
    groups = np.array([video.group for video in found.videos])
    recordings = labels * 1000 + groups
    for values in (labels, groups, recordings):
        counts = np.unique(values, return_counts=True)[1]
        chance = (counts * (counts - 1)).sum() / (len(values) * (len(values) - 1))
        shares = []
        for epoch in range(200):
            ordered = values[pipeline.epoch_order(bare_clips(len(values)), seed=0, epoch=epoch)]
            shares.append((ordered[1:] == ordered[:-1]).mean())
        error = np.std(shares) / np.sqrt(len(shares))
        assert abs(np.mean(shares) - chance) < 4 * error


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "a batch of at least 1 clip"),
        (
            {"batch_size": 4, "worker_slice": {"num_workers": 2, "worker": 2}},
            "a worker from 0 to num_workers - 1 and at least 1 replica",
        ),
    ],
)
def test_what_cannot_be_is_an_error(clips, options, message):
    with pytest.raises(UserError, match=message):
        if "worker_slice" in options:
            options = options | {"worker_slice": WorkerSlice(**options["worker_slice"])}
        pipeline.index_batches(clips, **options)
