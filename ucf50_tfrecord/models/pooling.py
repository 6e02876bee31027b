"""Models that pool over frames. Two of them are order-blind controls: they cannot see the order of frames.

A control is a model that other models are compared with, to measure how much they gain from the order of
frames.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.encoders import frame_features
from ucf50_tfrecord.models.frames import Tensor
from ucf50_tfrecord.specs import ModelSpec


def spread_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder; mean over time, and mean difference of neighbouring frames; dropout, classifier.

    The difference is absolute, per feature: how much it changes from one frame to the next.
    """

    def changes(features: Tensor) -> Tensor:
        return ops.mean(ops.abs(features[:, 1:] - features[:, :-1]), axis=1)

    return _two_means(spec, dtype, changes)


def deviation_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder; mean over time, and mean absolute deviation from it; dropout, classifier.

    The control of spread_pool: it sees how much features vary over the clip, but not from which frame to which.
    """

    def deviations(features: Tensor) -> Tensor:
        return ops.mean(ops.abs(features - ops.mean(features, axis=1, keepdims=True)), axis=1)

    return _two_means(spec, dtype, deviations)


def _two_means(spec: ModelSpec, dtype: keras.DTypePolicy, spread: Callable[[Tensor], Tensor]) -> keras.Model:
    """Classifies the mean of the frames' features [B, T, F] and their spread, [B, F], through a hidden layer."""
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)
    pooled = [ops.mean(features, axis=1), spread(features)]
    x = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.concatenate(pooled, axis=-1))
    x = layers.Dense(frames.NUM_FEATURES, activation="relu", dtype=dtype)(x)
    x = Dropout(spec.dropout, stream=2, dtype=dtype)(x)
    return keras.Model(video, frames.classify(x, spec), name=spec.name)


def frame_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, mean over time, dropout, classifier: the control of the recurrent models."""
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)  # [B, T, F]
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(features, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
