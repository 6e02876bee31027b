"""Short programs that call each exported file, to be run in the export's folder."""

from __future__ import annotations

from ucf50_tfrecord.specs import ModelSpec

# The file or folder of each format.
FILENAMES = {"saved_model": "saved_model", "keras": "model.keras", "onnx": "model.onnx"}
MEANINGS = {
    "saved_model": "With TensorFlow alone, or TensorFlow Serving; every output has a row per clip:",
    "keras": "With Keras and this project's layers, for inference; it returns logits:",
    "onnx": "With ONNX Runtime alone:",
}

_FRAMES = "frames = np.zeros((1, {}, {}, {}, 3), np.uint8)  # your clips: [clip, frame, row, column, RGB]"
_SNIPPETS = {
    "saved_model": """\
import numpy as np
import tensorflow as tf

{frames}
model = tf.saved_model.load("saved_model")
answer = model.signatures["serving_default"](frames=tf.constant(frames))
best = answer["probabilities"].numpy()[0].argmax()
print(answer["class_names"].numpy()[0, best].decode(), float(answer["probabilities"][0, best]))""",
    "keras": """\
import json

import keras
import numpy as np
import ucf50_tfrecord.models  # registers the layers in the file

{frames}
model = keras.models.load_model("model.keras")
probabilities = keras.ops.softmax(model(frames, training=False))
best = int(keras.ops.argmax(probabilities[0]))
print(json.load(open("export.json"))["classes"][best], float(probabilities[0, best]))""",
    "onnx": """\
import json

import numpy as np
import onnxruntime

{frames}
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
[probabilities] = session.run(["probabilities"], {{"frames": frames}})
best = probabilities[0].argmax()
print(classes[best], float(probabilities[0, best]))""",
}


def snippet(name: str, spec: ModelSpec) -> str:
    """Returns a Python program that calls a format's file on clips of a model's size."""
    return _SNIPPETS[name].format(frames=_FRAMES.format(spec.num_frames, spec.height, spec.width))
