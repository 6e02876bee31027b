"""Models: uint8 clips in, float32 logits out. One file per family; architectures.MODELS is their table."""

from __future__ import annotations

import keras

from ucf50_tfrecord.architectures import is_own_code, model_traits

# The families register their layers, which .keras files name.
from ucf50_tfrecord.models import builders, conv3d, pooling, recurrent, seed, transformer  # noqa: F401
from ucf50_tfrecord.specs import ModelSpec


def build_model(spec: ModelSpec, *, dtype: str = "float32") -> keras.Model:
    """Builds a model.

    A name such as my_package.my_module:build is imported, which runs that module. Take it from the user, not from
    a file of someone else's.

    Args:
      spec: the model's name, and the shape of its clips.
      dtype: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
      A model from uint8 [B, T, H, W, 3] to logits float32 [B, num_classes]. It scales pixels to [0, 1] itself:
      uint8 is a quarter of the bytes to copy to the device.

    Raises:
      UserError: if a builder cannot be imported or returns something else, or the encoder cannot be built.
    """
    builder = model_traits(spec.name).builder
    model = builders.call(builder, spec, keras.dtype_policies.get(dtype))
    if is_own_code(spec.name):
        builders.check_model(model, spec)
        model.name = spec.name.replace(":", ".")  # TensorFlow's scopes allow no colon
    return model
