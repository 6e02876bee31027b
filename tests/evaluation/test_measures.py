"""The measures against cases computed by hand."""

import math

import numpy as np
import pytest
from sklearn import metrics

from ucf50_tfrecord.evaluation import measures

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
LABELS = np.array([0, 1, 0])


def test_log_losses_are_those_of_scikit_learn_and_finite():
    found = measures.log_losses(PROBABILITIES, LABELS)
    assert found[:2] == pytest.approx([-math.log(0.7), -math.log(0.1)])
    assert found.mean() == pytest.approx(metrics.log_loss(LABELS, PROBABILITIES, labels=[0, 1, 2]))


def test_brier_scores_reach_from_sure_and_right_to_sure_and_wrong():
    found = measures.brier_scores(PROBABILITIES, LABELS)
    assert found == pytest.approx([0.09 + 0.04 + 0.01, 0.01 + 0.81 + 0.64, 2.0])
    assert measures.brier_scores(np.eye(3), np.arange(3)).tolist() == [0, 0, 0]


def test_the_risk_coverage_area_is_the_mean_risk_over_thresholds():
    wrong = np.array([False, True, False, True])
    # Risks with 1, 2, 3 and 4 clips answered: 0, 1/2, 1/3, 2/4.
    area = measures.risk_coverage_area(np.array([0.9, 0.8, 0.7, 0.6]), wrong)
    assert area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    best = measures.risk_coverage_area(np.array([0.9, 0.1, 0.8, 0.2]), wrong)
    assert best == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_clips_of_equal_confidence_are_answered_together_in_any_order():
    wrong = np.array([False, True, False, True])
    assert measures.risk_coverage_area(np.ones(4), wrong) == 0.5
    confidence = np.array([0.9, 0.5, 0.5, 0.5])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        area = measures.risk_coverage_area(confidence[order], wrong[order])
        assert area == pytest.approx((0 + 3 * 2 / 4) / 4)


def test_a_weight_counts_a_clip_as_often_as_copies_of_it():
    rng = np.random.default_rng(0)
    confidence, wrong = rng.random(30), rng.random(30) < 0.4
    weights = rng.integers(0, 3, (5, 30)).astype(float)
    weights[0, confidence.argmax()] = 0
    found = measures.risk_coverage_area(confidence, wrong, weights)
    for row, area in zip(weights.astype(int), found):
        copies = np.repeat(np.arange(30), row)
        assert area == pytest.approx(measures.risk_coverage_area(confidence[copies], wrong[copies]))


def test_the_oracle_is_right_if_any_frame_is():
    first, last = np.array([[1.0, 0.0, 0.0, np.nan]]), np.array([[0.0, 1.0, 0.0, 1.0]])
    np.testing.assert_array_equal(measures.oracle_right([first, last]), [[1, 1, 0, np.nan]])


def test_contrasted_accuracy_does_not_count_what_a_frozen_frame_shows():
    swapped, frozen = np.array([[1.0, 1.0, 0.0, 0.0, 1.0]]), np.array([[0.0, 1.0, 0.0, 1.0, np.nan]])
    np.testing.assert_array_equal(measures.contrasted_right(swapped, frozen), [[1, 0, 0, 0, np.nan]])


def test_twins_are_recognised_forwards_and_exchanged_backwards():
    forward = np.diag([9, 9, 9, 9, 0])
    backward = np.zeros((5, 5), int)
    backward[0, 1], backward[1, 0], backward[2, 2], backward[3, 0] = 9, 5, 9, 9
    backward[1, 1] = 4
    assert measures.find_twins(forward, backward).tolist() == [1, 0, -1, -1, -1]
    forward[1] = [5, 4, 0, 0, 0]  # most clips of class 1 are predicted as class 0
    assert measures.find_twins(forward, backward).tolist() == [-1] * 5


def test_a_pair_counts_only_if_both_directions_are_right():
    forward, backward = np.array([[0, 0, 1, 2]]), np.array([[1, 0, 0, 2]])
    found = measures.pair_right(forward, backward, np.array([0, 0, 0, 2]), np.array([1, 0, -1]))
    np.testing.assert_array_equal(found, [[1, 0, 0, np.nan]])


def test_the_area_under_the_roc_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    positive, scores = rng.random(60) < 0.4, rng.integers(0, 8, 60) / 8  # many equal scores
    assert measures.auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    weights = rng.integers(0, 3, (2, 60)).astype(float)
    found = measures.auroc(scores, positive, weights)
    expected = [metrics.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert found == pytest.approx(expected)


def test_the_area_under_the_roc_curve_counts_equal_scores_half():
    positive = np.array([True, True, False, False])
    assert measures.auroc(np.array([0.9, 0.5, 0.5, 0.1]), positive) == 3.5 / 4
    assert measures.auroc(np.array([0.1, 0.2, 0.8, 0.9]), positive) == 0
    assert (
        measures.auroc(np.arange(4.0), positive, np.array([1.0, 1.0, 0.0, 0.0])) == 0.5
    )  # one side is missing


def test_the_generalized_risk_area_is_the_mean_fraction_of_answered_errors():
    wrong = np.array([False, True, False, True])
    # Of 4 clips, with 0 to 4 answered, 0, 0, 1, 1 and 2 are answered wrong; the area is that of trapezoids.
    area = measures.generalized_risk_area(np.array([0.9, 0.8, 0.7, 0.6]), wrong)
    assert area == pytest.approx(np.trapezoid([0, 0, 1 / 4, 1 / 4, 2 / 4], dx=1 / 4))
    # Clips of equal confidence are answered together: of 0, 1 and 4 clips, 0, 0 and 2.
    area = measures.generalized_risk_area(np.array([0.9, 0.5, 0.5, 0.5]), wrong)
    assert area == pytest.approx(np.trapezoid([0, 0, 2 / 4], [0, 1 / 4, 1]))
    assert measures.generalized_risk_area(np.ones(4), np.ones(4, bool)) == 0.5
    assert measures.generalized_risk_area(np.ones(4), np.zeros(4, bool)) == 0


def test_the_generalized_risk_area_weighs_clips_as_often_as_they_are_drawn():
    confidence, wrong = np.array([0.9, 0.8, 0.7]), np.array([False, True, False])
    found = measures.generalized_risk_area(confidence, wrong, np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]))
    drawn = [0, 1, 1]
    assert found == pytest.approx(
        [
            measures.generalized_risk_area(confidence[drawn], wrong[drawn]),
            measures.generalized_risk_area(confidence, wrong),
        ]
    )
