"""Builds the models, which map uint8 clips to float32 logits.

Each family of models has a file in this package; architectures.MODELS lists all models.
"""

from __future__ import annotations

import importlib

import keras

from ucf50_tfrecord.architectures import ENCODERS, MODELS, is_own_code, model_traits
from ucf50_tfrecord.models import builders
from ucf50_tfrecord.specs import ModelSpec

# These modules register their layers, which .keras files name.
for _builder in (*(traits.builder for traits in MODELS.values()), *ENCODERS.values()):
    importlib.import_module(_builder.partition(":")[0])


def build_model(spec: ModelSpec, *, dtype: str = "float32") -> keras.Model:
    """Builds the model that a specification describes.

    A name of the form my_package.my_module:build imports that module and so runs its code. Take such a name
    from the user, not from a file that someone else wrote.

    Args:
      spec: the specification: the model's name, the shape of its clips, the number of classes and so on.
      dtype: the name of a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
      A model from uint8 [B, T, H, W, C], where C is 3, or 3 * (1 + k) with k stored neighbours of each frame
      (ClipFormat.motion_frames), to logits float32 [B, num_classes]. The model itself scales pixels to
      [0, 1]: copying uint8 pixels to the device takes a quarter of the bytes of float32.

    Raises:
      UserError: if the builder of the model or of its encoder cannot be imported, or returns something else
        than such a model. Also if the encoder cannot be built.
    """
    builder = model_traits(spec.name).builder
    model = builders.call(builder, spec, keras.dtype_policies.get(dtype))
    if is_own_code(spec.name):
        builders.check_model(model, spec)
        model.name = spec.name.replace(":", ".")  # TensorFlow's scopes allow no colon
    return model
