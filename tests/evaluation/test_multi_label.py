"""Scores of clips with several labels against scikit-learn, and thresholds that are never scored where they were chosen."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from ucf50_tfrecord.evaluation import multi_label


def make(num_clips=200, num_classes=4, seed=0):
    """Labels, bool [N, C], and probabilities, float64 [N, C], that tell the classes apart with errors."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_clips, num_classes)) < 0.3
    return labels, special.expit(2.0 * labels + rng.normal(-1.5, 1.0, labels.shape))


def test_scores_are_those_of_scikit_learn():
    labels, found = make()
    scores = multi_label.scores(labels.astype(np.uint8), special.logit(found), np.arange(len(labels)))
    decided = found >= 0.5
    assert scores["mean_average_precision"] == pytest.approx(
        metrics.average_precision_score(labels, found, average="macro")
    )
    assert scores["accuracy"] == metrics.accuracy_score(labels, decided)
    for average in ("macro", "micro"):
        assert scores[f"{average}_f1"] == pytest.approx(metrics.f1_score(labels, decided, average=average))


def test_classes_without_clips_have_no_score_of_their_own():
    labels, found = make()
    labels[:, 2] = False
    present = [0, 1, 3]
    assert multi_label.mean_average_precision(labels, found) == pytest.approx(
        metrics.average_precision_score(labels[:, present], found[:, present], average="macro")
    )
    f1 = multi_label.class_f1(labels, found >= 0.5)
    assert np.isnan(f1[2]) and multi_label.macro_f1(labels, found >= 0.5) == pytest.approx(f1[present].mean())
    # But what is predicted of them is wrong.
    assert multi_label.micro_f1(labels, found >= 0.5) == pytest.approx(
        metrics.f1_score(labels, found >= 0.5, average="micro")
    )


def test_one_class_that_is_present_is_scored_alone():
    labels, found = make()
    labels[:, 1:] = False
    expected = metrics.average_precision_score(labels[:, 0], found[:, 0])
    assert multi_label.mean_average_precision(labels, found) == pytest.approx(expected)
    assert multi_label.macro_f1(labels, found >= 0.5) == pytest.approx(
        metrics.f1_score(labels[:, 0], found[:, 0] >= 0.5)
    )


def test_thresholds_have_the_highest_f1_of_all():
    labels, found = make(50)
    thresholds = multi_label.choose_thresholds(labels, found)
    own = multi_label.class_f1(labels, found >= thresholds)
    every = [multi_label.class_f1(labels, found >= value) for value in (*found.ravel(), 0.0, 1.0)]
    np.testing.assert_allclose(own, np.max(every, axis=0))


@pytest.mark.parametrize(
    "labels, found, expected",
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),  # the middle of the gap
        ([1, 1, 1, 0], [0.3, 0.6, 0.9, 0.0], 0.15),
        ([0, 1], [0.7, 0.7], 0.35),  # which accepts both
        ([0, 0], [0.1, 0.9], 0.5),  # no clip of the class
        ([1, 1], [0.1, 0.2], 0.5),  # no other clip
        ([0, 1], [0.5, np.nextafter(0.5, 1)], np.nextafter(0.5, 1)),  # no number between them
    ],
)
def test_a_threshold_lies_between_clips(labels, found, expected):
    [threshold] = multi_label.choose_thresholds(np.array([labels], bool).T, np.array([found]).T)
    assert threshold == pytest.approx(expected, abs=0)


def test_a_recording_does_not_choose_its_own_thresholds():
    """Flipping the labels of one recording changes none of its own decisions."""
    labels, found = make(60)
    units = np.repeat(np.arange(6), 10)
    decided = multi_label.cross_fitted(labels, found, units)
    flipped = np.where((units == 2)[:, np.newaxis], ~labels, labels)
    again = multi_label.cross_fitted(flipped, found, units)
    np.testing.assert_array_equal(again[units == 2], decided[units == 2])
    others = units != 2
    expected = found[~others] >= multi_label.choose_thresholds(labels[others], found[others])
    np.testing.assert_array_equal(decided[~others], expected)


def test_noise_is_not_scored_as_well_as_its_own_thresholds_say():
    """On random probabilities, thresholds that were chosen on the same clips would score higher than they deserve."""
    rng = np.random.default_rng(0)
    labels, found = rng.random((200, 8)) < 0.1, rng.random((200, 8))
    own = found >= multi_label.choose_thresholds(labels, found)
    tuned = multi_label.cross_fitted(labels, found, np.repeat(np.arange(20), 10))
    assert multi_label.macro_f1(labels, tuned) < 0.8 * multi_label.macro_f1(labels, own)


def test_one_recording_has_no_score_of_thresholds():
    labels, found = make()
    scores = multi_label.scores(labels, special.logit(found), np.zeros(len(labels), int))
    assert "tuned_macro_f1" not in scores and "tuned_micro_f1" not in scores


def test_weighted_scores_are_those_of_scikit_learn():
    labels, found = make(60)
    found = found.round(1)  # ties
    labels[:, 3] = False
    weights = np.random.default_rng(1).integers(0, 4, (5, 60)).astype(float)
    units = np.random.default_rng(2).permutation(60)
    values = multi_label.weighted_mean_average_precision(labels, found, units, weights[:, np.argsort(units)])
    for value, row in zip(values, weights):
        expected = metrics.average_precision_score(
            labels[:, :3], found[:, :3], sample_weight=row, average="macro"
        )
        assert value == pytest.approx(expected)
    one = multi_label.weighted_mean_average_precision(labels, found, units // 6, np.ones(10))
    assert one == pytest.approx(multi_label.mean_average_precision(labels, found))
    # A class of which no clip is drawn has no part in the mean.
    row = np.where(labels[:, 0], 0.0, 1.0)
    expected = metrics.average_precision_score(
        labels[:, 1:3], found[:, 1:3], sample_weight=row, average="macro"
    )
    assert multi_label.weighted_mean_average_precision(labels, found, np.arange(60), row) == pytest.approx(
        expected
    )


def test_intervals_of_f1_are_around_its_value():
    labels, found = make(200)
    decided, units = found >= 0.5, np.repeat(np.arange(20), 10)
    macro, micro = multi_label.f1_intervals(labels, decided, units)
    assert (
        macro.value == pytest.approx(multi_label.macro_f1(labels, decided))
        and macro.low < macro.value < macro.high
    )
    assert (
        micro.value == pytest.approx(multi_label.micro_f1(labels, decided))
        and micro.low < micro.value < micro.high
    )
    alone, _ = multi_label.f1_intervals(labels, decided, np.zeros(200, int))
    assert alone.value == macro.value and np.isnan(alone.low)


def test_logits_of_thresholds_decide_as_probabilities_do():
    logits = np.float32([-120, -3, 0, 5, 17, 18, 22, 30, 40])
    found = multi_label.probabilities(logits)
    thresholds = np.array([(low + high) / 2 for low, high in zip(found, found[1:])] + [0.5, 1.0])
    lowest = multi_label.threshold_logits(thresholds)
    assert np.isfinite(lowest).all() and (np.float32(found[5:]) == 1).all()
    np.testing.assert_array_equal(
        logits[:, np.newaxis] >= np.float32(lowest), found[:, np.newaxis] >= thresholds
    )
