"""Loads frozen frame encoders, which turn the frames of stored clips into features."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection

import keras
import numpy as np
from keras import ops

from ucf50_tfrecord.architectures import PRETRAINED, is_own_code
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.models import builders, encoders
from ucf50_tfrecord.specs import ClipFormat, FeatureFormat, FeatureSpec, ModelSpec, parse_size
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameEncoder:
    """A frozen frame encoder with its weights.

    model: maps frames as they are stored, uint8 [N, H, W, 3], to features, float16 [N, F] or
      [N, grid, grid, F].
    format: the format of the features of clips.
    """

    model: keras.Model
    format: FeatureFormat


def load_encoder(
    spec: FeatureSpec, clip_format: ClipFormat, *, allowed_code: Collection[str] = ()
) -> FrameEncoder:
    """Loads the frame encoder that a specification names, for frames of a given format.

    Args:
      spec: the specification.
      clip_format: the format of the stored clips.
      allowed_code: names of model builders outside this package, as <module>:<builder>. They may be imported,
        which runs their code, if the encoder comes from a run that needs them.

    Raises:
      UserError: if there is no such encoder, its weights are missing, or it cannot take the frames.
    """
    size = parse_size(spec.size) if spec.size else (clip_format.height, clip_format.width)
    dtype = strategy_lib.keras_policy(spec.precision)
    inner = _load(spec, size, keras.dtype_policies.get(dtype), allowed_code)
    frames = keras.Input((clip_format.height, clip_format.width, 3), dtype="uint8", name="frames")
    found = _apply(inner, spec, _scaled(frames, size))
    model = keras.Model(frames, found, name="frozen_encoder")
    model.trainable = False
    return FrameEncoder(
        model=model,
        format=FeatureFormat(
            encoder=spec.encoder,
            weights=trained.digest_weights(inner),
            num_frames=clip_format.num_frames,
            num_features=found.shape[-1],
            height=size[0],
            width=size[1],
            grid=spec.grid,
            precision=spec.precision,
            num_views=spec.num_views,
        ),
    )


def reload_encoder(
    stored: FeatureFormat, clip_format: ClipFormat, *, allowed_code: Collection[str] = ()
) -> FrameEncoder:
    """Loads the encoder that a dataset's features were made with.

    Args:
      stored: the format of the features. It may come from a stranger's file, so an encoder outside this
        package is loaded only if it is allowed.
      clip_format: the format of the frames to encode.
      allowed_code: the encoders outside this package that may be loaded: paths, or <module>:<builder>.

    Raises:
      UserError: if the encoder is not allowed, cannot be loaded, or has other weights than when the features
        were made.
    """
    if stored.encoder not in PRETRAINED and stored.encoder not in allowed_code:
        raise UserError(
            f"The features were made by the encoder {stored.encoder}, which is outside this package",
            Remedy(Action.SET, "if you trust it", allow_code=[stored.encoder]),
        )
    spec = FeatureSpec(
        encoder=stored.encoder,
        size=f"{stored.height}x{stored.width}",
        grid=stored.grid,
        precision=stored.precision,
    )
    encoder = load_encoder(spec, clip_format, allowed_code=allowed_code)
    if encoder.format != dataclasses.replace(stored, intervention="none", num_views=1):
        raise UserError(
            f"The encoder {stored.encoder} is not the one that the features were made with. Expected: weights "
            f"{stored.weights[:16]}… for {stored}. Received: weights {encoder.format.weights[:16]}… for {encoder.format}"
        )
    return encoder


def _load(
    spec: FeatureSpec, size: tuple[int, int], dtype: keras.DTypePolicy, allowed_code: Collection[str]
) -> keras.Model:
    """Loads an encoder, which maps frames, [N, H, W, 3] in [0, 1], to [N, F] or to a map [N, h, w, F]."""
    name, shape = spec.encoder, (*size, 3)
    if name in PRETRAINED or is_own_code(name):
        described = ModelSpec(  # builders take one; of a frozen encoder it names the encoder and its weights
            name="frame_pool",
            num_classes=2,
            num_frames=1,
            height=size[0],
            width=size[1],
            encoder=name,
            encoder_weights="imagenet" if name in PRETRAINED else "none",
        )
        if is_own_code(name):
            return builders.call(name, shape, described, dtype)
        return encoders.feature_map(described, shape, dtype)
    if os.path.isdir(name):
        return _load_from_run(name, size, allowed_code)
    expect(
        name.endswith(".keras") and os.path.isfile(name),
        f"an encoder: one of {', '.join(PRETRAINED)}, a run's folder, a .keras file, or <module>:<builder>",
        features=name,
    )
    try:
        return keras.models.load_model(name, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"Cannot load the encoder {name}: {error}") from error


def _load_from_run(run_dir: str, size: tuple[int, int], allowed_code: Collection[str]) -> keras.Model:
    config = run_lib.load_config(run_dir)
    wanted = (config.model.height, config.model.width)
    expect(
        size == wanted,
        f"encoder_size {wanted[0]}x{wanted[1]}, the size of the frames of {run_dir}",
        encoder_size=size,
    )
    expect(not config.model.motion, "a run without motion input, as an encoder", features=run_dir)
    model = trained.load_model(
        run_dir,
        config,
        trained.scored_weights(config),
        strategy=strategy_lib.make_strategy("one", environment={}),
        allowed_code=allowed_code,
    )
    found = [layer for layer in model.layers if layer.name == "encoder"]
    expect(bool(found), "a run whose model has a frame encoder", features=run_dir, model=config.model.name)
    return found[0]


def _scaled(frames: keras.KerasTensor, size: tuple[int, int]) -> keras.KerasTensor:
    """Turns frames, uint8 [N, H, W, 3], into frames of another size with values in [0, 1], float32."""
    scaled = ops.cast(frames, "float32") / 255.0
    if tuple(frames.shape[1:3]) == size:
        return scaled
    # Antialiasing changes nothing where frames grow, and ONNX and TFLite lack its operation.
    shrinks = size[0] < frames.shape[1] or size[1] < frames.shape[2]
    return ops.image.resize(scaled, size, interpolation="bilinear", antialias=shrinks)


def _apply(inner: keras.Model, spec: FeatureSpec, frames: keras.KerasTensor) -> keras.KerasTensor:
    """Encodes frames, averages a feature map over the cells of the grid, and rounds to float16."""
    expect(isinstance(inner, keras.Model), f"a keras.Model from {spec.encoder}", found=type(inner).__name__)
    try:
        found = inner(ops.cast(frames, inner.input.dtype), training=False)
    except Exception as error:
        raise UserError(
            f"The encoder {spec.encoder} cannot take frames {tuple(frames.shape)}: {error}"
        ) from error
    rank = len(getattr(found, "shape", ()))
    expect(
        rank in (2, 4) and found.shape[-1] is not None,
        f"features [N, F] or [N, h, w, F] from {spec.encoder}",
        shape=getattr(found, "shape", None),
    )
    expect(
        rank == 4 or spec.grid == 1,
        f"a feature_grid of 1, because {spec.encoder} gives one vector of features per frame",
        feature_grid=spec.grid,
    )
    found = ops.cast(found, "float32")
    if rank == 4:
        found = _average_cells(found, spec)
    return ops.cast(found, "float16")


def _average_cells(found: keras.KerasTensor, spec: FeatureSpec) -> keras.KerasTensor:
    """Averages a feature map, [N, h, w, F], over a grid: [N, grid, grid, F], or [N, F] for a grid of 1."""
    _, height, width, _ = found.shape
    grid = spec.grid
    expect(
        grid <= min(height, width),
        f"a feature_grid of at most {min(height, width)}, the size of the feature map of {spec.encoder}",
        feature_grid=grid,
    )
    if grid == 1:
        return ops.mean(found, axis=(1, 2))
    rows, columns = _cells(height, grid), _cells(width, grid)
    return ops.einsum("gh,nhwf,kw->ngkf", rows, found, columns)


def _cells(size: int, grid: int) -> np.ndarray:
    """Returns the weights that average `size` places over `grid` cells, float32 [grid, size].

    A cell includes every place that it covers at least partly. So neighbouring cells may overlap by one
    place, as in PyTorch's adaptive_avg_pool2d.
    """
    weights = np.zeros((grid, size), np.float32)
    for cell in range(grid):
        first, end = cell * size // grid, -(-(cell + 1) * size // grid)
        weights[cell, first:end] = 1 / (end - first)
    return weights
