"""The order-blind control model: it averages over frames, so that it cannot see the order of the frames.

A control is a model that other models are compared with, to measure how much they gain from the order of
frames.
"""

from __future__ import annotations

import keras
from keras import ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.models.encoders import frame_features
from ucf50_tfrecord.specs import ModelSpec


def frame_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Frame encoder, mean over time, dropout, classifier: the control of the recurrent models."""
    video = frames.clip_input(spec)
    features = frame_features(video, spec, dtype)  # [B, T, F]
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(features, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
