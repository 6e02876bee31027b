"""RandAugment's changes, against those of Pillow, which the paper used."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from ucf50_tfrecord.dataset.randaugment import Op, change, randaugment

HEIGHT, WIDTH = 32, 40


@pytest.fixture(scope="module")
def frame():
    """A grainy picture of levels from 30 to 220: uint8 [32, 40, 3]."""
    random = np.random.default_rng(1)
    smooth = tf.image.resize(random.uniform(30, 220, (1, 5, 6, 3)), (HEIGHT, WIDTH), "bicubic").numpy()[0]
    return np.clip(smooth + random.uniform(-15, 15, smooth.shape), 30, 220).astype(np.uint8)


def apply(frames, op, *, sign=1.0, magnitude=12.0):
    """Applies one change to one clip, uint8 [T, H, W, C]."""
    ops, signs = tf.constant([float(op)]), tf.constant([float(sign)])
    found = change(tf.constant(frames[np.newaxis]), ops, signs, magnitude)
    assert found.dtype == tf.uint8 and found.shape == (1, *frames.shape)
    return found.numpy()[0]


def enhance(kind):
    return lambda image, part, sign: kind(image).enhance(1 + 0.9 * part * sign)


def affine(matrix):
    """The change by a matrix around the centre: from (x, y) in the changed picture to its source."""

    def transform(image, part, sign):
        (xx, xy), (yx, yy) = matrix(part * sign)
        x, y = WIDTH / 2, HEIGHT / 2
        data = (xx, xy, x - xx * x - xy * y, yx, yy, y - yx * x - yy * y)
        fill = (128, 128, 128)
        return image.transform(
            image.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST, fillcolor=fill
        )

    return transform


COLORS = {
    Op.IDENTITY: lambda image, part, sign: image,
    Op.AUTO_CONTRAST: lambda image, part, sign: ImageOps.autocontrast(image),
    Op.SOLARIZE: lambda image, part, sign: ImageOps.solarize(image, round(256 * (1 - part))),
    Op.POSTERIZE: lambda image, part, sign: ImageOps.posterize(image, 8 - round(4 * part)),
    Op.COLOR: enhance(ImageEnhance.Color),
    Op.CONTRAST: enhance(ImageEnhance.Contrast),
    Op.BRIGHTNESS: enhance(ImageEnhance.Brightness),
    Op.SHARPNESS: enhance(ImageEnhance.Sharpness),
}
MOVES = {
    Op.ROTATE: lambda image, part, sign: image.rotate(30 * part * sign, fillcolor=(128, 128, 128)),
    Op.SHEAR_X: affine(lambda strength: ((1, 0.3 * strength), (0, 1))),
    Op.SHEAR_Y: affine(lambda strength: ((1, 0), (0.3 * strength, 1))),
}


@pytest.mark.parametrize("op", COLORS, ids=lambda op: op.name)
@pytest.mark.parametrize("sign", [-1, 1])
def test_colors_change_as_pillow_changes_them(frame, op, sign):
    for magnitude in (7.5, 30.0):
        found = apply(frame[np.newaxis], op, sign=sign, magnitude=magnitude)[0].astype(int)
        expected = np.asarray(COLORS[op](Image.fromarray(frame), magnitude / 30, sign)).astype(int)
        exact = op in (Op.IDENTITY, Op.SOLARIZE, Op.POSTERIZE)
        # Pillow rounds greys, means and smoothed pictures to whole levels on the way.
        assert np.abs(found - expected).max() <= (0 if exact else 2)
    assert op == Op.IDENTITY or np.abs(found - frame).max() > 10


@pytest.mark.parametrize("op", MOVES, ids=lambda op: op.name)
@pytest.mark.parametrize("sign", [-1, 1])
def test_pictures_turn_and_lean_as_pillow_moves_them(frame, op, sign):
    for magnitude in (7.5, 30.0):
        found = apply(frame[np.newaxis], op, sign=sign, magnitude=magnitude)[0]
        expected = np.asarray(MOVES[op](Image.fromarray(frame), magnitude / 30, sign))
        equal = (found == expected).all(axis=2)  # but where a source lies between two pixels
        assert equal.mean() > 0.97 and (found == frame).all(axis=2).mean() < 0.9


def test_pictures_shift_and_grey_comes_in(frame):
    columns, rows = round(WIDTH * 150 / 331), round(HEIGHT * 150 / 331)
    left = apply(frame[np.newaxis], Op.TRANSLATE_X, magnitude=30.0)[0]
    np.testing.assert_array_equal(left[:, :-columns], frame[:, columns:])
    assert (left[:, -columns:] == 128).all()
    down = apply(frame[np.newaxis], Op.TRANSLATE_Y, sign=-1, magnitude=30.0)[0]
    np.testing.assert_array_equal(down[rows:], frame[:-rows])
    assert (down[:rows] == 128).all()


@pytest.mark.parametrize("op", Op, ids=lambda op: op.name)
def test_a_magnitude_of_0_changes_nothing_but_the_automatic_contrast(op):
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    frames[0, 0, 0] = 255
    found = apply(frames, op, magnitude=0.0)
    assert op == Op.AUTO_CONTRAST or (found == frames).all()


@pytest.mark.parametrize("op", Op, ids=lambda op: op.name)
def test_all_frames_change_by_the_same_map(frame, op):
    """Frames that show the same still do beside a brighter one, also where statistics of the clip decide."""
    darker = (frame // 2).astype(np.uint8)
    found = apply(np.stack([frame, darker, frame]), op)
    np.testing.assert_array_equal(found[0], found[2])
    if op in (Op.AUTO_CONTRAST, Op.CONTRAST):
        assert (found[0] != apply(frame[np.newaxis], op)[0]).any()
    else:
        np.testing.assert_array_equal(found[0], apply(frame[np.newaxis], op)[0])


def test_a_clip_of_one_level_keeps_it_under_automatic_contrast():
    grey = np.full((2, 8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(apply(grey, Op.AUTO_CONTRAST), grey)


@pytest.mark.parametrize("op", Op, ids=lambda op: op.name)
def test_neighbours_change_with_their_frames_whose_statistics_count(frame, op):
    brighter = np.clip(frame.astype(int) + 30, 0, 255).astype(np.uint8)
    found = apply(np.concatenate([frame, brighter, frame], axis=2)[np.newaxis], op)[0]
    np.testing.assert_array_equal(found[..., :3], apply(frame[np.newaxis], op)[0])
    np.testing.assert_array_equal(found[..., 6:], found[..., :3])


def test_draws_choose_changes_one_after_another(frame):
    """Each of a batch's clips its own: all kinds are equally likely, in both directions."""
    count = len(Op)
    clips = np.repeat(frame[np.newaxis, np.newaxis], count, axis=0)
    kinds, directions = (np.arange(count) + 0.5) / count, np.arange(count) % 2
    draws = np.stack([kinds, directions * 0.6, kinds[::-1], np.zeros(count)], axis=1)
    found = randaugment(tf.constant(clips), tf.constant(draws, tf.float32), 15.0).numpy()
    for number, op in enumerate(Op):
        first = apply(clips[0], op, sign=1 if number % 2 else -1, magnitude=15.0)
        expected = apply(first, count - 1 - number, sign=-1, magnitude=15.0)
        np.testing.assert_array_equal(found[number], expected)
