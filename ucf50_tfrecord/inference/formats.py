"""The formats of exported models: their file names, and short example programs that call the files."""

from __future__ import annotations

import dataclasses

from ucf50_tfrecord.specs import ModelSpec

# The end of the programs that name the classes of a clip that may have several labels, the most probable first.
_NAME_LABELS = """
found = [i for i in np.argsort(-probabilities[0]) if predicted[0, i]]
for i in found:
    print(classes[i], float(probabilities[0, i]))
if not found:
    print("no class reaches its threshold")"""
_FRAMES = "frames = np.zeros((1, {}, {}, {}, {}), np.uint8)  # your clips: [clip, frame, row, column, {}]"


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """A format of an exported model.

    filename: name of the model's file or folder in the export's folder.
    meaning: sentence above the example program in the model card.
    program: example program in Python, run in the export's folder; {frames} stands for the line that makes
      the clips.
    label_program: the same for a model of several labels per clip, up to the lines that name the predicted classes.
    label_meaning: the sentence above it if it is not `meaning`.
    extra: name of the extra in setup.cfg that installs the packages to write and read the format, or None. A
      format with an extra is written on request only.
    packages: the names by which Python imports these packages.
    tolerance: allowed difference of the file's probabilities from the model's, or None if only the difference is
      reported. Kernels round differently.
    """

    filename: str
    meaning: str
    program: str
    label_program: str
    label_meaning: str | None = None
    extra: str | None = None
    packages: tuple[str, ...] = ()
    tolerance: float | None = 1e-4

    def snippet(self, spec: ModelSpec, *, several_labels: bool = False) -> str:
        """Returns the example program for clips of the size, and with as many labels, as a model takes."""
        meaning = (
            f"RGB of the frame and of the {spec.motion_frames} after it" if spec.motion_frames else "RGB"
        )
        frames = _FRAMES.format(*spec.clip_shape, meaning)
        if several_labels:
            return self.label_program.format(frames=frames) + _NAME_LABELS
        return self.program.format(frames=frames)


def _tflite(filename: str, meaning: str, *, tolerance: float | None = ExportFormat.tolerance) -> ExportFormat:
    """Returns one of the formats of TFLite."""
    start = f"""\
import json

import numpy as np
from ai_edge_litert.interpreter import Interpreter

{{frames}}
run = Interpreter("{filename}").get_signature_runner()
"""
    program = f"""{start}\
probabilities = run(frames=frames[:1])["probabilities"]
best = probabilities[0].argmax()
print(json.load(open("export.json"))["classes"][best], float(probabilities[0, best]))"""
    label_program = f"""{start}\
about = json.load(open("export.json"))
probabilities = run(frames=frames[:1])["probabilities"]
predicted = probabilities >= about["thresholds"]["values"]
classes = about["classes"]"""
    return ExportFormat(
        filename,
        meaning,
        program,
        label_program,
        extra="tflite",
        packages=("ai_edge_litert",),
        tolerance=tolerance,
    )


# The export formats by name. inference.export has functions that write and read each.
FORMATS = {
    "saved_model": ExportFormat(
        "saved_model",
        "With TensorFlow alone, or TensorFlow Serving; every output has a row per clip:",
        """\
import numpy as np
import tensorflow as tf

{frames}
model = tf.saved_model.load("saved_model")
answer = model.signatures["serving_default"](frames=tf.constant(frames))
best = answer["probabilities"].numpy()[0].argmax()
print(answer["class_names"].numpy()[0, best].decode(), float(answer["probabilities"][0, best]))""",
        """\
import numpy as np
import tensorflow as tf

{frames}
model = tf.saved_model.load("saved_model")
answer = model.signatures["serving_default"](frames=tf.constant(frames))
probabilities, predicted = answer["probabilities"].numpy(), answer["predicted"].numpy()
classes = [name.decode() for name in answer["class_names"].numpy()[0]]""",
    ),
    "keras": ExportFormat(
        "model.keras",
        "With Keras and this project's layers, for inference; it returns logits:",
        """\
import json

import keras
import numpy as np
import ucf50_tfrecord.models  # registers the layers in the file

{frames}
model = keras.models.load_model("model.keras")
probabilities = keras.ops.softmax(model(frames, training=False))
best = int(keras.ops.argmax(probabilities[0]))
print(json.load(open("export.json"))["classes"][best], float(probabilities[0, best]))""",
        """\
import json

import keras
import numpy as np
import ucf50_tfrecord.models  # registers the layers in the file

{frames}
model = keras.models.load_model("model.keras")
about = json.load(open("export.json"))
probabilities = np.array(model(frames, training=False)["probabilities"])
predicted = probabilities >= about["thresholds"]["values"]
classes = about["classes"]""",
        "With Keras and this project's layers, for inference; it returns probabilities:",
    ),
    "onnx": ExportFormat(
        "model.onnx",
        "With ONNX Runtime alone:",
        """\
import json

import numpy as np
import onnxruntime

{frames}
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
[probabilities] = session.run(["probabilities"], {{"frames": frames}})
best = probabilities[0].argmax()
print(classes[best], float(probabilities[0, best]))""",
        """\
import json

import numpy as np
import onnxruntime

{frames}
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
probabilities, predicted = session.run(["probabilities", "predicted"], {{"frames": frames}})""",
        extra="onnx",
        packages=("tf2onnx", "onnx", "onnxruntime"),
    ),
    "tflite": _tflite(
        "model.tflite", "With LiteRT alone, for phones and small computers; it takes one clip at a time:"
    ),
    "tflite_float16": _tflite(
        "model_float16.tflite",
        "The same with half the size: weights in float16.",
        tolerance=0.01,
    ),
    "tflite_int8": _tflite(
        "model_int8.tflite",
        "The same with a quarter of the size: weights and most computations in 8-bit integers.",
        tolerance=None,
    ),
}
DEFAULT_FORMATS = tuple(name for name, kind in FORMATS.items() if kind.extra is None)
