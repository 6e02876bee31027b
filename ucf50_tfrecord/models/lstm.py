"""The default model: a normalised frame encoder and an LSTM whose outputs are averaged."""

from __future__ import annotations

import keras
from keras import layers, ops

from ucf50_tfrecord.models import frames
from ucf50_tfrecord.specs import ModelSpec

NUM_UNITS = 256


def lstm(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Batch-normalised CNN, LSTM of 256 units, mean of its outputs over time, dropout, classifier.

    uint8 [B, T, H, W, 3] to logits float32 [B, num_classes].
    """
    video = frames.clip_input(spec)
    encoder = frames.normalized_encoder(spec, dtype)
    features = frames.encode_frames(video, encoder, dtype)  # [B, T, 256]
    outputs = layers.LSTM(NUM_UNITS, return_sequences=True, dtype=dtype)(features)  # [B, T, 256]
    pooled = layers.Dropout(spec.dropout, dtype=dtype)(ops.mean(outputs, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
