"""Judgements of predictions, and the reasons that they give."""

import dataclasses
import json

import numpy as np
import pytest

from tests.inference.test_selection import make_held_out
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import unknown
from ucf50_tfrecord.inference import abstention, calibration
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.calibration import Calibration
from ucf50_tfrecord.inference.selection import KnownRule, Selection
from ucf50_tfrecord.specs import to_json

RULES = Rules(
    num_clips=100,
    num_groups=20,
    max_error=0.1,
    selection=Selection(max_error=0.1, threshold=0.63, reason="", bound=0.09),
    known=KnownRule(threshold=-2.0, accepted=0.94),
)
SURE = np.array([[3.0, 0.0, 0.0]])  # energy -3.09
FLAT = np.zeros((1, 3))  # energy -1.10


def test_a_judgement_gives_its_reasons():
    sure = RULES.judge(0.7, SURE)
    assert sure.confident is True and sure.known is True
    assert sure.confident_reason == "confidence 0.70 reaches 0.63, the threshold for at most 10% errors"
    assert sure.known_reason == (
        "energy -3.09 is at most -2.00, the threshold that accepts 95% of the held-out clips"
    )
    doubtful = RULES.judge(0.41, FLAT)
    assert doubtful.confident is False and doubtful.known is False
    assert doubtful.confident_reason == "confidence 0.41 is below 0.63, the threshold for at most 10% errors"
    assert doubtful.known_reason.startswith("energy -1.10 is above -2.00, ")
    assert doubtful.unknown_score == pytest.approx(-np.log(3))


def test_the_thresholds_themselves_are_accepted():
    energy = float(unknown.energy_scores(SURE)[0])
    rules = dataclasses.replace(RULES, known=KnownRule(threshold=energy, accepted=None))
    judged = rules.judge(0.63, SURE)
    assert judged.confident and judged.known
    # Numbers that differ are told apart.
    assert "confidence 0.6299 is below 0.6300" in RULES.judge(0.6299, SURE).confident_reason


def test_several_clips_are_judged_by_their_mean_and_this_is_said():
    judged = RULES.judge(0.7, np.concatenate([SURE, FLAT]))
    assert judged.unknown_score == pytest.approx((unknown.energy_scores(SURE)[0] - np.log(3)) / 2)
    note = "; a mean over 2 clips of the video, while the threshold rests on single clips"
    assert judged.confident_reason.endswith(note) and judged.known_reason.endswith(note)


def test_without_a_limit_confidence_is_not_judged():
    judged = dataclasses.replace(RULES, max_error=None, selection=None).judge(0.7, SURE)
    assert (judged.confident, judged.confident_reason) == (None, "no limit on errors was requested")
    assert judged.known is True


def test_without_a_threshold_the_model_abstains_from_everything():
    few = make_held_out(num_units=4, size=5)
    rules = abstention.make_rules(few, "", calibration=Calibration(), max_error=0.1, is_selected=True)
    judged = rules.judge(1.0, SURE)
    assert judged.confident is False
    assert judged.confident_reason == (
        "no threshold is known to keep errors at or below 10%: 20 held-out clips of 4 groups are too few to show it"
    )
    assert (rules.num_clips, rules.num_groups, rules.is_selected) == (20, 4, True)


def test_without_predictions_nothing_is_known():
    none = abstention.make_rules(
        None, "it has none", calibration=Calibration(), max_error=0.1, is_selected=False
    )
    judged = none.judge(1.0, SURE)
    assert judged.confident is False and judged.confident_reason.endswith("at or below 10%: it has none")
    assert (judged.known, judged.known_reason) == (None, "it has none")
    with pytest.raises(UserError, match="Received: max_error=1"):
        abstention.make_rules(None, "", calibration=Calibration(), max_error=1, is_selected=False)


@pytest.mark.parametrize("num_units", [1, 40])
def test_rules_are_of_the_calibrated_probabilities_and_fit_json(num_units):
    held_out = make_held_out(num_units=num_units)
    found = calibration.calibrate(held_out)
    rules = abstention.make_rules(held_out, "", calibration=found, max_error=0.2, is_selected=False)
    assert json.loads(json.dumps(to_json(rules), allow_nan=False)) == to_json(rules)
    assert (rules.aurc is None) == (num_units == 1)
    if num_units > 1:
        confidence = held_out.confidence(found.temperature)
        assert found.temperature != 1 and rules.selection.threshold in confidence
        answered = confidence >= rules.selection.threshold
        assert held_out.wrong[answered].mean() < 0.2
