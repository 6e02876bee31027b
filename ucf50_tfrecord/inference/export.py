"""A trained model for other programs: a SavedModel, a .keras file, ONNX. Each is read back and compared.

<output>/saved_model/     serving_default: frames uint8 [B, T, H, W, 3] to probabilities float32 [B, C]
                         and class_names string [B, C]; for TensorFlow and TensorFlow Serving
<output>/model.keras      frames to logits float32 [B, C]; for Keras, with ucf50_tfrecord.models imported
<output>/model.onnx       frames to probabilities; class_names is a JSON list in its metadata
<output>/export.json      what was exported, its classes, and how far the files differ; tells a folder of ours
<output>/MODEL_CARD.md    see card

All compute in float32, whatever the run was trained in, and on any device.
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

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.perturb import PLAIN
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.verdicts import ensemble
from ucf50_tfrecord.inference import card
from ucf50_tfrecord.inference.card import Export, ExportedFile, Own
from ucf50_tfrecord.inference.snippets import FILENAMES
from ucf50_tfrecord.inference.sources import Sources
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.texts import tensorflow_reason
from ucf50_tfrecord.training import trained

FORMATS = tuple(FILENAMES)
DEFAULT_FORMATS = ("saved_model", "keras")
EXPORT_FILENAME = "export.json"
# By how much a file's probabilities may differ from the model's: kernels round differently.
TOLERANCE = 1e-4
# By how much they may differ from those that the run noted, on average over clips of the largest difference
# in each. Training in bfloat16 made it 0.003, and the weights of another epoch 0.12 (an LSTM on UCF50's clips).
OWN_TOLERANCE = 0.05
_NUM_CLIPS = 16
_MAX_CLIP_BYTES = 64 << 20  # as pixels; a model's layers take some fifty times as much
_ONNX_OPSET = 18
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")

Run = Callable[[np.ndarray], np.ndarray]


def check_formats(formats: Sequence[str]) -> None:
    """Checks that formats are known and can be written here.

    Raises:
      UserError: if not.
    """
    expect(bool(formats) and set(formats) <= set(FORMATS), f"formats out of {FORMATS}", formats=formats)
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise UserError(
            f"The format onnx needs packages that are missing: {', '.join(missing)}",
            Remedy(Action.INSTALL, extras="convert,train,onnx"),
        )


def export_run(
    sources: Sources,
    output: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    warn: Callable[[str], None] = lambda text: None,
    allowed_code: Collection[str] = (),
) -> Export:
    """Writes a run's model in some formats, reads each back and compares it, and writes the card.

    The folder appears when all is done; an earlier export is replaced by it.

    Args:
      sources: what sources.gather found of the run.
      output: the folder to write.
      formats: of FORMATS.
      warn: is told if the files are not compared on the run's own clips.
      allowed_code: see trained.load_model.

    Raises:
      UserError: if a format cannot be written, a file's outputs differ by more than TOLERANCE or from
        the run's predictions by more than OWN_TOLERANCE, or `output` holds something else.
    """
    check_formats(formats)
    formats = [name for name in FORMATS if name in formats]
    names = {*FILENAMES.values(), card.CARD_FILENAME, EXPORT_FILENAME}
    with storage.atomic_folder(output, names=names, mark=EXPORT_FILENAME) as folder:
        model = load_for_export(sources, allowed_code)
        frames, ids = choose_clips(sources, warn)
        probabilities = _softmax(model(frames, training=False).numpy())
        own = compare_with_run(sources, ids, probabilities) if ids else None
        files = []
        for name in formats:
            path = folder / FILENAMES[name]
            write(name, path, model, sources.config.classes)
            difference = _difference(READERS[name](path), frames, probabilities)
            if not difference <= TOLERANCE:  # NaN too
                raise UserError(
                    f"{FILENAMES[name]} gives other probabilities than the model, by up to {difference:.2g} "
                    f"(tolerance {TOLERANCE}). Nothing is exported",
                    Remedy(
                        Action.SET, f"to leave {name} out", formats=[kind for kind in formats if kind != name]
                    ),
                )
            files.append(ExportedFile(format=name, num_bytes=_num_bytes(path), difference=difference))
        export = Export(files=tuple(files), tolerance=TOLERANCE, num_clips=len(frames), own=own)
        _write_export(folder / EXPORT_FILENAME, sources, export)
        card.write(folder / card.CARD_FILENAME, sources, export)
    return export


def load_for_export(sources: Sources, allowed_code: Collection[str] = ()) -> keras.Model:
    """Builds the run's model with its weights, computing in float32 and without kernels of one device alone."""
    config = sources.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="float32"))
    model = trained.load_model(
        sources.run_dir,
        config,
        sources.weights,
        strategy=tf.distribute.get_strategy(),
        allowed_code=allowed_code,
    )
    prepare(model)
    return model


def prepare(model: keras.Model) -> None:
    """Has a model compute, from the next call on, by what every device and program has."""
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "use_cudnn"):  # a graph with cuDNN's ops does not run on a CPU
            layer.use_cudnn = False
        if isinstance(layer, keras.layers.Normalization):
            # TensorFlow would list tensors, which a graph captures, among its inputs, and tf2onnx too.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def choose_clips(sources: Sources, warn: Callable[[str], None]) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Returns clips to compare with, uint8 [N, T, H, W, 3], and their ids; random ones, without ids, if need be."""
    manifest, spec = sources.manifest, sources.config.model
    shape = spec.num_frames, spec.height, spec.width, 3
    count = int(np.clip(_MAX_CLIP_BYTES // np.prod(shape), 2, _NUM_CLIPS))
    why = sources.no_manifest
    if manifest is not None:
        try:
            clips = load_clips(manifest, np.unique(sources.results.folds).tolist())
            tested = set(sources.results.ids)
            clips = clips.select(np.array([clip_id in tested for clip_id in clips.ids])).spread(count)
            pixels = [reader.read_record(clips, index)[record.VIDEO] for index in range(len(clips))]
            return np.stack(pixels), clips.ids
        except UserError as error:
            why = str(error)
    warn(f"The files are compared on random pixels, not on clips of the run: {why}")
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8), None


def compare_with_run(sources: Sources, ids: Sequence[str], probabilities: np.ndarray) -> Own:
    """Holds probabilities, float [N, C], of some of the run's clips against the run's own predictions.

    Raises:
      UserError: if they cannot be of the same weights and clips.
    """
    place = {clip_id: i for i, clip_id in enumerate(sources.results.ids)}
    condition = Condition(sources.config.model.name, perturbation=PLAIN)
    noted = ensemble(sources.results.logits(condition))[[place[clip_id] for clip_id in ids]]
    largest = np.abs(noted - probabilities).max(axis=1)
    own = Own(
        mean=float(largest.mean()),
        largest=float(largest.max()),
        num_other=int((noted.argmax(axis=1) != probabilities.argmax(axis=1)).sum()),
    )
    if not own.mean <= OWN_TOLERANCE:
        raise UserError(
            f"On {len(ids)} clips the model's probabilities differ from those in {sources.predictions_path} by "
            f"{own.mean:.2g} on average (tolerance {OWN_TOLERANCE}): these are not the predictions of the "
            f"{sources.weights} weights, or not of these clips. Evaluate the run again."
        )
    return own


def write(name: str, path: pathlib.Path, model: keras.Model, classes: Sequence[str]) -> None:
    """Writes a prepared model in one of FORMATS.

    Raises:
      UserError: if it cannot be written.
    """
    try:
        _WRITERS[name](path, model, classes)
    except tf.errors.OpError as error:
        raise UserError(f"Cannot write {path.name}: {tensorflow_reason(error)}") from error


def _write_saved_model(path: pathlib.Path, model: keras.Model, classes: Sequence[str]) -> None:
    names = tf.constant([[name.encode("utf-8", "surrogateescape") for name in classes]])  # [1, C]

    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(model(frames, training=False))
        # A row a clip: TensorFlow Serving splits every output by the batch, and its Classify API wants [B, C].
        class_names = tf.repeat(names, tf.shape(frames)[0], axis=0)
        return {"probabilities": probabilities, "class_names": class_names}

    archive = keras.export.ExportArchive()  # of a model that it is told to track it writes all weights twice
    archive.add_endpoint("serve", serve, input_signature=[_frames_spec(model)])  # serving_default too
    archive.write_out(str(path), verbose=False)


def _write_keras(path: pathlib.Path, model: keras.Model, classes: Sequence[str]) -> None:
    model.save(path)


def _write_onnx(path: pathlib.Path, model: keras.Model, classes: Sequence[str]) -> None:
    """By tf2onnx.

    Raises:
      UserError: if the model has ops that it does not know.
    """
    import onnx
    import tf2onnx

    @functools.partial(tf.function, input_signature=[_frames_spec(model)], autograph=False)
    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(frames, training=False))}

    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs what it does not know, and goes on
    try:
        onnx_model, _ = tf2onnx.convert.from_function(
            serve,
            input_signature=serve.input_signature,
            opset=_ONNX_OPSET,
            custom_op_handlers={"Erfc": (_erfc_to_onnx, [])},
        )
        onnx.checker.check_model(onnx_model)
    except Exception as error:  # it raises whatever it meets
        raise UserError(
            f"tf2onnx cannot write this model ({model.name}) as ONNX: {tensorflow_reason(error)}",
            Remedy(Action.SET, "to leave onnx out", formats=[*DEFAULT_FORMATS]),
        ) from error
    finally:
        logger.setLevel(level)
    for value in (*onnx_model.graph.input, *onnx_model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(onnx_model, {"class_names": json.dumps(classes)})
    path.write_bytes(onnx_model.SerializeToString())


def _erfc_to_onnx(graph, node, name: str, args: Sequence, **_options) -> None:
    """Writes erfc(x), of GELU, which ONNX does not have, as 1 - erf(x): tf2onnx's handler of that op."""
    node.type = "Erf"
    [output] = node.output
    one = graph.make_const(f"{name}_one", np.ones([], np.float32)).output[0]
    graph.insert_new_node_on_output("Sub", output, name=f"{name}_complement", inputs=[one, output])


def _read_saved_model(path: pathlib.Path) -> Run:
    loaded = tf.saved_model.load(str(path))  # its signatures do not keep its variables alive

    def run(frames: np.ndarray) -> np.ndarray:
        return loaded.signatures["serving_default"](frames=tf.constant(frames))["probabilities"].numpy()

    return run


def _read_keras(path: pathlib.Path) -> Run:
    model = keras.models.load_model(path)
    return lambda frames: _softmax(model(frames, training=False).numpy())


def _read_onnx(path: pathlib.Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(["probabilities"], {"frames": frames})[0]


_WRITERS = {"saved_model": _write_saved_model, "keras": _write_keras, "onnx": _write_onnx}
READERS = {"saved_model": _read_saved_model, "keras": _read_keras, "onnx": _read_onnx}


def _difference(run: Run, frames: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference; the first clip goes alone, too, as B is free."""
    found = np.concatenate([run(frames[:1]), run(frames)[1:]])
    return float(np.abs(found - expected).max())


def _write_export(path: pathlib.Path, sources: Sources, export: Export) -> None:
    spec = sources.config.model
    storage.write_json(
        path,
        {
            "run": sources.run_dir,
            "weights": sources.weights,
            "fingerprint": sources.config.fingerprint,
            "classes": sources.config.classes,
            "input": {"dtype": "uint8", "shape": [None, spec.num_frames, spec.height, spec.width, 3]},
            "export": to_json(export),
        },
    )


def _frames_spec(model: keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec(model.input.shape, tf.uint8, name="frames")


def _softmax(logits: np.ndarray) -> np.ndarray:
    return ensemble(logits[np.newaxis])


def _num_bytes(path: pathlib.Path) -> int:
    paths = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in paths if file.is_file())
