import numpy as np
import pytest
from scipy import special

from ucf50_tfrecord.drawing import timeline


def test_the_classes_that_lead_are_drawn_first():
    probabilities = np.array([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.9, 0.0, 0.1]])
    assert timeline.leading_classes(probabilities) == [1, 0, 2]
    assert len(timeline.leading_classes(np.full((2, 50), 0.02))) == 7


@pytest.mark.parametrize("num_windows", [2, 4000])
def test_timelines_are_drawn_whatever_the_names_of_the_classes(num_windows):
    classes = ("$x$ and \\alpha", "not \udcff UTF-8", "_hidden", *(f"class {i}" * 9 for i in range(20)))
    windows_secs = [(float(start), start + 2.0) for start in range(num_windows)]
    logits = np.random.default_rng(0).normal(0, 2, (num_windows, len(classes)))
    probabilities = special.softmax(logits, axis=1)
    drawn = timeline.draw_timeline(windows_secs, probabilities, classes, secs=num_windows + 1.0)
    assert drawn.dtype == np.uint8 and drawn.shape[1:] == (1440, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100
