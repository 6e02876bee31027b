"""Thresholds of confidence: formulas on cases made by hand, and simulations with a planted truth."""

import numpy as np
import pytest
from scipy import stats

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import measures, unknown
from ucf50_tfrecord.inference import selection
from ucf50_tfrecord.inference.selection import HeldOut


def bound(wrong, units, correlation=0.0, answered=None):
    answered = np.ones(len(wrong), bool) if answered is None else answered
    [found] = selection.error_bounds(
        np.array(wrong, bool), answered[:, np.newaxis], np.array(units), correlation
    )
    return found


def test_independent_clips_have_the_exact_binomial_bound():
    """With one clip a unit and many units, nothing is left of the design effect."""
    units = np.arange(400)
    for num_wrong in (0, 3):
        found = bound(units < num_wrong, units)
        known = (
            stats.binomtest(num_wrong, 400).proportion_ci(1 - 2 * (1 - selection.BOUND_LEVEL), "exact").high
        )
        assert found == pytest.approx(known, rel=0.01)
    assert bound(units < 0, units) == pytest.approx(1 - 0.1 ** (1 / 400))
    assert bound(units < 400, units) == 1


def test_fully_correlated_clips_count_as_one_per_unit():
    units = np.repeat(np.arange(30), 10)
    assert bound(np.zeros(300), units, correlation=1.0) == pytest.approx(1 - 0.1 ** (1 / 30))
    # Three of thirty units are wrong as a whole. The measured effect, times the factor of t, decides.
    factor = (stats.t.ppf(0.9, 29) / stats.t.ppf(0.9, 299)) ** 2
    effective = 300 / (30 / 29 * 10 * factor)
    known = stats.beta.ppf(0.9, 0.1 * effective + 1, 0.9 * effective)
    assert bound(units < 3, units) == pytest.approx(known)


def test_unequal_units_count_by_their_clips():
    """Kish's design effect is 1 + (sum of squared sizes / clips - 1) * correlation."""
    units = np.repeat([0, 1, 2], [8, 1, 1])
    effective = 10 / (1 + (66 / 10 - 1) * 0.5)
    assert bound(np.zeros(10), units, correlation=0.5) == pytest.approx(1 - 0.1 ** (1 / effective))
    assert bound(np.zeros(10), units, answered=units == 0) == 1  # one unit says nothing about others
    assert bound(np.zeros(10), units, answered=np.zeros(10, bool)) == 1


def test_the_correlation_of_errors_is_found_again():
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(400), 20)
    for planted in (0.0, 0.3):
        rates = (
            rng.beta(0.2 * (1 / planted - 1), 0.8 * (1 / planted - 1), 400) if planted else np.full(400, 0.2)
        )
        found = selection.error_correlation(rng.random(8000) < rates[units], units)
        assert found == pytest.approx(planted, abs=0.04)
    few = selection.error_correlation(rng.random(60) < 0.2, np.arange(60) // 12)
    assert few > 0.02  # five units leave it open


@pytest.mark.parametrize(
    "wrong, units",
    [([0] * 6, [0, 0, 1, 1, 2, 2]), ([1] * 6, [0, 0, 1, 1, 2, 2]), ([0, 1, 0], [0, 1, 2]), ([0, 1], [0, 0])],
)
def test_an_unknown_correlation_is_the_worst_one(wrong, units):
    assert selection.error_correlation(np.array(wrong, bool), np.array(units)) == 1
    pure = np.array([1, 1, 0, 0, 0, 0], bool)
    assert selection.error_correlation(pure, np.array([0, 0, 1, 1, 2, 2])) == 1


def test_the_lowest_passing_threshold_is_chosen():
    """The less confident half is wrong half of the time, so that a threshold near 0.5 is the right one."""
    confidence = np.linspace(0, 1, 2000, endpoint=False)
    wrong = (confidence < 0.5) & (np.arange(2000) % 2 == 0)
    units = np.arange(2000)
    found = selection.choose_threshold(confidence, wrong, units, 0.1)
    # Among those above t < 0.5, (0.5 - t) / 2 of 1 - t are wrong: 10% at t = 0.375, and steps are 0.05 wide.
    assert found.value == pytest.approx(0.4, abs=0.001) and 0.08 < found.bound <= 0.1 and found.reason == ""
    assert found.answers(confidence).sum() == pytest.approx(1200, abs=1)
    assert selection.choose_threshold(confidence, wrong, units, 0.3).value == 0  # all are answered


def test_thresholds_with_ties_answer_all_of_them():
    confidence = np.repeat([0.9, 0.2], 200)
    wrong = np.arange(400) >= 200
    assert selection.choose_threshold(confidence, wrong, np.arange(400), 0.1).value == 0.9


def test_the_trial_ends_at_the_first_threshold_that_fails():
    confidence = np.linspace(0, 1, 2000, endpoint=False)
    wrong = (confidence >= 0.8) & (confidence < 0.85)  # the 300 to 400 most confident ones, with few others
    assert selection.choose_threshold(confidence, wrong, np.arange(2000), 0.1).value == pytest.approx(
        0.85, abs=0.001
    )


def test_without_a_threshold_nothing_is_answered_and_the_reason_is_given():
    units = np.repeat(np.arange(5), 4)
    found = selection.choose_threshold(np.linspace(0.5, 1, 20), np.zeros(20, bool), units, 0.1)
    assert found.value is None and found.reason == "20 held-out clips of 5 groups are too few to show it"
    assert found.bound == pytest.approx(1 - 0.1 ** (1 / 5)) and not found.answers(np.ones(3)).any()
    confidence = np.linspace(0.5, 1, 1000)
    found = selection.choose_threshold(confidence, np.arange(1000) % 3 == 0, np.arange(1000), 0.1)
    assert found.value is None and found.reason.startswith(
        "errors among the 51 most confident held-out clips: 17, so that up to 0.433 of"
    )
    one = selection.choose_threshold(confidence, np.zeros(1000, bool), np.zeros(1000, int), 0.1)
    assert one.value is None and one.bound == 1


def draw(rng, *, num_units, size, correlation, error):
    """Confidences, errors and units of clips that are wrong at any confidence with the same mean rate.

    The rates of units follow a beta distribution, whose errors have a given correlation within units.
    """
    units = np.repeat(np.arange(num_units), size)
    rates = np.full(num_units, error)
    if correlation:
        spread = 1 / correlation - 1
        rates = rng.beta(error * spread, (1 - error) * spread, num_units)
    return rng.random(len(units)), rng.random(len(units)) < rates[units], units


@pytest.mark.parametrize(
    "num_units, size, correlation",
    [(25, 12, 0), (25, 12, 0.2), (12, 100, 0.4), (5, 100, 0.05), (5, 100, 0.3)],
)
def test_the_wanted_error_is_exceeded_in_few_draws(num_units, size, correlation):
    """The true error is just above the wanted one, at every threshold: each answer is a failure."""
    rng = np.random.default_rng(1)
    num_draws = 200
    num_failed = sum(
        selection.choose_threshold(
            *draw(rng, num_units=num_units, size=size, correlation=correlation, error=0.105), 0.1
        ).value
        is not None
        for _ in range(num_draws)
    )
    # The nominal rate is 10%; a binomial count of 200 with this rate is seldom above 29.
    assert num_failed <= stats.binom.ppf(0.98, num_draws, 1 - selection.BOUND_LEVEL)


def test_a_bound_of_independent_clips_would_fail_much_more_often():
    """The simulation can find such failures: with each clip as a unit, correlated errors are overlooked."""
    rng = np.random.default_rng(1)
    num_failed = 0
    for _ in range(100):
        confidence, wrong, units = draw(rng, num_units=12, size=100, correlation=0.6, error=0.105)
        num_failed += (
            selection.choose_threshold(confidence, wrong, np.arange(len(units)), 0.1).value is not None
        )
    assert num_failed > 20  # of 100, at a nominal rate of 10%


def test_a_model_without_errors_is_answered_once_there_are_enough_groups():
    rng = np.random.default_rng(0)
    assert (
        selection.choose_threshold(rng.random(240), np.zeros(240, bool), np.arange(240) // 12, 0.1).value
        is None
    )
    found = selection.choose_threshold(rng.random(300), np.zeros(300, bool), np.arange(300) // 12, 0.1)
    assert found.value is not None and found.bound <= 0.1


def make_held_out(num_units=40, size=25, seed=0, noise=1.0):
    """Predictions whose errors are mostly those of low confidence."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_units * size)
    logits = rng.normal(0, noise, (len(labels), 3)) + 3 * rng.random((len(labels), 1)) * np.eye(3)[labels]
    return HeldOut(logits, labels, np.repeat(np.arange(num_units), size))


def test_coverage_and_error_are_of_thresholds_from_other_groups():
    held_out = make_held_out()
    found = selection.select(held_out, 0.2, 1.0, None)
    answered = np.zeros(len(held_out.labels), bool)
    for others, part in held_out.parts():
        assert not set(held_out.units[others]) & set(held_out.units[part])
        rest, own = held_out.select(others), held_out.select(part)
        chosen = selection.choose_threshold(rest.confidence(1.0), rest.wrong, rest.units, 0.2)
        answered[part] = own.confidence(1.0) >= chosen.value
    assert found.coverage.value == pytest.approx(answered.mean())
    assert found.error == pytest.approx(held_out.wrong[answered].mean())
    assert 0.3 < found.coverage.value < 0.9 and found.error < 0.2 and found.error < found.error_bound
    assert found.coverage.low < found.coverage.value < found.coverage.high
    assert found.answers(found.threshold) and not found.answers(found.threshold - 1e-6)


def test_a_group_that_others_do_not_foresee_shows_in_the_error():
    held_out = make_held_out(num_units=30, noise=0.1)
    wrong_group = np.where(held_out.units < 6, (held_out.labels + 1) % 3, held_out.labels)
    found = selection.select(held_out._replace(labels=wrong_group), 0.5, 1.0, None)
    assert found.error == pytest.approx(0.2, abs=0.03)


def test_the_temperature_is_fitted_without_the_part_too():
    held_out, calls = make_held_out(num_units=12), []

    def fit(logits, labels):
        calls.append(len(labels))
        return 2.0

    found = selection.select(held_out, 0.3, 2.0, fit)
    assert len(calls) == selection.MAX_PARTS and max(calls) < len(held_out.labels)
    assert found == selection.select(held_out, 0.3, 2.0, None)


def test_one_group_has_neither_coverage_nor_error():
    found = selection.select(make_held_out(num_units=1), 0.2, 1.0, None)
    assert (found.threshold, found.coverage, found.error, found.error_bound) == (None, None, None, None)


@pytest.mark.parametrize("max_error", [0, 1, -0.1, float("nan"), float("inf")])
def test_wanted_errors_out_of_range_are_refused(max_error):
    with pytest.raises(UserError, match="Expected max_error above 0, to below 1. Received: max_error="):
        selection.select(make_held_out(), max_error, 1.0, None)


def test_risk_areas_are_those_of_the_measures():
    held_out = make_held_out()
    aurc, augrc = selection.risk_areas(held_out, 2.0)
    confidence = held_out.confidence(2.0)
    assert aurc.value == measures.risk_coverage_area(confidence, held_out.wrong)
    assert augrc.value == measures.generalized_risk_area(confidence, held_out.wrong)
    assert aurc.low < aurc.value < aurc.high and augrc.low < augrc.value < augrc.high


def test_energy_accepts_95_percent_of_the_held_out_clips():
    held_out = make_held_out()
    found = selection.known_rule(held_out)
    energies = unknown.energy_scores(held_out.logits)
    assert (energies <= found.threshold).mean() == pytest.approx(0.95) and found.threshold in energies
    assert 0.92 < found.accepted < 0.97
    # The clips of one of two units have higher energies than all of the other's, whose threshold accepts none.
    two = make_held_out(num_units=2)
    shifted = two.logits - 20 * two.units[:, np.newaxis]
    assert selection.known_rule(two._replace(logits=shifted)).accepted == 0.5
    assert selection.known_rule(make_held_out(num_units=1)).accepted is None
