"""A run's model, as it was trained."""

from __future__ import annotations

import dataclasses
from typing import Literal

import keras
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.training import checkpoint
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.run import RunConfig


def scored_weights(config: RunConfig) -> Literal["last", "best"]:
    """Tells which of a run's checkpoints its own final scores are of: "last" or "best"."""
    return "best" if config.train.early_stopping else "last"


def load_model(
    run_dir: str, config: RunConfig, weights: str, *, strategy: tf.distribute.Strategy
) -> keras.Model:
    """Builds a run's model with its trained weights.

    Args:
      run_dir: the run's folder.
      config: what run.load_config returns for it.
      weights: "last" or "best".
      strategy: the devices.

    Raises:
      UserError: if the run has no sound checkpoint of that kind.
    """
    with strategy.scope():
        # The checkpoint holds all weights: what the encoder started with is not needed again.
        spec = dataclasses.replace(config.model, encoder_weights="none", freeze_encoder=False)
        model = models.build_model(spec, dtype=strategy_lib.keras_policy(config.train.precision))
        if config.model.freeze_encoder:  # of what is trained there are averages
            model.get_layer("encoder").trainable = False
        checkpoint.load_weights(run_dir, weights, model, averaged=config.train.ema > 0)
    return model


def check_fits(manifest: Manifest, config: RunConfig) -> None:
    """Raises UserError unless a run's model can read the manifest's clips."""
    stored, wanted = manifest.format, config.model
    if (stored.num_frames, stored.height, stored.width) != (wanted.num_frames, wanted.height, wanted.width):
        raise UserError(
            f"{manifest.data_dir} holds clips of {stored}, the run was trained on "
            f"{wanted.num_frames}x{wanted.height}x{wanted.width} (frames x height x width)"
        )
    if manifest.classes != config.classes:
        raise UserError(
            f"{manifest.data_dir} has {len(manifest.classes)} classes ({', '.join(manifest.classes[:3])}, …), "
            f"the run was trained on {len(config.classes)} ({', '.join(config.classes[:3])}, …)"
        )
