"""Temperatures of made-up logits whose right temperature is known."""

import json
import shutil

import numpy as np
import pytest
from scipy import special

from tests.conftest import raises_with_remedies
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation.statistics import expected_calibration_error
from ucf50_tfrecord.inference import calibration, held_out
from ucf50_tfrecord.inference.selection import HeldOut
from ucf50_tfrecord.inference.session import Session
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training.run import RunConfig

CLASSES = ("a", "b", "c", "d")


def made_up(num_clips, *, temperature=1.0, seed=0):
    """Logits that are `temperature` times too large, of clips whose classes are drawn by their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num_clips, len(CLASSES)))
    labels = np.array([rng.choice(len(CLASSES), p=row) for row in special.softmax(logits, axis=1)])
    return logits * temperature, labels


def config(**train):
    model = ModelSpec(name="rnn", num_classes=len(CLASSES), num_frames=5, height=16, width=24)
    return RunConfig(
        data_dir="",
        fingerprint="",
        classes=CLASSES,
        train_folds=(2,),
        val_folds=(1,),
        test_folds=(),
        model=model,
        train=TrainSpec(epochs=1, batch_size=1, **train),
    )


def save(run_dir, logits, labels):
    lines = [
        {
            "clip_id": f"{number}",
            "perturbation": perturbation,
            "label": label,
            "fold": 1,
            "group": number % 10,
            "logits": row if perturbation == "none" else [9.0, 0.0, 0.0, 0.0],
        }
        for number, (row, label) in enumerate(zip(logits.tolist(), labels.tolist()))
        for perturbation in ("none", "shuffle1")
    ]
    (run_dir / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature):
    logits, labels = made_up(4000, temperature=temperature)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_a_run_is_calibrated_by_its_held_out_clips_in_order(tmp_path):
    logits, labels = made_up(1000, temperature=3.0)
    save(tmp_path, logits, labels)
    clips, why = held_out.load(str(tmp_path), config(), "last")
    assert why == "" and clips.num_units == 10
    found = calibration.calibrate(clips)
    assert (found.num_clips, found.reason) == (1000, "")
    assert found.temperature == pytest.approx(3.0, rel=0.12)
    assert found.ece_before == expected_calibration_error(special.softmax(logits, axis=1), labels)
    assert found.ece_after < 0.06 < 0.2 < found.ece_before


def test_the_error_after_calibration_is_cross_validated_by_group():
    """One group's labels are all wrong: others do not foresee it, so its error stays."""
    logits, labels = made_up(200)
    groups = np.arange(200) // 100
    labels[groups == 1] = logits[groups == 1].argmin(axis=1)
    labels[groups == 0] = logits[groups == 0].argmax(axis=1)
    labels[0] = logits[0].argmin()
    after = calibration.cross_validated_error(logits, labels, groups)
    together = calibration.fit_temperature(logits, labels)
    assert after > expected_calibration_error(special.softmax(logits / together, axis=1), labels) + 0.2
    assert calibration.cross_validated_error(logits, labels, np.zeros(200, int)) is None


def test_a_run_without_predictions_of_the_weights_has_a_reason(tmp_path):
    def reason(weights="last", **train):
        found, why = held_out.load(str(tmp_path), config(**train), weights)
        assert found is None
        return why

    assert reason() == "the run holds no predictions.jsonl"
    save(tmp_path, *made_up(20))
    assert reason("best") == "the run's predictions on held-out clips are of its last weights"
    assert reason("last", early_stopping=3).endswith("are of its best weights")


def test_an_uncalibrated_run_has_temperature_1_and_a_reason():
    def reason(logits, labels):
        found = calibration.calibrate(HeldOut(logits, labels, np.arange(len(labels))))
        assert (found.temperature, found.num_clips) == (1.0, 0)
        return found.reason

    logits, labels = made_up(60)
    assert reason(logits[:20], labels[:20]) == "there are 20 held-out clips, and 30 are needed"
    assert reason(logits, logits.argmax(axis=1)).startswith("the run is right about all held-out clips")


LINE = '{"clip_id": "a", "perturbation": "none", "label": 0, "fold": 1, "group": 1, "logits": [1, 2, 3, 4]}'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"perturbation": "none"}',
        "[]",
        LINE.replace("[1,", "[NaN,"),
        LINE.replace("[1,", '["1",'),
        LINE.replace('"label": 0', '"label": 4'),
        LINE.replace('"group": 1', '"group": null'),
        LINE.replace(", 4]", "]"),
    ],
)
def test_damaged_predictions_are_a_users_error(tmp_path, content):
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(UserError, match="does not hold predictions"):
        held_out.load(str(tmp_path), config(), "last")


def test_damaged_predictions_have_a_way_around(pool_run, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    (run_dir / "predictions.jsonl").write_text("{")
    with raises_with_remedies("does not hold predictions.*--nocalibrate"):
        Session.load(str(run_dir))
    session = Session.load(str(run_dir), calibrate=False)
    assert session.rules.known is None and session.calibration.reason == "not requested"
    with pytest.raises(UserError, match="does not hold predictions") as raised:
        Session.load(str(run_dir), calibrate=False, max_error=0.1)
    assert not raised.value.remedies
