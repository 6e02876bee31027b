"""Writes a model in each export format, and reads the files."""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord.choices import Quantization
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.evaluation import multi_label
from ucf50_tfrecord.inference import tflite
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS
from ucf50_tfrecord.inference.held_out import Thresholds
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.texts import tensorflow_reason

_ONNX_OPSET = 18

# Maps clips uint8 [B, T, H, W, 3] to probabilities float32 [B, C].
Classify = Callable[[np.ndarray], np.ndarray]


def prepare(model: keras.Model) -> None:
    """Restricts a model, from its next call on, to operations that all devices and export formats support."""
    for layer in model._flatten_layers(include_self=False):
        if hasattr(layer, "use_cudnn"):  # a graph with cuDNN's operations does not run on a CPU
            layer.use_cudnn = False
        if isinstance(layer, keras.layers.Normalization):
            # TensorFlow and tf2onnx list tensors that the graph captures among its inputs, but not constants.
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)


def write(
    name: str,
    path: pathlib.Path,
    model: keras.Model,
    classes: Sequence[str],
    rules: Rules | Thresholds = Rules(),
    representative: np.ndarray | None = None,
) -> None:
    """Writes a model in one export format.

    Args:
      name: name of the format, a key of FORMATS.
      path: path of the file or folder to write.
      model: the model, from load_for_export.
      classes: names of the classes.
      rules: the rules by which the file says whether a clip is known, and whether the model is confident of it; for
        clips with several labels, the thresholds by which it says which classes are predicted.
      representative: clips for tflite_int8, see tflite.write.

    Raises:
      UserError: if the model cannot be written.
    """
    try:
        if name in QUANTIZATIONS:
            outputs = functools.partial(_outputs, rules=rules)
            quantization = QUANTIZATIONS[name]
            tflite.write(path, model, outputs, quantization=quantization, representative=representative)
        else:
            _WRITERS[name](path, model, classes, rules)
    except tf.errors.OpError as error:
        raise UserError(f"Cannot write {path.name}: {tensorflow_reason(error)}") from error


def _outputs(logits: tf.Tensor, rules: Rules | Thresholds) -> dict[str, tf.Tensor]:
    """Computes what an exported model returns for B clips, from their logits, float32 [B, C].

    Returns:
      A dictionary of "probabilities", float32 [B, C]; "confidence" and "unknown_score", float32 [B]; and, if the
      rules judge it, "known" and "confident", bool [B]. With several labels per clip: "probabilities", each by itself,
      and "predicted", bool [B, C], whether they reach their thresholds.
    """
    if isinstance(rules, Thresholds):
        lowest = multi_label.threshold_logits(np.array(rules.values)).astype(np.float32)
        return {"probabilities": tf.sigmoid(logits), "predicted": logits >= lowest}
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


def _write_saved_model(
    path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules | Thresholds
) -> None:
    names = tf.constant([[name.encode("utf-8", "surrogateescape") for name in classes]])  # [1, C]

    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        # A row per clip: TensorFlow Serving splits every output by the batch, and its Classify API needs [B, C].
        class_names = tf.repeat(names, tf.shape(frames)[0], axis=0)
        return {"class_names": class_names, **_outputs(model(frames, training=False), rules)}

    archive = keras.export.ExportArchive()  # no track(model): all weights would be written twice
    archive.add_endpoint("serve", serve, input_signature=[_frames_spec(model)])  # as serving_default, too
    archive.write_out(str(path), verbose=False)


def _write_keras(
    path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules | Thresholds
) -> None:
    if isinstance(rules, Thresholds):
        # The key of the output says that these are not logits, of which one could take a softmax.
        sigmoid = keras.layers.Activation("sigmoid", name="ucf50_probabilities", dtype="float32")
        model = keras.Model(model.input, {"probabilities": sigmoid(model.output)}, name=model.name)
    model.save(path)


def _write_onnx(
    path: pathlib.Path, model: keras.Model, classes: Sequence[str], rules: Rules | Thresholds
) -> None:
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
    about = "thresholds" if isinstance(rules, Thresholds) else "answers"
    properties = {"class_names": json.dumps(classes), about: json.dumps(to_json(rules))}
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
    model = keras.models.load_model(path)
    if isinstance(model.output, dict):
        return lambda frames: model(frames, training=False)["probabilities"].numpy()
    return classifier(model)


def classifier(model: keras.Model, *, several_labels: bool = False) -> Classify:
    """Returns a function from clips to the probabilities of a model that computes logits.

    Args:
      model: the model.
      several_labels: whether clips have several labels: a probability is then the sigmoid of its logit.
    """
    if several_labels:
        return lambda frames: special.expit(model(frames, training=False).numpy())
    return lambda frames: special.softmax(model(frames, training=False).numpy(), axis=1)


def _read_onnx(path: pathlib.Path) -> Classify:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(["probabilities"], {"frames": frames})[0]


QUANTIZATIONS = {
    "tflite": Quantization.NONE,
    "tflite_float16": Quantization.FLOAT16,
    "tflite_int8": Quantization.INT8,
}
_WRITERS = {"saved_model": _write_saved_model, "keras": _write_keras, "onnx": _write_onnx}
READERS: dict[str, Callable[[pathlib.Path], Classify]] = {
    "saved_model": _read_saved_model,
    "keras": _read_keras,
    "onnx": _read_onnx,
    **dict.fromkeys(QUANTIZATIONS, tflite.read),
}


def _frames_spec(model: keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec(model.input.shape, tf.uint8, name="frames")
