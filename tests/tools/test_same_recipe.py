import dataclasses

import numpy as np
import pytest

from tests.evaluation import made_up
from tools import same_recipe
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import verdicts
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition

LSTM = Condition("lstm")
CONTRASTS = {  # of the first set and the second set
    "models_differ": (LSTM, Condition("lstm (other seeds)")),
    "needs_order": (LSTM, Condition("lstm", training="shuffled", intervention=SHUFFLED)),
    "needs_several_frames": (LSTM, Condition("lstm", training="single", intervention="middle1")),
    "recognises_recording": (LSTM, Condition("lstm", split="video")),
}


@pytest.fixture(scope="module")
def results():
    """Eight equally good trainings of one recipe, whose predictions are independent."""
    return made_up.make_results(
        {("lstm", "kept", PLAIN): 0.7, ("lstm", "kept", "reverse"): 0.3}, num_groups=8, num_seeds=8
    )


def bimodal(num_good):
    """Returns eight trainings, of which the first few learn everything, the others nothing."""
    parts = [
        made_up.make_results({("lstm", "kept", PLAIN): fraction}, num_groups=8, num_seeds=8)
        for fraction in (1.0, 0.25)
    ]
    cells = [
        result
        for good, part in zip((True, False), parts)
        for result in part.cells
        if (result.cell.seed < num_good) is good
    ]
    return dataclasses.replace(parts[0], cells=tuple(cells))


@pytest.mark.parametrize("kind", same_recipe.KINDS)
def test_both_sets_are_judged_by_their_predictions_for_unchanged_clips(kind, results):
    made = same_recipe.split(results, kind, (0, 3, 5), (1, 2, 7))
    [contrast] = [contrast for contrast in verdicts.find_contrasts(made) if contrast.kind == kind]
    assert {contrast.one, contrast.other} == {*CONTRASTS[kind]}
    assert made.models == (("lstm", "lstm (other seeds)") if kind == "models_differ" else ("lstm",))
    usual = results.trainings(LSTM).scores  # [8, N]
    for condition, seeds in zip(CONTRASTS[kind], ([0, 3, 5], [1, 2, 7])):
        assert np.array_equal(made.trainings(condition).scores, usual[seeds])


def test_the_named_sets_keep_their_own_predictions_under_interventions(results):
    made = same_recipe.split(results, "models_differ", (0, 1, 2), (3, 4, 5))
    reversed_scores = results.trainings(Condition("lstm", intervention="reverse")).scores
    for model, seeds in (("lstm", [0, 1, 2]), ("lstm (other seeds)", [3, 4, 5])):
        assert np.array_equal(
            made.trainings(Condition(model, intervention="reverse")).scores, reversed_scores[seeds]
        )


def test_draws_are_different_pairs_of_sets_without_a_common_training():
    drawn = same_recipe.draw(range(8), np.random.default_rng(0))
    assert len(drawn) == len(set(drawn)) == same_recipe.NUM_DRAWS == 100
    assert all(len({*one, *other}) == 6 for one, other in drawn)
    assert {seed for sets in drawn for one in sets for seed in one} == set(range(8))
    assert drawn == same_recipe.draw(range(8), np.random.default_rng(0))
    assert len(same_recipe.draw(range(6), np.random.default_rng(0))) == 20  # all there are
    with pytest.raises(UserError, match="at least 6 trainings. Received: trainings=5"):
        same_recipe.draw(range(5), np.random.default_rng(0))


def test_bimodal_trainings_differ_by_groups_alone_but_not_by_verdicts(monkeypatch):
    monkeypatch.setattr(same_recipe, "NUM_DRAWS", 10)
    counted = same_recipe.count_differences(bimodal(4), scenario="speed_twice", seed=0)
    pairs, *of_sets = counted
    assert [draws.kind for draws in counted] == ["models_differ", *same_recipe.KINDS]
    assert {(d.scenario, d.seed, d.num_trainings) for d in counted} == {("speed_twice", 0, 8)}
    # 16 of 28 pairs are of a training that learned everything and one that learned nothing.
    assert (pairs.set_size, pairs.num_draws, pairs.num_differ) == (1, 28, 0) and pairs.num_by_groups >= 16
    for draws in of_sets:
        assert (draws.set_size, draws.num_draws) == (3, 10)
        assert draws.num_differ < draws.num_by_groups <= 10


def test_sets_that_do_differ_are_told_from_each_other():
    results = bimodal(3)
    for kind in same_recipe.KINDS:
        good, bad = (0, 1, 2), (3, 4, 5)
        sets = (bad, good) if kind == "recognises_recording" else (good, bad)
        assert same_recipe.judge(results, kind, *sets).answer == verdicts.Answer.YES
        if kind != "models_differ":
            assert same_recipe.judge(results, kind, *reversed(sets)).answer != verdicts.Answer.YES
