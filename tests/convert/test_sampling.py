from fractions import Fraction

import numpy as np
import pytest

from ucf50_tfrecord.convert import sampling
from ucf50_tfrecord.convert.sampling import Timeline, even_indices
from ucf50_tfrecord.specs import ClipFormat, WindowSpec


@pytest.mark.parametrize(
    "num_available, num_frames, expected",
    [
        (15, 15, list(range(15))),
        (29, 15, list(range(0, 29, 2))),
        (1, 3, [0, 0, 0]),
        (2, 3, [0, 1, 1]),
        (5, 1, [2]),
        (4, 1, [1]),
        (3, 5, [0, 1, 1, 2, 2]),
    ],
)
def test_known_samples(num_available, num_frames, expected):
    assert even_indices(num_available, num_frames).tolist() == expected


def test_every_sample_is_the_nearest_frame_and_both_ends_are_in():
    for num_available in range(1, 200):
        for num_frames in (2, 3, 15, 64):
            indices = even_indices(num_available, num_frames)
            assert indices.dtype == np.int64 and len(indices) == num_frames
            assert indices[0] == 0 and indices[-1] == num_available - 1
            assert (np.diff(indices) >= 0).all()
            for i, index in enumerate(indices.tolist()):
                assert abs(index - Fraction(i * (num_available - 1), num_frames - 1)) <= Fraction(1, 2)


TWO_FRAMES = ClipFormat(num_frames=2, height=16, width=24)
WINDOWS = WindowSpec(whole_secs=0.0, window_secs=2.0, stride_secs=1.5)


@pytest.mark.parametrize(
    "end_us, starts_us",
    [
        (0, [0]),
        (2_000_000, [0]),
        (2_000_001, [0, 1]),
        (3_500_000, [0, 1_500_000]),
        (3_600_000, [0, 1_500_000, 1_600_000]),
    ],
)
def test_windows_reach_from_a_videos_start_to_its_end(end_us, starts_us):
    ends_us = [end_us] if len(starts_us) == 1 else [start + 2_000_000 for start in starts_us]
    timeline = Timeline([*range(0, end_us, 100_000), end_us], 1e-6, frame_rate=0.0)
    assert sampling.cut_windows(timeline, WINDOWS) == list(zip(starts_us, ends_us))
    last = len(timeline.times) - 1  # not even where nothing tells how long it is shown is it left out
    assert sampling.choose_window_frames(timeline, TWO_FRAMES, WINDOWS)[-1, 0, -1] == last


def starts_secs(timeline, windows=WINDOWS):
    return [start / 1e6 for start, _ in sampling.cut_windows(timeline, windows)]


def test_a_window_in_which_no_frame_appears_is_left_out():
    timeline = Timeline([0, 1000, 9000, 9500, 8000, 11_000], 0.001, frame_rate=1.0)
    assert starts_secs(timeline) == [0, 7.5, 9, 10]
    found = sampling.choose_window_frames(timeline, TWO_FRAMES, WINDOWS)
    # The time that goes back counts as the one before it.
    assert found[:, 0].tolist() == [[0, 1], [2, 2], [2, 4], [5, 5]]
    # The last window, whose only frame has appeared before; and windows with room between them.
    assert starts_secs(Timeline([0, 1000, 4000], 0.001, frame_rate=0.1)) == [0, 3]
    apart = WindowSpec(whole_secs=0.0, window_secs=1.0, stride_secs=3.0)
    assert starts_secs(Timeline([0, 2000, 4000, 9500], 0.001, frame_rate=1.0), apart) == [0, 9, 9.5]


def test_times_that_jump_or_go_back_at_the_end_lose_no_frame():
    day = 86_400_000
    jump = Timeline(
        [*range(0, 4000, 500), *range(10**6 * day, 10**6 * day + 4000, 500)], 0.001, frame_rate=2.0
    )
    assert starts_secs(jump) == [0, 1.5, 3, *(10**6 * day / 1000 + start for start in (-1.5, 0, 1.5, 2))]
    back = Timeline([*range(0, 6000, 500), 0], 0.001, frame_rate=2.0)
    assert starts_secs(back) == [0, 1.5, 3, 3.5]
    assert sampling.choose_window_frames(back, TWO_FRAMES, WINDOWS)[-1, 0, -1] == 12


def test_frames_without_times_are_windowed_by_their_rate():
    timeline = Timeline([None] * 100, 0.001, frame_rate=25.0)
    found = sampling.choose_window_frames(timeline, TWO_FRAMES, WINDOWS)
    assert found[:, 0].tolist() == [[0, 49], [38, 87], [50, 99]]
