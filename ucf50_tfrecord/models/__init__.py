"""Models: uint8 clips in, float32 logits out. One file per family, one table of builders."""

from __future__ import annotations

import keras

from ucf50_tfrecord.models import conv3d, pooling, recurrent, seed, transformer
from ucf50_tfrecord.specs import ModelSpec

# Each builds, for a spec and a dtype policy, a model from uint8 [B, T, H, W, 3] to logits float32 [B, num_classes].
BUILDERS = {
    "frame_pool": pooling.frame_pool,
    "rnn": recurrent.rnn,
    "lstm": recurrent.lstm,
    "bilstm": recurrent.bilstm,
    "gru": recurrent.gru,
    "conv3d": conv3d.conv3d,
    "transformer": transformer.transformer,
    "seed_pool": seed.seed_pool,
    "seed_rnn": seed.seed_rnn,
    "seed_lstm": seed.seed_lstm,
}


def build_model(spec: ModelSpec, *, dtype: str = "float32") -> keras.Model:
    """Builds a model.

    Args:
      spec: the model's name, and the shape of its clips.
      dtype: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
      A model of BUILDERS. It scales pixels to [0, 1] itself: uint8 is a quarter of the bytes to copy to
      the device.
    """
    return BUILDERS[spec.name](spec, keras.dtype_policies.get(dtype))
