"""Clips with several labels, from a list of videos to a trained run, its scores and its predictions."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from scipy import special
from sklearn import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ucf50_tfrecord as ucf
from tests.conftest import write_video
from tests.pipelines.test_live import writing
from tests.several_labels import CLASSES, make_data
from tests.warm import run_module
from ucf50_tfrecord import manifest
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import multi_label, runner
from ucf50_tfrecord.inference import held_out
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import trained

SETTINGS = {"epochs": 4, "batch_size": 4, "val_folds": "1,2", "precision": "float32"}


@pytest.fixture(scope="module")
def several_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def run_dir(several_dir, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "several"
    ucf.train(several_dir, "seed_pool", run_dir, **SETTINGS)
    return run_dir


def stored(run_dir):
    """The labels, int [N, C], and logits, float [N, C], of the unchanged clips in predictions.jsonl."""
    lines = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["perturbation"] == "none"]
    labels = np.zeros((len(lines), len(CLASSES)), int)
    for row, line in zip(labels, lines):
        row[line["label"]] = 1
        assert line["class"] == [CLASSES[number] for number in line["label"]]
        assert line["predicted"] == np.flatnonzero(np.array(line["logits"]) >= 0).tolist()
    return labels, np.array([line["logits"] for line in lines])


def test_the_summary_has_the_scores_of_scikit_learn(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    labels, logits = stored(run_dir)
    assert len(labels) == 12 and labels.sum(axis=1).max() == 2
    expected = metrics.average_precision_score(labels, special.expit(logits), average="macro")
    assert summary["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert summary["accuracy"] == metrics.accuracy_score(labels, logits >= 0)
    for average in ("macro", "micro"):
        f1 = metrics.f1_score(labels, logits >= 0, average=average, zero_division=0)
        assert summary[f"{average}_f1"] == pytest.approx(f1)
    assert 0 <= summary["tuned_macro_f1"] <= 1 and summary["shuffled"].keys() >= {"mean_average_precision"}
    assert summary["best"]["macro_f1"] is None and 0 < summary["best"]["mean_average_precision"] <= 1
    assert run_lib.load_summary(run_dir).mean_average_precision == summary["mean_average_precision"]


def test_it_learns_more_than_guessing(run_dir):
    """The places of the square tell three of the classes; a random order of clips has the classes' frequencies."""
    labels, _ = stored(run_dir)
    summary = run_lib.load_summary(run_dir)
    assert summary.mean_average_precision > labels.mean(axis=0).mean() + 0.2


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(several_dir, run_dir, tmp_path):
    ucf.train(several_dir, "seed_pool", tmp_path / "again", **(SETTINGS | {"epochs": 2}))
    ucf.train(several_dir, "seed_pool", tmp_path / "again", **SETTINGS)
    name = "predictions.jsonl"
    assert (tmp_path / "again" / name).read_bytes() == (run_dir / name).read_bytes()


def test_a_run_of_one_label_is_not_continued(several_dir, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("multi_label") is True
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="another configuration: multi_label was False, is True"):
        ucf.train(several_dir, "seed_pool", tmp_path / "run", **SETTINGS)


@pytest.mark.parametrize(
    "settings", [{"class_weight": "balanced"}, {"sampler": "balanced"}, {"mixup": 0.2}, {"cutmix": 1.0}]
)
def test_balancing_and_mixing_classes_is_refused(several_dir, tmp_path, settings):
    with pytest.raises(
        UserError, match="Expected one label per clip for .*(balanced|mixup and cutmix): .*data_dir='.*data'"
    ):
        ucf.train(several_dir, "seed_pool", tmp_path / "run", **SETTINGS, **settings)
    assert not (tmp_path / "run").exists()


def test_predictions_of_one_label_are_not_those_of_several(run_dir, pool_run):
    with pytest.raises(UserError, match="line 1: Expected one label per clip. Received: label="):
        runner.load_predictions(run_dir / "predictions.jsonl", 4)
    with pytest.raises(UserError, match="line 1: Expected a list of labels per clip. Received: label=0"):
        runner.load_predictions(pathlib.Path(pool_run, "predictions.jsonl"), 3, several_labels=True)


@pytest.mark.parametrize(
    "label, mistake",
    [
        ([], "a label below 4"),
        ([4], "a label below 4"),
        ([1, 0], "ascending order"),
        ([1, 1], "ascending order"),
    ],
)
def test_impossible_labels_in_a_file_of_predictions_are_an_error(run_dir, tmp_path, label, mistake):
    first, *rest = (run_dir / "predictions.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(first) | {"label": label}), *rest]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"line 1: Expected .*{mistake}"):
        runner.load_predictions(tmp_path / "predictions.jsonl", 4, several_labels=True)


def test_an_evaluation_of_the_run_gives_its_scores_again(run_dir):
    result = run_module("pipelines.evaluate", f"--run={run_dir}")
    assert result.returncode == 0, result.stderr
    assert re.search(r"mAP +macro F1 +tuned F1 +micro F1 +accuracy\n", result.stdout)
    again = json.loads((run_dir / "evaluation-last-1-2" / "summary.json").read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    for name in ("mean_average_precision", "macro_f1", "micro_f1", "accuracy", "tuned_macro_f1"):
        assert again[name] == pytest.approx(summary[name], abs=1e-6)


def test_a_dataset_of_one_label_does_not_fit_the_run(run_dir, several_dir):
    config = run_lib.load_config(run_dir)
    single = dataclasses.replace(manifest.load(str(several_dir)), multi_label=False)
    with pytest.raises(
        UserError, match="has one label per clip, but the run was trained on several labels per clip"
    ):
        trained.check_fits(single, config)


def test_videos_get_the_classes_that_reach_their_thresholds(run_dir, several_dir, tmp_path):
    videos = several_dir.parent / "videos" / "Left"
    result = run_module(
        "pipelines.predict", f"--video={videos}", f"--run={run_dir}", f"--output={tmp_path}", "--json"
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    thresholds = document["thresholds"]["values"]
    labels, logits = stored(run_dir)
    found = special.expit(logits)
    assert thresholds == multi_label.choose_thresholds(labels == 1, found).tolist()
    assert "Thresholds: from" in result.stderr and "below their thresholds:" in result.stderr
    assert len(document["videos"]) == 10
    for video in document["videos"]:
        [window] = video["windows"]
        np.testing.assert_allclose(window["probabilities"], special.expit(window["logits"][0]), atol=1e-5)
        named = {one["class"] for one in video["labels"]}
        reached = np.array(video["probabilities"]) >= thresholds
        assert named == {CLASSES[number] for number in np.flatnonzero(reached)}
        assert video["known"] is None and video["confident"] is None


def test_the_function_predict_names_the_labels(run_dir, several_dir):
    answer = ucf.predict(run_dir, several_dir.parent / "videos" / "Left" / "v_Left_g01_c02.avi")
    assert set(answer) == set(CLASSES) and set(answer.labels) <= set(CLASSES)
    values = dict(
        zip(CLASSES, held_out.load_thresholds(str(run_dir), run_lib.load_config(run_dir), "last").values)
    )
    assert set(answer.labels) == {name for name, value in answer.items() if value >= values[name]}


def test_tools_show_several_labels(run_dir, several_dir, tmp_path):
    result = run_module("tools.inspect_data", f"--data={several_dir}", f"--sheet={tmp_path / 'sheet.png'}")
    assert result.returncode == 0, result.stderr
    assert "4 classes, several labels per clip, 30 videos" in " ".join(result.stdout.split())
    # Each clip counts in each of its classes, and once among all.
    assert re.search(r"^Even +15( +3){5}$", result.stdout, re.MULTILINE), result.stdout
    assert re.search(r"^all +30( +6){5}$", result.stdout, re.MULTILINE), result.stdout
    assert (tmp_path / "sheet.png").is_file()
    result = run_module("tools.inspect_data", f"--run={run_dir}")
    assert result.returncode == 0 and " mAP " in result.stdout, result.stderr
    result = run_module("pipelines.verify", f"--data={several_dir}")
    assert result.returncode == 0, result.stdout


def test_tensorboard_has_the_scores_and_no_confusion_matrix(run_dir):
    found = EventAccumulator(str(run_dir / "tensorboard" / "validation"))
    found.Reload()
    tags = set(found.Tags()["tensors"])
    assert {"mean_average_precision", "tuned_macro_f1", "per_class_f1/Even", "mistakes"} <= tags
    assert "confusion" not in tags


def test_without_predictions_thresholds_are_one_half(run_dir):
    found = held_out.load_thresholds(str(run_dir), run_lib.load_config(run_dir), "best")
    assert found.values == (0.5,) * 4 and "of its last weights" in found.reason


@pytest.mark.parametrize(
    "arguments, purpose",
    [
        (["pipelines.compare", "--data={data}", "--models=seed_pool,seed_lstm"], "a comparison"),
        (["pipelines.compare", "--runs={run}"], "a comparison"),
        (["pipelines.robustness", "--run={run}"], "a test of robustness"),
        (["pipelines.monitor", "--run={run}", "--video={videos}"], "monitoring"),
        (["pipelines.predict", "--run={run}", "--video={videos}", "--max_error=0.1"], "max_error"),
        (
            ["pipelines.export", "--run={run}", "--max_error=0.1"],
            "max_error, which the export of .*several is asked for",
        ),
    ],
)
def test_what_needs_one_label_per_clip_is_refused(run_dir, several_dir, tmp_path, arguments, purpose):
    places = {"data": several_dir, "run": run_dir, "videos": several_dir.parent / "videos"}
    result = run_module(*(text.format(**places) for text in arguments), f"--output={tmp_path / 'out'}")
    assert result.returncode == 2, result.stderr
    assert re.search(f"Expected one label per clip for {purpose}: ", result.stderr), result.stderr
    assert f"data_dir='{several_dir}'" in result.stderr and "Traceback" not in result.stderr


def test_a_run_is_exported_with_the_thresholds_of_its_predictions(run_dir, tmp_path):
    result = run_module("pipelines.export", f"--run={run_dir}", f"--output={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^  file +MB +ms per clip +other classes  largest", result.stdout, re.MULTILINE)
    assert re.search(r"; other classes for 0 of 12$", result.stdout, re.MULTILINE)
    found = json.loads((tmp_path / "out" / "export.json").read_text())
    labels, logits = stored(run_dir)
    assert found["multi_label"] is True and found["classes"] == list(CLASSES) and "answers" not in found
    expected = multi_label.choose_thresholds(labels == 1, special.expit(logits))
    assert found["thresholds"]["values"] == expected.tolist() and found["thresholds"]["num_clips"] == 12


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A video of 6 s at 25 frames per second whose bright third moves, as it may be piped."""
    path = tmp_path_factory.mktemp("recorded") / "long.ts"
    frames = np.random.default_rng(0).integers(0, 60, (150, 32, 48, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        third = number // 50
        frame[:, 16 * third : 16 * (third + 1)] += 150
    write_video(path, frames, codec="mpeg2video")
    return path


@pytest.mark.parametrize("views", [1, 2])
def test_live_windows_of_several_labels_are_those_of_the_recorded_video(
    several_dir, run_dir, recorded, tmp_path, views
):
    if views > 1:  # a clip and its mirror image
        run_dir = tmp_path / "mirrored"
        ucf.train(several_dir, "seed_pool", run_dir, **(SETTINGS | {"epochs": 1, "horizontal_flip": True}))
    flags = [f"--run={run_dir}", "--json", "--window_secs=2", "--stride_secs=1", f"--test_views={views}"]
    os.mkfifo(tmp_path / "stream")
    with writing(tmp_path / "stream", recorded.read_bytes(), delay=0.02):
        live = run_module("pipelines.predict", f"--video={tmp_path / 'stream'}", "--live", *flags)
    assert live.returncode == 0, live.stderr
    result = run_module("pipelines.predict", f"--video={recorded}", f"--output={tmp_path / 'out'}", *flags)
    document = json.loads(result.stdout)
    [video], thresholds = document["videos"], document["thresholds"]["values"]
    expected = {window["start_secs"]: window for window in video["windows"]}
    found = [json.loads(line) for line in live.stdout.splitlines()]
    assert found and {entry["start_secs"] for entry in found} <= expected.keys()
    for entry in found:
        window = expected[entry["start_secs"]]
        assert len(entry["logits"]) == views
        np.testing.assert_allclose(entry["logits"], window["logits"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            entry["probabilities"], special.expit(entry["logits"]).mean(axis=0), atol=2e-5
        )
        reached = np.array(entry["probabilities"]) >= thresholds
        assert {one["class"] for one in entry["labels"]} == {CLASSES[i] for i in np.flatnonzero(reached)}
        assert entry["known"] is None and entry["confident"] is None


def test_another_data_set_is_refused(run_dir, data_dir, pool_run, several_dir, tmp_path):
    for run, data in ((run_dir, data_dir), (pool_run, several_dir)):
        result = run_module(
            "pipelines.evaluate", f"--run={run}", f"--data={data}", f"--output={tmp_path / 'out'}"
        )
        assert result.returncode == 2, result.stderr
        assert "Expected one label per clip for an evaluation on another data set: " in result.stderr
