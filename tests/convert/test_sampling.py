from fractions import Fraction

import numpy as np
import pytest

from ucf50_tfrecord.convert.sampling import even_indices


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
