"""What every family shares: clips in, frames to features, features to logits."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from ucf50_tfrecord.specs import ModelSpec

NUM_FEATURES = 256

Tensor = keras.KerasTensor
Encoder = Callable[[Tensor], Tensor]


def clip_input(spec: ModelSpec) -> Tensor:
    """Returns the model's input: uint8 [B, T, H, W, 3]."""
    shape = (spec.num_frames, spec.height, spec.width, 3)
    return keras.Input(shape, dtype="uint8", name="video")


def pixels(video: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Scales uint8 [B, T, H, W, 3] to [0, 1], here on the device.

    With motion input each frame comes with its difference from the frame before (the first one's
    is 0), in three more channels from -1 to 1.
    """
    scaled = layers.Rescaling(1 / 255, dtype=dtype)(video)
    if not spec.motion:
        return scaled
    difference = scaled[:, 1:] - scaled[:, :-1]
    difference = ops.concatenate([ops.zeros_like(scaled[:, :1]), difference], axis=1)
    return ops.concatenate([scaled, difference], axis=-1)  # [B, T, H, W, 6]


def encode_frames(video: Tensor, encoder: Encoder) -> Tensor:
    """Runs a frame encoder over all frames of all clips in one call, without a loop over time.

    Args:
      video: [B, T, H, W, C].
      encoder: maps [B * T, H, W, C] to [B * T, ...].

    Returns:
      [B, T, ...].
    """
    _, num_frames, *frame_shape = video.shape
    encoded = encoder(ops.reshape(video, (-1, *frame_shape)))
    return ops.reshape(encoded, (-1, num_frames, *encoded.shape[1:]))


def classify(features: Tensor, spec: ModelSpec, **init) -> Tensor:
    """Returns float32 logits [B, num_classes] for features [B, F], in any precision policy."""
    return layers.Dense(spec.num_classes, dtype="float32", name="logits", **init)(features)


def normalize(x: Tensor, dtype: keras.DTypePolicy) -> Tensor:
    """Batch norm over the last axis; its statistics are those of the global batch (all replicas).

    A quicker moving average than Keras's 0.99, as a small set's epochs have few steps.
    """
    return layers.BatchNormalization(momentum=0.9, synchronized=True, dtype=dtype)(x)
