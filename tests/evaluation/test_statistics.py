"""Statistics against cases with known answers."""

import numpy as np
import pytest
from scipy import stats

from ucf50_tfrecord.evaluation import metrics, statistics
from ucf50_tfrecord.evaluation.statistics import Trainings


def test_an_interval_over_groups_is_wider_than_one_over_clips():
    rng = np.random.default_rng(0)
    by_group = rng.integers(0, 2, 25).astype(float)
    values, groups = by_group.repeat(10), np.arange(25).repeat(10)  # ten copies of 25 independent values
    over_groups = statistics.mean_interval(values, groups)
    over_clips = statistics.mean_interval(values, np.arange(250))
    assert over_groups.value == over_clips.value == pytest.approx(by_group.mean())
    ratio = (over_groups.high - over_groups.low) / (over_clips.high - over_clips.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.15)


def test_an_interval_of_many_groups_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = statistics.mean_interval(values, np.arange(400))
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)


def test_intervals_contain_the_true_value_nineteen_times_in_twenty():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(200):
        effects = rng.normal(0.3, 0.1, 25)  # of groups
        values, groups = (effects.repeat(4) + rng.normal(0, 0.3, 100)), np.arange(25).repeat(4)
        found = statistics.mean_interval(values, groups)
        hits += found.low <= 0.3 <= found.high
    assert 180 <= hits <= 198


def test_groups_weigh_by_their_clips():
    found = statistics.mean_interval(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1]))
    assert found.value == 0.75
    assert (found.low, found.high) == (0.0, 1.0)  # either group alone


def test_one_group_gives_no_interval_and_no_evidence():
    assert statistics.sign_flip_p(np.array([1.0, 0.5]), np.zeros(2, int)) == 1.0
    found = statistics.mean_interval(np.array([1.0, 0.0]), np.zeros(2, int))
    assert found.value == 0.5 and np.isnan([found.low, found.high]).all()


def test_intervals_of_large_samples_are_computed_in_parts_with_the_same_result(monkeypatch):
    values, groups = np.random.default_rng(4).normal(0, 1, 300), np.arange(300) // 3
    expected = statistics.mean_interval(values, groups)
    monkeypatch.setattr(statistics, "_MAX_BATCH_VALUES", 1000)  # 5 resamples at a time
    assert statistics.mean_interval(values, groups) == expected


def test_macro_f1_equals_scikit_learns_mean_over_seeds():
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 6, 90), rng.integers(0, 9, 90)
    predictions = np.where(
        rng.random((2, 90)) < 0.6, labels, rng.integers(0, 5, (2, 90))
    )  # class 5 is never predicted by mistake
    found = statistics.macro_f1_interval(labels, predictions, groups, 7)  # class 6 has no clips
    assert found.value == pytest.approx(np.mean([metrics.macro_f1(labels, row) for row in predictions]))
    assert found.low < found.value < found.high


def test_the_mean_of_the_scores_of_macro_f1_is_macro_f1():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 60)
    predictions = np.where(
        rng.random((3, 60)) < 0.6, labels, rng.integers(0, 5, (3, 60))
    )  # 4 is no clip's class
    scores = statistics.macro_f1_scores(labels, predictions)
    assert scores.shape == (3, 60)
    assert scores.mean() == pytest.approx(np.mean([metrics.macro_f1(labels, row) for row in predictions]))
    wrong = np.flatnonzero(predictions[0] != labels)[0]
    predictions[0, wrong] = labels[wrong]
    more = statistics.macro_f1_scores(labels, predictions)
    assert more.mean() == pytest.approx(np.mean([metrics.macro_f1(labels, row) for row in predictions]))
    assert more[0, wrong] > scores[0, wrong]


def test_the_scores_of_macro_f1_as_computed_by_hand():
    # Class 0 has F1 2/3 and class 1 has 4/5: one of the clips of class 0 is predicted as class 1.
    scores = statistics.macro_f1_scores(np.array([0, 0, 1, 1]), np.array([[0, 1, 1, 1]]))
    mean = (2 / 3 + 4 / 5) / 2
    # A clip's influence on a class is (2 hits - F1 * its share of predictions and labels) / their sum, 3 and 5.
    first = (2 - 2 * 2 / 3) / 3
    second = (-2 / 3) / 3 + (-4 / 5) / 5
    other = (2 - 2 * 4 / 5) / 5
    np.testing.assert_allclose(scores, mean + 4 * np.array([[first, second, other, other]]) / 2)
    assert scores.mean() == pytest.approx(mean)


def test_a_sign_flip_test_of_few_groups_is_exact():
    # All of 4 groups differ the same way: 2 of 2**4 assignments of signs are as extreme.
    assert statistics.sign_flip_p(np.ones(8), np.arange(4).repeat(2)) == pytest.approx(2 / 16)
    # Sums 3, 1, -1: |mean| >= 1 in all assignments but those with |sum| = 1.
    sums = np.array([3.0, 1.0, -1.0])
    assert statistics.sign_flip_p(sums, np.arange(3)) == pytest.approx(6 / 8)
    assert statistics.sign_flip_p(np.zeros(6), np.arange(6)) == 1.0


def test_differences_that_cancel_out_in_every_group_are_no_effect():
    """As those of an order-blind model on clips and their reverse: it is right about one of the two per seed."""
    rng = np.random.default_rng(5)
    right = rng.integers(0, 2, (5, 36))  # [seeds, pairs]
    values = np.concatenate([right.mean(axis=0), (1 - right).mean(axis=0)]) - 0.5
    groups = np.tile(np.arange(12).repeat(3), 2)
    sums, _ = statistics.sums_by_group(values[:, np.newaxis], groups)
    assert sums.any() and np.abs(sums).max() < 1e-15  # or the test tests nothing
    assert statistics.sign_flip_p(values, groups) == 1.0
    assert statistics.sign_flip_p(1e-12 * np.ones(12), np.arange(12)) < 0.01  # small, but no rounding error


def test_sign_flips_take_whole_groups():
    values, groups = np.array([1.0] * 50 + [-1.0] * 50), np.arange(2).repeat(50)
    assert statistics.sign_flip_p(values, groups) == 1.0
    assert statistics.sign_flip_p(np.ones(100), groups) == pytest.approx(0.5)  # of 2 groups no less


def test_a_sign_flip_test_keeps_its_level_without_an_effect():
    rng = np.random.default_rng(4)
    p_values = [statistics.sign_flip_p(rng.normal(size=40), np.arange(10).repeat(4)) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09


def test_mcnemar_counts_clips_that_only_one_model_gets_right():
    one = np.array([True] * 9 + [False] * 1 + [True] * 30)
    other = np.array([False] * 9 + [True] * 1 + [True] * 30)
    # 1 or fewer, or 9 or more, of 10 throws of a coin.
    assert statistics.mcnemar_p(one, other) == pytest.approx(22 / 1024)
    assert statistics.mcnemar_p(one, one) == 1.0


def test_p_values_are_corrected_by_benjamini_and_hochberg():
    found = statistics.adjust(np.array([0.01, 0.02, 0.03, 0.04]))
    np.testing.assert_allclose(found, 0.04)
    np.testing.assert_allclose(statistics.adjust(np.array([0.01, 0.5])), [0.02, 0.5])
    assert len(statistics.adjust(np.array([]))) == 0


def test_the_estimated_number_of_groups_shows_the_effect():
    rng = np.random.default_rng(5)
    values, groups = rng.normal(0.0, 1.0, 200), np.arange(200)
    needed = statistics.groups_needed(values, groups, 0.5)
    assert needed == pytest.approx((2.80 / 0.5) ** 2, rel=0.2)
    shown = [stats.ttest_1samp(rng.normal(0.5, 1.0, needed), 0).pvalue < 0.05 for _ in range(400)]
    assert 0.7 <= np.mean(shown) <= 0.9


def test_calibration_error_of_a_case_computed_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    # Bins: 0.9 is right half the time (gap 0.4), 0.6 always (gap 0.4).
    assert statistics.expected_calibration_error(probabilities, labels) == pytest.approx(0.4)
    sure = np.eye(2)[labels]
    assert statistics.expected_calibration_error(sure, labels) == 0.0


_GROUPS = np.arange(192) // 12
_PARTS = _GROUPS % 2


def _train(num_seeds, draw_accuracy, difficulty, rng):
    """Makes trainings on two parts; `draw_accuracy` draws each training's accuracy on a clip of mean difficulty."""
    scores = np.empty((num_seeds, len(_GROUPS)))
    for row in scores:
        for part in (0, 1):
            accuracy = draw_accuracy(rng)
            chosen = _PARTS == part
            odds = np.log(accuracy / (1 - accuracy)) + difficulty[chosen]
            row[chosen] = rng.random(chosen.sum()) < 1 / (1 + np.exp(-odds))
    return Trainings(scores, _PARTS)


def _fraction_found(num_seeds, one, other, num_draws=200):
    rng, found = np.random.default_rng(0), 0
    for _ in range(num_draws):
        difficulty = rng.normal(0, 1, 16)[_GROUPS]
        recipes = (_train(num_seeds, draw, difficulty, rng) for draw in (one, other))
        found += statistics.compare_recipes(*recipes, _GROUPS).p < 0.05
    return found / num_draws


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.choice([0.55, 0.95]),
        lambda rng: rng.choice([0.55, 0.95], p=[0.15, 0.85]),
        lambda rng: np.clip(rng.normal(0.7, 0.1), 0.05, 0.95),
        lambda rng: 0.7,
    ],
    ids=["bimodal", "rarely stuck", "normal", "equal"],
)
def test_the_same_recipe_twice_differs_in_at_most_one_of_twenty(draw, num_seeds):
    assert _fraction_found(num_seeds, draw, draw) <= 0.05


def _macro_f1_lead(num_seeds, one, other, rng):
    """Compares two recipes' macro F1 by trainings on two parts; classes are unbalanced, and some are harder."""
    labels = rng.choice(4, len(_GROUPS), p=[0.5, 0.25, 0.15, 0.1])
    difficulty = rng.normal(0, 1, 16)[_GROUPS] - 0.3 * labels
    found = []
    for draw in (one, other):
        right = _train(num_seeds, draw, difficulty, rng).scores > 0
        predictions = np.where(right, labels, rng.integers(0, 4, right.shape))
        found.append(Trainings(statistics.macro_f1_scores(labels, predictions), _PARTS))
    return statistics.recipe_interval(*found, _GROUPS)


@pytest.mark.parametrize(
    "draw", [lambda rng: rng.choice([0.55, 0.95]), lambda rng: 0.7], ids=["bimodal", "equal"]
)
def test_the_same_recipe_twice_differs_in_macro_f1_in_at_most_one_of_twenty(draw):
    rng = np.random.default_rng(0)
    found = [_macro_f1_lead(3, draw, draw, rng) for _ in range(200)]
    assert np.mean([not estimate.low <= 0 <= estimate.high for estimate in found]) <= 0.05


def test_a_recipe_with_a_better_macro_f1_is_found():
    rng = np.random.default_rng(0)
    good, bad = (lambda rng, mean=mean: np.clip(rng.normal(mean, 0.05), 0.05, 0.95) for mean in (0.8, 0.5))
    assert np.mean([_macro_f1_lead(3, good, bad, rng).low > 0 for _ in range(100)]) >= 0.9


def test_a_better_recipe_is_found():
    good, bad = (lambda rng, mean=mean: np.clip(rng.normal(mean, 0.05), 0.05, 0.95) for mean in (0.8, 0.5))
    assert _fraction_found(3, good, bad) >= 0.9


def test_a_test_of_groups_alone_takes_seeds_for_recipes():
    """The defect that compare_recipes mends: bimodal trainings of one recipe differ far too often."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(100):
        difficulty = rng.normal(0, 1, 16)[_GROUPS]
        one, other = (_train(3, lambda rng: rng.choice([0.55, 0.95]), difficulty, rng) for _ in range(2))
        found += statistics.sign_flip_p(one.mean - other.mean, _GROUPS) < 0.05
    assert found > 20


def test_the_variance_of_a_difference_of_recipes_is_as_computed_by_hand():
    # Two groups are two blocks. One recipe's seeds score 1 and 0 on the first block, the rest is constant.
    one = Trainings(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([0, 1]))
    other = Trainings(np.zeros((2, 2)), np.array([0, 1]))
    found = statistics.compare_recipes(one, other, np.array([0, 1]))
    # Trainings: sums per clip 0.5 and 0, variance 0.125, halved for two seeds. Groups: residuals -0.125 and 0.125,
    # squares summed 0.03125, times 2.
    assert found.effect.value == 0.75
    assert found.from_trainings == pytest.approx(0.0625 / 0.125)
    freedom = 0.125**2 / (0.0625**2 / 1 + 0.0625**2 / 1)
    half = stats.t.ppf(0.975, freedom) * 0.125**0.5
    assert found.effect.high == pytest.approx(0.75 + half)
    assert found.p == 0.5  # that of the sign-flip test with 2 groups, which is larger


def test_recipes_without_any_variance_are_compared_by_sign_flips():
    same = Trainings(np.ones((2, 8)), np.zeros(8, int))
    found = statistics.compare_recipes(same, same, np.arange(8))
    assert (found.effect.low, found.effect.high, found.p) == (0.0, 0.0, 1.0)
    worse = same.scale(0.0, 0.0)
    assert statistics.compare_recipes(same, worse, np.arange(8)).p == pytest.approx(2 / 256)


def test_one_group_gives_no_interval_between_recipes():
    trainings = Trainings(np.ones((2, 4)), np.zeros(4, int))
    found = statistics.compare_recipes(trainings, trainings.scale(0.5, 0.0), np.zeros(4, int))
    assert found.effect.value == 0.5 and np.isnan(found.effect.low) and found.p == 1.0


def test_a_weighted_interval_of_a_mean_is_that_of_the_mean():
    rng = np.random.default_rng(4)
    values, groups = rng.random(60), rng.integers(0, 9, 60)
    found = statistics.weighted_interval(groups, lambda weights: (weights * values).sum(-1) / weights.sum(-1))
    expected = statistics.mean_interval(values, groups)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    alone = statistics.weighted_interval(np.zeros(3, int), lambda weights: weights.sum(-1))
    assert alone.value == 3 and np.isnan([alone.low, alone.high]).all()


def test_the_t_interval_is_that_of_scipy():
    values = np.random.default_rng(0).normal(0.6, 0.2, 7)
    found, wanted = statistics.t_interval(values), stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose((found.low, found.value, found.high), (wanted.low, values.mean(), wanted.high))
    assert statistics.t_interval(np.ones(3)) == statistics.Estimate(1, 1, 1)
    assert np.isnan(statistics.t_interval(np.ones(1)).low)
