"""Exports of runs on clips with several labels: files, thresholds, sample programs and the card."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from sklearn import metrics

from tests import warm
from tests.conftest import REPOSITORY
from tests.evaluation.made_up import make_results
from tests.inference.test_card import EXPORT, markdown, row
from tests.inference.test_export import PROGRAMS, TOLERANCES
from tests.several_labels import CLASSES, make_data
from tests.test_markdown import read_header
from tests.untrained import copy_with_best, write_run
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import multi_label
from ucf50_tfrecord.inference import card, card_header, decoding, export, export_files, finished_run
from ucf50_tfrecord.inference.card import CARD_FILENAME
from ucf50_tfrecord.inference.held_out import Thresholds
from ucf50_tfrecord.inference.session import Session
from ucf50_tfrecord.specs import ModelSpec, to_json


@pytest.fixture(scope="module")
def several_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def run_dir(several_dir, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "several", several_dir, name="frame_pool")


@pytest.fixture(scope="module")
def run(run_dir):
    return finished_run.load(run_dir)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A folder with all formats, and the returned Export."""
    folder = tmp_path_factory.mktemp("exports") / "all"
    return folder, export.export_run(run, folder, formats=list(export.FORMATS), warn=pytest.fail)


@pytest.fixture(scope="module")
def stored(run_dir):
    """The labels, bool [N, C], and probabilities, float64 [N, C], of the unchanged clips in predictions.jsonl, and ids."""
    text = (pathlib.Path(run_dir) / "predictions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    lines = [line for line in lines if line["perturbation"] == "none"]
    labels = np.array([[number in line["label"] for number in range(4)] for line in lines])
    return labels, special.expit([line["logits"] for line in lines]), [line["clip_id"] for line in lines]


def test_the_export_names_the_thresholds_of_predictions(run, run_dir, exported, stored):
    noted = json.loads((exported[0] / export.EXPORT_FILENAME).read_text())
    assert noted["multi_label"] is True and noted["classes"] == list(CLASSES) and "answers" not in noted
    session = Session.load(run_dir)
    labels, found, _ = stored
    assert noted["thresholds"]["values"] == list(session.thresholds.values)
    assert session.thresholds.values == tuple(multi_label.choose_thresholds(labels, found))
    own = exported[1].own
    assert own.largest < 1e-5 and own.num_other == 0
    exact = [file for file in exported[1].files if file.format not in TOLERANCES]
    assert all(file.difference < 1e-6 and file.num_other == 0 for file in exact)


@pytest.mark.parametrize("name", export.FORMATS)
def test_the_cards_program_names_the_predicted_classes(run, exported, stored, tmp_path, name):
    folder, (_, found, ids) = exported[0], stored
    clips = load_clips(run.manifest, (1, 2))
    reached = found >= run.thresholds.values
    clip_id = ids[int(reached.sum(axis=1).argmax())]
    np.save(tmp_path / "frames.npy", read_clips(clips)[[clips.ids.index(clip_id)]])
    programs = re.findall(r"```python\n(.*?)\n```", (folder / CARD_FILENAME).read_text(), re.DOTALL)
    assert len(programs) == len(export.FORMATS)
    program = programs[list(export.FORMATS).index(name)]
    zeros = "np.zeros((1, 5, 16, 24, 3), np.uint8)"
    assert program.count(zeros) == 1
    program = program.replace(zeros, f"np.load({str(tmp_path / 'frames.npy')!r})")
    absent, _ = PROGRAMS[name]
    code = "import sys\n" + f"for name in {absent}: sys.modules[name] = None\n" + program
    code += f"\nnp.save({str(tmp_path / 'found.npy')!r}, probabilities)"
    if name == "keras":
        result = warm.run_code(
            f"import os, sys\nos.chdir({str(folder)!r})\nsys.path[:0] = [{str(REPOSITORY)!r}]\n{code}"
        )
    else:
        result = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    values, tolerance = found[ids.index(clip_id)], TOLERANCES.get(name, 1e-5)
    probabilities = np.load(tmp_path / "found.npy")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [values], atol=tolerance)
    said = [line.split() for line in result.stdout.splitlines()]
    by_name = dict(zip(CLASSES, probabilities[0]))
    assert [float(text) for _, text in said] == [pytest.approx(by_name[one]) for one, _ in said]
    assert [name for name, _ in said] == sorted((name for name, _ in said), key=lambda one: -by_name[one])
    is_sure = np.abs(values - run.thresholds.values) > tolerance
    expected = {CLASSES[i] for i in np.flatnonzero(reached[ids.index(clip_id)] & is_sure)}
    assert expected <= {one for one, _ in said} <= expected | {CLASSES[i] for i in np.flatnonzero(~is_sure)}
    assert name in TOLERANCES or is_sure.all() and len(expected) > 1


def test_files_predict_the_classes_that_videos_get(run_dir, several_dir, exported):
    session = Session.load(run_dir)
    videos, _ = decoding.find_videos([str(several_dir.parent / "videos" / "Left")])
    serve = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["serving_default"]
    clips = load_clips(finished_run.load(run_dir).manifest, range(1, 6))
    place = {clip_id.rpartition("/")[2]: i for i, clip_id in enumerate(clips.ids)}
    answer = serve(frames=tf.constant(read_clips(clips)))
    names = set()
    for video, prediction in session.predict(videos, num_workers=1):
        labels = {label for label, _ in prediction.predicted()}
        index = place[pathlib.Path(video.path).stem]
        assert set(np.flatnonzero(answer["predicted"][index])) == labels
        names |= labels
    assert len(videos) == 10 and names


def test_the_signature_has_a_row_of_classes_per_clip(exported):
    serve = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["serving_default"]
    shapes = {name: (out.dtype, out.shape.as_list()) for name, out in serve.structured_outputs.items()}
    assert shapes.pop("class_names")[0] == tf.string
    assert shapes == {"probabilities": (tf.float32, [None, 4]), "predicted": (tf.bool, [None, 4])}


def predicted_by(name, path, frames):
    """The output `predicted` of a file, bool [N, C]."""
    if name == "saved_model":
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        return signature(frames=tf.constant(frames))["predicted"].numpy()
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["predicted"], {"frames": frames})[0]
    from ai_edge_litert.interpreter import Interpreter

    call = Interpreter(str(path)).get_signature_runner()
    return np.concatenate([call(frames=frame[np.newaxis])["predicted"] for frame in frames])


@pytest.mark.parametrize("name", ["saved_model", "onnx", "tflite"])
def test_files_decide_near_0_and_1_as_python_does(tmp_path, name):
    """Probabilities that float32 rounds to 1 still lie on their sides of a threshold."""
    inputs = keras.Input((2, 4, 4, 3), dtype="uint8")
    means = keras.layers.GlobalAveragePooling3D()(keras.layers.Rescaling(1.0)(inputs))
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 3, offset=-20.0)(means))
    frames = np.repeat(np.arange(0, 180, 4, dtype=np.uint8), 2 * 4 * 4 * 3).reshape(-1, 2, 4, 4, 3)
    found = multi_label.probabilities(model(frames).numpy())
    assert np.float32(found[-3, 0]) == 1
    values = (float((found[5, 0] + found[6, 0]) / 2), 0.5, float((found[-3, 0] + found[-2, 0]) / 2))
    export_files.write(name, tmp_path / "model", model, ("a", "b", "c"), Thresholds(values=values))
    np.testing.assert_allclose(export_files.READERS[name](tmp_path / "model")(frames), found, atol=1e-6)
    predicted = predicted_by(name, tmp_path / "model", frames)
    np.testing.assert_array_equal(predicted, found >= values)
    assert not predicted[0].any() and predicted[-1].all()


def test_onnx_holds_the_thresholds(exported, run):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported[0] / "model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["thresholds"]) == to_json(run.thresholds) and "answers" not in about
    assert all(output.shape == ["batch", 4] for output in session.get_outputs())


def test_predictions_of_other_weights_are_noticed(run, tmp_path):
    [cell] = run.results.cells
    other = dataclasses.replace(cell, logits={name: values + 3 for name, values in cell.logits.items()})
    wrong = dataclasses.replace(run, results=dataclasses.replace(run.results, cells=(other,)))
    with pytest.raises(UserError, match="differ from those in .*predictions.jsonl by"):
        export.export_run(wrong, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_program_says_that_no_class_reaches_its_threshold(capsys):
    spec = ModelSpec(name="gru", num_classes=2, num_frames=5, height=16, width=24)
    for kind in export.FORMATS.values():
        ending = kind.snippet(spec, several_labels=True).split("found = ")[1]
        names = {"np": np, "probabilities": np.array([[0.2, 0.4]]), "classes": ["a", "b"]}
        exec(f"found = {ending}", names | {"predicted": np.array([[False, False]])})
        exec(f"found = {ending}", names | {"predicted": np.array([[True, True]])})
        assert capsys.readouterr().out == "no class reaches its threshold\nb 0.4\na 0.2\n"


def test_the_card_has_the_scores_of_several_labels(run, stored):
    text, (labels, found, _) = markdown(run), stored
    average = metrics.average_precision_score(labels, found, average=None)
    assert row(text, "mean average precision")[0].startswith(f"{average.mean():.3f} [")
    for kind in ("macro", "micro"):
        f1 = metrics.f1_score(labels, found >= 0.5, average=kind, zero_division=0)
        assert row(text, f"{kind} F1 at 0.5")[0].startswith(f"{f1:.3f} [")
        tuned = getattr(run.summary, f"tuned_{kind}_f1")
        assert row(text, f"{kind} F1 at thresholds of other recordings")[0].startswith(f"{tuned:.3f} [")
    assert row(text, "clips with all classes right at 0.5")[0].startswith(f"{run.summary.accuracy:.3f} [")
    shuffled = run.summary.shuffled.mean_average_precision
    assert row(text, "mean average precision, frames shuffled")[0].startswith(f"{shuffled:.3f} [")
    table = text.split("Each class, the highest average precision first")[1]
    f1 = metrics.f1_score(labels, found >= 0.5, average=None, zero_division=0)
    tuned = metrics.f1_score(
        labels, multi_label.cross_fitted(labels, found, run.results.units), average=None, zero_division=0
    )
    for i, name in enumerate(CLASSES):
        numbers = (average[i], f1[i], run.thresholds.values[i], tuned[i])
        assert row(table, name) == [*(f"{number:.3f}" for number in numbers), str(labels[:, i].sum())]
    flat = " ".join(text.split())
    assert "Finds which of 4 kinds of action a short video clip shows" in flat
    assert "the highest F1 of each class on 12 held-out clips of 2 recording groups" in flat
    assert "are defined for one label per clip only, so there are none" in flat
    assert "other classes" in flat and "12 held-out clips" in flat
    for word in (
        "confus",
        "calibration error",
        "another class",
        "When it should not answer",
        "AURC",
        "energy",
    ):
        assert word not in text, word
    assert row(text, "when not to answer") == ["not tested"]
    assert "The training clips of a class come from 3 to 3 recording groups" in flat


def test_the_header_has_the_scores_of_several_labels(run):
    found = read_header(card_header.header(run))
    assert found["metrics"] == ["mean_average_precision", "f1"]
    [model] = found["model-index"]
    values = {one["name"]: (one["type"], one["value"]) for one in model["results"][0]["metrics"]}
    summary = run.summary
    expected = {
        "Mean average precision": ("mean_average_precision", summary.mean_average_precision),
        "Macro F1 at 0.5": ("f1", summary.macro_f1),
        "Micro F1 at 0.5": ("f1", summary.micro_f1),
        "Macro F1 at thresholds of other recordings": ("f1", summary.tuned_macro_f1),
        "Micro F1 at thresholds of other recordings": ("f1", summary.tuned_micro_f1),
    }
    assert {
        name: (kind, pytest.approx(value, abs=5e-5)) for name, (kind, value) in expected.items()
    } == values


def test_a_card_scores_videos_by_the_mean_of_their_clips(run, stored):
    labels, found, _ = stored
    ids = tuple(f"v{i // 2}#{i % 2}" for i in range(12))
    twice = np.repeat(run.results.labels[::2], 2, axis=0)
    results = dataclasses.replace(run.results, ids=ids, labels=twice)
    flat = " ".join(markdown(dataclasses.replace(run, results=results)).split())
    means = found.reshape(6, 2, 4).mean(axis=1)
    present = labels[::2].any(axis=0)
    value = metrics.average_precision_score(labels[::2][:, present], means[:, present], average="macro")
    assert f"By the mean of each video's clips: mean average precision {value:.3f} [" in flat.replace(
        "\\", ""
    )
    assert "on 6 videos" in flat


def test_a_card_of_one_recording_and_an_absent_class_leaves_their_scores_out(run):
    labels = run.results.labels.copy()
    labels[:, 0], labels[:, 1] = 0, 1
    groups = np.ones_like(run.results.groups)
    text = markdown(
        dataclasses.replace(run, results=dataclasses.replace(run.results, labels=labels, groups=groups))
    )
    assert row(text, "macro F1 at thresholds of other recordings") == ["–"]
    assert row(text, "mean average precision")[0].endswith(" [–]")
    table = text.split("Each class, the highest average precision first")[1]
    average, fixed, threshold, tuned, count = row(table, CLASSES[0])
    assert (average, fixed, tuned, count) == ("–", "–", "–", "0") and float(threshold) > 0
    assert row(table, CLASSES[1])[0] == "1.000" and row(table, CLASSES[1])[3:] == ["–", "12"]


def test_weights_without_predictions_of_predict_keep_one_half(run_dir, tmp_path):
    copy, _ = copy_with_best(run_dir, tmp_path / "run")
    best, warnings = finished_run.load(str(copy), "best"), []
    export.export_run(best, tmp_path / "export", formats=["keras"], warn=warnings.append)
    noted = json.loads((tmp_path / "export" / export.EXPORT_FILENAME).read_text())
    assert noted["thresholds"] == to_json(best.thresholds)
    assert noted["thresholds"]["values"] == [0.5] * 4
    assert len(warnings) == 1 and "from a probability of 0.5 on: the run's predictions" in warnings[0]
    text = (tmp_path / "export" / CARD_FILENAME).read_text()
    assert "All thresholds are 0.5: the run's predictions on held-out clips are of its last weights" in text
    assert row(text, "weights") == ["best by validation mean average precision, of epoch 1 of 2"]
    assert "the weights were selected by these very clips" in text


def test_models_that_take_some_of_the_stored_frames_are_exported(several_dir, tmp_path):
    run = finished_run.load(write_run(tmp_path / "run", several_dir, num_frames=3, weight_std=0.5))
    result = export.export_run(run, tmp_path / "export", formats=["keras"], warn=pytest.fail)
    assert result.own.largest < 1e-4 and result.own.num_other == 0 and result.num_clips == 12
    noted = json.loads((tmp_path / "export" / export.EXPORT_FILENAME).read_text())
    assert noted["input"]["shape"] == [None, 3, 16, 24, 3]


def test_what_needs_one_label_is_refused_by_the_runs_name(run, run_dir, tmp_path):
    with pytest.raises(
        UserError, match=f"one label per clip for max_error, which the export of {run_dir} is"
    ):
        export.export_run(run, tmp_path / "export", max_error=0.1)
    comparison = make_results({("frame_pool", "kept", "none"): 0.5})
    with pytest.raises(
        UserError, match=f"one label per clip for figures of a comparison in the card of {run_dir}"
    ):
        export.export_run(run, tmp_path / "export", comparison=comparison)
    with pytest.raises(UserError, match="one label per clip"):
        card.build(run, EXPORT, comparison)
    assert not list(tmp_path.iterdir())
