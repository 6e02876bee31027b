"""Exports: their outputs in other processes, and the cases that they refuse."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tests import warm
from tests.conftest import REPOSITORY, raises_with_remedies
from tests.untrained import fresh_model, write_run
from tests.web import serving
from ucf50_tfrecord import manifest
from ucf50_tfrecord.architectures import APPLICATIONS, ENCODERS, MODELS, THREE_BLOCK
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.inference import export, export_files, finished_run
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.card import CARD_FILENAME
from ucf50_tfrecord.inference.selection import KnownRule, Selection
from ucf50_tfrecord.specs import ModelSpec, to_json
from ucf50_tfrecord.training import checkpoint, trained

ALL = {kind.filename for kind in export.FORMATS.values()} | {CARD_FILENAME, export.EXPORT_FILENAME}


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A folder with all formats, and the returned Export."""
    folder = tmp_path_factory.mktemp("exports") / "all"
    warnings = []
    result = export.export_run(run, folder, formats=list(export.FORMATS), warn=warnings.append)
    assert not warnings
    return folder, result


@pytest.fixture(scope="module")
def clips(run):
    """Four clips of the run and its model's logits for them, float32 [4, 3]."""
    frames = read_clips(load_clips(run.manifest, (1, 2)).spread(4))
    logits = fresh_model(run.config.model)(frames, training=False).numpy()
    return frames, tf.nn.softmax(logits).numpy()


def test_the_folder_holds_the_formats_the_card_and_nothing_else(exported):
    folder, result = exported
    assert {path.name for path in folder.iterdir()} == ALL
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert [file.format for file in result.files] == list(export.FORMATS)
    assert all(file.num_bytes > 1e5 and file.millis > 0 for file in result.files)
    exact = [file for file in result.files if file.format not in ("tflite_float16", "tflite_int8")]
    assert all(file.difference <= 1e-6 and file.num_other == 0 for file in exact)
    sizes = {file.format: file.num_bytes for file in result.files}
    assert sizes["tflite_float16"] < 0.6 * sizes["tflite"] and sizes["tflite_int8"] < 0.35 * sizes["tflite"]
    assert 0 < result.num_clips < 12 and result.num_clips + result.num_representative == 12
    assert result.own.largest < 1e-5 and result.own.num_other == 0
    noted = json.loads((folder / export.EXPORT_FILENAME).read_text())
    assert noted["classes"] == ["Left", "Middle", "Right"] and noted["weights"] == "last"
    assert noted["input"] == {"dtype": "uint8", "shape": [None, 5, 16, 24, 3]}


# By format: the packages that the card's program must not need, and its expression for the probabilities.
PROGRAMS = {
    "saved_model": (["keras", "ucf50_tfrecord"], "answer['probabilities']"),
    "keras": ([], "probabilities"),
    "onnx": (["tensorflow", "keras", "ucf50_tfrecord"], "probabilities"),
    **dict.fromkeys(export_files.QUANTIZATIONS, (["tensorflow", "keras", "ucf50_tfrecord"], "probabilities")),
}
# Allowed differences of probabilities in the tests' small models, where not 1e-5.
TOLERANCES = {"tflite_float16": 2e-3, "tflite_int8": 0.1}


def test_every_format_can_be_written_read_and_called():
    writers = {*export_files._WRITERS, *export_files.QUANTIZATIONS}
    assert set(export.FORMATS) == writers == set(export_files.READERS) == set(PROGRAMS)


@pytest.mark.parametrize("name", export.FORMATS)
def test_the_cards_program_runs_in_a_fresh_process(exported, clips, tmp_path, name):
    folder, _ = exported
    absent, probabilities = PROGRAMS[name]
    frames, expected = clips
    np.save(tmp_path / "frames.npy", frames)
    programs = re.findall(r"```python\n(.*?)\n```", (folder / CARD_FILENAME).read_text(), re.DOTALL)
    program = programs[list(export.FORMATS).index(name)]
    program, count = re.subn(
        r"np\.zeros\(\(1, 5, 16, 24, 3\), np\.uint8\)", f"np.load({str(tmp_path / 'frames.npy')!r})", program
    )
    assert count == 1
    blocked = f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
    path = [] if "ucf50_tfrecord" in absent else [str(REPOSITORY)]
    code = f"{blocked}sys.path[:0] = {path}\n{program}\nnp.save({str(tmp_path / 'found.npy')!r}, {probabilities})"
    if name == "keras":  # all that it imports may have been loaded before
        result = warm.run_code(f"import os\nos.chdir({str(folder)!r})\n{code}")
    else:
        result = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    found, tolerance = np.load(tmp_path / "found.npy"), TOLERANCES.get(name, 1e-5)
    np.testing.assert_allclose(found, expected[: len(found)], atol=tolerance)
    said, probability = result.stdout.split()
    assert said == ("Left", "Middle", "Right")[found[0].argmax()]
    assert float(probability) == pytest.approx(expected[0].max(), abs=tolerance)


def test_the_signature_fits_serving_tools(exported, clips):
    frames, expected = clips
    loaded = tf.saved_model.load(str(exported[0] / "saved_model"))
    serve = loaded.signatures["serving_default"]
    [spec] = serve.structured_input_signature[1].values()
    assert (spec.name, spec.dtype, spec.shape.as_list()) == ("frames", tf.uint8, [None, 5, 16, 24, 3])
    shapes = {name: (out.dtype, out.shape.as_list()) for name, out in serve.structured_outputs.items()}
    assert shapes["probabilities"] == (tf.float32, [None, 3])
    assert shapes["class_names"][0] == tf.string and "confident" not in shapes
    for name in ("confidence", "unknown_score", "known"):
        assert shapes[name] == (tf.bool if name == "known" else tf.float32, [None])
    for count in (1, 3):  # every output has a row for each clip
        answer = serve(frames=tf.constant(frames[:count]))
        assert answer["class_names"].numpy().tolist() == [[b"Left", b"Middle", b"Right"]] * count
        np.testing.assert_allclose(answer["probabilities"], expected[:count], atol=1e-5)


RULES = Rules(
    num_clips=9,
    num_groups=9,
    max_error=0.1,
    selection=Selection(max_error=0.1, threshold=0.6, reason="", bound=0.1),
    known=KnownRule(threshold=-1.2, accepted=None),
)
NEVER = dataclasses.replace(
    RULES, selection=Selection(max_error=0.1, threshold=None, reason="too few", bound=1.0), known=None
)


def _linear(frames):
    """Logits, of which some clips of random pixels have large ones and some have small ones."""
    values = tf.reduce_mean(tf.cast(frames, tf.float32), axis=(2, 3))  # [B, T, 3]
    return (tf.reduce_mean(values, axis=1) - 127.5) * 0.5


@pytest.mark.parametrize("rules", [RULES, NEVER], ids=["threshold", "never"])
def test_files_judge_clips_as_python_does(tmp_path, rules):
    import onnxruntime

    inputs = keras.Input((2, 4, 4, 3), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Lambda(_linear)(inputs))
    frames = np.random.default_rng(0).integers(0, 256, (40, 2, 4, 4, 3), dtype=np.uint8)
    logits = model(frames).numpy()
    expected = [rules.judge(special.softmax(row).max(), row[np.newaxis]) for row in logits]
    if rules is RULES:  # there are clips of both kinds
        assert len({item.known for item in expected}) == len({item.confident for item in expected}) == 2
    answers = []
    for name in ("saved_model", "onnx"):
        export_files.write(name, tmp_path / name, model, ("a", "b", "c"), rules)
    signature = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    answers.append({key: value.numpy() for key, value in signature(frames=tf.constant(frames)).items()})
    session = onnxruntime.InferenceSession(tmp_path / "onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert all(output.shape[0] == "batch" for output in session.get_outputs())
    answers.append(dict(zip(names, session.run(names, {"frames": frames}))))
    for answer in answers:
        assert answer["confident"].tolist() == [item.confident for item in expected]
        assert ("known" in answer) == (rules.known is not None)
        if rules.known:
            assert answer["known"].tolist() == [item.known for item in expected]
        np.testing.assert_allclose(
            answer["unknown_score"], [item.unknown_score for item in expected], atol=1e-5
        )
        np.testing.assert_allclose(
            answer["confidence"], special.softmax(logits, axis=1).max(axis=1), atol=1e-6
        )
    noted = json.loads(session.get_modelmeta().custom_metadata_map["answers"])
    assert noted == to_json(rules)


def test_an_export_with_a_limit_on_errors_notes_its_thresholds(run, tmp_path):
    warnings = []
    export.export_run(run, tmp_path / "export", formats=["saved_model"], max_error=0.1, warn=warnings.append)
    assert len(warnings) == 1 and warnings[0].startswith("The files call no clip confident: no threshold is")
    noted = json.loads((tmp_path / "export" / export.EXPORT_FILENAME).read_text())["answers"]
    assert noted == to_json(run.rules(0.1)) and noted["known"]["threshold"] is not None
    with pytest.raises(UserError, match="max_error above 0"):
        export.export_run(run, tmp_path / "none", formats=["saved_model"], max_error=0.0)
    assert not (tmp_path / "none").exists()


def make_case(name, **changes):
    """A model of clips of 3 frames of 16x16, two of those, and its probabilities."""
    sizes = {"num_classes": 3, "num_frames": 3, "height": 16, "width": 16}
    spec = ModelSpec(**sizes | {"name": name, "dropout": 0.3} | changes)
    model = fresh_model(spec)
    export_files.prepare(model)
    shape = 2, spec.num_frames, spec.height, spec.width, 3
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return model, frames, tf.nn.softmax(model(frames, training=False)).numpy()


APPLICATION = {"encoder": "MobileNetV3Small", "height": 32, "width": 32}
ALL_BUT_SAVED_MODEL = ("keras", "onnx")  # and TFLite, whose cases are below
# An LSTM is what `exported` holds.
CASES = [
    (name, {}, ALL_BUT_SAVED_MODEL) for name in MODELS if name != "lstm" and not name.startswith("seed_")
]
CASES += [("conv3d", {"motion": True}, ("keras",)), ("frame_pool", APPLICATION, ("keras",))]
# The models above have the three blocks. A deep encoder takes ONNX seconds.
CASES += [
    pytest.param("frame_pool", {"encoder": name}, (kind,), marks=[pytest.mark.slow] * (kind == "onnx"))
    for name in ENCODERS
    if name not in (THREE_BLOCK, *APPLICATIONS)
    for kind in ALL_BUT_SAVED_MODEL
]
# Their layers are among those of the models above.
CASES += [
    pytest.param(name, {}, ALL_BUT_SAVED_MODEL, marks=pytest.mark.slow)
    for name in MODELS
    if name.startswith("seed_")
]
# A conversion to TFLite takes seconds. These models have layers that the LSTM of `exported` lacks.
TFLITE = ("transformer", "bilstm")
CASES += [
    pytest.param(name, {}, (kind,), marks=[] if kind == "tflite" and name in TFLITE else pytest.mark.slow)
    for name in MODELS
    for kind in ("tflite", "tflite_int8")
]
# The only model with a layer of its own that has weights.
CASES += [("transformer", {}, ("saved_model",))]


@pytest.mark.parametrize("name, changes, formats", CASES)
def test_every_model_survives_exporting(tmp_path, name, changes, formats):
    model, frames, expected = make_case(name, **changes)
    for kind in formats:
        path = tmp_path / export.FORMATS[kind].filename
        export_files.write(kind, path, model, ("a", "b", "c"), representative=frames)
        run = export_files.READERS[kind](path)
        for count in (2, 1):
            np.testing.assert_allclose(run(frames[:count]), expected[:count], atol=TOLERANCES.get(kind, 1e-5))


def test_8_bit_ranges_are_measured_on_other_groups_than_the_comparison(run):
    chosen = export.choose_clips(run, pytest.fail, with_representative=True)
    clips = load_clips(run.manifest, (1, 2))
    compared = set(clips.groups[np.isin(clips.ids, chosen.ids)])
    others = set(clips.groups) - compared
    assert compared and others and len(chosen.representative) == np.isin(clips.groups, list(others)).sum()
    assert not (chosen.representative[:, None] == chosen.frames[None]).all(axis=(2, 3, 4, 5)).any()


def test_8_bits_need_clips_of_the_run(run, tmp_path):
    gone = dataclasses.replace(run, manifest=None, no_manifest="no shards")
    with pytest.raises(UserError, match="Expected clips of the run for the format tflite_int8"):
        export.export_run(gone, tmp_path / "export", formats=["tflite_int8"])
    assert not list(tmp_path.iterdir())


def test_8_bits_need_a_model_that_tells_clips_apart(tmp_path):
    inputs = keras.Input((2, 4, 4, 3), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: 0 * _linear(x), output_shape=(3,))(inputs))
    clips = np.random.default_rng(0).integers(0, 256, (4, 2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="returns the same number for all classes and clips"):
        export_files.write("tflite_int8", tmp_path / "x", model, ("a", "b", "c"), representative=clips)
    assert not list(tmp_path.iterdir())


def test_tflite_leaves_recurrent_layers_as_they_were(tmp_path):
    model, frames, expected = make_case("gru")
    export_files.write("tflite", tmp_path / "model.tflite", model, ("a", "b", "c"))
    [layer] = [layer for layer in model.layers if isinstance(layer, keras.layers.RNN)]
    assert not layer.unroll
    np.testing.assert_allclose(special.softmax(model(frames).numpy(), axis=1), expected, atol=1e-5)


def test_ops_that_tflite_does_not_have_are_explained(tmp_path):
    frames = keras.Input((4, 16, 24, 3), dtype="uint8")
    model = keras.Model(frames, keras.layers.Lambda(_hard_to_convert)(frames), name="strange")
    with raises_with_remedies(
        r"cannot write this model \(strange\) as TFLite: .*To leave it out: --formats=saved_model,keras"
    ):
        export_files.write("tflite", tmp_path / "model.tflite", model, ("a", "b"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lstm", "bilstm", "gru"])
def test_no_graph_holds_kernels_of_gpus_alone(monkeypatch, name):
    def ops(model):
        graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(frames).graph
        return {op.type for op in graph.get_operations()}

    spec = ModelSpec(name=name, num_classes=3, num_frames=4, height=16, width=24)
    frames = tf.zeros((1, 4, 16, 24, 3), tf.uint8)
    model = fresh_model(spec)
    backend = sys.modules["keras.src.backend.tensorflow.rnn"]
    monkeypatch.setattr(backend, "_is_gpu_available", lambda: True)
    assert "CudnnRNNV3" in ops(model)
    export_files.prepare(model)
    assert not any("cudnn" in op.lower() for op in ops(model))


def test_a_run_in_16_bits_is_exported_in_float32(data_dir, tmp_path):
    run = finished_run.load(write_run(tmp_path / "run", data_dir, name="seed_lstm", precision="bfloat16"))
    result = export.export_run(run, tmp_path / "export", formats=["saved_model"])
    assert 1e-5 < result.own.mean < 0.01 and result.files[0].difference <= 1e-6
    text = (tmp_path / "export" / CARD_FILENAME).read_text()
    assert "trained in bfloat16, exported in float32" in text
    assert f"by {result.own.largest:.1g} at most" in text


def test_without_the_shards_random_pixels_are_compared(run, tmp_path):
    warnings = []
    gone = dataclasses.replace(run, manifest=None, no_manifest="no shards")
    result = export.export_run(gone, tmp_path / "export", formats=["keras"], warn=warnings.append)
    assert result.own is None and result.num_clips == 16
    assert warnings == ["The files are compared on random pixels, not on clips of the run: no shards"]


def test_clips_behind_a_url_are_compared_too(run, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(data_dir) as server:
        there = dataclasses.replace(run, manifest=manifest.load(server.url))
        found = export.choose_clips(there, warn=pytest.fail)
    expected = export.choose_clips(run, warn=pytest.fail)
    assert found.ids == expected.ids and found.representative is None
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert not list(tmp_path.iterdir())
    warnings = []
    found = export.choose_clips(there, warnings.append)  # the server is gone
    assert found.ids is None and len(found.frames) == 16 and f"Cannot read {server.url}/" in warnings[0]


def test_an_unreachable_store_costs_the_shards_alone(run):
    config = dataclasses.replace(run.config, data_dir="http://127.0.0.1:9/set")
    found, why = trained.find_manifest(config)
    assert found is None and why.startswith("Cannot read http://127.0.0.1:9/set/manifest.json")


def test_an_earlier_export_is_replaced_and_nothing_else(run, exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    export.export_run(run, folder, formats=["saved_model"])
    assert {path.name for path in folder.iterdir()} == {"saved_model", CARD_FILENAME, export.EXPORT_FILENAME}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(
        UserError, match=f"Expected a folder that is new, empty .*{folder}, which holds notes.txt"
    ):
        export.export_run(run, folder, formats=["keras"])
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "saved_model").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_file_that_differs_from_the_model_is_not_exported(run, exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    before = (folder / "model.keras").read_bytes()
    monkeypatch.setitem(
        export_files.READERS, "keras", lambda path: lambda frames: np.eye(3)[np.zeros(len(frames), int)]
    )
    with pytest.raises(
        UserError, match="model.keras gives other probabilities than the model, by up to .*0.0001"
    ):
        export.export_run(run, folder, formats=["keras"])
    assert (folder / "model.keras").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_predictions_of_other_weights_are_noticed(run_dir, data_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    model = fresh_model(finished_run.load(copy).config.model)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    checkpoint.Checkpoints(copy, model, keras.optimizers.Adam()).save_last()
    with pytest.raises(
        UserError,
        match="differ from those in .*predictions.jsonl by .* predictions of other weights than the last",
    ):
        export.export_run(finished_run.load(copy), tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_formats_that_cannot_be_written_are_explained(run, tmp_path, monkeypatch):
    for formats in (["no_such_format"], []):
        with pytest.raises(UserError, match=re.escape(f"formats out of {tuple(export.FORMATS)}")):
            export.export_run(run, tmp_path / "export", formats=formats)
    without = dataclasses.replace(export.FORMATS["onnx"], packages=("tf2onnx", "no_such_package"))
    monkeypatch.setitem(export.FORMATS, "onnx", without)
    with raises_with_remedies(
        r"missing: no_such_package. To install .*: .* -m tools.install convert,train,onnx"
    ):
        export.export_run(run, tmp_path / "export", formats=["onnx"])
    assert not list(tmp_path.iterdir())


def test_ops_that_onnx_does_not_have_are_explained(tmp_path):
    frames = keras.Input((4, 16, 24, 3), dtype="uint8")
    model = keras.Model(frames, keras.layers.Lambda(_hard_to_convert)(frames), name="strange")
    with raises_with_remedies(
        r"cannot write this model \(strange\) as ONNX: .*To leave onnx out: --formats=saved_model,keras"
    ):
        export_files.write("onnx", tmp_path / "model.onnx", model, ("a", "b"))
    assert not list(tmp_path.iterdir())


def _hard_to_convert(frames):
    return tf.math.digamma(tf.reduce_mean(tf.cast(frames, tf.float32), axis=(2, 3, 4)))


def test_outputs_that_cannot_be_written_are_named(run, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "export"):
        with pytest.raises(UserError, match="Cannot .*file"):
            export.export_run(run, output)
    assert pathlib.Path(tmp_path / "file").read_bytes() == b""
