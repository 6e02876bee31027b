"""The first screen of the report, on results whose numbers are known."""

import dataclasses

from tests.evaluation.made_up import make_results
from ucf50_tfrecord.drawing.document import Bullets, Figure, Paragraph
from ucf50_tfrecord.evaluation import verdicts
from ucf50_tfrecord.evaluation.results import Cell, Condition, incomplete
from ucf50_tfrecord.report import build, summary
from ucf50_tfrecord.report.scores import Scores
from ucf50_tfrecord.report.summary import first_screen


def screen(fractions, **options):
    results = make_results(fractions, **options)
    return list(first_screen(Scores(results), verdicts.judge(results)))


def test_it_names_the_best_model_its_lead_and_its_use_of_time():
    fractions = {
        ("frame_pool", "kept", "none"): 0.4,
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "shuffled", "shuffle"): 0.4,
    }
    paragraph, figure = screen(fractions, num_seeds=3)
    assert isinstance(paragraph, Paragraph) and isinstance(figure, Figure)
    assert paragraph.text.startswith("lstm is the most accurate of 2 models, with an accuracy of 0.900 [")
    assert "lstm is ahead of frame_pool, the next best, by +0.5" in paragraph.text
    assert (
        "lstm uses the order of frames: trained and tested on shuffled frames, its accuracy changes by -0.5"
        in (paragraph.text)
    )
    assert figure.name == "summary" and figure.pixels.shape[0] > 50


def test_an_order_blind_winner_is_named_beside_the_best_model_that_sees_order():
    fractions = {
        ("frame_pool", "kept", "none"): 0.9,
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "shuffled", "shuffle"): 0.9,
    }
    paragraph, _ = screen(fractions, num_seeds=3)
    assert "frame_pool cannot see the order of frames. Whether lstm uses" in paragraph.text or (
        "frame_pool cannot see the order of frames. lstm does not use" in paragraph.text
    )


def test_one_training_each_gives_no_claim_about_the_lead():
    fractions = {("rnn", "kept", "none"): 0.5, ("lstm", "kept", "none"): 0.9}
    paragraph, _ = screen(fractions, num_seeds=1)
    assert "Whether it is better than rnn, the next best, cannot be told" in paragraph.text
    assert "with one training of each recipe" in paragraph.text
    assert "Whether lstm uses the order of frames was not tested." in paragraph.text


def test_a_single_model_is_not_called_the_best():
    paragraph, figure = screen({("lstm", "kept", "none"): 0.5})
    assert (
        paragraph.text.startswith("lstm has an accuracy of 0.500 [") and "most accurate" not in paragraph.text
    )


FRACTIONS = {
    ("frame_pool", "kept", "none"): 0.4,
    ("lstm", "kept", "none"): 0.9,
    ("lstm", "kept", "shuffle"): 0.5,
    ("lstm", "shuffled", "shuffle"): 0.4,
}


def without(results, failed):
    """Results of a comparison in which some cells failed."""
    kept = [result for result in results.cells if result.cell not in failed]
    left_out = incomplete((result.cell for result in kept), failed)
    return dataclasses.replace(
        results,
        cells=tuple(result for result in kept if result.cell not in left_out),
        failed=failed,
        left_out=left_out,
    )


def test_nothing_is_said_about_failures_if_none_failed():
    assert not list(summary.failures(make_results(FRACTIONS)))


def test_failed_trainings_come_first_with_their_reasons_and_what_is_left_out():
    killed, raised = "its process was killed by SIGKILL", "its process raised ValueError: no good"
    failed = {
        Cell(model="lstm", part=1, seed=0): killed,
        Cell(model="lstm", part=0, seed=2, training="shuffled"): killed,
        Cell(model="frame_pool", part=0, seed=1): raised,
    }
    results = without(make_results(FRACTIONS, num_seeds=3), failed)
    paragraph, reasons, lead, *_ = build.build(results, verdicts.judge(results)).blocks
    assert isinstance(paragraph, Paragraph) and isinstance(reasons, Bullets)
    assert "3 of its 18 trainings failed twice" in paragraph.text
    assert (
        "left out: lstm, seed 0; lstm, seed 2, trained on shuffled frames; frame_pool, seed 1."
        in paragraph.text
    )
    assert "3 finished trainings of the same seeds are left out" in paragraph.text
    assert reasons.items == [
        f"lstm-part2-seed0, lstm-part1-seed2-shuffled: {killed}",
        f"frame_pool-part1-seed1: {raised}",
    ]
    assert lead.text.startswith("lstm is the most accurate of 2 models")


def test_scores_are_those_of_the_seeds_that_remain():
    every = make_results(FRACTIONS, num_seeds=3)
    results = without(every, {Cell(model="lstm", part=1, seed=0): "it crashed"})
    scores, before = results.trainings(Condition("lstm")).scores, every.trainings(Condition("lstm")).scores
    assert scores.shape == (2, len(every.ids)) and (scores == before[1:]).all()  # over all clips
    found = {verdict.kind: verdict for verdict in verdicts.judge(results) if "lstm" in verdict.models}
    assert found["models_differ"].answer == found["needs_order"].answer == "yes"


def test_one_seed_that_remains_gives_no_claim_about_the_recipe():
    failed = {Cell(model="lstm", part=1, seed=seed): "it crashed" for seed in (0, 2)}
    results = without(make_results(FRACTIONS, num_seeds=3), failed)
    found = {verdict.kind: verdict for verdict in verdicts.judge(results) if "lstm" in verdict.models}
    assert found["models_differ"].doubt == found["needs_order"].doubt == verdicts.Doubt.ONE_TRAINING
    assert found["disturbed_by_shuffling"].answer == "yes"  # about the weights that remain


def test_a_model_without_any_seed_is_named_and_left_out():
    failed = {Cell(model="frame_pool", part=0, seed=seed): "it crashed" for seed in range(2)}
    results = without(make_results(FRACTIONS, num_seeds=2), failed)
    document = build.build(results, verdicts.judge(results))
    paragraph, _, lead, *_ = document.blocks
    assert "No seed with the usual training remains of frame_pool." in paragraph.text
    assert lead.text.startswith("lstm has an accuracy of 0.9")
    assert results.models == ("lstm",)


def test_a_model_that_keeps_only_trainings_without_order_has_no_scores():
    failed = {Cell(model="lstm", part=0, seed=seed): "it crashed" for seed in range(2)}
    results = without(make_results(FRACTIONS, num_seeds=2), failed)
    found = verdicts.judge(results)
    paragraph, _, lead, *_ = build.build(results, found).blocks
    assert "No seed with the usual training remains of lstm." in paragraph.text
    assert lead.text.startswith("frame_pool has an accuracy of 0.4")
    assert {model for verdict in found for model in verdict.models} == {"frame_pool"}
