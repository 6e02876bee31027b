"""The report's numbers, against cases computed by hand."""

import dataclasses
import math

import numpy as np
import pytest

from tests.report.tiny import CLASSES, tiny_cell, tiny_results
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.report.scores import Scores, format_estimate


def scores_of(*cells, **options):
    return Scores(tiny_results(cells, **options))


def test_accuracy_is_the_mean_over_seeds_and_clips():
    scores = scores_of(tiny_cell("lstm", "aabbcc"), tiny_cell("lstm", "aabbca", seed=1))
    condition = Condition("lstm")
    assert scores.accuracy(condition).value == pytest.approx(11 / 12)
    f1 = (2 * 2 / (3 + 2) + 1 + 2 * 1 / (1 + 2)) / 3  # of the second seed
    assert scores.by_seed(condition) == pytest.approx(np.array([[1, 5 / 6], [1, f1]]))
    assert scores.macro_f1(condition).value == pytest.approx((1 + f1) / 2)


def test_the_lead_in_macro_f1_is_on_the_clips_of_both_and_needs_seeds_for_an_interval():
    cells = [tiny_cell("lstm", "aabbcc"), tiny_cell("lstm", "aabbca", seed=1), tiny_cell("rnn", "aabb")]
    alone = scores_of(*cells)
    assert alone.macro_f1_lead("lstm", "rnn").value == pytest.approx(0) and alone.costs("lstm") == []
    assert np.isnan(alone.macro_f1_lead("lstm", "rnn").low)
    pairs = scores_of(*cells[:2], tiny_cell("rnn", "abbbcc"), tiny_cell("rnn", "bbbbcc", seed=1))
    found = pairs.macro_f1_lead("lstm", "rnn")
    lstm, rnn = (pairs.macro_f1(Condition(model)).value for model in ("lstm", "rnn"))
    assert found.value == pytest.approx(lstm - rnn) and found.low < found.value < found.high
    elsewhere = dataclasses.replace(tiny_cell("gru", "c"), clips=np.array([5]))
    assert scores_of(tiny_cell("rnn", "aabb"), elsewhere).macro_f1_lead("rnn", "gru") is None


def test_class_scores_are_means_over_seeds_and_missing_classes_have_none():
    scores = scores_of(tiny_cell("lstm", "aabb"), tiny_cell("lstm", "abbb", seed=1), labels="aabb")
    precision, recall, f1 = scores.class_scores(Condition("lstm"))
    assert precision[:2] == pytest.approx([1, (1 + 2 / 3) / 2])
    assert recall[:2] == pytest.approx([(1 + 1 / 2) / 2, 1])
    assert f1[:2] == pytest.approx([(1 + 2 / 3) / 2, (1 + 4 / 5) / 2])
    assert np.isnan([precision[2], recall[2], f1[2]]).all()


def test_changes_are_paired_and_by_class():
    scores = scores_of(tiny_cell("lstm", "aabbcc", reverse="abbbac"))
    plain, reverse = Condition("lstm"), Condition("lstm", intervention="reverse")
    assert scores.change(reverse, plain).value == pytest.approx(-2 / 6)
    assert [e.value for e in scores.changes_by_class(reverse, plain)] == pytest.approx([-0.5, 0, -0.5])
    assert scores.mean_changes_by_class(reverse, plain) == pytest.approx([-0.5, 0, -0.5])
    assert scores.change(Condition("lstm", intervention="gap"), plain) is None


def test_a_class_without_clips_has_no_change():
    scores = scores_of(tiny_cell("lstm", "aabb", reverse="aaaa"), labels="aabb")
    conditions = Condition("lstm", intervention="reverse"), Condition("lstm")
    assert scores.changes_by_class(*conditions)[2] is None
    assert np.isnan(scores.mean_changes_by_class(*conditions)).tolist() == [False, False, True]


def test_calibration_error_of_a_case_computed_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.6, 0.4]])
    # Half of the predictions with 0.9 are right, and all of those with 0.6.
    error = statistics.expected_calibration_error
    assert error(probabilities, np.array([0, 0, 1, 0])) == pytest.approx(0.4)
    assert error(np.eye(2), np.array([0, 1])) == 0


def test_quality_measures_the_mean_probabilities():
    scores = scores_of(tiny_cell("lstm", "aabbcc"), tiny_cell("lstm", "aabbca", seed=1))
    quality = scores.quality(Condition("lstm"))
    likely, other = math.exp(4) / (math.exp(4) + 2), 1 / (math.exp(4) + 2)
    assert quality.log_loss.value == pytest.approx(
        -(5 * math.log(likely) + math.log((likely + other) / 2)) / 6
    )
    assert quality.top5 is None  # of three classes


def test_top5_counts_the_five_most_probable_classes():
    classes = tuple("abcdefg")
    cell = tiny_cell("lstm", "aa", classes=classes)
    cell.logits["none"][:] = [[7, 6, 5, 4, 3, 2, 1], [7, 6, 5, 4, 3, 2, 1]]
    assert scores_of(cell, labels="ef", classes=classes).quality(Condition("lstm")).top5 == 0.5


def test_a_videos_class_comes_from_the_mean_of_its_clips():
    ids = ("a/v1#0", "a/v1#1", "b/v2#0", "b/v2#1")
    cell = tiny_cell("lstm", "abbb", sure=(9, 4, 4, 4))
    count, accuracy, f1 = scores_of(cell, labels="aabb", ids=ids).by_video(Condition("lstm"))
    assert (count, accuracy.value, f1.value) == (2, 1.0, 1.0)
    assert scores_of(tiny_cell("lstm", "abbb"), labels="aabb").by_video(Condition("lstm")) is None


def test_confusions_sum_over_seeds_and_are_ranked_by_the_mean_over_models():
    scores = scores_of(
        tiny_cell("rnn", "aabbca"), tiny_cell("rnn", "aabbaa", seed=1), tiny_cell("lstm", "cabbcc")
    )
    assert scores.confusion("rnn").tolist() == [[4, 0, 0], [0, 4, 0], [3, 0, 1]]
    first, second = scores.most_confused(5)
    assert (first.true, first.taken_for, first.fractions) == (2, 0, {"rnn": 0.75, "lstm": 0.0})
    assert (second.true, second.taken_for, second.mean) == (0, 2, 0.25)
    assert len(scores.most_confused(1)) == 1


def test_clips_that_only_one_model_recognises_with_all_seeds():
    scores = scores_of(
        tiny_cell("rnn", "bbbbcc"), tiny_cell("rnn", "babbcc", seed=1), tiny_cell("lstm", "aabbcc")
    )
    assert scores.only_right("lstm", "rnn").tolist() == [0]
    assert scores.only_right("rnn", "lstm").tolist() == []


def test_interventions_are_listed_in_their_defined_order_with_permutations_as_one():
    words = {
        "patches": "aaaaaa",
        "last1": "aaaaaa",
        "shuffle2": "aaaaaa",
        "shuffle1": "aaaaaa",
        "new": "aaaaaa",
    }
    assert scores_of(tiny_cell("lstm", "aabbcc", **words)).interventions() == (
        "shuffle",
        "last1",
        "patches",
        "new",
    )


def test_order_checks_find_the_largest_change():
    cell = tiny_cell("frame_pool", "aabbcc", reverse="aabbcc", shuffle1="aabbcc", shuffle2="aabbca")
    cell.logits["reverse"] = cell.logits["none"] + np.float32(1e-6)
    other = tiny_cell(
        "frame_pool", "aabbcc", training="shuffled", reverse="cccccc"
    )  # belongs to another condition
    shuffled, backwards = scores_of(cell, other).order_checks()
    assert (shuffled.num_changed, shuffled.num_tested, shuffled.largest_change, shuffled.largest_logit) == (
        1,
        12,
        4.0,
        4.0,
    )
    assert (backwards.num_changed, backwards.num_tested) == (0, 6)
    assert 0 < backwards.largest_change < 1e-5


def test_the_control_of_a_model_reads_frames_alike():
    models = ("frame_pool", "seed_pool", "lstm", "seed_rnn")
    scores = scores_of(*(tiny_cell(model, "aabbcc") for model in models))
    assert [scores.control_of(model) for model in ("lstm", "seed_rnn")] == ["frame_pool", "seed_pool"]
    scores = scores_of(tiny_cell("frame_pool", "aabbcc"), tiny_cell("seed_rnn", "aabbcc"))
    assert scores.control_of("seed_rnn") == "frame_pool" and not scores.read_alike("seed_rnn", "frame_pool")
    assert scores_of(tiny_cell("lstm", "aabbcc")).control_of("lstm") is None


def test_models_without_predictions_by_group_are_left_out():
    scores = scores_of(tiny_cell("rnn", "aabbcc", split="video"), tiny_cell("lstm", "aabbcc"))
    assert scores.models == ("lstm",)


def test_estimates_are_formatted_for_tables():
    assert format_estimate(Estimate(0.5, 0.25, 1.0)) == "0.500 [0.250, 1.000]"
    assert format_estimate(Estimate(-0.0001, -0.1, 0.2), sign=True) == "+0.000 [-0.100, +0.200]"
    assert format_estimate(Estimate(0.5, math.nan, math.nan)) == "0.500 [–]"
    assert format_estimate(None) == "–"
    assert len(CLASSES) == 3
