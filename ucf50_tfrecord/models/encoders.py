"""Builds frame encoders: the project's own, those of pretrained image models, and the user's own.

A frame encoder maps each frame of a clip to a vector of features.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from ucf50_tfrecord.architectures import APPLICATIONS, EFFICIENTNET_LITE0, ENCODERS
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models import builders, efficientnet_lite, frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.frames import Tensor, encode_frames, normalize
from ucf50_tfrecord.specs import ModelSpec

BLOCK_FILTERS = (32, 64, 128)
# The lowest `stream` of dropout layers in models of keras.applications; the project's own models use lower
# numbers.
_FIRST_STREAM = 100


def frame_features(video: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Encodes each frame of clips with the encoder that the model's specification names.

    If `video` holds stored features, they are only flattened.

    Args:
      video: the clips, uint8 [B, T, H, W, C], or their stored features, float16 [B, T, ...].
      spec: the model's specification, which names the encoder and its weights.
      dtype: the dtype policy of the layers.

    Returns:
      The frames' features, [B, T, F].

    Raises:
      UserError: if the encoder's weights are missing or do not fit, or the frames are too small for the
        encoder. Also if the user's own builder cannot be imported, or does not return an encoder.
    """
    if spec.feature_shape:
        return ops.reshape(
            ops.cast(video, dtype.compute_dtype), (-1, spec.num_frames, math.prod(spec.feature_shape))
        )
    return frames.mark_frames(encode(frames.pixels(video, spec, dtype), spec, dtype), spec)


def encode(scaled: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Encodes frames, [B, T, H, W, C] with values from -1 to 1, to [B, T, F], by the encoder that `spec` names.

    Raises:
      UserError: as frame_features.
    """
    shape = scaled.shape[2:]
    encoder = builders.call(ENCODERS.get(spec.encoder, spec.encoder), shape, spec, dtype)
    if spec.encoder not in ENCODERS:
        encoder = _named_encoder(encoder, shape, spec, dtype)
    if spec.encoder not in APPLICATIONS and spec.encoder_weights not in ("none", "imagenet"):
        with _explained_errors(spec):
            encoder.load_weights(spec.encoder_weights)
    encoder.trainable = not spec.freeze_encoder  # False keeps the statistics of batch norm, too
    return encode_frames(scaled, encoder)


def unfreeze(model: keras.Model) -> list[keras.Variable]:
    """Makes the weights of a model's encoder trainable, except those of batch norm, and returns them.

    Batch norm stays frozen, because statistics of small batches would spoil the pretrained weights.
    """
    encoder = model.get_layer("encoder")
    encoder.trainable = True
    for layer in encoder._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return encoder.trainable_variables


def three_block(
    shape: tuple[int, ...],
    spec: ModelSpec,
    dtype: keras.DTypePolicy,
    *,
    stream: int = 0,
    name: str = "encoder",
) -> keras.Model:
    """Builds the project's own frame encoder, which maps [N, H, W, C] with values from -1 to 1 to [N, 256].

    It has three blocks of conv 3x3, max-pool 2, batch norm and ReLU; then dropout, dense 256, batch norm and
    ReLU. A second encoder of a model needs another name, and another `stream` of its dropout's random numbers.
    """
    x = image = keras.Input(shape, dtype=dtype.compute_dtype)
    for filters in BLOCK_FILTERS:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(x)
        x = layers.MaxPooling2D(2, dtype=dtype)(x)
        x = layers.ReLU(dtype=dtype)(normalize(x, dtype))
    x = Dropout(spec.dropout, stream=stream, dtype=dtype)(layers.Flatten(dtype=dtype)(x))
    x = layers.Dense(frames.NUM_FEATURES, use_bias=False, dtype=dtype)(x)
    features = layers.ReLU(dtype=dtype)(normalize(x, dtype))
    return keras.Model(image, features, name=name)


def efficientnet_lite0(shape: tuple[int, ...], spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Builds EfficientNet-Lite0 as a frame encoder, which maps [N, H, W, 3] in [0, 1] to [N, 1280]."""
    return _pooled(feature_map(spec, shape, dtype))


def application(shape: tuple[int, ...], spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Builds a frame encoder from an image model of keras.applications, without the model's classifier.

    The encoder maps [N, H, W, 3] with values in [0, 1] to [N, F]: it averages the model's feature map.
    """
    return _pooled(feature_map(spec, shape, dtype))


def feature_map(spec: ModelSpec, shape: tuple[int, ...], dtype: keras.DTypePolicy) -> keras.Model:
    """Builds the convolutional part of an image model, one of architectures.PRETRAINED.

    The result maps frames, [N, H, W, 3] with values in [0, 1], to features, [N, h, w, F]. It also
    preprocesses the frames as the image model expects. Keras downloads ImageNet's weights once, into
    ~/.keras. The weights of EfficientNet-Lite0 come from a Python package.

    Args:
      spec: the model's specification, which names the encoder and its weights.
      shape: the shape of the frames, [H, W, 3].
      dtype: the dtype policy of the layers.

    Raises:
      UserError: if the weights are missing or do not fit, or the frames are too small for the encoder.
    """
    if spec.encoder == EFFICIENTNET_LITE0:
        model = efficientnet_lite.feature_map(shape, dtype)
        if spec.encoder_weights == "imagenet":
            efficientnet_lite.load_imagenet(model)
        return model
    build = getattr(keras.applications, spec.encoder)
    weights = None if spec.encoder_weights == "none" else spec.encoder_weights
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)  # these models take no dtype argument
    try:
        with _explained_errors(spec):
            model = build(include_top=False, weights=weights, input_shape=shape)
    finally:
        keras.config.set_dtype_policy(before)
    model = _reproducible(model)
    image = keras.Input(shape, dtype=dtype.compute_dtype)
    prepared = _Preprocess(spec.encoder, dtype=dtype)(image)
    return keras.Model(image, ops.cast(model(prepared), dtype.compute_dtype), name=spec.encoder)


def _pooled(model: keras.Model) -> keras.Model:
    """Returns an encoder that averages a model's feature map over space."""
    return keras.Model(model.input, ops.mean(model.output, axis=(1, 2)), name="encoder")


def _named_encoder(
    encoder: Any, shape: tuple[int, ...], spec: ModelSpec, dtype: keras.DTypePolicy
) -> keras.Model:
    """Checks the user's own encoder, and returns it as a model with the expected name, "encoder"."""
    image = keras.Input(shape, dtype=dtype.compute_dtype)
    features = builders.encode(encoder, spec, image)
    return keras.Model(image, ops.cast(features, dtype.compute_dtype), name="encoder")


def _reproducible(model: keras.Model) -> keras.Model:
    """Copies a model; the copy's batch norm and dropout do not depend on replicas, nor on resuming a run.

    In the copy, batch norm uses the statistics of the global batch, and dropout layers are dropout.Dropout.
    """
    streams = itertools.count(_FIRST_STREAM)

    def adapted(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, layers.Dropout):
            whole_rows = layer.noise_shape is not None  # EfficientNet's: (None, 1, 1, 1)
            return Dropout(
                layer.rate,
                stream=next(streams),
                dtype=layer.dtype_policy,
                whole_rows=whole_rows,
                name=layer.name,
            )
        copy = layer.__class__.from_config(layer.get_config())
        if isinstance(copy, layers.BatchNormalization):
            copy.synchronized = True
        return copy

    adapted_model = keras.models.clone_model(model, clone_function=adapted)
    adapted_model.set_weights(model.get_weights())
    return adapted_model


@keras.saving.register_keras_serializable(package="ucf50_tfrecord", name="Preprocess")
class _Preprocess(keras.layers.Layer):
    """A layer that scales pixels from [0, 1] to [0, 255], and preprocesses them for keras.applications."""

    def __init__(self, encoder: str, *, dtype: keras.DTypePolicy, **options):
        super().__init__(dtype=dtype, **options)
        self.encoder = encoder
        module = getattr(keras.applications, encoder).__module__.rsplit(".", 1)[-1]
        self._preprocess = getattr(keras.applications, module).preprocess_input

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"encoder": self.encoder}

    def call(self, image):
        return self._preprocess(image * 255.0)


@contextlib.contextmanager
def _explained_errors(spec: ModelSpec) -> Iterator[None]:
    """Turns Keras's exceptions about unsuitable encoder weights or frame sizes into a UserError."""
    path = spec.encoder_weights
    if path not in ("none", "imagenet") and not os.path.isfile(path):
        raise UserError(
            f"Expected encoder_weights none, imagenet or a file. Received: {path}, which is not a file"
        )
    try:
        yield
    except Exception as error:  # for a failed download Keras raises the class Exception itself
        raise UserError(
            f"The encoder {spec.encoder} with the weights {path} cannot be built for frames of "
            f"{spec.height}x{spec.width}: {error}"
        ) from error
