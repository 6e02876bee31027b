"""Verdicts on made-up predictions, whose right answers are known."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.made_up import NUM_FRAMES, make_results, right_about
from ucf50_tfrecord.evaluation import interventions, result_files, verdicts
from ucf50_tfrecord.evaluation.interventions import SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.verdicts import Answer, Doubt


def judged(results):
    return {(verdict.kind, verdict.models): verdict for verdict in verdicts.judge(results)}


def test_a_recipe_that_uses_order_is_found():
    fractions = {("lstm", "kept", "none"): 0.9, ("lstm", "shuffled", "shuffle"): 0.3}
    found = judged(make_results(fractions, num_seeds=3))
    verdict = found["needs_order", ("lstm",)]
    assert verdict.answer == Answer.YES and verdict.adjusted_p < 0.01
    assert verdict.effect.value == pytest.approx(0.6, abs=0.05)
    assert verdict.effect.low < verdict.effect.value < verdict.effect.high
    assert verdict.text.startswith(
        "The recipe lstm uses frame order: trained and tested on shuffled frames, it loses 0.6"
    )


def test_a_recipe_that_does_not_use_order_gets_a_no():
    fractions = {("lstm", "kept", "none"): 0.98, ("lstm", "shuffled", "shuffle"): 0.98}
    found = judged(make_results(fractions, num_seeds=3))
    assert found["needs_order", ("lstm",)].answer == Answer.NO
    assert found["above_chance", ("lstm",)].answer == Answer.YES


def test_a_small_comparison_cannot_tell():
    fractions = {("lstm", "kept", "none"): 0.6, ("rnn", "kept", "none"): 0.5}
    found = judged(make_results(fractions, num_groups=5, clips_per_group=4, num_seeds=3))
    [verdict] = [v for (kind, _), v in found.items() if kind == "models_differ"]
    assert verdict.answer == Answer.UNKNOWN and verdict.doubt == Doubt.SIZE and verdict.more_groups > 0
    assert f"about {verdict.more_groups} more groups needed" in verdict.text


def test_chance_accuracy_is_not_recognition():
    found = judged(make_results({("lstm", "kept", "none"): 0.25}))
    assert found["above_chance", ("lstm",)].answer != Answer.YES


def test_the_better_of_two_models_is_named_first():
    fractions = {("rnn", "kept", "none"): 0.4, ("lstm", "kept", "none"): 0.8}
    verdict = judged(make_results(fractions, num_seeds=3))["models_differ", ("lstm", "rnn")]
    assert verdict.answer == Answer.YES and verdict.mcnemar_p < 0.001
    assert "The recipes lstm and rnn differ: lstm is ahead by 0.4" in verdict.text


def test_one_training_of_each_recipe_supports_no_claim_about_recipes():
    fractions = {
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "kept", "reverse"): 0.3,
        ("lstm", "shuffled", "shuffle"): 0.3,
        ("rnn", "kept", "none"): 0.3,
    }
    found = judged(make_results(fractions, num_seeds=1))
    for key in (("needs_order", ("lstm",)), ("models_differ", ("lstm", "rnn"))):
        verdict = found[key]
        assert (verdict.answer, verdict.doubt) == (Answer.UNKNOWN, Doubt.ONE_TRAINING)
        assert "one training each; three or more seeds" in verdict.text and "0.6" in verdict.text
        assert np.isnan([verdict.p, verdict.adjusted_p, verdict.effect.low]).all()
    direction = found["uses_direction", ("lstm",)]  # a claim about these weights needs no other training
    assert direction.answer == Answer.YES and direction.text.startswith("The trained lstm sees the direction")


@pytest.mark.parametrize("accuracy", [0.25, 0.29])
def test_a_model_at_chance_gets_no_negative_verdicts(accuracy):
    """Its predictions do not change at all, so only the margin above chance can tell."""
    same = [("lstm", "kept", name) for name in ("none", "reverse", "half_rate", "background_swap")]
    results = make_results(dict.fromkeys(same, accuracy), num_groups=60)
    for cell in results.cells:
        cell.logits.update(dict.fromkeys(list(cell.logits), cell.logits["none"]))
    found = judged(results)
    for kind in ("uses_direction", "needs_full_rate", "uses_background"):
        verdict = found[kind, ("lstm",)]
        assert (verdict.answer, verdict.doubt) == (Answer.UNKNOWN, Doubt.CHANCE)
        assert verdict.effect.high == 0.0 and "could hardly have lost more" in verdict.text


def test_a_loss_of_all_that_a_weak_model_has_is_not_negligible():
    """It is 0.12 above chance; a loss of 0.04 is below the margin, but a third of that."""
    fractions = {("lstm", "kept", "none"): 0.37, ("lstm", "kept", "reverse"): 0.37}
    results = make_results(fractions, num_groups=400)
    for cell in results.cells:
        right = cell.logits["none"].argmax(axis=1) == results.labels[cell.clips]
        cell.logits["reverse"] = np.where(
            right[:, np.newaxis] & (np.arange(len(right)) % 9 == 0)[:, np.newaxis],
            -cell.logits["none"],
            cell.logits["none"],
        )
    verdict = judged(results)["uses_direction", ("lstm",)]
    assert verdict.effect.high < verdicts.MARGIN
    assert verdict.answer != Answer.NO


def test_evidence_at_the_start_is_found_and_at_the_end_denied():
    quarter = interventions.quarter(NUM_FRAMES)
    fractions = {("lstm", "kept", "none"): 0.9, ("lstm", "kept", f"first{quarter}"): 0.85}
    found = judged(make_results(fractions | {("lstm", "kept", f"last{quarter}"): 0.3}))
    assert found["evidence_at_start", ("lstm",)].answer == Answer.YES
    assert found["evidence_at_end", ("lstm",)].answer == Answer.NO  # the reverse holds


def test_an_order_blind_model_is_not_asked_about_order():
    fractions = {("frame_pool", "kept", name): 0.9 for name in interventions.names(NUM_FRAMES)}
    kinds = {kind for kind, _ in judged(make_results(fractions))}
    assert "appearance_suffices" in kinds
    assert not kinds & {"needs_order", "uses_direction", "disturbed_by_shuffling", "above_chance"}


def test_many_empty_contrasts_claim_nothing():
    """Equally good recipes in pairs: of twenty pairs about one would differ at random without a correction."""
    wrong = 0
    for seed in range(10):
        fractions = {
            (model, "kept", "none"): 0.5 for model in ("rnn", "lstm", "gru", "seed_rnn", "seed_lstm")
        }
        found = judged(make_results(fractions, seed=seed, num_seeds=3))
        wrong += any(v.answer == Answer.YES for (kind, _), v in found.items() if kind == "models_differ")
    assert wrong <= 1


def test_the_shortest_horizon_that_scores_like_the_whole_clip_is_found():
    fractions = {
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "kept", "last1"): 0.4,
        ("lstm", "kept", "last2"): 0.6,
    }
    results = make_results(fractions | {("lstm", "kept", "last4"): 0.9})
    count, loss = verdicts.horizon(results, "lstm", "last")
    assert count == 4 and abs(loss.value) < 0.05
    assert verdicts.horizon(results, "lstm", "first") is None


def test_seeds_and_permutations_are_averaged_clip_by_clip():
    fractions = {("lstm", "kept", "none"): 1.0, ("lstm", "kept", "shuffle"): 0.5}
    results = make_results(fractions, num_seeds=2)
    assert results.logits(Condition("lstm")).shape[0] == 2
    logits = results.logits(Condition("lstm", intervention=SHUFFLED))
    assert logits.shape[0] == 2 * interventions.NUM_SHUFFLES
    by_hand = (logits.argmax(axis=2) == results.labels).mean(axis=0)
    np.testing.assert_allclose(results.correct(Condition("lstm", intervention=SHUFFLED)), by_hand)


def test_the_trainings_of_a_condition_have_a_row_per_seed_and_a_block_per_part():
    results = make_results({("lstm", "kept", "none"): 0.8, ("lstm", "kept", "shuffle"): 0.5}, num_seeds=2)
    plain = results.trainings(Condition("lstm"))
    predictions, _ = results.predictions(Condition("lstm"))
    np.testing.assert_array_equal(plain.scores, predictions == results.labels)
    assert len(np.unique(plain.blocks)) == 2
    for cell in results.cells:
        assert len(np.unique(plain.blocks[cell.clips])) == 1
    assert results.trainings(Condition("lstm", intervention=SHUFFLED)).scores.shape == (2, len(results.ids))


def test_results_survive_saving_and_loading(tmp_path):
    results = make_results({("lstm", "kept", "none"): 0.7, ("lstm", "kept", "shuffle"): 0.5}, num_seeds=2)
    result_files.save(tmp_path, results)
    loaded = result_files.load(tmp_path / "results.json")
    assert loaded.ids == results.ids and loaded.models == results.models
    for name in ("none", "shuffle"):
        condition = Condition("lstm", intervention=name)
        np.testing.assert_array_equal(loaded.logits(condition), results.logits(condition))
    assert [v.text for v in verdicts.judge(loaded)] == [v.text for v in verdicts.judge(results)]
    result_files.save(tmp_path / "again", loaded)
    for name in ("results.json", "predictions.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_clips_without_a_group_are_resampled_by_video():
    results = make_results({("lstm", "kept", "none"): 0.7}, num_groups=1)
    lone = np.full(len(results.ids), -1)
    ids = tuple(f"A/v{i // 2}#{i % 2}" for i in range(len(results.ids)))
    changed = dataclasses.replace(results, groups=lone, ids=ids)
    assert len(np.unique(changed.units)) == len(results.ids) / 2
    assert len(np.unique(results.units)) == 1


def test_made_up_results_have_the_requested_accuracy():
    results = make_results({("lstm", "kept", "none"): 0.7})
    assert right_about(results, Condition("lstm")) == pytest.approx(0.7, abs=0.01)
