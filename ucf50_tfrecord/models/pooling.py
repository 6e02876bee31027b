"""The order-blind control: what frames alone tell, in whatever order."""

from __future__ import annotations

import keras
from keras import ops

from ucf50_tfrecord.models import frames, seed
from ucf50_tfrecord.specs import ModelSpec


def frame_pool(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """The published frame encoder, the mean over time, a classifier.

    uint8 [B, T, H, W, 3] to logits float32 [B, num_classes].
    """
    video = frames.clip_input(spec)
    features = frames.encode_frames(video, seed.seed_encoder(dtype), dtype)  # [B, T, 256]
    logits = frames.classify(ops.mean(features, axis=1), spec)
    return keras.Model(video, logits, name=spec.name)
