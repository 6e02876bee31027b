"""What every family shares: clips to frames and back, and the three-block frame encoders."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from ucf50_tfrecord.specs import ModelSpec

NUM_FEATURES = 256
BLOCK_FILTERS = (32, 64, 128)

Tensor = keras.KerasTensor
Encoder = Callable[[Tensor], Tensor]


def clip_input(spec: ModelSpec) -> Tensor:
    """Returns the model's input: uint8 [B, T, H, W, 3]."""
    shape = (spec.num_frames, spec.height, spec.width, 3)
    return keras.Input(shape, dtype="uint8", name="video")


def encode_frames(video: Tensor, encoder: Encoder, dtype: keras.DTypePolicy) -> Tensor:
    """Runs a frame encoder over all frames of all clips in one call, without a loop over time.

    Args:
      video: uint8 [B, T, H, W, 3].
      encoder: maps [B * T, H, W, 3] with values in [0, 1] to [B * T, F].
      dtype: the layers' policy.

    Returns:
      Features [B, T, F].
    """
    _, num_frames, height, width, channels = video.shape
    frames = ops.reshape(video, (-1, height, width, channels))
    features = encoder(layers.Rescaling(1 / 255, dtype=dtype)(frames))
    return ops.reshape(features, (-1, num_frames, features.shape[-1]))


def classify(features: Tensor, spec: ModelSpec, **init) -> Tensor:
    """Returns float32 logits [B, num_classes] for features [B, F], in any precision policy."""
    return layers.Dense(spec.num_classes, dtype="float32", name="logits", **init)(features)


def normalized_encoder(spec: ModelSpec, dtype: keras.DTypePolicy) -> Encoder:
    """Three blocks of conv 3x3, batch norm, ReLU and max-pool 2, then dense 256 with batch norm.

    Batch norm takes its statistics over all frames of the global batch (all replicas).
    """

    def normalize(x: Tensor) -> Tensor:
        return layers.BatchNormalization(momentum=0.9, synchronized=True, dtype=dtype)(x)

    def encoder(x: Tensor) -> Tensor:  # [B * T, H, W, 3]
        for filters in BLOCK_FILTERS:
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, dtype=dtype)(x)
            x = layers.MaxPooling2D(2, dtype=dtype)(x)
            x = layers.ReLU(dtype=dtype)(normalize(x))
        x = layers.Flatten(dtype=dtype)(x)
        x = layers.Dropout(spec.dropout, dtype=dtype)(x)
        x = layers.Dense(NUM_FEATURES, use_bias=False, dtype=dtype)(x)
        return layers.ReLU(dtype=dtype)(normalize(x))  # [B * T, 256]

    return encoder
