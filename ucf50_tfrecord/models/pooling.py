"""Models that pool over frames. Two of them are order-blind controls: they cannot see the order of frames.

A control is a model that other models are compared with, to measure how much they gain from the order of
frames.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.encoders import frame_features
from ucf50_tfrecord.models.frames import Tensor
from ucf50_tfrecord.specs import ModelSpec


def spread_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, mean absolute difference of neighbouring frames, hidden layer, classifier.

    The model sees how much each feature changes from one frame to the next, but not the feature's value.
    """
    video = frames.clip_input(spec)
    features = _precise_features(video, spec, dtype)  # [B, T, F]
    changes = ops.mean(ops.abs(features[:, 1:] - features[:, :-1]), axis=1)
    return _classify_spread(video, changes, spec, dtype)


def deviation_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, mean absolute deviation from the mean over time, hidden layer, classifier.

    This is the control of spread_pool. It sees how much each feature varies over the clip, but not in which
    order.
    """
    video = frames.clip_input(spec)
    features = _precise_features(video, spec, dtype)
    deviations = ops.mean(ops.abs(features - ops.mean(features, axis=1, keepdims=True)), axis=1)
    return _classify_spread(video, deviations, spec, dtype)


def _precise_features(video: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Returns the frames' features, float32 [B, T, F], because bfloat16 would round small differences away."""
    stored_as = keras.dtype_policies.get("float32") if spec.feature_shape else dtype
    return ops.cast(frame_features(video, spec, stored_as), "float32")


def _classify_spread(video: Tensor, spread: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Classifies clips by `spread`, [B, F], which tells how much each feature varies; uses a hidden layer."""
    x = Dropout(spec.dropout, stream=1, dtype=dtype)(spread)
    x = layers.Dense(frames.NUM_FEATURES, activation="relu", dtype=dtype)(x)
    x = Dropout(spec.dropout, stream=2, dtype=dtype)(x)
    return keras.Model(video, frames.classify(x, spec), name=spec.name)


def frame_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, mean over time, dropout, classifier: the control of the recurrent models."""
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)  # [B, T, F]
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(features, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
