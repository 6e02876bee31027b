"""Builders of models and encoders as users may write them, some right and some wrong.

Tests name them in a ModelSpec as tests.models.own:<function>.
"""

import keras

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.encoders import frame_features

table = {}


def build(spec, dtype):
    video = frames.clip_input(spec)
    features = keras.ops.mean(frame_features(video, spec, dtype), axis=1)
    return keras.Model(video, frames.classify(features, spec), name=spec.name)


def encode(shape, spec, dtype):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(5, dtype=dtype)])


def encode_normalized(shape, spec, dtype):
    """A small encoder with batch norm."""
    image = keras.Input(shape, dtype=dtype.compute_dtype)
    x = frames.normalize(keras.layers.Conv2D(4, 3, dtype=dtype)(image), dtype)
    return keras.Model(image, keras.ops.mean(keras.ops.relu(x), axis=(1, 2)))


def without_encoder(spec, dtype):
    video = keras.Input((spec.num_frames, spec.height, spec.width, 3), dtype="uint8")
    features = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(video))
    return keras.Model(video, keras.layers.Dense(spec.num_classes)(features))


def number(*args):
    return 7


def more_logits(spec, dtype):
    video = frames.clip_input(spec)
    return keras.Model(video, keras.layers.Dense(spec.num_classes + 1)(keras.layers.Flatten()(video)))


def half_logits(spec, dtype):
    video = frames.clip_input(spec)
    dense = keras.layers.Dense(spec.num_classes, dtype="mixed_float16")
    return keras.Model(video, dense(keras.layers.Flatten()(video)))


def float_clips(spec, dtype):
    video = keras.Input((spec.num_frames, spec.height, spec.width, 3))
    return keras.Model(video, keras.layers.Dense(spec.num_classes)(keras.layers.Flatten()(video)))


def other_clips(spec, dtype):
    video = keras.Input((spec.num_frames + 1, spec.height, spec.width, 3), dtype="uint8")
    return keras.Model(video, keras.layers.Dense(spec.num_classes)(keras.layers.Flatten()(video)))


def fails(*args):
    return 1 / 0


def maps(shape, spec, dtype):
    return keras.Sequential([keras.Input(shape), keras.layers.Conv2D(4, 3)])
