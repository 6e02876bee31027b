import numpy as np
import pytest

from ucf50_tfrecord.drawing import class_scores

# A class's folder may have any name that the file system takes.
ODD_NAMES = ("Tai Chi", "a/b", "50% $x_1$ <i>|`", "été 太极", "no UTF-8 \udce9", "two\nlines", " ")


@pytest.mark.parametrize("num_classes", [1, 8, 50])
def test_pictures_leave_space_for_every_class(num_classes):
    classes = [f"WalkingWithTheDog{i}" for i in range(num_classes)]
    matrix = np.random.default_rng(0).integers(0, 4, (num_classes, num_classes))
    confusion = class_scores.draw_confusion(matrix, classes)
    bars = class_scores.draw_class_f1(np.linspace(0, 1, num_classes), classes)
    for drawn in (confusion, bars):
        assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
        assert drawn.shape[0] > 20 * num_classes  # pixels a line
        assert drawn.shape[0] < 2000 and drawn.shape[1] < 2000
    assert (confusion[..., 2] > confusion[..., 0] + 20).any()  # blue for what is there


def test_odd_names_and_empty_classes_are_drawn():
    size = len(ODD_NAMES)
    class_scores.draw_confusion(np.zeros((size, size), int), ["x" * 300, *ODD_NAMES[1:]])
    class_scores.draw_class_f1(np.full(size, np.nan), ODD_NAMES)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 3), (3, 4, 16, 24, 3), (2, 20, 224, 224, 3)])
def test_captioned_clips_of_any_size(shape):
    drawn = class_scores.draw_captioned_clips(np.full(shape, 7, np.uint8), ["x"] * shape[0])
    factor = max(1, -(-128 // shape[2]))
    assert (drawn == 7).all(axis=2).sum() >= shape[0] * min(shape[1], 8) * shape[2] * shape[3] * factor**2
