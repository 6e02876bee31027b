"""Views of clips whose predictions tests average."""

import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord.dataset import segments, views
from ucf50_tfrecord.dataset.views import PLAIN_VIEW, View
from ucf50_tfrecord.errors import UserError

ALL = {"num_stored_views": 1, "num_stored_frames": 5, "num_frames": 5, "mirrors": False}


@pytest.mark.parametrize("options", [{}, {"num_stored_views": 3}, {"num_frames": 3}, {"mirrors": True}])
def test_one_view_is_the_clip_as_it_was(options):
    assert views.choose(1, **ALL | options) == (PLAIN_VIEW,)


def test_views_are_stored_ones_or_other_frames_or_the_mirror_image():
    few = {"num_frames": 2}
    stored = views.choose(2, **ALL | few | {"num_stored_views": 3, "mirrors": True})
    assert stored == (View(stored=0), View(stored=1))
    others = views.choose(3, **ALL | few | {"mirrors": True})
    assert others == tuple(View(part=part, num_parts=3) for part in range(3))
    assert views.choose(2, **ALL | {"mirrors": True}) == (PLAIN_VIEW, View(is_mirrored=True))


@pytest.mark.parametrize(
    "count, options, message",
    [
        (2, {}, "several views of each clip, because test_views averages.*test_views=2"),
        (4, {"num_stored_views": 3}, "at most 3 test_views.*test_views=4"),
        (3, {"mirrors": True}, "at most 2 test_views.*test_views=3"),
        (0, {}, "1 to 64 views. Received: test_views=0"),
        (65, {"num_frames": 2}, "1 to 64 views. Received: test_views=65"),
    ],
)
def test_views_that_clips_have_not_are_refused(count, options, message):
    with pytest.raises(UserError, match=message):
        views.choose(count, **ALL | options)


def test_parts_of_segments_take_each_stored_frame_once():
    found = [segments.middles(12, 4, part=part, num_parts=3).tolist() for part in range(3)]
    assert found == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


@pytest.mark.parametrize("channels", [3, 9])
def test_a_view_takes_its_frames_and_mirrors_them(channels):
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 6, channels), dtype=np.uint8)
    taken = View(part=1, num_parts=2).take(tf.constant(clips), 3)
    np.testing.assert_array_equal(taken, clips[:, [1, 2, 4]])
    mirrored = View(is_mirrored=True).take(tf.constant(clips), 5)
    assert mirrored.dtype == tf.uint8
    np.testing.assert_array_equal(mirrored, clips[:, :, :, ::-1])
    np.testing.assert_array_equal(PLAIN_VIEW.take(tf.constant(clips), 3), clips[:, [0, 2, 4]])
