"""Mixtures of clips, against the two clips that they are made of."""

import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord.dataset import mixing, pipeline
from ucf50_tfrecord.specs import TrainSpec

SIZE = 64
KINDS = {"mixup": {"mixup": 0.4}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.4, "cutmix": 1.0}}


@pytest.fixture(scope="module")
def video():
    """Clips whose values tell all bytes apart: uint8 [64, 3, 8, 10, 6], with one neighbour per frame."""
    return np.random.default_rng(0).integers(0, 256, (SIZE, 3, 8, 10, 6), np.uint8)


def mix(video, *, slots=None, counts=None, seed=0, step=0, **settings):
    """Mixes the clips of some slots of the global batch; returns mixtures and fractions."""
    slots = np.arange(len(video)) if slots is None else np.asarray(slots)
    counts = np.ones(len(slots)) if counts is None else np.asarray(counts)
    mixed, fraction = mixing.mix(
        tf.constant(video[slots]),
        tf.constant(counts, tf.float32),
        tf.constant(slots, tf.int64),
        spec=TrainSpec(batch_size=SIZE, **settings),
        seed=seed,
        step=tf.constant(step, tf.int64),
    )
    assert mixed.dtype == video.dtype and mixed.shape == (len(slots), *video.shape[1:])
    assert fraction.dtype == tf.float32 and fraction.shape == (len(slots),)
    return mixed.numpy(), fraction.numpy()


def donors_of(video):
    return video.reshape(-1, 2, *video.shape[1:])[:, ::-1].reshape(video.shape)


def test_neighbours_in_the_batch_are_each_others_donors():
    assert mixing.of_donors(tf.range(6)).numpy().tolist() == [1, 0, 3, 2, 5, 4]
    assert mixing.of_donors(tf.range(5)).numpy().tolist() == [1, 0, 3, 2, 4]  # the last one has none
    assert mixing.of_donors(tf.range(1)).numpy().tolist() == [0]


def test_mixup_blends_both_clips_by_the_fraction(video):
    mixed, fraction = mix(video, mixup=0.4)
    part = fraction.reshape(-1, 1, 1, 1, 1)
    np.testing.assert_allclose(mixed, part * video + (1 - part) * donors_of(video), atol=0.501)
    assert 0 <= fraction.min() < 0.2 and 0.8 < fraction.max() <= 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_fractions_follow_the_beta_distribution(video, alpha):
    small = video[:, :1, :1, :1]
    found = np.concatenate([mix(small, step=step, mixup=alpha)[1] for step in range(40)])
    assert found.mean() == pytest.approx(0.5, abs=0.03)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("settings", [{"mixup": 0.001}, {"cutmix": 0.001}, {"mixup": 100}, {"cutmix": 100}])
def test_extreme_distributions_give_valid_fractions(video, settings):
    _, fraction = mix(video, **settings)
    assert ((fraction >= 0) & (fraction <= 1)).all() and len(np.unique(fraction)) > 1


def test_cutmix_shows_the_donor_in_one_rectangle_of_all_frames_and_neighbours(video):
    donors = donors_of(video)
    sides = []
    for step in range(5):
        mixed, fraction = mix(video, step=step, cutmix=1.0)
        for clip in range(SIZE):
            differs = (mixed[clip] != video[clip]).any(axis=(0, 3))  # [H, W]
            rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
            assert fraction[clip] == pytest.approx(1 - len(rows) * len(columns) / 80, abs=1e-6)
            if differs.any():
                box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert (len(rows), len(columns)) == mixed[clip][box].shape[1:3]
                np.testing.assert_array_equal(mixed[clip][box], donors[clip][box])
            sides.append((len(rows), len(columns)))
    heights, widths = np.array(sides).T
    assert set(heights) == set(range(9)) and set(widths) == set(range(11))


def test_cut_rectangles_lie_anywhere_and_follow_the_distribution():
    """Before rectangles are cut off at the border, their mean area is half of the frame for Beta(1, 1)."""
    large = np.zeros((SIZE, 1, 100, 100, 3), np.uint8)
    large[::2] = 255
    found, shown = [], np.zeros((100, 100))
    for step in range(10):
        mixed, fraction = mix(large, step=step, cutmix=1.0)
        found.append(fraction)
        shown += (mixed != large)[:, 0, :, :, 0].sum(axis=0)
    # A side s of a centred uniformly at random rectangle has a mean of s - s^2 / 4 inside: E[(s - s^2 / 4)^2].
    sides = np.sqrt((np.arange(10_000) + 0.5) / 10_000)
    assert 1 - np.mean(found) == pytest.approx(np.mean((sides - sides**2 / 4) ** 2), abs=0.03)
    corners, centre = shown[[0, 0, -1, -1], [0, -1, 0, -1]] / 640, shown[50, 50] / 640
    assert (corners > 0.05).all() and (corners < centre).all()


def test_with_both_each_clip_gets_either(video):
    mixed, fraction = mix(video, mixup=9.0, cutmix=1.0)  # whose blends are far from both clips
    one_of_both = (mixed == video) | (mixed == donors_of(video))
    is_cut = one_of_both.all(axis=(1, 2, 3, 4))
    assert 20 < is_cut.sum() < 50
    blended, fractions = mix(video, mixup=9.0)
    cut, cut_fractions = mix(video, cutmix=1.0)
    for clip in range(SIZE):
        source = (cut, cut_fractions) if is_cut[clip] else (blended, fractions)
        if (mixed[clip] != video[clip]).any():
            np.testing.assert_array_equal(mixed[clip], source[0][clip])
            assert fraction[clip] == source[1][clip]


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_mixtures_follow_from_seed_step_and_position_alone(video, settings):
    whole, fractions = mix(video, seed=5, step=9, **settings)
    np.testing.assert_array_equal(mix(video, seed=5, step=9, **settings)[0], whole)
    for slots in (range(32), range(32, 64), [6, 7], [40, 41, 2, 3]):  # as replicas divide the batch
        part, part_fractions = mix(video, slots=slots, seed=5, step=9, **settings)
        np.testing.assert_array_equal(part, whole[list(slots)])
        np.testing.assert_array_equal(part_fractions, fractions[list(slots)])
    assert (mix(video, seed=6, step=9, **settings)[1] != fractions).any()
    assert (mix(video, seed=5, step=10, **settings)[1] != fractions).any()
    assert (fractions.reshape(-1, 2)[:, 0] != fractions.reshape(-1, 2)[:, 1]).any()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_clip_beside_one_that_does_not_count_stays_as_it_is(video, settings):
    """Beside a skipped clip or padding; and the last one of an odd number of clips."""
    counts = np.ones(9)
    counts[[2, 5]] = 0
    mixed, fraction = mix(video, slots=range(9), counts=counts, step=3, **settings)
    alone = [2, 3, 4, 5, 8]
    np.testing.assert_array_equal(mixed[alone], video[alone])
    assert (fraction[alone] == 1).all() and (fraction[[0, 1, 6, 7]] < 1).any()


def test_stored_features_are_blended_too():
    features = np.random.default_rng(0).normal(size=(SIZE, 3, 2, 2, 7)).astype(np.float16)
    mixed, fraction = mix(features, mixup=1.0)
    part = fraction.reshape(-1, 1, 1, 1, 1)
    np.testing.assert_allclose(mixed, part * features + (1 - part) * donors_of(features), atol=5e-3)


@pytest.mark.parametrize("batch_size", [2, 5, 8, 11])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
def test_no_pair_is_divided_between_replicas(batch_size, num_parts):
    """Every clip comes once, in the same batch and beside the same clip as on one replica."""
    order = np.random.default_rng(0).permutation(23)
    alone, alone_counts = pipeline.epoch_batches(order, batch_size, 1, in_pairs=True)
    assert alone.shape[1] == batch_size  # one replica needs no padding for pairs
    batches, counts = pipeline.epoch_batches(order, batch_size, num_parts, in_pairs=True)
    assert sorted(batches[counts]) == list(range(23))
    np.testing.assert_array_equal(batches[:, :batch_size][alone_counts], alone[alone_counts])
    size = pipeline.part_size(batch_size, num_parts, in_pairs=True)
    assert batches.shape[1] == num_parts * size and (num_parts == 1 or size % 2 == 0)
    assert size <= pipeline.part_size(batch_size, num_parts) + 1
