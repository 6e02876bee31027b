"""Exports a run's model as a SavedModel, a .keras file or ONNX, and checks that the files predict alike.

An export is a folder:

<output>/saved_model/     serving_default: frames uint8 [B, T, H, W, 3] to probabilities float32 [B, C],
                         class_names string [B, C], confidence and unknown_score float32 [B], known and
                         confident bool [B]; for TensorFlow and TensorFlow Serving
<output>/model.keras      frames to logits float32 [B, C]; for Keras, with ucf50_tfrecord.models imported
<output>/model.onnx       frames to the same outputs but class_names; the metadata's class_names is a JSON list
<output>/export.json      the run, its classes, the thresholds of known and confident, and the files' differences
                         from the run's model; its presence marks the folder as an export
<output>/MODEL_CARD.md    the model card, see inference.card

`confidence` is the highest probability, `unknown_score` the energy -log(sum(exp(logits))). `confident` is there if an
export names the wanted largest fraction of wrong answers. See inference.abstention for both.

All files compute in float32 on any device, whatever precision the run was trained in.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import pathlib
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import frames_of, load_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.verdicts import ensemble
from ucf50_tfrecord.features import frame_model
from ucf50_tfrecord.inference import card, field_tests
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.card_files import Export, ExportedFile, RunDifference
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS, FORMATS
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.texts import tensorflow_reason

EXPORT_FILENAME = "export.json"
TOLERANCE = 1e-4  # allowed difference of a file's probabilities from the model's: kernels round differently
# Allowed difference of the model's probabilities from those that the run stored: the mean over clips of the
# largest difference in each clip. For an LSTM on UCF50's clips, it was 0.003 after training in bfloat16, and
# 0.12 with the weights of another epoch.
OWN_TOLERANCE = 0.05
_NUM_CLIPS = 16
_MAX_CLIP_BYTES = 64 << 20  # limit on the clips' pixels; a model's layers take some fifty times as much
_ONNX_OPSET = 18

# Maps clips uint8 [B, T, H, W, 3] to probabilities float32 [B, C].
Classify = Callable[[np.ndarray], np.ndarray]


def check_formats(formats: Sequence[str]) -> None:
    """Raises UserError unless all export formats are known and the packages that they need are installed."""
    expect(formats and set(formats) <= set(FORMATS), f"formats out of {tuple(FORMATS)}", formats=formats)
    for name in formats:
        kind = FORMATS[name]
        missing = [package for package in kind.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"The format {name} needs packages that are missing: {', '.join(missing)}",
                Remedy(Action.INSTALL, extras=f"convert,train,{kind.extra}"),
            )


def export_run(
    run: FinishedRun,
    output: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    max_error: float | None = None,
    warn: Callable[[str], None] = lambda text: None,
    allowed_code: Collection[str] = (),
    comparison: Results | None = None,
) -> Export:
    """Exports a run's model to a folder: files in some formats, and the model card.

    Each file is read back, and its probabilities are compared with the model's. The folder appears when
    everything has succeeded, and replaces an earlier export.

    Args:
      run: the run, from finished_run.load.
      output: path of the folder to write.
      formats: names of export formats, keys of FORMATS.
      max_error: wanted largest fraction of wrong answers, above 0 and below 1: the files say whether the model is
        confident of a clip. None for files that do not say it.
      warn: called with a sentence if the comparison uses random pixels, because the run's clips are missing, or no
        clip would be answered.
      allowed_code: names of the model builders, as <module>:<builder>, that may be imported; see
        trained.load_model.
      comparison: a comparison with trainings of the run's model without some classes, for the card.

    Returns:
      The written files, and their differences from the model and the run.

    Raises:
      UserError: if a format cannot be written, max_error is out of range, a file's outputs differ by more than
        TOLERANCE or from the run's predictions by more than OWN_TOLERANCE, `output` holds something else, or the
        card cannot be made from the comparison.
    """
    check_formats(formats)
    if comparison:
        field_tests.models_without_classes(run, comparison)
    rules = run.rules(max_error)
    if rules.why_never:
        warn(f"The files call no clip confident: {rules.why_never}")
    formats = [name for name in FORMATS if name in formats]
    names = {*(kind.filename for kind in FORMATS.values()), card.CARD_FILENAME, EXPORT_FILENAME}
    with storage.atomic_folder(output, names=names, mark=EXPORT_FILENAME) as folder:
        model = load_for_export(run, allowed_code)
        frames, ids = choose_clips(run, warn)
        probabilities = _classifier(model)(frames)
        own = compare_with_run(run, ids, probabilities) if ids else None
        files = []
        for name in formats:
            path = folder / FORMATS[name].filename
            write(name, path, model, run.config.classes, rules)
            difference = _difference(READERS[name](path), frames, probabilities)
            if not difference <= TOLERANCE:  # NaN too
                others = [kind for kind in formats if kind != name]
                raise UserError(
                    f"{path.name} gives other probabilities than the model, by up to {difference:.2g} "
                    f"(tolerance {TOLERANCE}). Nothing is exported",
                    Remedy(Action.SET, f"to leave {name} out", formats=others or ...),
                )
            files.append(ExportedFile(format=name, num_bytes=_num_bytes(path), difference=difference))
        export = Export(files=tuple(files), tolerance=TOLERANCE, num_clips=len(frames), own=own)
        _write_export(folder / EXPORT_FILENAME, run, export, rules)
        card.write(folder / card.CARD_FILENAME, run, export, comparison)
    return export


def load_for_export(run: FinishedRun, allowed_code: Collection[str] = ()) -> keras.Model:
    """Builds a run's model with its trained weights, in float32 and without kernels of one device type."""
    config = run.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="float32"))
    strategy = tf.distribute.get_strategy()
    model = frame_model.load_frame_model(
        run.run_dir, config, run.weights, strategy=strategy, allowed_code=allowed_code
    )
    prepare(model)
    return model


def prepare(model: keras.Model) -> None:
    """Restricts a model, from its next call on, to operations that all devices and export formats support."""
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "use_cudnn"):  # a graph with cuDNN's operations does not run on a CPU
            layer.use_cudnn = False
        if isinstance(layer, keras.layers.Normalization):
            # TensorFlow and tf2onnx list tensors that the graph captures among its inputs, but not constants.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def choose_clips(run: FinishedRun, warn: Callable[[str], None]) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Reads some clips of a run, on which the exported files are compared with the model.

    Args:
      run: the run.
      warn: called with a sentence if the clips cannot be read, and random pixels are used instead.

    Returns:
      A tuple: the clips, uint8 [N, T, H, W, 3], and their ids, or None if the clips are random pixels.
    """
    manifest, spec = run.manifest, run.config.model
    count = int(np.clip(_MAX_CLIP_BYTES // np.prod(spec.clip_shape), 2, _NUM_CLIPS))
    why = run.no_manifest
    if manifest is not None:
        try:
            clips = frames_of(load_clips(manifest, np.unique(run.results.folds).tolist()))
            tested = set(run.results.ids)
            clips = clips.select(np.array([clip_id in tested for clip_id in clips.ids])).spread(count)
            pixels = [reader.read_record(clips, index)[record.VIDEO] for index in range(len(clips))]
            return np.stack(pixels)[..., : spec.clip_shape[-1]], clips.ids
        except UserError as error:
            why = str(error)
    warn(f"The files are compared on random pixels, not on clips of the run: {why}")
    return np.random.default_rng(0).integers(0, 256, (count, *spec.clip_shape), dtype=np.uint8), None


def compare_with_run(run: FinishedRun, ids: Sequence[str], probabilities: np.ndarray) -> RunDifference:
    """Compares the exported model's probabilities with those that the run stored for the same clips.

    Args:
      run: the run.
      ids: ids of N of the run's held-out clips.
      probabilities: the exported model's probabilities for these clips, float [N, C].

    Raises:
      UserError: if the probabilities differ too much to be of the same weights and clips.
    """
    place = {clip_id: i for i, clip_id in enumerate(run.results.ids)}
    stored = ensemble(run.results.logits(Condition(run.model)))[[place[clip_id] for clip_id in ids]]
    largest = np.abs(stored - probabilities).max(axis=1)
    own = RunDifference(
        mean=float(largest.mean()),
        largest=float(largest.max()),
        num_other=int((stored.argmax(axis=1) != probabilities.argmax(axis=1)).sum()),
    )
    if not own.mean <= OWN_TOLERANCE:
        raise UserError(
            f"On {len(ids)} clips the model's probabilities differ from those in {run.predictions_path} by "
            f"{own.mean:.2g} on average (tolerance {OWN_TOLERANCE}): the file holds predictions of other weights "
            f"than the {run.weights} ones, or of other clips. Evaluate the run again."
        )
    return own


def write(
    name: str, path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules = Rules()
) -> None:
    """Writes a model in one export format.

    Args:
      name: name of the format, a key of FORMATS.
      path: path of the file or folder to write.
      model: the model, from load_for_export.
      classes: names of the classes.
      rules: the rules by which the file says whether a clip is known, and whether the model is confident of it.

    Raises:
      UserError: if the model cannot be written.
    """
    try:
        _WRITERS[name](path, model, classes, rules)
    except tf.errors.OpError as error:
        raise UserError(f"Cannot write {path.name}: {tensorflow_reason(error)}") from error


def _outputs(logits: tf.Tensor, rules: Rules) -> dict[str, tf.Tensor]:
    """Computes what an exported model returns for B clips, from their logits, float32 [B, C].

    Returns:
      A dictionary of "probabilities", float32 [B, C]; "confidence" and "unknown_score", float32 [B]; and, if the
      rules judge it, "known" and "confident", bool [B].
    """
    probabilities = tf.nn.softmax(logits)
    confidence = tf.reduce_max(probabilities, axis=1)
    energy = -tf.reduce_logsumexp(logits, axis=1)
    outputs = {"probabilities": probabilities, "confidence": confidence, "unknown_score": energy}
    if rules.known:
        outputs["known"] = energy <= rules.known.threshold
    if rules.max_error is not None:
        # A confidence is never above 1, so 2 stands for "never".
        threshold = rules.selection.threshold if rules.selection else None
        outputs["confident"] = confidence >= (2.0 if threshold is None else threshold)
    return outputs


def _write_saved_model(path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules) -> None:
    names = tf.constant([[name.encode("utf-8", "surrogateescape") for name in classes]])  # [1, C]

    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        # A row per clip: TensorFlow Serving splits every output by the batch, and its Classify API needs [B, C].
        class_names = tf.repeat(names, tf.shape(frames)[0], axis=0)
        return {"class_names": class_names, **_outputs(model(frames, training=False), rules)}

    archive = keras.export.ExportArchive()  # no track(model): all weights would be written twice
    archive.add_endpoint("serve", serve, input_signature=[_frames_spec(model)])  # as serving_default, too
    archive.write_out(str(path), verbose=False)


def _write_keras(path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules) -> None:
    model.save(path)


def _write_onnx(path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules) -> None:
    """Converts a model to ONNX by tf2onnx; raises UserError if tf2onnx cannot convert it."""
    import onnx
    import tf2onnx

    @functools.partial(tf.function, input_signature=[_frames_spec(model)], autograph=False)
    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        return _outputs(model(frames, training=False), rules)

    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # tf2onnx logs unknown operations and continues
    try:
        onnx_model, _ = tf2onnx.convert.from_function(
            serve,
            input_signature=serve.input_signature,
            opset=_ONNX_OPSET,
            custom_op_handlers={"Erfc": (_erfc_to_onnx, [])},
        )
        onnx.checker.check_model(onnx_model)
    except Exception as error:  # tf2onnx documents no exception types
        raise UserError(
            f"tf2onnx cannot write this model ({model.name}) as ONNX: {tensorflow_reason(error)}",
            Remedy(Action.SET, "to leave onnx out", formats=[*DEFAULT_FORMATS]),
        ) from error
    finally:
        logger.setLevel(level)
    for value in (*onnx_model.graph.input, *onnx_model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    properties = {"class_names": json.dumps(classes), "answers": json.dumps(to_json(rules))}
    onnx.helper.set_model_props(onnx_model, properties)
    path.write_bytes(onnx_model.SerializeToString())


def _erfc_to_onnx(graph, node, name: str, args: Sequence, **_options) -> None:
    """Handles erfc(x) of GELU for tf2onnx: writes it as 1 - erf(x), because ONNX has no erfc."""
    node.type = "Erf"
    [output] = node.output
    one = graph.make_const(f"{name}_one", np.ones([], np.float32)).output[0]
    graph.insert_new_node_on_output("Sub", output, name=f"{name}_complement", inputs=[one, output])


def _read_saved_model(path: pathlib.Path) -> Classify:
    loaded = tf.saved_model.load(str(path))  # its signatures do not keep its variables alive

    def classify(frames: np.ndarray) -> np.ndarray:
        return loaded.signatures["serving_default"](frames=tf.constant(frames))["probabilities"].numpy()

    return classify


def _read_keras(path: pathlib.Path) -> Classify:
    return _classifier(keras.models.load_model(path))


def _classifier(model: keras.Model) -> Classify:
    """Returns a function from clips to the probabilities of a model that computes logits."""
    return lambda frames: special.softmax(model(frames, training=False).numpy(), axis=1)


def _read_onnx(path: pathlib.Path) -> Classify:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(["probabilities"], {"frames": frames})[0]


_WRITERS = {"saved_model": _write_saved_model, "keras": _write_keras, "onnx": _write_onnx}
READERS = {"saved_model": _read_saved_model, "keras": _read_keras, "onnx": _read_onnx}


def _difference(classify: Classify, frames: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of probabilities from `expected`, in batches of 1 and of all clips."""
    found = np.concatenate([classify(frames[:1]), classify(frames)[1:]])
    return float(np.abs(found - expected).max())


def _write_export(path: pathlib.Path, run: FinishedRun, export: Export, rules: Rules) -> None:
    spec = run.config.model
    storage.write_json(
        path,
        {
            "run": run.run_dir,
            "weights": run.weights,
            "fingerprint": run.config.fingerprint,
            "classes": run.config.classes,
            "input": {"dtype": "uint8", "shape": [None, *spec.clip_shape]},
            "answers": to_json(rules),
            "export": to_json(export),
        },
    )


def _frames_spec(model: keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec(model.input.shape, tf.uint8, name="frames")


def _num_bytes(path: pathlib.Path) -> int:
    paths = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in paths if file.is_file())
