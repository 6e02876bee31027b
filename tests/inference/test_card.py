"""Cards: their numbers equal those of the predictions, and missing parts are named."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.conftest import raises_with_remedies
from tests.evaluation.made_up import make_results
from tests.inference.test_selection import make_held_out
from tests.untrained import copy_with_best, replace_predictions
from ucf50_tfrecord import manifest, storage
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.inference import card, card_answers, finished_run, selection
from ucf50_tfrecord.inference import held_out as held_out_lib
from ucf50_tfrecord.inference.card_files import Export, ExportedFile, RunDifference
from ucf50_tfrecord.specs import FeatureFormat

EXPORT = Export(
    files=(ExportedFile(format="keras", num_bytes=1_234_567, difference=2e-7, num_other=0, millis=12.345),),
    num_clips=12,
    num_representative=0,
    num_cores=2,
    own=RunDifference(mean=0.001, largest=0.02, num_other=1),
)


def markdown(run, export=EXPORT):
    return document.to_markdown(card.build(run, export))


def row(text, name):
    """The cells of a table's row, without Markdown's escapes."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.replace("\\", "").split("|")[2:-1]]


def read_predictions(run_dir, perturbation):
    lines = pathlib.Path(run_dir, "predictions.jsonl").read_text().splitlines()
    chosen = [p for p in map(json.loads, lines) if p["perturbation"] == perturbation]
    return {key: np.array([p[key] for p in chosen]) for key in ("label", "predicted", "group", "logits")}


def test_scores_are_those_of_the_predictions(run, run_dir):
    text, said = markdown(run), read_predictions(run_dir, "none")
    right = (said["predicted"] == said["label"]).astype(float)
    assert row(text, "accuracy") == [str(statistics.mean_interval(right, said["group"]))]
    f1 = sklearn_metrics.f1_score(said["label"], said["predicted"], average="macro", zero_division=0)
    assert row(text, "macro F1")[0].startswith(f"{f1:.3f} [")
    shuffled = read_predictions(run_dir, "shuffle1")
    accuracy = np.mean(shuffled["predicted"] == shuffled["label"])
    assert row(text, "accuracy, frames shuffled")[0].startswith(f"{accuracy:.3f} [")
    probabilities = np.exp(said["logits"]) / np.exp(said["logits"]).sum(axis=1, keepdims=True)
    error = statistics.expected_calibration_error(probabilities, said["label"])
    assert row(text, "expected calibration error") == [f"{error:.3f}"]
    assert row(text, "class among the 5 most probable") == ["–"]  # of three classes it always is
    scores = sklearn_metrics.classification_report(
        said["label"], said["predicted"], output_dict=True, zero_division=0
    )
    found = []
    for label, name in enumerate(run.config.classes):
        wanted = [f"{scores[str(label)][key]:.3f}" for key in ("f1-score", "precision", "recall")]
        assert row(text.split("Each class")[1].split("most confused")[0], name) == [*wanted, "4"]
        found.append((text.index(f"| {name} | {wanted[0]}"), float(wanted[0])))
    values = [value for _, value in sorted(found)]
    assert values == sorted(values, reverse=True)


def test_top_5_accuracy_has_its_interval():
    rng = np.random.default_rng(0)
    base = make_results({("lstm", "kept", "none"): 0.5})
    logits = rng.normal(size=(len(base.ids), 8)).astype(np.float32)
    cell = dataclasses.replace(base.cells[0], clips=np.arange(len(base.ids)), logits={"none": logits})
    results = dataclasses.replace(base, classes=tuple("abcdefgh"), cells=(cell,))
    known = sklearn_metrics.top_k_accuracy_score(results.labels, logits, k=5, labels=range(8))
    estimate = card.top_accuracy(results, Condition("lstm"))
    assert estimate.value == pytest.approx(known) and estimate.low < known < estimate.high


def test_the_card_describes_data_and_training(run):
    text = markdown(run)
    assert row(text, "training clips") == ["18 clips of 3 recording groups, folds 3-5"]
    assert row(text, "validation clips") == ["12 clips of 2 recording groups, folds 1-2"]
    assert row(text, "test clips") == ["none"]
    assert row(text, "split") == ["by group: no recording is on both sides of the split"]
    assert row(text, "fingerprint of the shards") == [run.config.fingerprint]
    assert row(text, "parameters") == [f"{run.summary.params:,}"]
    assert row(text, "weights") == ["last, after 2 epochs"] and "seed 0" in row(text, "options")[0]
    assert re.search(r"python 3\.\d+.*tensorflow 2", row(text, "versions")[0])
    assert "version " in row(text, "code")[0]
    assert row(text, "model.keras") == ["1.2", "2e-07", "0.0001", "0", "12.3", "–"]
    assert "differ by 0.02 at most, and 1 clip of 12 got another class" in text
    assert "nothing here shows that the model uses their order" in text
    for title in ("Limits", "Responsible use", "Files, and how to call them"):
        assert f"\n## {title}\n" in text


def test_the_card_names_missing_parts(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    summary = storage.read_json(copy / "summary.json")
    del summary["environment"]
    storage.write_json(copy / "summary.json", summary)
    config = storage.read_json(copy / "config.json")
    storage.write_json(copy / "config.json", config | {"data_dir": "/data/gone"})
    text = markdown(finished_run.load(copy), dataclasses.replace(EXPORT, own=None))
    assert text.startswith("# Model card: lstm on gone\n")
    assert row(text, "training clips") == [
        "18 clips, folds 3-5; recording groups unknown: the shards' manifest is missing"
    ]
    assert row(text, "validation clips") == ["12 clips of 2 recording groups, folds 1-2"]
    assert row(text, "code") == ["not recorded by this run"]
    assert "The shards' manifest is missing (there is no set of shards in /data/gone any more)" in text
    assert "clips of random pixels" in text
    # What the run itself knows is told all the same.
    assert row(text, "stored clips") == ["5x16x24"] and "by their number, " in text
    storage.write_json(copy / "config.json", config | {"data_dir": "/data/gone", "clip_format": None})
    text = markdown(finished_run.load(copy))
    assert "their spacing and resizing is unknown" in text and "stored clips" not in text
    storage.write_json(copy / "config.json", config | {"fingerprint": "0" * 64})
    assert "now holds other shards" in finished_run.load(copy).no_manifest


def test_the_card_states_why_recording_groups_are_unknown(run, data_dir, tmp_path):
    data = shutil.copytree(data_dir, tmp_path / "data")
    copy = dataclasses.replace(run, manifest=manifest.load(str(data)))
    assert row(markdown(copy), "training clips") == ["18 clips of 3 recording groups, folds 3-5"]
    sidecar = next(data.glob("*-fold03.tfrecord-*.json"))
    content = sidecar.read_text()
    sidecar.write_text(content.replace('"checksum": "', '"checksum": "0'))
    unknown = "18 clips, folds 3-5; recording groups unknown: "
    damaged = f"{sidecar} is damaged: it has another checksum than it says"
    assert row(markdown(copy), "training clips") == [unknown + damaged]
    sidecar.unlink()
    missing = f"Cannot read {sidecar}: No such file or directory"
    assert row(markdown(copy), "training clips") == [unknown + missing]


def test_the_card_describes_several_clips_per_video(run):
    clip_format = dataclasses.replace(run.config.clip_format, clips_per_video=3)
    several = dataclasses.replace(run, config=dataclasses.replace(run.config, clip_format=clip_format))
    assert "stretched to the size. Run these" in markdown(run)
    assert "; 15 such frames of a video are assigned in turn to 3 clips. Run these" in markdown(several)


def test_a_split_by_video_causes_a_warning(run):
    leaky = dataclasses.replace(run, summary=dataclasses.replace(run.summary, fold_by="video"))
    text = markdown(leaky)
    assert "\nWarning: Clips of one recording can be on both sides" in text
    assert "which training has not seen" not in text and "no recording is on" not in text


def test_weights_selected_by_the_scored_clips_cause_a_warning(run):
    text = markdown(dataclasses.replace(run, weights="best"))
    assert "Warning: the weights were selected by these very clips" in text
    assert row(text, "weights") == ["best by validation macro F1, of epoch 1 of 2"]


def test_names_cannot_break_the_card(run):
    classes = ("a|b\n# c", "`d` <script>", "\udcff*e*")
    config = dataclasses.replace(run.config, classes=classes)
    results = dataclasses.replace(run.results, classes=classes, name="x\n\n# y")
    text = markdown(dataclasses.replace(run, config=config, results=results, manifest=None))
    assert "<script>" not in text and r"\`d\` \<script\>" in text and r"a\|b" in text
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 12 and headings[0].startswith("# Model card: lstm on x")


def test_a_run_without_scores_has_no_card(run_dir, tmp_path):
    with pytest.raises(UserError, match="missing is not a run's folder"):
        finished_run.load(tmp_path / "missing")
    copy = shutil.copytree(run_dir, tmp_path / "run")
    with raises_with_remedies("those of its last weights. .*make evaluate RUN=.*FLAGS=--weights=best"):
        finished_run.load(copy, "best")
    (copy / "predictions.jsonl").write_text('{"clip_id": "a"}\n')
    with pytest.raises(UserError, match="predictions.jsonl does not hold predictions"):
        finished_run.load(copy)
    for content, message in (('{"accuracy": 1}', "a field macro_f1"), ("5", "object. Received: 5")):
        (copy / "summary.json").write_text(content)
        with pytest.raises(UserError, match=f"summary.json is not a training's summary: Expected {message}"):
            finished_run.load(copy)
    (copy / "summary.json").unlink()
    with pytest.raises(
        UserError, match="run holds no summary.json, which a training writes when it has finished"
    ):
        finished_run.load(copy)
    (copy / "cell.json").touch()
    with pytest.raises(UserError, match="is one training of a comparison, whose scores are in its report"):
        finished_run.load(copy)


def test_other_weights_have_the_scores_of_their_evaluation(run_dir, tmp_path):
    copy, folder = copy_with_best(run_dir, tmp_path / "run")
    found = finished_run.load(copy, "best")
    assert found.weights == "best" and found.predictions_path == folder / "predictions.jsonl"
    storage.write_json(folder / "summary.json", {"fingerprint": "other"})
    with pytest.raises(UserError, match="needs theirs, on the run's own shards"):
        finished_run.load(copy, "best")


@pytest.mark.parametrize("epochs, frozen", [(0, "frozen"), (1, "frozen for the first 1 of 2 epochs")])
def test_a_card_says_how_long_the_encoder_was_frozen(run, epochs, frozen):
    config = dataclasses.replace(
        run.config,
        model=dataclasses.replace(
            run.config.model, name="frame_pool", encoder_weights="e.weights.h5", freeze_encoder=True
        ),
        train=dataclasses.replace(run.config.train, epochs=2, unfreeze_after_epoch=epochs),
    )
    _, table = card._model(dataclasses.replace(run, config=config))
    assert dict(table.rows)["frame encoder"] == f"the project's own; weights: e.weights.h5, {frozen}"


def test_a_card_of_a_run_on_features_names_their_encoder(run):
    stored = FeatureFormat(
        encoder="efficientnet_lite0", weights="0" * 64, num_frames=5, num_features=8, height=16, width=24
    )
    model = dataclasses.replace(run.config.model, feature_shape=(8,))
    config = dataclasses.replace(run.config, model=model, features=stored)
    _, table = card._model(dataclasses.replace(run, config=config))
    assert (
        dict(table.rows)["frame encoder"]
        == "frozen: the one of the stored features (5x8 features of efficientnet_lite0 at 16x24)"
    )


def test_the_card_says_when_not_to_answer(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    held_out = make_held_out()
    replace_predictions(copy, held_out.logits, held_out.labels, held_out.units)
    run = finished_run.load(copy)
    text = markdown(run).replace("\\", "").split("## When it should not answer")[1].split("\n## ")[0]
    for max_error in card_answers.MAX_ERRORS:
        rules = run.rules(max_error)
        wanted = selection.select(held_out_lib.of_results(run.results, run.model), max_error, 1.0, None)
        assert rules.selection == wanted
        shown = row(text, f"{max_error:g}")
        if wanted.threshold is None:
            assert shown[:2] == ["–", "–"] and f"- {max_error:g}: {wanted.reason}." in text
        else:
            assert shown[:2] == [f"{wanted.threshold:.3f}", f"{wanted.bound:.3f}"]
        assert shown[2] == str(wanted.coverage)
    assert rules.selection.threshold is not None  # at 0.2
    assert f"AURC {rules.aurc}" in text and f"AUGRC {rules.augrc}" in text
    assert f"above {rules.known.threshold:.3f}. " in text
    assert "40 recording groups" in text and "40 groups do not exclude" in text and "up to 6% of all" in text
    assert "selected the weights" not in text
    assert "selected the weights" in markdown(dataclasses.replace(run, weights="best"))
