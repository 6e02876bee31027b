"""Weights and orders that balance classes: by hand, against scikit-learn, and by counts."""

import dataclasses
import itertools

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from tests.dataset.helpers import assert_equal_batches, indices
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset import balance, pipeline
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.pipeline import WorkerSlice
from ucf50_tfrecord.errors import UserError

UNEVEN = np.array([0] * 40 + [2] * 4 + [5] * 7)


@pytest.fixture(scope="module")
def clips(data_dir):
    """13 clips: 9 of class 0, 1 of class 1, 3 of class 2."""
    found = load_clips(manifest.load(str(data_dir)), [1, 2, 3, 4, 5])
    kept = [np.flatnonzero(found.labels == label)[:count] for label, count in ((0, 9), (1, 1), (2, 3))]
    return found.select(np.sort(np.concatenate(kept)))


def batches_of(clips, count, **options):
    options = {"batch_size": 4, "seed": 3, "sampler": "balanced"} | options
    dataset = pipeline.index_batches(clips, **options).take(count)
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def test_weights_make_classes_count_alike():
    np.testing.assert_allclose(balance.clip_weights(np.array([0, 0, 0, 1])), [2 / 3, 2 / 3, 2 / 3, 2])
    weights = balance.clip_weights(UNEVEN)
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)
    sums = [weights[UNEVEN == label].sum() for label in (0, 2, 5)]
    np.testing.assert_allclose(sums, [51 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", UNEVEN), rtol=1e-6)
    assert (balance.clip_weights(np.array([1, 0, 1, 0], np.int32)) == 1).all()


def test_each_epoch_holds_all_classes_and_a_class_its_clips_equally_often():
    seen = np.zeros(len(UNEVEN), int)
    for epoch in range(20):
        order = balance.balanced_order(UNEVEN, seed=7, epoch=epoch)
        assert order.dtype == np.int64 and len(order) == len(UNEVEN)
        counts = np.unique(UNEVEN[order], return_counts=True)[1]
        assert counts.sum() == 51 and len(counts) == 3 and np.ptp(counts) <= 1
        seen += np.bincount(order, minlength=len(UNEVEN))
        of_classes = [seen[UNEVEN == label] for label in (0, 2, 5)]
        assert all(np.ptp(of_class) <= 1 for of_class in of_classes)
        assert np.ptp([of_class.sum() for of_class in of_classes]) <= 1


def test_an_order_depends_on_seed_and_epoch_alone():
    orders = [balance.balanced_order(UNEVEN, seed=s, epoch=e) for s, e in itertools.product((0, 1), range(3))]
    assert len({order.tobytes() for order in orders}) == 6
    np.testing.assert_array_equal(balance.balanced_order(UNEVEN, seed=1, epoch=2), orders[-1])
    assert {*range(3)} == {*balance.balanced_order(np.arange(3), seed=0, epoch=5).tolist()}


def test_every_class_is_equally_likely_at_every_position():
    """Over 600 seeds; four standard errors of a fraction of 1 / 3."""
    labels = UNEVEN[:47]  # 40, 4 and 3 clips
    drawn = np.stack([labels[balance.balanced_order(labels, seed=s, epoch=s % 5)] for s in range(600)])
    for label in (0, 2, 5):
        fractions = (drawn == label).mean(axis=0)
        assert np.abs(fractions - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 600)
        follows = (drawn[:, 1:] == label) & (drawn[:, :-1] == label)
        assert follows.mean() == pytest.approx(1 / 9, abs=0.01)


@pytest.mark.parametrize("num_workers, replicas", [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_workers_share_balanced_batches_and_resume_at_any_step(clips, num_workers, replicas):
    """Every position of three epochs of 4 batches, of which the last is short."""
    whole = batches_of(clips, 12, class_weight="balanced")
    parts = []
    for worker in range(num_workers):
        cut = WorkerSlice(num_workers=num_workers, worker=worker, num_replicas=replicas)
        parts.append(batches_of(clips, 12 * replicas, class_weight="balanced", worker_slice=cut))
        for start in range(12):
            count = (12 - start) * replicas
            rest = batches_of(clips, count, class_weight="balanced", worker_slice=cut, start_step=start)
            assert_equal_batches(rest, parts[-1][start * replicas :])
    for step in range(12):
        slices = [b for part in parts for b in part[step * replicas : (step + 1) * replicas]]
        joined = {name: np.concatenate([batch[name] for batch in slices]) for name in slices[0]}
        for name in ("index", "label", "position", "weight"):
            np.testing.assert_array_equal(
                joined[name][joined["mask"]], whole[step][name][whole[step]["mask"]]
            )
        expected = pipeline.batch_clips(clips, batch_size=4, seed=3, step=step, sampler="balanced")
        np.testing.assert_array_equal(joined["index"][joined["mask"]], expected)


def test_batches_carry_the_weights_of_their_clips(clips):
    weights = balance.clip_weights(clips.labels)
    for sampler in ("all", "balanced"):
        for batch in batches_of(clips, 8, sampler=sampler, class_weight="balanced"):
            assert batch["weight"].dtype == np.float32
            np.testing.assert_array_equal(batch["weight"], weights[batch["index"]])
    assert "weight" not in batches_of(clips, 1)[0]


def test_validation_ignores_the_sampler(clips):
    assert indices(batches_of(clips, -1, seed=None)) == list(range(13))


def test_balanced_epochs_need_all_shards(clips):
    few = dataclasses.replace(clips, shuffle_shards=1)
    with pytest.raises(
        UserError, match="shuffle_shards=0 with a balanced sampler. Received: shuffle_shards=1"
    ):
        pipeline.epoch_order(few, seed=0, epoch=0, sampler="balanced")
