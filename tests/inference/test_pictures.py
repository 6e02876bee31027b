import numpy as np
import pytest

from ucf50_tfrecord.inference import pictures


def test_brightness_is_mean_luma():
    clips = np.zeros((4, 2, 3, 5, 3), np.uint8)
    clips[1] = 255
    clips[2, ..., 1] = 255  # green
    clips[3, 0] = 51  # one of two frames
    np.testing.assert_allclose(pictures.brightness(clips), [0, 1, 0.587, 0.1], atol=1e-12)


def test_neighbours_of_frames_change_no_measure():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 9), np.uint8)
    for measure in (pictures.brightness, pictures.motion_energy):
        np.testing.assert_array_equal(measure(clips), measure(clips[..., :3]))


def test_motion_energy_is_the_mean_change_between_frames():
    clips = np.zeros((3, 3, 2, 2, 3), np.uint8)
    clips[1] = 200  # bright, and still
    clips[2, 1] = 255  # flashes: two changes of 1
    np.testing.assert_allclose(pictures.motion_energy(clips), [0, 0, 1])
    clips[2, 1, 0] = 0  # half of the picture does
    assert pictures.motion_energy(clips)[2] == pytest.approx(0.5)
    assert pictures.motion_energy(clips[:, :1]).tolist() == [0, 0, 0]
