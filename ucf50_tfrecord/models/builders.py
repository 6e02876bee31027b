"""Imports and calls builders by name, <module>:<builder>, and checks their results."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

import keras

from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import ModelSpec


def load(builder: str) -> Callable[..., Any]:
    """Imports a builder.

    Raises:
      UserError: if its module cannot be imported or lacks it.
    """
    module_name, _, name = builder.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module's code may raise anything
        raise UserError(f"Cannot import {module_name} of {builder}: {_describe(error)}") from error
    build = getattr(module, name, None)
    expect(callable(build), f"a function {name} in {module_name}", found=type(build).__name__)
    return build


def call(builder: str, *args: Any) -> Any:
    """Imports a builder and calls it.

    Raises:
      UserError: as `load` does, or if a builder outside this package fails.
    """
    build = load(builder)
    try:
        return build(*args)
    except UserError:
        raise
    except Exception as error:
        if builder.startswith(f"{__package__}."):
            raise
        raise UserError(f"{builder} failed: {_describe(error)}") from error


def check_model(model: Any, spec: ModelSpec) -> None:
    """Raises UserError unless a builder has returned the model that `spec` asks for.

    That is a functional keras.Model from uint8 [B, T, H, W, 3] to float32 [B, num_classes], with a layer named
    "encoder" if an encoder is chosen.
    """
    _expect_model(model, spec.name)
    for end, shape, dtype in (
        ("input", (None, spec.num_frames, spec.height, spec.width, 3), "uint8"),
        ("output", (None, spec.num_classes), "float32"),
    ):
        tensors = getattr(model, f"{end}s", None) or []
        found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        expect(found == [(shape, dtype)], f"one {end} of {spec.name}, {dtype} {shape}", found=found)
    layers = [layer.name for layer in model.layers]
    expect(
        not spec.chooses_encoder or "encoder" in layers,
        f'a layer named "encoder" in {spec.name}, as an encoder is chosen',
        layers=layers,
    )


def encode(encoder: Any, spec: ModelSpec, image: keras.KerasTensor) -> keras.KerasTensor:
    """Applies the result of an encoder's builder: frames [N, H, W, C] to features [N, F].

    Raises:
      UserError: if it is not a keras.Model, cannot take the frames, or returns something else.
    """
    _expect_model(encoder, spec.encoder)
    try:
        features = encoder(image)
    except Exception as error:
        raise UserError(
            f"The model of {spec.encoder} cannot take frames {tuple(image.shape)}: {_describe(error)}"
        ) from error
    shape: tuple[int | None, ...] = tuple(getattr(features, "shape", ()))
    expect(len(shape) == 2 and shape[1] is not None, f"features [N, F] from {spec.encoder}", shape=shape)
    return features


def _expect_model(model: Any, builder: str) -> None:
    expect(isinstance(model, keras.Model), f"a keras.Model from {builder}", found=type(model).__name__)


def _describe(error: Exception) -> str:
    """Describes an error, with the line of the user's code if it was raised there."""
    lines = [
        f" ({frame.filename}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "site-packages" not in frame.filename and frame.filename[0] != "<"
    ]
    return f"{type(error).__name__}: {error}{lines[-1] if lines else ''}"
