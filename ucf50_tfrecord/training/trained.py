"""Loads the model of a finished run with its trained weights; finds its shards, and checks that a dataset fits it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import models
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.models import encoders
from ucf50_tfrecord.training import checkpoint
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.run import RunConfig


def scored_weights(config: RunConfig) -> Literal["last", "best"]:
    """Returns the checkpoint that a run's own final scores were computed with: "last" or "best"."""
    return "best" if config.train.early_stopping else "last"


def is_selected(config: RunConfig, weights: str) -> bool:
    """Tells whether a checkpoint was selected by its score on the very clips that the run's scores are on."""
    return weights == "best" and not config.test_folds


def load_model(
    run_dir: str,
    config: RunConfig,
    weights: str,
    *,
    strategy: tf.distribute.Strategy,
    allowed_code: Collection[str] = (),
) -> keras.Model:
    """Builds a run's model with its trained weights.

    A run may come from a stranger, and may name its model or encoder as <module>:<builder>. Importing the
    module runs its code, so this function imports only the names that the caller allows.

    Args:
      run_dir: the run's folder.
      config: the run's configuration, as run.load_config returns it.
      weights: the checkpoint to load, "last" or "best".
      strategy: the devices that the model runs on.
      allowed_code: the names, <module>:<builder>, that may be imported.

    Raises:
      UserError: if the run names code that is not allowed, or has no undamaged checkpoint `weights`.
    """
    refused = [name for name in config.model.own_code if name not in allowed_code]
    if refused:
        raise UserError(
            f"Loading the model of {run_dir} would execute {' and '.join(refused)}, which is code outside this "
            "package",
            Remedy(Action.SET, "if you trust it", allow_code=list(config.model.own_code)),
        )
    with strategy.scope():
        # The checkpoint holds all weights, so the encoder's initial weights are not needed.
        spec = dataclasses.replace(config.model, encoder_weights="none", freeze_encoder=False)
        model = models.build_model(spec, dtype=strategy_lib.keras_policy(config.train.precision))
        # The checkpoint has moving averages of trainable weights only.
        if config.train.unfreeze_after_epoch:
            encoders.unfreeze(model)
        elif config.model.freeze_encoder:
            model.get_layer("encoder").trainable = False
        checkpoint.load_weights(run_dir, weights, model, averaged=config.train.ema > 0)
    return model


def digest_weights(model: keras.Model) -> str:
    """Returns the hex sha256 of a model's weights, in the order of its layers."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode() + np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def find_manifest(config: RunConfig) -> tuple[Manifest | None, str]:
    """Finds the manifest of a run's shards.

    Returns:
      A tuple of the manifest and ""; or of None and the reason, if the shards are missing, damaged, or
      replaced by others.
    """
    try:
        manifest = manifest_lib.load_if_finished(config.data_dir)
    except UserError as error:
        return None, str(error)
    if manifest is None:
        return None, f"there is no set of shards in {config.data_dir} any more"
    if manifest.fingerprint != config.fingerprint:
        return None, f"{config.data_dir} now holds other shards than those the run was trained on"
    return manifest, ""


def check_fits(manifest: Manifest, config: RunConfig) -> None:
    """Raises UserError unless a dataset's clip format, classes and kind of labels are those that a run was trained on.

    The number of views of each clip's features may differ.
    """
    check_format(manifest, config)
    kinds = [
        "several labels per clip" if of else "one label per clip"
        for of in (manifest.multi_label, config.multi_label)
    ]
    if kinds[0] != kinds[1]:
        raise UserError(f"{manifest.data_dir} has {kinds[0]}, but the run was trained on {kinds[1]}")
    if manifest.classes != config.classes:
        raise UserError(
            f"{manifest.data_dir} has {len(manifest.classes)} classes ({', '.join(manifest.classes[:3])}, …), "
            f"but the run was trained on {len(config.classes)} ({', '.join(config.classes[:3])}, …)"
        )


def check_format(manifest: Manifest, config: RunConfig) -> None:
    """Raises UserError unless a run's model takes a dataset's clips, of whatever classes.

    The number of views of each clip's features may differ.
    """
    stored = manifest.features and dataclasses.replace(manifest.features, num_views=1)
    trained_on = config.features and dataclasses.replace(config.features, num_views=1)
    if stored != trained_on:
        raise UserError(
            f"{manifest.data_dir} holds {manifest.features or 'frames'}, but the run was trained on "
            f"{config.features or 'frames'}"
        )
    clips, wanted, num_frames = manifest.format, config.model, config.num_stored_frames
    if (clips.num_frames, clips.height, clips.width) != (num_frames, wanted.height, wanted.width):
        raise UserError(
            f"{manifest.data_dir} holds clips of {clips}, but the run was trained on "
            f"{num_frames}x{wanted.height}x{wanted.width} (frames x height x width)"
        )
    if not config.features and clips.motion_frames != wanted.motion_frames:
        raise UserError(
            f"{manifest.data_dir} holds clips with {clips.motion_frames} motion frames, but the run was trained on "
            f"clips with {wanted.motion_frames}"
        )
