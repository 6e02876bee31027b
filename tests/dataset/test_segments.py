"""Frames of clips that store more of them than the model takes."""

import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord.dataset import segments
from ucf50_tfrecord.errors import UserError

POSITIONS = tf.range(64, dtype=tf.int64)


def numbered(num_clips, num_frames, channels=3):
    """Clips whose pixels tell the clip and the frame: the value is the frame's number."""
    shape = (num_clips, num_frames, 2, 2, channels)
    return np.broadcast_to(np.arange(num_frames)[:, np.newaxis, np.newaxis, np.newaxis], shape).astype(
        np.uint8
    )


def drawn(num_stored, num_frames, *, position=POSITIONS, seed=3, step=5):
    clips = tf.constant(numbered(len(position), num_stored))
    found = segments.draw_frames(
        clips, num_frames, position=position, batch_size=64, seed=seed, step=tf.constant(step, tf.int64)
    )
    assert found.dtype == tf.uint8 and found.shape == (len(position), num_frames, 2, 2, 3)
    return found.numpy()[:, :, 0, 0, 0].astype(int)


@pytest.mark.parametrize(
    "num_stored, num_frames, expected",
    [(9, 3, [1, 4, 7]), (8, 2, [2, 6]), (5, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3]), (7, 1, [3])],
)
def test_tests_take_the_middle_of_each_segment(num_stored, num_frames, expected):
    assert segments.middles(num_stored, num_frames).tolist() == expected
    clips = numbered(2, num_stored)
    for taken in (
        segments.take_middles(clips, num_frames),
        segments.take_middles(tf.constant(clips), num_frames),
    ):
        np.testing.assert_array_equal(taken, clips[:, expected])


def test_middles_are_distinct_and_symmetric():
    for num_stored in range(1, 40):
        for num_frames in range(1, num_stored + 1):
            found = segments.middles(num_stored, num_frames)
            assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < num_stored
            assert abs((found[0]) - (num_stored - 1 - found[-1])) <= 1


@pytest.mark.parametrize("num_frames", [0, 6])
def test_more_frames_than_are_stored_are_refused(num_frames):
    with pytest.raises(
        UserError, match="Expected 1 to 5 frames, as many as clips store. Received: num_frames="
    ):
        segments.middles(5, num_frames)


@pytest.mark.parametrize("num_stored, num_frames", [(12, 4), (32, 15), (5, 3), (6, 1)])
def test_training_draws_each_frame_of_each_segment_alike(num_stored, num_frames):
    found = np.concatenate([drawn(num_stored, num_frames, step=step) for step in range(40)])
    length = num_stored / num_frames
    starts = np.arange(num_frames) * length
    assert (found > starts - 1).all() and (found < starts + length).all()  # a frame that the segment overlaps
    assert (np.diff(found, axis=1) >= 0).all()
    for number, start in enumerate(starts):
        frames = np.arange(num_stored)
        overlap = (
            np.clip(np.minimum(frames + 1, start + length) - np.maximum(frames, start), 0, None) / length
        )
        rates = np.bincount(found[:, number], minlength=num_stored) / len(found)
        np.testing.assert_allclose(rates, overlap, atol=0.05)


def test_draws_follow_from_seed_step_and_position_alone():
    every = drawn(12, 4)
    np.testing.assert_array_equal(drawn(12, 4), every)
    chosen = tf.constant([40, 3, 17], tf.int64)  # a replica's clips
    np.testing.assert_array_equal(drawn(12, 4, position=chosen), every[chosen.numpy()])
    for other in (drawn(12, 4, seed=4), drawn(12, 4, step=6)):
        assert (other != every).any(axis=1).mean() > 0.9
    assert len({tuple(row) for row in every.tolist()}) > 32


def test_frames_keep_their_neighbours_and_features_their_values():
    clips = np.random.default_rng(0).integers(0, 256, (2, 6, 2, 2, 9), dtype=np.uint8)
    options = {
        "position": tf.constant([1, 0], tf.int64),
        "batch_size": 2,
        "seed": 0,
        "step": tf.constant(0, tf.int64),
    }
    for video in (clips, np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float16)):
        found = segments.draw_frames(tf.constant(video), 3, **options)
        assert found.dtype == video.dtype
        for clip, frames in zip(video, found.numpy()):
            for number, frame in enumerate(frames):
                pair = clip[2 * number : 2 * number + 2]
                assert any(np.array_equal(frame, stored) for stored in pair)


def test_clips_of_as_many_frames_stay_as_they_are():
    clips = tf.constant(numbered(2, 5))
    assert segments.take_middles(clips, 5) is clips
    assert segments.draw_frames(clips, 5, position=POSITIONS[:2], batch_size=2, seed=0, step=0) is clips
