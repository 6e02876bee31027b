"""Counts the products that a model computes, and lists the ops that TensorFlow executed.

A product is a convolution, a product of matrices or a recurrent layer. The counts come from the shapes in a graph.
Recurrent layers of Keras are loops or cuDNN's ops there, which hide their products. So these are counted from the shapes
of their weights: each weight is multiplied once per frame in the forward pass, and twice in the backward pass, for the
gradients of the weights and of the inputs.
"""

from __future__ import annotations

import collections
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorboard.util import tensor_util

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models import dropout, recurrent
from ucf50_tfrecord.training import events

_BATCH_SIZE = 4


def count(model: keras.Model) -> float:
    """Counts the floating-point operations of a training step's products, forward and backward, per clip.

    Each multiplication and each addition counts. The other operations, such as activations and the optimizer's, are
    few beside these.

    Raises:
      UserError: if the graph does not state the shape of a product.
    """

    def step(video: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        position = tf.range(_BATCH_SIZE, dtype=tf.int64)
        key = dropout.RandomKey(
            seed=0, step=tf.constant(0, tf.int64), position=position, batch_size=_BATCH_SIZE
        )
        with tf.GradientTape() as tape, dropout.random_key(key):
            total = tf.reduce_sum(model(video, training=True))
        return total, tape.gradient(total, model.trainable_variables)

    return 2.0 * (_products(model, step) + 3 * _hidden_products(model))


def multiply_adds(model: keras.Model) -> float:
    """Counts the multiplications of a forward pass's products, per clip; as many additions follow them.

    Raises:
      UserError: if the graph does not state the shape of a product.
    """

    def forward(video: tf.Tensor) -> tf.Tensor:
        return model(video, training=False)

    return _products(model, forward) + _hidden_products(model)


def _products(model: keras.Model, function: Callable[[tf.Tensor], object]) -> float:
    """Returns the multiplications per clip that the graph of a function of clips shows."""
    signature = tf.TensorSpec((_BATCH_SIZE, *model.input_shape[1:]), model.inputs[0].dtype)
    concrete = tf.function(function, autograph=False).get_concrete_function(signature)
    needed = _needed([tensor.op for tensor in concrete.graph.outputs])
    return sum(_PRODUCTS[op.type](op) for op in needed if op.type in _PRODUCTS) / _BATCH_SIZE


def _hidden_products(model: keras.Model) -> int:
    """Returns the multiplications per clip and pass in recurrent layers that the graph hides."""
    num_frames = model.input_shape[1]
    cells = [
        layer.cell
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.RNN) and not recurrent.shows_products(layer)
    ]
    weights = [math.prod(w.shape) for cell in cells for w in (cell.kernel, cell.recurrent_kernel)]
    return num_frames * sum(weights)


def _needed(ops: Iterable[tf.Operation]) -> set[tf.Operation]:
    """Returns the ops that some ops need, and these. TensorFlow executes no others of a function."""
    found: set[tf.Operation] = set()
    waiting = list(ops)
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    return found


def _size(tensor: tf.Tensor) -> int:
    if not tensor.shape.is_fully_defined():
        raise UserError(f"The graph does not state the shape of {tensor.name}")
    return math.prod(tensor.shape.as_list())


def _filter_products(op: tf.Operation, *, kernel: tf.Tensor, pixels: tf.Tensor) -> int:
    """Returns the multiplications of a convolution or of one of its gradients.

    Args:
      op: the op, which is named in errors.
      kernel: the kernel or its gradient, [..., channels in, channels out].
      pixels: the convolution's output or its gradient, [..., channels out].
    """
    return _size(pixels) * _size(kernel) // kernel.shape.as_list()[-1]


def _depthwise_products(op: tf.Operation, *, kernel: tf.Tensor, pixels: tf.Tensor) -> int:
    """Returns what _filter_products does, for a convolution of each channel by itself: [..., channels, multiplier]."""
    return _size(pixels) * math.prod(kernel.shape.as_list()[:-2])


def _matrix_products(op: tf.Operation) -> int:
    """Returns the multiplications of a product of matrices, or of batches of them."""
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return _size(op.outputs[0]) * op.inputs[0].shape.as_list()[-2 if transposed else -1]


def _einsum_products(op: tf.Operation) -> int:
    """Returns the multiplications of tf.einsum: one per combination of all indices."""
    terms = op.get_attr("equation").decode().partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, op.inputs, strict=True):
        _size(tensor)
        sizes |= dict(zip(term, tensor.shape.as_list(), strict=True))
    return math.prod(sizes.values())


# From the type of an op to the function that returns its multiplications. A gradient of a convolution has as many as
# the convolution.
_PRODUCTS: dict[str, Callable[[tf.Operation], int]] = {
    **dict.fromkeys(
        ("Conv2D", "Conv3D"), lambda op: _filter_products(op, kernel=op.inputs[1], pixels=op.outputs[0])
    ),
    **dict.fromkeys(
        ("Conv2DBackpropInput", "Conv3DBackpropInputV2"),
        lambda op: _filter_products(op, kernel=op.inputs[1], pixels=op.inputs[2]),
    ),
    **dict.fromkeys(
        ("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"),
        lambda op: _filter_products(op, kernel=op.outputs[0], pixels=op.inputs[2]),
    ),
    "DepthwiseConv2dNative": lambda op: _depthwise_products(op, kernel=op.inputs[1], pixels=op.outputs[0]),
    "DepthwiseConv2dNativeBackpropInput": lambda op: _depthwise_products(
        op, kernel=op.inputs[1], pixels=op.inputs[2]
    ),
    "DepthwiseConv2dNativeBackpropFilter": lambda op: _depthwise_products(
        op, kernel=op.outputs[0], pixels=op.inputs[2]
    ),
    **dict.fromkeys(("MatMul", "BatchMatMulV2", "BatchMatMulV3"), _matrix_products),
    "Einsum": _einsum_products,
}


class Executed(NamedTuple):
    """An op that TensorFlow executed: its type, such as "MatMul", and its kind of device, such as "GPU"."""

    type: str
    device: str


def executed(run: Callable[[], object]) -> collections.Counter[Executed]:
    """Calls a function and counts the ops that TensorFlow executes in it, once per place in a graph.

    The ops are those of the graphs that TensorFlow runs, after its optimizer has replaced some, with the
    devices that it has placed them on. It reports the graphs of a tf.function only when the function runs for
    the first time, so `run` must call one that has not run.

    Args:
      run: the function to call.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        tf.summary.trace_on(graph=True)
        try:
            run()
            with writer.as_default():
                tf.summary.trace_export("executed", step=0)
        finally:
            tf.summary.trace_off()
            writer.close()
        found: collections.Counter[Executed] = collections.Counter()
        for path in events.find_files(pathlib.Path(folder)):
            for payload in events.read_records(path):
                for value in events.Event.FromString(payload).summary.value:
                    found += executed_ops(tensor_util.make_ndarray(value.tensor).item())
    return found


def executed_ops(run_metadata: bytes) -> collections.Counter[Executed]:
    """Counts the ops in the partitioned graphs of a serialized tf.compat.v1.RunMetadata."""
    graphs = tf.compat.v1.RunMetadata.FromString(run_metadata).partition_graphs
    found: collections.Counter[Executed] = collections.Counter()
    for node in (node for graph in graphs for node in graph.node):
        # Such as "/job:localhost/replica:0/task:0/device:GPU:0"; "" if it may run anywhere.
        device = node.device.rpartition("device:")[2].partition(":")[0]
        found[Executed(node.op, device)] += 1
    return found
