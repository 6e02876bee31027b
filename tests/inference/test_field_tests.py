"""The card's sections on other tests: their numbers are those of the tests' files, and missing tests are named."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from tests.inference.test_card import EXPORT, markdown, row
from tests.report.test_unknown_classes import made_up
from ucf50_tfrecord import storage
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation.elsewhere import ClassScores, Confidence, OtherSetScores, SharedScores
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.inference import card, field_tests, finished_run
from ucf50_tfrecord.report.scores import format_estimate
from ucf50_tfrecord.robustness import scores
from ucf50_tfrecord.robustness.results import Results

UNKNOWN = Estimate(0.5, math.nan, math.nan)
CHECKS = {
    "robustness": "noise, blur, compression, frame timing",
    "others": "another data set",
    "unknown": "videos of classes that the model does not know",
}


@pytest.fixture
def copy(run_dir, tmp_path):
    """The folder of a run that tests may add files to."""
    return shutil.copytree(run_dir, tmp_path / "run")


def write_robustness(copy, *, num_wrong=0):
    """Writes the scores of a run's predictions, of which `num_wrong` more are wrong; returns them."""
    run = finished_run.load(copy)
    results = run.results
    [logits] = (cell.logits["none"] for cell in results.cells)
    plain = logits.argmax(axis=1)
    right = np.flatnonzero(plain == results.labels)[:num_wrong]
    plain[right] = (plain[right] + 1) % len(results.classes)
    corrupted = {
        "gaussian_noise": np.tile((plain + 1) % len(results.classes), (5, 1)),
        "jumble": np.tile(plain, (5, 1)),
    }
    found = scores.score_all(
        Results(
            name="run",
            model="lstm",
            classes=results.classes,
            clip_format=run.clip_format,
            ids=results.ids,
            labels=results.labels,
            groups=results.groups,
            plain=plain,
            corrupted=corrupted,
        )
    )
    folder = copy / "robustness-last-1-2"
    folder.mkdir(exist_ok=True)
    storage.write_json(folder / scores.SCORES_FILENAME, {"num_clips": len(results.ids)} | found.to_json())
    return found


def write_other_set(copy):
    shared = SharedScores(
        num_clips=30,
        unit="groups",
        num_units=4,
        all_outputs=ClassScores(Estimate(0.6, 0.5, 0.7), UNKNOWN),
        shared_outputs=ClassScores(UNKNOWN, UNKNOWN),
        confidence=Confidence(UNKNOWN, (0.1, 0.5, 0.9)),
    )
    found = OtherSetScores(
        here=shared,
        own=None,
        class_map={"biking": "Biking", "Yoga": None},
        unknown_confidence=None,
        confidence_auroc=Estimate(0.9, 0.8, 1.0),
        unknown_classes=(),
    )
    folder = copy / "evaluation-last-on-kitchen"
    folder.mkdir()
    storage.write_json(folder / "summary.json", found.summary | {"data_dir": "/data/kitchen"})


def test_tests_that_were_not_made_are_named(run):
    text = markdown(run)
    assert all(row(text, name) == ["not tested"] for name in CHECKS.values())
    assert row(text, "clips of recordings that training has not seen") == ["tested, see above: scores"]
    assert row(text, "differences between people") == ["not tested"]


def test_the_card_gives_the_scores_on_corrupted_clips(copy):
    found = write_robustness(copy)
    text = markdown(finished_run.load(copy))
    for name, score in {"spatial": found.by_family["spatial"], "all": found.overall}.items():
        assert row(text, name) == [
            format_estimate(value) for value in (score.accuracy, score.relative, score.above_chance)
        ] or math.isnan(score.above_chance.value)
    assert row(text, CHECKS["robustness"]) == ["tested, see above: 2 corruptions"]
    assert "gaussian_noise (" in text


def test_scores_on_corrupted_clips_of_other_weights_are_left_out(copy):
    write_robustness(copy)
    run = finished_run.load(copy)
    assert field_tests.load_robustness(run) is not None
    right = round(run.summary.accuracy * len(run.results.ids))
    assert right >= 2
    write_robustness(copy, num_wrong=2)
    assert field_tests.load_robustness(run) is None
    assert row(markdown(run), CHECKS["robustness"]) == ["not tested"]


def test_the_card_gives_the_scores_on_other_data_sets(copy):
    write_other_set(copy)
    text = markdown(finished_run.load(copy))
    assert row(text, "kitchen") == [
        "1 of 2",
        "30 of 30",
        "4 groups",
        "0.600 [0.500, 0.700]",
        "0.500 [–]",
        "0.900 [0.800, 1.000]",
    ]
    assert row(text, CHECKS["others"]) == ["tested, see above: 1 data set"]


def test_the_card_tells_how_well_trainings_without_some_classes_know_them(run):
    text = document.to_markdown(card.build(run, EXPORT, made_up(3.0)))
    lines = [line for line in text.splitlines() if line.startswith("| lstm | ")]
    assert len(lines) == 3 and all(float(line.split("|")[3].split()[0]) > 0.9 for line in lines)
    assert row(text, CHECKS["unknown"]) == ["tested, see above: other trainings"]


def test_a_comparison_without_such_trainings_is_refused(run):
    results = made_up(1.0)
    other = [dataclasses.replace(cell, architecture="gru") for cell in results.cells]
    with pytest.raises(UserError, match="trainings of lstm that leave classes out"):
        field_tests.models_without_classes(run, dataclasses.replace(results, cells=tuple(other)))


@pytest.mark.parametrize("name", ["robustness-last-1-2/robustness.json", "evaluation-last-on-x/summary.json"])
def test_a_damaged_file_of_another_test_is_named(copy, name):
    (copy / name).parent.mkdir()
    (copy / name).write_text('{"num_clips": "many"}')
    with pytest.raises(UserError, match=name):
        markdown(finished_run.load(copy))


def test_the_card_counts_the_recording_groups_of_each_class(run):
    assert "The training clips of a class come from 3 to 3 recording groups" in markdown(run)
