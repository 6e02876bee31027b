"""Joins a frame encoder and a run's model of its features into one model of frames."""

from __future__ import annotations

from collections.abc import Collection

import keras
import tensorflow as tf

from ucf50_tfrecord.features.encoders import reload_encoder
from ucf50_tfrecord.models.frames import encode_frames
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig


def load_frame_model(
    run_dir: str,
    config: RunConfig,
    weights: str,
    *,
    strategy: tf.distribute.Strategy,
    allowed_code: Collection[str] = (),
) -> keras.Model:
    """Loads a run's model with its trained weights, as a model that takes frames.

    If the run was trained on features, the returned model contains the encoder of these features. For a clip
    it returns the logits that the run's model returns for the clip's stored features.

    Args:
      run_dir, config, weights, strategy: as in trained.load_model.
      allowed_code: builders and encoders outside this package that may be loaded; see trained.load_model and
        encoders.reload_encoder.

    Returns:
      A model from clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C]. T is config.model.num_frames.

    Raises:
      UserError: as trained.load_model and encoders.reload_encoder.
    """
    head = trained.load_model(run_dir, config, weights, strategy=strategy, allowed_code=allowed_code)
    if config.features is None:
        return head
    assert config.clip_format is not None  # runs on features are younger than this field
    with strategy.scope():
        encoder = reload_encoder(config.features, config.clip_format, allowed_code=allowed_code).model
        shape = config.model.num_frames, *config.clip_format.shape[1:]
        video = keras.Input(shape, dtype="uint8", name="video")
        features = encode_frames(video, lambda frames: encoder(frames, training=False))
        return keras.Model(video, head(features), name=head.name)
