import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.dataset.helpers import EVERY_AUGMENTATION
from ucf50_tfrecord.dataset.augment import augment
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import AugmentSpec

ONE_BY_ONE = [
    AugmentSpec(**{field.name: getattr(EVERY_AUGMENTATION, field.name)})
    for field in dataclasses.fields(AugmentSpec)
    if field.name != "randaugment_magnitude"
]
ONE_BY_ONE.append(AugmentSpec(randaugment_ops=1, randaugment_magnitude=20.0))
ONE_BY_ONE.append(AugmentSpec(frame_order="single"))
SHAPE = (64, 6, 16, 20, 3)


@pytest.fixture(scope="module")
def video():
    """Smooth pictures that differ by clip and frame."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(40, 215, (SHAPE[0], SHAPE[1], 4, 5, 3))
    frames = tf.image.resize(coarse.reshape(-1, 4, 5, 3), SHAPE[2:4], "bicubic").numpy()
    return np.clip(frames, 0, 255).astype(np.uint8).reshape(SHAPE)


def run(video, spec, *, positions=None, seed=0, step=0):
    positions = np.arange(len(video)) if positions is None else np.array(positions)
    found = augment(
        tf.constant(video[positions]),
        tf.constant(positions, tf.int64),
        spec=spec,
        batch_size=SHAPE[0],
        seed=seed,
        step=tf.constant(step, tf.int64),
    )
    assert found.dtype == tf.uint8 and found.shape == (len(positions), *video.shape[1:])
    return found.numpy()


@pytest.mark.parametrize("spec", [*ONE_BY_ONE, EVERY_AUGMENTATION])
def test_neighbours_are_changed_as_their_frames_are(video, spec):
    """Frames become what they are without neighbours; neighbours that show the same as their frame still do."""
    clips = video[:8]
    resting = run(np.concatenate([clips, clips, clips], axis=-1), spec, seed=5)
    alone = run(clips, spec, seed=5)
    np.testing.assert_array_equal(resting, np.concatenate([alone, alone, alone], axis=-1))
    moving = run(np.concatenate([clips, clips[:, ::-1]], axis=-1), spec, seed=5)
    np.testing.assert_array_equal(moving[..., :3], alone)
    assert (moving[..., 3:] != alone).any()


def test_differences_scale_with_brightness_and_contrast_and_do_not_appear_from_nothing(video):
    clips = np.clip(video[:8], 90, 150)
    later = clips.copy()
    later[:, :, 4:8] += 20  # the same step in all colours of a part of the picture
    spec = AugmentSpec(brightness=0.2, contrast=0.2, saturation=0.2)
    found = run(np.concatenate([clips, later], axis=-1), spec, seed=5).astype(int)
    steps = found[..., 3:] - found[..., :3]
    assert (steps[:, :, :4] == 0).all() and (steps[:, :, 8:] == 0).all()
    inside = steps[:, :, 4:8].reshape(len(clips), -1)
    assert (np.ptp(inside, axis=1) <= 1).all()  # one factor per clip, but for rounding
    assert (inside > 8).all() and len(set(inside.mean(axis=1).round(2))) > 1


def test_every_augmentation_is_tested():
    assert AugmentSpec() not in ONE_BY_ONE


def test_nothing_is_changed_by_default(video):
    np.testing.assert_array_equal(run(video, AugmentSpec()), video)


@pytest.mark.parametrize("spec", [*ONE_BY_ONE, EVERY_AUGMENTATION])
def test_random_numbers_follow_from_seed_step_and_position_alone(video, spec):
    whole = run(video, spec, seed=5, step=9)
    assert (whole != video).any()
    np.testing.assert_array_equal(run(video, spec, seed=5, step=9), whole)
    for positions in ([7, 40, 3], range(32), range(32, 64)):
        np.testing.assert_array_equal(
            run(video, spec, seed=5, step=9, positions=positions), whole[list(positions)]
        )
    assert (run(video, spec, seed=6, step=9) != whole).any() and (
        run(video, spec, seed=5, step=10) != whole
    ).any()


@pytest.mark.parametrize(
    "spec", [spec for spec in ONE_BY_ONE if not spec.temporal_shift and spec.frame_order == "kept"]
)
def test_all_frames_of_a_clip_are_changed_alike(video, spec):
    still = np.repeat(video[:, :1], SHAPE[1], axis=1)
    found = run(still, spec)
    assert (found != still).any()
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], SHAPE[1], axis=1))


def test_flips_mirror_half_of_the_clips_whole():
    video = np.random.default_rng(0).integers(0, 256, (64, 2, 1, 2, 3), np.uint8)
    mirrored = np.zeros(64)
    for step in range(50):
        found = augment(
            tf.constant(video),
            tf.range(64, dtype=tf.int64),
            spec=AugmentSpec(horizontal_flip=True),
            batch_size=64,
            seed=0,
            step=tf.constant(step, tf.int64),
        ).numpy()
        flipped = (found == video[:, :, :, ::-1]).all(axis=(1, 2, 3, 4))
        assert (flipped | (found == video).all(axis=(1, 2, 3, 4))).all()
        mirrored += flipped
    assert 0.45 < mirrored.mean() / 50 < 0.55 and (mirrored > 10).all()


def test_shifts_move_clips_in_time():
    numbered = np.broadcast_to(np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1, 1), SHAPE).copy()
    shifts = set()
    for step in range(20):
        for frames in run(numbered, AugmentSpec(temporal_shift=2), step=step)[:, :, 0, 0, 0].astype(int):
            shift = next(s for s in range(-2, 3) if (frames == np.clip(np.arange(6) + s, 0, 5)).all())
            shifts.add(shift)
    assert shifts == {-2, -1, 0, 1, 2}


def test_frames_are_shuffled_or_one_stands_for_all():
    numbered = np.zeros(SHAPE, np.uint8) + np.arange(SHAPE[1], dtype=np.uint8)[:, None, None, None]
    shuffled = run(numbered, AugmentSpec(frame_order="shuffled"))[:, :, 0, 0, 0].astype(int)
    assert (np.sort(shuffled, axis=1) == np.arange(SHAPE[1])).all()
    firsts = np.bincount(shuffled[:, 0], minlength=SHAPE[1])
    assert (firsts > 0).all() and len({tuple(order) for order in shuffled}) > 50
    single = run(numbered, AugmentSpec(frame_order="single"))[:, :, 0, 0, 0].astype(int)
    assert (single == single[:, :1]).all() and set(single[:, 0]) == set(range(SHAPE[1]))


def test_crops_show_a_part_of_the_frame_scaled_up():
    """On pictures whose values are their coordinates, a crop reads off its own corners."""
    rows = np.linspace(0, 255, SHAPE[2]).round()[:, np.newaxis] * np.ones(SHAPE[3])
    columns = np.ones((SHAPE[2], 1)) * np.linspace(0, 255, SHAPE[3]).round()
    frame = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)
    found = run(np.broadcast_to(frame, SHAPE), AugmentSpec(crop_area=0.3)).astype(float) / 255
    height = found[:, 0, -1, 0, 0] - found[:, 0, 0, 0, 0]
    width = found[:, 0, 0, -1, 1] - found[:, 0, 0, 0, 1]
    area = height * width
    assert area.min() > 0.27 and area.min() < 0.45 and area.max() > 0.85
    ratios = width / height
    assert 0.7 < ratios.min() < 0.9 and 1.1 < ratios.max() < 1.4
    assert found[:, 0, 0, 0, 0].max() > 0.2  # not always in the corner


def test_crops_are_no_smaller_than_asked():
    """Where little may be cut away, the shape of what is left has no room either."""
    rows = np.linspace(0, 255, 200).round()[:, np.newaxis] * np.ones(200)
    frame = np.stack([rows, rows.T, 0 * rows], axis=2).astype(np.uint8)
    found = augment(
        tf.constant(np.broadcast_to(frame, (64, 1, 200, 200, 3))),
        tf.range(64, dtype=tf.int64),
        spec=AugmentSpec(crop_area=0.9),
        batch_size=64,
        seed=0,
        step=tf.constant(0, tf.int64),
    ).numpy()
    found = found.astype(float) / 255
    area = (found[:, 0, -1, 0, 0] - found[:, 0, 0, 0, 0]) * (found[:, 0, 0, -1, 1] - found[:, 0, 0, 0, 1])
    assert 0.885 < area.min() < 0.93 and 0.97 < area.max() <= 1


def test_colors_are_scaled_as_asked(video):
    floats = video.astype(float)
    bright = run(video, AugmentSpec(brightness=0.3)) / np.maximum(floats, 1)
    inside = (floats > 100) & (floats < 190)
    factors = np.array([np.median(bright[i][inside[i]]) for i in range(64)])
    assert 0.68 < factors.min() < 0.8 and 1.2 < factors.max() < 1.32
    grey = floats @ [0.299, 0.587, 0.114]
    contrast = run(video, AugmentSpec(contrast=0.3)).astype(float)
    saturation = run(video, AugmentSpec(saturation=0.3)).astype(float)
    # Contrast keeps a clip's mean grey, saturation every pixel's, up to clipping and rounding.
    assert np.abs((contrast @ [0.299, 0.587, 0.114]).mean((1, 2, 3)) - grey.mean((1, 2, 3))).max() < 2
    assert np.median(np.abs(saturation @ [0.299, 0.587, 0.114] - grey)) < 0.6
    spread = contrast.std((1, 2, 3, 4)) / floats.std((1, 2, 3, 4))
    assert spread.min() < 0.85 and spread.max() > 1.1


def test_a_rectangle_is_erased_in_the_chosen_fraction_of_clips(video):
    erased, areas = [], []
    for step in range(10):
        found = run(video, AugmentSpec(erase=0.4), step=step)
        changed = (found != video).any(axis=(1, 4))  # [B, H, W], over all frames
        for clip, where in enumerate(changed):
            erased.append(where.any())
            if where.any():
                rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
                box = found[clip, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert len(np.unique(box.reshape(-1, 3), axis=0)) == 1
                areas.append(box[0, :, :, 0].size / (SHAPE[2] * SHAPE[3]))
    assert 0.33 < np.mean(erased) < 0.47
    assert min(areas) < 0.06 and 0.25 < max(areas) < 0.4


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_area": 0},
        {"crop_area": 1.5},
        {"brightness": -0.1},
        {"erase": 2},
        {"temporal_shift": -1},
        {"randaugment_ops": 11},
        {"randaugment_magnitude": 31.0},
        {"randaugment_magnitude": 8.0},
        {"frame_order": "odd"},
    ],
)
def test_what_cannot_be_is_an_error(fields):
    with pytest.raises(UserError, match=f"Received: {next(iter(fields))}="):
        AugmentSpec(**fields)
