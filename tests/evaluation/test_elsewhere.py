"""Scores on another data set against cases computed by hand."""

import json
import types

import numpy as np
import pytest

from ucf50_tfrecord import record
from ucf50_tfrecord.evaluation import elsewhere
from ucf50_tfrecord.evaluation.class_matching import UNMATCHED
from ucf50_tfrecord.evaluation.elsewhere import Predicted
from ucf50_tfrecord.evaluation.results import units_of
from ucf50_tfrecord.evaluation.runner import SavedPrediction

OURS = ("Left", "Middle", "Right")
MATCHES = (2, UNMATCHED, 0)  # of right, up, LEFT
IDS = ("right/a", "right/b", "up/c", "up/d", "LEFT/e", "LEFT/f#1")
LABELS = np.array([0, 0, 1, 1, 2, 2])
GROUPS = np.array([1, 2, 1, 2, 1, 2])
# The second clip is predicted as Middle, which the other set lacks; among shared classes it would be right.
LOGITS = np.array([[0, 0, 4], [0, 3, 2], [0, 1, 0], [1, 0, 0], [4, 0, 0], [0, 0, 1]], np.float32)


def make_clips(groups=GROUPS):
    return types.SimpleNamespace(
        ids=IDS,
        labels=LABELS,
        groups=groups,
        folds=groups,
        manifest=types.SimpleNamespace(classes=("right", "up", "LEFT")),
    )


def compare(clips=None, own=None):
    clips = clips or make_clips()
    predicted = elsewhere.predicted_elsewhere(clips, LOGITS, MATCHES)
    return elsewhere.score_other_set(clips, predicted, own, MATCHES, OURS)


def test_the_headline_scores_are_over_all_outputs():
    found = compare()
    assert found.here.all_outputs.accuracy.value == 2 / 4  # the second and the last clip are wrong
    # F1 of Right: 1 hit, 2 predicted (one of them LEFT), 2 clips. F1 of Left: 1 hit, 1 predicted, 2 clips.
    assert found.here.all_outputs.macro_f1.value == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert found.summary["accuracy"] == 0.5 and found.summary["num_clips"] == 6
    assert found.summary["macro_f1"] == found.here.all_outputs.macro_f1.value


def test_scores_over_shared_outputs_choose_among_shared_classes_only():
    found = compare()
    assert found.here.num_clips == 4
    assert found.here.shared_outputs.accuracy.value == 3 / 4
    assert found.here.shared_outputs.macro_f1.value == pytest.approx((2 * 2 / 5 + 2 / 3) / 2)


def test_predictions_for_unknown_classes_are_counted_and_are_no_part_of_the_scores():
    [unknown] = compare().unknown_classes
    assert (unknown.name, unknown.num_clips) == ("up", 2)
    assert unknown.predicted == {"Left": 1, "Middle": 1}
    assert unknown.confidence == pytest.approx(np.e / (np.e + 2))


def test_confidence_on_shared_classes_is_set_against_that_on_unknown_ones():
    found = compare()
    sure, unsure = np.e**4 / (np.e**4 + 2), np.e / (np.e + 2)
    middle = np.e**3 / (np.e**3 + np.e**2 + 1)
    assert found.here.confidence.mean.value == pytest.approx((2 * sure + middle + unsure) / 4)
    assert found.unknown_confidence.quantiles == pytest.approx((unsure,) * 3)
    # Three of the four shared clips are surer than both unknown ones; one is as sure.
    assert found.confidence_auroc.value == pytest.approx((3 + 0.5) / 4)


def test_without_unknown_classes_there_is_nothing_to_separate():
    predicted = Predicted(
        labels=np.array([0, 2]), groups=np.array([1, 2]), units=np.array([0, 1]), logits=LOGITS[:2]
    )
    assert predicted.separation() is None


def test_intervals_are_over_groups_or_over_videos_without_a_group():
    nowhere = np.full(6, record.UNKNOWN_GROUP)
    mixed = np.where(np.arange(6) < 2, GROUPS, nowhere)
    for groups, unit, num_units in (
        (GROUPS, "groups", 2),
        (nowhere, "videos", 4),
        (mixed, "groups and videos", 4),
    ):
        found = compare(make_clips(groups)).here
        assert (found.unit, found.num_units) == (unit, num_units)


def test_the_runs_own_scores_are_on_clips_of_shared_classes_in_order():
    own = elsewhere.predicted_at_home(
        [
            SavedPrediction(clip_id=f"x/{i}", intervention=name, fold=1, group=i, label=label, logits=logits)
            for name in ("none", "shuffle1")
            for i, (label, logits) in enumerate([(0, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 3, 2))])
        ],
        elsewhere.predicted_elsewhere(make_clips(), LOGITS, MATCHES),
    )
    assert own.labels.tolist() == [0, 2] and own.groups.tolist() == [0, 2]
    found = compare(own=own)
    assert found.own.all_outputs.accuracy.value == 0.5 and found.own.shared_outputs.accuracy.value == 1.0


def test_a_summary_is_valid_json_even_if_intervals_are_unknown():
    found = compare(make_clips(np.ones(6, int))).summary
    assert found["here"]["all_outputs"]["accuracy"] == {"value": 0.5, "low": None, "high": None}
    assert found["class_map"] == {"right": "Right", "up": None, "LEFT": "Left"} and found["own"] is None
    json.dumps(found, allow_nan=False)


def test_predictions_hold_all_that_scores_are_computed_from(tmp_path):
    clips, path = make_clips(), tmp_path / "predictions.jsonl"
    predicted = elsewhere.predicted_elsewhere(clips, LOGITS, MATCHES)
    elsewhere.save_predictions(path, clips, predicted, OURS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run_class"] for line in lines] == ["Right", "Right", None, None, "Left", "Left"]
    assert lines[1] | {"logits": None} == {
        "clip_id": "right/b",
        "fold": 2,
        "group": 2,
        "class": "right",
        "label": 2,
        "run_class": "Right",
        "predicted": 1,
        "predicted_class": "Middle",
        "confidence": pytest.approx(np.e**3 / (np.e**3 + np.e**2 + 1), abs=1e-6),
        "logits": None,
    }
    again = Predicted(
        labels=np.array([UNMATCHED if line["label"] is None else line["label"] for line in lines]),
        groups=np.array([line["group"] for line in lines]),
        units=units_of([line["clip_id"] for line in lines], np.array([line["group"] for line in lines])),
        logits=np.array([line["logits"] for line in lines], np.float32),
    )
    assert again.score() == predicted.score()


def test_clips_with_the_class_and_name_of_a_training_clip_are_counted():
    known = {"Right/a", "Left/f", "Middle/c", "Right/e"}
    assert elsewhere.count_same(make_clips(), MATCHES, OURS, known) == 2  # right/a and LEFT/f#1
    assert elsewhere.count_same(make_clips(), MATCHES, OURS, None) is None
