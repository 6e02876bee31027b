"""Corruptions of pixels and of time: monotone damage, determinism, and their strengths by size and length."""

import numpy as np
import pytest
from scipy import ndimage

from ucf50_tfrecord.choices import CorruptionFamily
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.robustness import corruptions, temporal
from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS, corrupt
from ucf50_tfrecord.robustness.levels import SEVERITIES, Levels
from ucf50_tfrecord.specs import ClipFormat

OF_FRAMES = corruptions.names((CorruptionFamily.SPATIAL, CorruptionFamily.TEMPORAL))
NUM_CLIPS = 8
each_corruption = pytest.mark.parametrize("name", OF_FRAMES)


def make_clips(num_frames=15, height=64, width=64, count=NUM_CLIPS):
    """Clips of soft shapes in all colours that move to the right and grow brighter, uint8 [N, T, H, W, 3]."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(count):
        noise = rng.standard_normal((height, width + num_frames, 3))
        shapes = ndimage.gaussian_filter(noise, (height / 10, height / 10, 0))
        shapes = (shapes - shapes.min()) / np.ptp(shapes)
        moved = np.stack([shapes[:, t : t + width] for t in range(num_frames)])
        lights = np.linspace(0.7, 1, num_frames)[:, np.newaxis, np.newaxis, np.newaxis]
        clips.append(np.round(255 * moved * lights).astype(np.uint8))
    return np.stack(clips)


def damage(clips, name, severity):
    """The mean distance of corrupted clips from the clips, in 8-bit levels."""
    found = [corrupt(clip, f"clip{i}", name, severity) for i, clip in enumerate(clips)]
    return np.abs(np.stack(found).astype(float) - clips).mean()


@each_corruption
@pytest.mark.parametrize("height, width", [(32, 32), (64, 64), (96, 128), (224, 224)])
def test_each_severity_damages_more_than_the_one_before(name, height, width):
    clips = make_clips(height=height, width=width, count=NUM_CLIPS if height <= 64 else 2)
    damages = [damage(clips, name, severity) for severity in (0, *SEVERITIES)]
    assert damages[0] == 0 and (np.diff(damages) > 0).all(), damages


@each_corruption
def test_severity_0_is_the_identity(name):
    [clip] = make_clips(count=1)
    assert corrupt(clip, "clip", name, 0) is clip


@each_corruption
def test_a_clip_is_corrupted_alike_each_time_and_left_as_it_is(name):
    [clip] = make_clips(count=1)
    before = clip.copy()
    found = [corrupt(clip, "clip", name, 3) for _ in range(2)]
    assert found[0].dtype == np.uint8 and found[0].shape == clip.shape
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog", "jumble"]
)
def test_random_numbers_follow_from_the_id_and_the_seed(name):
    [clip] = make_clips(count=1)
    found = [
        corrupt(clip, clip_id, name, 5, seed=seed).tobytes()
        for clip_id in ("one", "other")
        for seed in (0, 1)
    ]
    assert len(set(found)) == 4


def test_every_corruption_explains_itself():
    for name, entry in CORRUPTIONS.items():
        assert entry.name == name and entry.meaning and entry.unit
        assert (
            (entry.apply is None) == (entry.recoding is not None) == (entry.family == CorruptionFamily.CODEC)
        )


def test_strengths_at_64_pixels_are_those_of_tiny_imagenet_c():
    clips = ClipFormat()
    published = {
        "gaussian_noise": [0.04, 0.08, 0.12, 0.15, 0.18],
        "shot_noise": [250, 100, 50, 30, 15],
        "impulse_noise": [0.01, 0.02, 0.05, 0.08, 0.14],
        "speckle_noise": [0.15, 0.2, 0.25, 0.3, 0.35],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "jpeg": [65, 58, 50, 40, 25],
    }
    for name, values in published.items():
        assert [CORRUPTIONS[name].strength(severity, clips) for severity in SEVERITIES] == values


def test_strengths_between_two_sizes_are_interpolated_and_lengths_are_proportional():
    levels = Levels((1, 1, 1, 1, 4), (4, 4, 4, 4, 1))
    assert levels.of(1, 32) == levels.of(1, 64) == 1 and levels.of(1, 224) == levels.of(1, 512) == 4
    middle = round((64 * 224) ** 0.5)
    assert levels.of(1, middle) == pytest.approx(2, rel=0.01) == levels.of(5, middle)
    assert Levels((1, 2, 3, 4, 5), is_length=True).of(2, 32) == 1
    assert Levels((1, 2, 3, 4, 5)).of(2, 32) == 2


def displacement(order):
    """The mean distance of the shown frames from the frames whose place they take."""
    return np.abs(np.asarray(order) - np.arange(len(order))).mean()


@pytest.mark.parametrize("num_frames", [6, 8, 10, 15, 16, 32, 100])
@pytest.mark.parametrize("choose", [temporal.stride, temporal.jumble, temporal.frozen_tail])
def test_severities_of_time_are_monotone_at_any_length(choose, num_frames):
    orders = [
        [choose(num_frames, severity, np.random.default_rng(seed)) for seed in range(200)]
        for severity in SEVERITIES
    ]
    assert (np.diff([0, *(np.mean([displacement(o) for o in found]) for found in orders)]) > 0).all()


@pytest.mark.parametrize("num_frames", range(1, 6))
def test_short_clips_have_equal_severities_rather_than_an_error(num_frames):
    for choose in (temporal.stride, temporal.jumble, temporal.frozen_tail):
        for severity in SEVERITIES:
            order = choose(num_frames, severity, np.random.default_rng(0))
            assert order.shape == (num_frames,) and set(order) <= set(range(num_frames))


def test_the_strengths_of_time_at_15_frames():
    rng = np.random.default_rng(0)
    assert [temporal.distinct_frames(s, 15) for s in SEVERITIES] == [9, 5, 3, 2, 1]
    assert [temporal.window(s, 15) for s in SEVERITIES] == [2, 3, 5, 9, 15]
    assert [temporal.live_frames(s, 15) for s in SEVERITIES] == [12, 9, 6, 3, 1]
    assert temporal.stride(15, 3, rng).tolist() == [0] * 5 + [5] * 5 + [10] * 5
    assert temporal.frozen_tail(15, 3, rng).tolist() == [*range(6), *[5] * 9]
    for severity in SEVERITIES:
        order = temporal.jumble(15, severity, rng)
        size = temporal.window(severity, 15)
        assert sorted(order) == list(range(15)) and (order // size == np.arange(15) // size).all()


def test_published_strengths_of_time_are_not_monotone_at_15_frames():
    """Those of Schiappa et al. 2023: windows to shuffle, blocks whose order is shuffled, frames that are kept."""
    frames = np.arange(15)

    def shuffle_within(size, rng):
        return frames[np.lexsort((rng.random(15), frames // size))]

    def shuffle_blocks(size, rng):
        return np.concatenate(
            rng.permutation(np.array([*np.split(frames, range(size, 15, size)), None], object)[:-1])
        )

    def mean(shuffle, size):
        return np.mean([displacement(shuffle(size, np.random.default_rng(seed))) for seed in range(500)])

    within = [mean(shuffle_within, 64 // 2**severity) for severity in SEVERITIES]
    assert within[0] == within[1] and (np.diff(within) < 0).sum() == 3  # equal, then milder and milder
    blocks = [mean(shuffle_blocks, (severity + 1) ** 2) for severity in SEVERITIES]
    assert blocks[2:] == [0, 0, 0]  # one block is the whole clip
    kept = [int(n) for n in (0.4 * 15, 0.2 * 15, 0.1 * 15, max(0.05 * 15, 2), max(0.1 * 15, 1))]
    assert kept == [6, 3, 1, 2, 1]


def test_grey_at_severity_5_has_no_colour_and_hue_keeps_the_luma():
    [clip] = make_clips(count=1)
    found = corrupt(clip, "clip", "grey", 5).astype(int)
    assert np.ptp(found, axis=3).max() <= 1
    dull = (96 + clip // 8).astype(np.uint8)  # so that no value is clipped
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(corrupt(dull, "clip", "hue", 4) @ luma, dull @ luma, atol=1.5)


def test_brightness_keeps_the_proportions_of_colours():
    clip = np.full((2, 8, 8, 3), (40, 80, 20), np.uint8)
    found = corrupt(clip, "clip", "brightness", 2)  # 0.2 * 255 = 51
    assert found[0, 0, 0].tolist() == [66, 131, 33]
    assert (corrupt(np.zeros_like(clip), "clip", "brightness", 2) == 51).all()


def test_blur_keeps_the_mean_and_spreads_a_point_by_its_radius():
    clip = np.zeros((1, 65, 65, 3), np.uint8)
    clip[0, 32, 32] = 255
    found = corrupt(clip, "clip", "defocus_blur", 5)[0, ..., 0].astype(float)
    y, x = np.nonzero(found)
    assert 2.5 <= np.hypot(y - 32, x - 32).max() <= 4.5
    assert found.sum() == pytest.approx(255, rel=0.15)  # rounded to 8 bits


def test_corruptions_are_selected_by_name_and_family():
    assert corruptions.select(["hue", "grey"]) == ("grey", "hue")
    assert corruptions.select(["temporal", "fog"]) == ("fog", *corruptions.names([CorruptionFamily.TEMPORAL]))
    with pytest.raises(UserError, match="gaussian_noise.*Received: snow"):
        corruptions.select(["snow", "fog"])
