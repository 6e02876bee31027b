"""Conclusions, which rest on several verdicts."""

from tests.report.tiny import tiny_cell, tiny_results, tiny_verdict
from ucf50_tfrecord.evaluation.verdicts import Answer
from ucf50_tfrecord.report import answers
from ucf50_tfrecord.report.scores import Scores


def concluded(*judged, models=("frame_pool", "lstm")):
    scores = Scores(tiny_results([tiny_cell(model, "aabbcc") for model in models]))
    return " ".join(answers.conclusions(scores, judged))


def test_appearance_is_concluded_from_all_its_verdicts_together():
    appearance, above = (
        tiny_verdict("appearance_suffices", "frame_pool"),
        tiny_verdict("above_chance", "lstm"),
    )
    order = tiny_verdict("needs_order", "lstm", answer=Answer.NO)
    sentence = "The score of lstm comes from appearance, not order"
    assert sentence in concluded(appearance, above, order)
    assert sentence not in concluded(
        appearance, above, tiny_verdict("needs_order", "lstm", answer=Answer.UNKNOWN)
    )
    assert sentence not in concluded(
        tiny_verdict("appearance_suffices", "frame_pool", answer=Answer.NO), above, order
    )
    assert sentence not in concluded(
        appearance, tiny_verdict("above_chance", "lstm", answer=Answer.UNKNOWN), order
    )


def test_order_explains_a_lead_only_if_it_is_needed_and_its_effect_as_large():
    ahead, order = tiny_verdict("models_differ", "lstm", "frame_pool"), tiny_verdict("needs_order", "lstm")
    assert "Frame order explains the lead of lstm over frame_pool" in concluded(ahead, order)
    small = tiny_verdict("needs_order", "lstm", effect=0.05, low=0.02, high=0.08)
    assert "Frame order explains part of the lead of lstm over frame_pool" in concluded(ahead, small)
    assert "Frame order explains" not in concluded(
        ahead, tiny_verdict("needs_order", "lstm", answer=Answer.UNKNOWN)
    )
    assert "Frame order explains" not in concluded(tiny_verdict("models_differ", "frame_pool", "lstm"), order)
    assert "Frame order explains" not in concluded(
        tiny_verdict("models_differ", "lstm", "frame_pool", answer=Answer.NO), order
    )


def test_a_control_that_reads_frames_in_another_way_explains_less():
    found = concluded(
        tiny_verdict("models_differ", "seed_lstm", "frame_pool"),
        tiny_verdict("needs_order", "seed_lstm"),
        models=("frame_pool", "seed_lstm"),
    )
    assert (
        "Frame order explains part of the lead of seed_lstm over frame_pool, which also reads frames in"
        in found
    )


def test_a_model_may_expect_order_without_needing_it():
    disturbed = tiny_verdict("disturbed_by_shuffling", "lstm")
    sentence = "lstm has learnt to expect frame order but does not need it"
    assert sentence in concluded(disturbed, tiny_verdict("needs_order", "lstm", answer=Answer.NO))
    assert sentence not in concluded(disturbed, tiny_verdict("needs_order", "lstm"))


def test_a_control_that_is_ahead_is_named():
    behind = tiny_verdict("models_differ", "frame_pool", "lstm")
    assert concluded(behind).startswith(
        "frame_pool, which cannot see order, is ahead of lstm by 0.200 [0.100"
    )
    assert concluded(tiny_verdict("models_differ", "frame_pool", "lstm", answer=Answer.UNKNOWN)) == ""
