"""Scores of unknown classes, against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import unknown

NAMES = tuple(f"Class{i}" for i in range(13))


def random_case(seed: int, num_clips: int = 200):
    """Returns scores with ties, logits, labels and units of clips of 5 classes, of which 1 and 4 are unknown."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num_clips)
    scores = np.round(rng.normal(np.isin(labels, (1, 4)) * 0.8, 1), 1)
    return scores, rng.normal(0, 1, (num_clips, 5)), labels, rng.integers(0, 9, num_clips)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_each_class_is_in_one_set_and_sets_are_about_equal(size):
    sets = unknown.class_sets(NAMES, size)
    assert sorted(index for one in sets for index in one) == list(range(13))
    sizes = {len(one) for one in sets}
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1 and len(sets) >= 2
    assert all(list(one) == sorted(one) for one in sets)


def test_sets_depend_on_names_alone():
    def named(names):
        return {frozenset(names[i] for i in one) for one in unknown.class_sets(names, 2)}

    assert named(NAMES[:12]) == named(NAMES[:12][::-1])
    assert unknown.class_sets(NAMES, 0) == ()


@pytest.mark.parametrize("num_classes, size", [(13, 7), (13, -1), (3, 2), (2, 1)])
def test_too_few_known_classes_or_sets_are_refused(num_classes, size):
    with pytest.raises(UserError, match=f"classes to hold out at a time.*hold_out_classes={size}"):
        unknown.class_sets(NAMES[:num_classes], size)


def test_softmax_scores_are_the_complement_of_the_highest_probability():
    logits = np.random.default_rng(0).normal(0, 3, (50, 7))
    np.testing.assert_allclose(
        unknown.softmax_scores(logits), 1 - special.softmax(logits, axis=1).max(axis=1), atol=1e-12
    )
    assert unknown.softmax_scores(np.zeros((1, 4)))[0] == pytest.approx(0.75)


def test_softmax_scores_of_sure_predictions_keep_their_order():
    logits = np.array([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0]], np.float32)
    assert (1 - special.softmax(logits.astype(np.float64), axis=1).max(axis=1) == 0).all()
    scores = unknown.softmax_scores(logits)
    assert scores[0] > scores[1] > scores[2] > 0


def test_energy_is_that_of_the_definition():
    logits = np.log([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0]])
    np.testing.assert_allclose(unknown.energy_scores(logits), -np.log([8.0, 16.0]))
    # At temperature 2: -2 ln(sum of square roots).
    np.testing.assert_allclose(unknown.energy_scores(np.log([[4.0, 9.0]]), 2.0), [-2 * np.log(5.0)])
    assert np.isfinite(unknown.energy_scores(np.array([[1e4, -1e4]]))).all()


def test_neighbor_scores_are_distances_of_directions():
    train = np.array([[5.0, 0.0], [0.0, 0.1], [-3.0, 0.0]])
    test = np.array([[7.0, 0.0], [-1.0, 0.0]])
    root = np.sqrt(2)
    np.testing.assert_allclose(unknown.neighbor_scores(train, test, 1), [0, 0], atol=1e-7)
    np.testing.assert_allclose(unknown.neighbor_scores(train, test, 2), [root, root])
    np.testing.assert_allclose(unknown.neighbor_scores(train, test, 3), [2, 2])
    np.testing.assert_allclose(unknown.neighbor_scores(train, test), [2, 2])  # fewer clips than neighbors


def test_scores_without_mistakes_are_perfect():
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9])
    labels = np.array([0, 1, 0, 1, 2, 2])
    logits = 3 * np.eye(3)[labels] + [[0, 0, 5]]  # the output of the unknown class is always highest
    found = unknown.detect(scores, logits, labels, (2,), np.arange(6))
    assert (found.auroc, found.aupr, found.false_acceptance) == (1, 1, 0)
    assert found.unknown_fraction == pytest.approx(1 / 3)
    # The threshold of the clip with the score 0.4 is that of the others, 0.3, so this clip is refused.
    assert found.macro_f1 == pytest.approx((1 + 2 / 3 + 4 / 5) / 3)


def test_measures_of_a_case_computed_by_hand():
    scores, labels = np.array([1.0, 2.0, 3.0, 2.0, 4.0]), np.array([0, 0, 1, 2, 2])
    found = unknown.detect(scores, np.eye(3)[[0, 1, 1, 2, 2]], labels, (2,), np.array([0, 0, 1, 2, 2]))
    # Of the 6 pairs of an unknown and a known clip, 4 are in order, and 1 is a tie.
    assert found.auroc == pytest.approx(4.5 / 6)
    # Recall 1/2 has precision 1, and recall 1 has precision 2/4.
    assert found.aupr == pytest.approx((1 + 0.5) / 2)
    assert found.false_acceptance == 0.5  # the threshold is 3
    # Thresholds: 3 for the first group, 2 for the second, 3 for the third. Answers: 0, 1, unknown, 0, unknown.
    assert found.macro_f1 == pytest.approx((0.5 + 0 + 0.5) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_those_of_scikit_learn(seed):
    scores, logits, labels, units = random_case(seed)
    found = unknown.detect(scores, logits, labels, (1, 4), units)
    is_unknown = np.isin(labels, (1, 4))
    fpr, tpr, _ = sklearn_metrics.roc_curve(is_unknown, scores, drop_intermediate=False)
    assert found.auroc == pytest.approx(sklearn_metrics.auc(fpr, tpr))
    of_known, recall, _ = sklearn_metrics.roc_curve(~is_unknown, -scores, drop_intermediate=False)
    assert found.false_acceptance == of_known[recall >= 0.95].min()
    precision, recall, _ = sklearn_metrics.precision_recall_curve(is_unknown, scores)
    assert found.aupr == pytest.approx(-(np.diff(recall) * precision[:-1]).sum())
    answers = []
    for i in range(len(scores)):
        others = np.sort(scores[~is_unknown & (units != units[i])])
        refused = scores[i] > others[int(np.ceil(0.95 * len(others))) - 1]
        answers.append(9 if refused else [0, 2, 3][logits[i, [0, 2, 3]].argmax()])
    wanted = sklearn_metrics.f1_score(np.where(is_unknown, 9, labels), answers, average="macro")
    assert found.macro_f1 == pytest.approx(wanted)


@pytest.mark.parametrize("num_known", [1, 2, 19, 20, 21, 40, 60, 100, 101])
def test_a_threshold_accepts_just_95_percent_of_known_clips(num_known):
    scores = np.append(np.arange(num_known), [-1, num_known])  # two unknown clips, below and above
    for value in range(num_known):
        accepted = (value + 1) / num_known
        scores[-2] = value
        expected = 0.5 if value <= np.ceil(round(0.95 * num_known, 6)) - 1 else 0
        assert unknown.false_acceptance(scores, np.arange(num_known + 2) >= num_known) == expected, accepted


def test_the_threshold_of_a_recording_does_not_depend_on_its_own_clips():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    units = np.array([0] * 10 + [1] * 10 + [0])
    scores = np.array([0.0] * 10 + [5.0] * 10 + [9.0])  # the second recording's clips have high scores
    found = unknown.open_set_macro_f1(scores, np.eye(3)[labels], labels, (2,), units)
    # The second recording is refused by the threshold of the first, 0. The last clip is refused by 5.
    assert found == pytest.approx((1 + 0 + 2 / 12) / 3)


def test_one_recording_leaves_no_other_ones_to_set_a_threshold_on():
    scores, logits, labels, units = random_case(7)
    assert np.isnan(unknown.open_set_macro_f1(scores, logits, labels, (1, 4), np.zeros_like(units)))


def test_measures_do_not_depend_on_the_outputs_of_unknown_classes():
    scores, logits, labels, units = random_case(2)
    other = logits.copy()
    other[:, [1, 4]] = 1e6
    assert unknown.detect(scores, logits, labels, (1, 4), units) == unknown.detect(
        scores, other, labels, (1, 4), units
    )
    np.testing.assert_array_equal(unknown.known_logits(logits, (1, 4)), logits[:, [0, 2, 3]])


@pytest.mark.parametrize("labels", [[0, 0, 1], [2, 2, 2]])
def test_clips_of_one_kind_alone_are_refused(labels):
    with pytest.raises(UserError, match="Expected clips of known and of unknown classes"):
        unknown.detect(np.arange(3.0), np.zeros((3, 3)), np.array(labels), (2,), np.arange(3))
