"""Imports and calls builders of models and encoders by name, and checks the models that they return.

A builder is a function that returns a keras.Model; its name has the form <module>:<builder>.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

import keras

from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import ModelSpec


def load(builder: str) -> Callable[..., Any]:
    """Imports a builder, by its name <module>:<builder>, and returns it.

    Raises:
      UserError: if the module cannot be imported, or has no such function.
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
    """Imports a builder, calls it with `args` and returns its result.

    Raises:
      UserError: if the builder cannot be imported, see `load`, or if a builder outside this package fails.
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
    """Raises UserError unless a builder's result is a model as `spec` describes it.

    Such a model is a functional keras.Model from clips, uint8 [B, T, H, W, 3] or features float16 [B, T, ...],
    to float32 [B, num_classes]. If the spec chooses an encoder, the model has a layer named "encoder".
    """
    _expect_model(model, spec.name)
    for end, shape, dtype in (
        ("input", (None, *spec.input_shape), spec.input_dtype),
        ("output", (None, spec.num_classes), "float32"),
    ):
        tensors = getattr(model, f"{end}s", None) or []
        found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        expect(found == [(shape, dtype)], f"one {end} of {spec.name}, {dtype} {shape}", found=found)
    layers = [layer.name for layer in model.layers]
    expect(
        not spec.chooses_encoder or "encoder" in layers,
        f'a layer named "encoder" in {spec.name}, because an encoder is chosen',
        layers=layers,
    )


def encode(encoder: Any, spec: ModelSpec, image: keras.KerasTensor) -> keras.KerasTensor:
    """Applies a frame encoder to frames, after checking that it is a model.

    Args:
      encoder: the result of the encoder's builder.
      spec: the specification of the model that the encoder belongs to.
      image: the frames, [N, H, W, C].

    Returns:
      The features of the frames, [N, F].

    Raises:
      UserError: if the encoder is not a keras.Model, cannot take the frames, or does not return such
        features.
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
    """Describes an error. If the user's code was running, also names the line of this code."""
    lines = [
        f" ({frame.filename}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "site-packages" not in frame.filename and frame.filename[0] != "<"
    ]
    return f"{type(error).__name__}: {error}{lines[-1] if lines else ''}"
