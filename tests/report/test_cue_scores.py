"""Numbers about cues, from predictions whose numbers can be computed by hand."""

import dataclasses

import numpy as np
import pytest

from tests.report.tiny import tiny_cell, tiny_results
from ucf50_tfrecord.evaluation import interventions, statistics
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.report import cue_scores
from ucf50_tfrecord.report.scores import Scores

LETTERS = "abc"
SWAPPED = Condition("lstm", intervention="background_swap")


def theirs(results, seed=0):
    """The letters of the donors' classes."""
    return "".join(LETTERS[label] for label in results.labels[results.donors(SWAPPED)[seed]])


def test_donors_are_those_of_the_intervention_among_the_clips_of_the_part():
    first = tiny_cell("lstm", "aabb", background_swap="aabb")
    second = dataclasses.replace(
        tiny_cell("lstm", "cc", background_swap="cc", part=1), clips=np.array([4, 5])
    )
    results = tiny_results([first, second])
    [donors] = results.donors(SWAPPED)
    tested = interventions.choose_donors(results.ids[:4], results.labels[:4], results.groups[:4])
    assert donors[:4].tolist() == tested.tolist() and donors[4:].tolist() == [5, 4]
    [donors] = dataclasses.replace(results, of_features=True).donors(SWAPPED)
    every = interventions.choose_donors(results.ids, results.labels, results.groups)
    assert donors.tolist() == every.tolist()
    assert dataclasses.replace(results, of_features=None).donors(SWAPPED) is None


def test_the_swap_error_counts_predictions_of_the_donors_class():
    donors = theirs(tiny_results([tiny_cell("lstm", "aabbcc", background_swap="aabbcc")]))
    assert all(one != other for one, other in zip(donors, "aabbcc"))
    swapped = donors[:3] + "bcc"
    results = tiny_results([tiny_cell("lstm", donors[0] + "abbcc", background_swap=swapped)])
    error, before = cue_scores.swap_error(results, "lstm")
    assert (error.value, before.value) == (3 / 6, pytest.approx(1 / 6))
    assert cue_scores.swap_error(tiny_results([tiny_cell("lstm", "aabbcc")]), "lstm") is None


def test_clips_whose_donor_has_their_class_do_not_count():
    results = tiny_results([tiny_cell("lstm", "aaaa", background_swap="aaaa")], labels="aaaa")
    assert cue_scores.swap_error(results, "lstm") is None


def test_contrasted_accuracy_needs_both_tests():
    cell = tiny_cell("lstm", "aabbcc", background_swap="aabbca", middle1="bbbbaa")
    assert cue_scores.contrasted_accuracy(tiny_results([cell]), "lstm").value == pytest.approx(3 / 6)
    cell = tiny_cell("lstm", "aabbcc", background_swap="aabbca")
    assert cue_scores.contrasted_accuracy(tiny_results([cell]), "lstm") is None


def test_the_oracle_chooses_a_frame_for_each_seed():
    one = tiny_cell("lstm", "aabbcc", first1="aaaaaa", middle1="bbbbbb", last1="aaaaaa")
    two = tiny_cell("lstm", "aaaaaa", first1="cccccc", middle1="cccccc", last1="cccccc", seed=1)
    accuracy, gain = cue_scores.oracle(tiny_results([one, two]), "lstm")
    assert accuracy.value == pytest.approx((4 + 2) / 12)
    assert gain.value == pytest.approx((4 + 2 - 6 - 2) / 12)
    assert cue_scores.oracle(tiny_results([tiny_cell("lstm", "aabbcc", middle1="aabbcc")]), "lstm") is None


def test_twins_come_from_all_models_that_see_order():
    cells = [tiny_cell("lstm", "aabbcc", reverse="bbaacc"), tiny_cell("rnn", "aabbcc", reverse="bbbacc")]
    assert cue_scores.find_twins(Scores(tiny_results(cells))).tolist() == [1, 0, -1]
    blind = tiny_cell("frame_pool", "aabbcc", reverse="bbaacc")
    assert cue_scores.find_twins(Scores(tiny_results([blind]))).tolist() == [-1, -1, -1]


def test_pair_accuracy_is_over_clips_of_twin_classes():
    results = tiny_results([tiny_cell("lstm", "abbbcc", reverse="bbabcc")])
    forward, backward, both = cue_scores.pair_accuracy(results, "lstm", np.array([1, 0, -1]))
    assert (forward.value, backward.value, both.value) == (3 / 4, 3 / 4, 2 / 4)
    assert cue_scores.pair_accuracy(results, "lstm", np.full(3, -1)) is None


def shuffled(says, seed=0):
    names = {name: says for name in interventions.SHUFFLES}
    return tiny_cell("lstm", says, training="shuffled", seed=seed, **names)


def test_the_effect_of_order_by_class_allows_for_other_seeds():
    labels = "abab" * 3
    cells = [tiny_cell("lstm", labels), shuffled("a" * 12)]
    of_one = cue_scores.order_effects(Scores(tiny_results(cells, labels=labels)), "lstm")
    assert [effect and effect.value for effect in of_one] == [0, 1, None]
    cells += [tiny_cell("lstm", "ab" * 6, seed=1), shuffled("aaab" * 3, seed=1)]
    results = tiny_results(cells, labels=labels)
    effects = cue_scores.order_effects(Scores(results), "lstm")
    assert [effect and effect.value for effect in effects] == [0, pytest.approx(0.75), None]
    chosen = results.labels == 1
    conditions = Condition("lstm"), Condition("lstm", training="shuffled", intervention="shuffle")
    one, other = (results.trainings(condition).select(chosen) for condition in conditions)
    assert effects[1] == statistics.recipe_interval(one, other, results.units[chosen])
    assert effects[1].high - effects[1].low > 0.1


def test_a_model_without_shuffled_trainings_has_no_effect_by_class():
    assert not any(cue_scores.order_effects(Scores(tiny_results([tiny_cell("lstm", "aabbcc")])), "lstm"))
