"""Scores of robustness against cases that are computed by hand."""

import json
import math

import numpy as np
import pytest

from ucf50_tfrecord.choices import CorruptionFamily
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.robustness import scores
from ucf50_tfrecord.robustness.results import NO_PREDICTION, Results
from ucf50_tfrecord.specs import ClipFormat

# Ten clips of two classes in five groups; the unchanged clips are right but for the last two.
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
GROUPS = np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
PLAIN = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0])


def make_results(**corrupted):
    return Results(
        name="made up",
        model="lstm",
        classes=("Left", "Right"),
        clip_format=ClipFormat(),
        ids=tuple(f"clip{i}" for i in range(10)),
        labels=LABELS,
        groups=GROUPS,
        plain=PLAIN,
        corrupted=corrupted,
    )


def test_robustness_is_as_published():
    plain, corrupted = (PLAIN == LABELS).astype(float), np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0.0])
    found = scores.score(plain, corrupted, GROUPS, chance=0.2)
    assert found.accuracy.value == pytest.approx(0.4)
    assert found.relative.value == pytest.approx(1 - (0.8 - 0.4) / 0.8)
    assert found.absolute.value == pytest.approx(1 - (0.8 - 0.4))
    assert found.above_chance.value == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    for estimate in (found.accuracy, found.relative, found.absolute, found.above_chance):
        assert estimate.low < estimate.value < estimate.high


def test_a_model_that_loses_nothing_is_robust():
    plain = (PLAIN == LABELS).astype(float)
    found = scores.score(plain, plain, GROUPS, chance=0.5)
    assert found.relative == found.absolute == statistics.Estimate(1, 1, 1)
    assert found.above_chance.value == 1


def test_a_guessing_model_has_relative_robustness_but_none_above_chance():
    """It always predicts the first class: that is why scores above chance are reported, too."""
    guess = (LABELS == 0).astype(float)
    found = scores.score(guess, guess, GROUPS, chance=0.5)
    assert found.relative.value == 1 and math.isnan(found.above_chance.value)


def test_scores_are_means_over_severities_families_and_corruptions():
    right, wrong = LABELS, 1 - LABELS
    results = make_results(
        fog=np.stack([right, right, right, wrong, wrong]),  # 0.6
        hue=np.stack([right, right, right, right, right]),  # 1.0
        jumble=np.stack([wrong, wrong, wrong, wrong, np.full(10, NO_PREDICTION)]),  # 0.0
    )
    found = scores.score_all(results)
    assert found.plain.value == 0.8 and found.chance == 0.5
    assert [score.accuracy.value for score in found.by_severity["fog"]] == [1, 1, 1, 0, 0]
    assert found.by_corruption["fog"].accuracy.value == pytest.approx(0.6)
    assert found.by_family[CorruptionFamily.SPATIAL].accuracy.value == pytest.approx(0.8)
    assert found.by_family[CorruptionFamily.TEMPORAL].accuracy.value == 0
    assert CorruptionFamily.CODEC not in found.by_family
    assert found.overall.accuracy.value == pytest.approx(1.6 / 3)
    # The relative performance under corruption is the mean of the corruptions' γr.
    by_corruption = [score.relative.value for score in found.by_corruption.values()]
    assert found.overall.relative.value == pytest.approx(np.mean(by_corruption))


def test_classes_are_ranked_by_what_they_lose():
    lost = np.where(LABELS == 0, 1, 1)  # all of the first class are wrong, all of the second right
    results = make_results(fog=np.stack([lost] * 5), hue=np.stack([PLAIN] * 5))
    first, second = scores.class_scores(results)
    assert (first.label, first.num_clips, first.plain, first.corrupted) == (0, 5, 1.0, 0.5)
    assert (first.worst, first.worst_accuracy) == ("fog", 0.0)
    assert second.loss == pytest.approx(0.6 - 0.8)


def test_unknown_numbers_become_null_in_json():
    results = make_results(fog=np.stack([1 - LABELS] * 5))
    weak = dict(vars(results)) | {"plain": 1 - LABELS}
    weak = Results(**{name: value for name, value in weak.items() if name in Results.__dataclass_fields__})
    found = json.loads(json.dumps(scores.score_all(weak).to_json(), allow_nan=False))
    assert found["overall"]["above_chance"] == [None, None, None]
    assert found["corruptions"]["fog"]["severities"][4]["accuracy"] == [0, 0, 0]


def test_a_ratio_equals_the_ratio_of_means_and_is_unknown_without_a_positive_denominator():
    above, below = np.array([1, 2, 3, 4.0]), np.array([2, 2, 2, 2.0])
    found = statistics.ratio_interval(above, below, np.arange(4))
    assert found.value == 1.25 and found.low < 1.25 < found.high
    assert math.isnan(statistics.ratio_interval(above, 0 * below, np.arange(4)).value)
