import functools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.device_checks import kernels, operations
from ucf50_tfrecord.device_checks.operations import Executed
from ucf50_tfrecord.device_checks.outcomes import Status
from ucf50_tfrecord.models import recurrent
from ucf50_tfrecord.specs import ModelSpec


def of_layers(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.parametrize(
    "shape, layers, products",
    [
        # One input, so no gradient of it: forward, and the gradient of the weights.
        ((7,), [keras.layers.Dense(5)], 2 * 7 * 5),
        ((7,), [keras.layers.Dense(5), keras.layers.Dense(3)], 2 * 7 * 5 + 3 * 5 * 3),
        ((8, 6, 3), [keras.layers.Conv2D(4, 3, padding="same")], 2 * 8 * 6 * 4 * 9 * 3),
        (
            (8, 6, 3),
            [keras.layers.Conv2D(4, 3, strides=2), keras.layers.Conv2D(5, 1)],
            2 * 3 * 2 * 4 * 9 * 3 + 3 * 3 * 2 * 5 * 4,
        ),
        ((5, 8, 6, 3), [keras.layers.Conv3D(4, (2, 3, 3))], 2 * 4 * 6 * 4 * 4 * 18 * 3),
        ((8, 6, 3), [keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")], 2 * 8 * 6 * 6 * 9),
        (
            (8, 6, 3),
            [keras.layers.Conv2D(4, 1), keras.layers.DepthwiseConv2D(3, padding="same")],
            2 * 8 * 6 * 4 * 3 + 3 * 8 * 6 * 4 * 9,
        ),
        # Neither the input nor the first state, zeros, needs a gradient.
        (
            (9, 7),
            [recurrent.ProjectingLSTM(4, return_sequences=True)],
            9 * 2 * 7 * 16 + (3 * 9 - 1) * 4 * 16,
        ),
        ((9, 7), [keras.layers.LSTM(4)], 3 * 9 * (7 * 16 + 4 * 16)),
        ((9, 7), [keras.layers.GRU(4)], 3 * 9 * (7 * 12 + 4 * 12)),
        ((9, 7), [keras.layers.Bidirectional(keras.layers.SimpleRNN(4))], 2 * 3 * 9 * (7 * 4 + 4 * 4)),
        ((9, 8), [keras.layers.EinsumDense("btd,de->bte", (9, 5))], 2 * 9 * 8 * 5),
    ],
)
def test_products_are_counted_forwards_and_backwards(shape, layers, products):
    assert operations.count(of_layers(shape, *layers)) == 2 * products


def test_a_published_model_has_the_operations_of_its_layers():
    """Three convolutions, of which the first needs no gradient of its input, and two dense layers."""
    frames, sizes = 5, [(32 * 32, 27 * 32), (16 * 16, 9 * 32 * 64), (8 * 8, 9 * 64 * 128)]
    convolutions = [pixels * weights for pixels, weights in sizes]
    per_frame = 2 * convolutions[0] + 3 * (sum(convolutions[1:]) + 4 * 4 * 128 * 256)
    spec = ModelSpec(name="seed_pool", num_classes=7, num_frames=frames, height=32, width=32)
    assert operations.count(models.build_model(spec)) == 2 * (frames * per_frame + 3 * 256 * 7)


@pytest.mark.parametrize(
    "shape, layers, products",
    [
        ((8, 6, 3), [keras.layers.Conv2D(4, 3, padding="same"), keras.layers.ReLU()], 8 * 6 * 4 * 9 * 3),
        ((8, 6, 3), [keras.layers.DepthwiseConv2D(3, padding="same")], 8 * 6 * 3 * 9),
        ((9, 7), [keras.layers.LSTM(4), keras.layers.Dense(5)], 9 * (7 * 16 + 4 * 16) + 4 * 5),
        ((9, 7), [recurrent.ProjectingGRU(4, return_sequences=True)], 9 * (7 * 12 + 4 * 12)),
    ],
)
def test_multiply_adds_are_those_of_a_forward_pass(shape, layers, products):
    assert operations.multiply_adds(of_layers(shape, *layers)) == products


def test_executed_ops_are_those_that_ran_with_their_devices():
    @tf.function
    def loop(x):
        for _ in tf.range(3):
            x = tf.linalg.inv(x) + tf.ones([4, 4])
        return x

    first = operations.executed(functools.partial(loop, tf.eye(4)))
    assert first[Executed("MatrixInverse", "CPU")] == 1 and first[Executed("LoopCond", "CPU")] == 1
    assert Executed("MatrixInverse", "GPU") not in first
    second = operations.executed(functools.partial(tf.function(lambda x: x * 2), tf.eye(4)))
    assert Executed("MatrixInverse", "CPU") not in second


def run_metadata(*nodes):
    """The serialized graphs of ops, each given by its type and its device."""
    metadata = tf.compat.v1.RunMetadata()
    for number, (op, device) in enumerate(nodes):
        graph = metadata.partition_graphs.add()
        where = f"/job:localhost/replica:0/task:0/device:{device}" if device else ""
        graph.node.add(name=f"node{number}", op=op, device=where)
    return metadata.SerializeToString()


FORWARD, BACKWARD = ("CudnnRNNV3", "GPU:0"), ("CudnnRNNBackpropV3", "GPU:0")
LOOP = (("Enter", "GPU:0"), ("MatMul", "GPU:0"), ("LoopCond", "CPU:0"))


@pytest.mark.parametrize(
    "nodes, count, status",
    [
        ((FORWARD, BACKWARD, ("MatMul", "GPU:0")), 1, Status.OK),
        ((FORWARD, BACKWARD) * 2, 2, Status.OK),
        (LOOP, 1, Status.FAILED),
        ((FORWARD, BACKWARD, *LOOP), 2, Status.FAILED),  # one direction alone
        ((FORWARD,), 1, Status.FAILED),
        ((("CudnnRNNV3", "CPU:0"), ("CudnnRNNBackpropV3", "")), 1, Status.FAILED),
        ((), 1, Status.FAILED),
    ],
)
def test_cudnns_kernel_is_recognised_in_what_was_executed(nodes, count, status):
    result = kernels.judge_cudnn("lstm", operations.executed_ops(run_metadata(*nodes)), count)
    assert result.status == status


@pytest.mark.parametrize("kind, number", [(keras.layers.LSTM, 4), (keras.layers.GRU, 3)])
def test_keras_builds_the_ops_that_are_looked_for(monkeypatch, kind, number):
    """The graph that Keras builds where it sees a GPU, without running it."""
    rnn = __import__("importlib").import_module("keras.src.backend.tensorflow.rnn")
    layer = kind(4, return_sequences=True)
    layer.build((2, 5, 3))
    monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x))
        return tape.gradient(total, layer.trainable_variables)

    graph = step.get_concrete_function(tf.TensorSpec((2, 5, 3))).graph
    types = Counter(op.type for op in graph.get_operations())
    assert (types[kernels._FORWARD], types[kernels._BACKWARD]) == (1, 1) and not types["While"]


@pytest.mark.parametrize(
    "devices, nodes, status",
    [
        (["/job:localhost/device:GPU:0"], [("ResourceGather", "GPU:0")], Status.OK),
        (["/job:localhost/device:CPU:0"], [("ResourceGather", "GPU:0")], Status.FAILED),
        (["/job:localhost/device:GPU:0"], [("ResourceGather", "CPU:0")], Status.FAILED),
        (["/job:localhost/device:GPU:0"], [("GatherV2", "GPU:0")], Status.FAILED),
        ([], [], Status.FAILED),
    ],
)
def test_kept_clips_are_found_where_they_are_and_where_they_are_gathered(devices, nodes, status):
    executed = operations.executed_ops(run_metadata(*nodes))
    assert kernels.judge_resident(devices, executed, "GPU").status == status
    assert kernels.judge_resident(devices, executed, "CPU").status == Status.NOT_CHECKED
    assert np.all([op.device in ("CPU", "GPU") for op in executed])
