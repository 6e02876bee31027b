import numpy as np
import pytest

from ucf50_tfrecord.evaluation import metrics


def test_accuracy_and_macro_f1_of_a_case_made_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    assert metrics.accuracy(labels, predictions) == pytest.approx(4 / 6)
    # F1: class 0 has 2 of 3 right and 3 predicted, class 1 2 of 2 and 3 predicted, class 2 none.
    assert metrics.macro_f1(labels, predictions) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_a_class_never_predicted_counts_zero():
    labels = np.arange(4)
    assert metrics.macro_f1(labels, np.zeros(4, int)) == pytest.approx(0.4 / 4)


def test_a_class_without_clips_is_left_out_but_wrongly_predicting_it_costs():
    labels = np.array([0, 0, 1, 1])
    assert metrics.macro_f1(labels, labels) == 1.0
    assert metrics.macro_f1(labels, np.array([0, 7, 1, 1])) == pytest.approx((2 / 3 + 1) / 2)


def test_confusion_has_a_row_for_every_class():
    matrix = metrics.confusion(np.array([0, 0, 3]), np.array([0, 3, 3]), 4)
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
