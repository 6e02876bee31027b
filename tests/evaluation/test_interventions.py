"""Each intervention against its meaning, on clips whose frames carry their number."""

import numpy as np
import pytest
import tensorflow as tf

from tests.dataset.test_gpu_kernels import missing
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.evaluation import interventions

NUM_FRAMES = 5


@pytest.fixture(scope="module")
def clips(data_dir):
    return load_clips(manifest.load(str(data_dir)), [1, 2])


def numbered(count, num_frames=NUM_FRAMES, height=16, width=24):
    """Clips whose pixels are their frame's number: uint8 [N, T, H, W, 3]."""
    video = np.zeros((count, num_frames, height, width, 3), np.uint8)
    return video + np.arange(num_frames, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]


def apply(name, clips, video, index=None):
    index = np.arange(len(video)) if index is None else index
    function = interventions.make(name, clips)
    return function(tf.constant(video), tf.constant(index, tf.int64)).numpy()


def frames_of(name, clips, index=None):
    found = apply(name, clips, numbered(len(clips) if index is None else len(index)), index=index)
    assert (found == found[..., :1, :1, :1]).all()
    return found[..., 0, 0, 0].tolist()


# The frames of each clip under interventions that choose frames alike in all clips.
CHOSEN = {
    "none": [0, 1, 2, 3, 4],
    "reverse": [4, 3, 2, 1, 0],
    "middle1": [2, 2, 2, 2, 2],
    "first1": [0, 0, 0, 0, 0],
    "last1": [4, 4, 4, 4, 4],
    "first2": [0, 1, 1, 1, 1],
    "last2": [3, 3, 3, 3, 4],
    "last4": [1, 1, 2, 3, 4],
    "half_rate": [0, 0, 2, 2, 4],
}
# Interventions with a test of their own below.
TESTED = {
    *("shuffle", "gap", "grey", "patches"),
    *("background_swap", "background_blur", "foreground_only", "background_only"),
}


def test_each_intervention_has_an_expectation():
    """A new intervention belongs into CHOSEN, or into TESTED with a test of what it does."""
    assert {interventions.find(name).name for name in CHOSEN} | TESTED == set(interventions.INTERVENTIONS)


@pytest.mark.parametrize("name, expected", CHOSEN.items())
def test_interventions_on_time_arrange_frames(clips, name, expected):
    assert frames_of(name, clips) == [expected] * len(clips)


def test_shuffles_differ_by_clip_and_permutation_and_follow_from_the_clip(clips):
    orders = [frames_of(name, clips) for name in interventions.SHUFFLES]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in sum(orders, []))
    assert len({tuple(map(tuple, order)) for order in orders}) == 3
    assert len({tuple(order) for order in orders[0]}) > 1
    backwards = np.arange(len(clips))[::-1]
    assert frames_of("shuffle2", clips, index=backwards) == orders[1][::-1]
    assert frames_of("shuffle2", clips.select(backwards)) == orders[1][::-1]


def test_every_listed_intervention_can_be_made(clips):
    names = interventions.names(NUM_FRAMES)
    assert len(set(names)) == len(names) and names[0] == "none"
    video = np.random.default_rng(0).integers(0, 256, (len(clips), NUM_FRAMES, 16, 24, 3), np.uint8)
    for name in names:
        found = apply(name, clips, video)
        assert found.shape == video.shape and found.dtype == np.uint8
        assert (found != video).any() == (name != "none")


def test_frames_change_as_without_neighbours_and_still_neighbours_as_their_frames(clips):
    video = np.random.default_rng(0).integers(0, 256, (len(clips), NUM_FRAMES, 16, 24, 3), np.uint8)
    for name in interventions.names(NUM_FRAMES):
        alone = apply(name, clips, video)
        found = apply(name, clips, np.concatenate([video, video, 255 - video], axis=-1))
        np.testing.assert_array_equal(found[..., :6], np.concatenate([alone, alone], axis=-1), err_msg=name)
        assert found.shape == (*video.shape[:-1], 9) and found.dtype == np.uint8


def test_each_entry_of_the_table_explains_its_interventions():
    for entry in interventions.INTERVENTIONS.values():
        assert entry.meaning and entry.question.endswith("?")
        assert all(interventions.find(name) is entry for name in entry.names(NUM_FRAMES))
    with pytest.raises(KeyError):
        interventions.find("patches2x")


def test_the_quarter_is_one_of_the_horizons():
    assert interventions.horizons(15) == (1, 2, 4, 8)
    assert [interventions.quarter(t) for t in (2, 5, 8, 15, 16)] == [1, 1, 2, 2, 4]


def test_a_gap_is_black_in_the_middle_third(clips):
    found = apply("gap", clips, numbered(1) + 1)
    assert found[0, :, 0, 0, 0].tolist() == [1, 0, 0, 0, 5]


def test_grey_keeps_the_luma(clips):
    video = np.zeros((1, NUM_FRAMES, 16, 24, 3), np.uint8)
    video[..., 0] = 100  # of which red makes 0.299
    assert (apply("grey", clips, video) == 30).all()


def scene(count, background):
    """A white square that moves over a background of one grey per clip."""
    video = np.zeros((count, NUM_FRAMES, 16, 24, 3), np.uint8)
    video += np.asarray(background, np.uint8)[:, np.newaxis, np.newaxis, np.newaxis, np.newaxis]
    for t in range(NUM_FRAMES):
        video[:, t, 4:8, 4 * t : 4 * t + 4] = 255
    return video


def test_the_background_is_the_part_that_does_not_move(clips):
    found = interventions.background(tf.constant(scene(2, [40, 90]))).numpy()
    assert (found[0] == 40).all() and (found[1] == 90).all()


def donors_of(clips):
    return interventions.choose_donors(clips.ids, clips.labels, clips.groups)


def test_backgrounds_are_swapped_behind_the_foreground(clips, monkeypatch):
    donors, greys = donors_of(clips), np.arange(len(clips)) * 5
    backgrounds = np.zeros((len(clips), 16, 24, 3), np.uint8) + greys[:, None, None, None].astype(np.uint8)
    monkeypatch.setattr(interventions, "find_backgrounds", lambda clips: backgrounds)
    found = apply("background_swap", clips, scene(len(clips), greys))
    for i, video in enumerate(found):
        np.testing.assert_array_equal(video, scene(1, [greys[donors[i]]])[0])


def test_donor_clips_are_of_another_class_and_group(clips):
    donors = donors_of(clips)
    assert (clips.labels[donors] != clips.labels).all() and (clips.groups[donors] != clips.groups).all()
    one_class = clips.select(clips.labels == 0)
    donors = donors_of(one_class)
    assert (one_class.groups[donors] != one_class.groups).all()
    few = clips.select(np.array([0, 1]))
    assert donors_of(few).tolist() == [1, 0]


def test_blurring_keeps_the_foreground_and_levels_the_background(clips):
    video = scene(1, [0])
    video[:, :, 12, 12] = 200  # a bright spot that stands still
    found = apply("background_blur", clips, video)
    moving = video == 255
    assert (found[moving] == 255).all()
    assert found[0, 0, 12, 12].max() < 40


def test_the_foreground_alone_is_on_grey(clips):
    found, video = apply("foreground_only", clips, scene(1, [40])), scene(1, [40])
    assert (found[video == 255] == 255).all() and (found[video == 40] == 128).all()


def test_the_background_alone_is_without_the_foreground(clips):
    assert (apply("background_only", clips, scene(2, [40, 90])) == [[[[[40]]]], [[[[90]]]]]).all()


@pytest.mark.parametrize("height, width", [(16, 24), (17, 22)])
def test_patches_change_places_alike_in_all_frames(clips, height, width):
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(height // 4, 0).repeat(width // 4, 1)
    video = np.full((len(clips), NUM_FRAMES, height, width, 3), 99, np.uint8)
    video[:, :, : grid.shape[0], : grid.shape[1]] = grid[..., np.newaxis]
    found = apply("patches", clips, video)
    assert (found == found[:, :1]).all()
    inside = found[:, 0, : grid.shape[0], : grid.shape[1], 0]
    for clip in inside:
        cells = clip.reshape(4, height // 4, 4, width // 4)
        assert (cells == cells[:, :1, :, :1]).all()  # patches are whole
        assert sorted(cells[:, 0, :, 0].ravel()) == list(range(16))
    assert len({clip.tobytes() for clip in inside}) > 1
    assert (found[:, :, grid.shape[0] :] == 99).all() and (found[:, :, :, grid.shape[1] :] == 99).all()


@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("name", interventions.names(NUM_FRAMES)[1:])
def test_interventions_run_on_gpus(clips, name, channels):
    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow knows no GPU")
    function = tf.function(interventions.make(name, clips))
    video = tf.TensorSpec((4, NUM_FRAMES, 16, 24, channels), tf.uint8)
    assert missing(function, video, tf.TensorSpec([4], tf.int64)) == set()


def test_backgrounds_are_found_in_the_shards(clips):
    video = read_clips(clips)
    np.testing.assert_array_equal(
        interventions.find_backgrounds(clips), interventions.background(tf.constant(video)).numpy()
    )
