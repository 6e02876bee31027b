import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.dataset.test_gpu_kernels import missing
from ucf50_tfrecord.models import frames

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def gradients(run, layer, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
        # Pixels have different weights: it matters to which of them a maximum's gradient goes.
        weights = np.linspace(-1, 1, y.shape.num_elements(), dtype=np.float32).reshape(y.shape)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * weights)
    return y, tape.gradient(loss, [x, *(variable.value for variable in layer.trainable_variables)])


def bias_gradient(conv, pool, x):
    """The same gradient of a convolution's bias, summed in float32: CPUs without bfloat16 sum it in bfloat16."""
    kernel, bias = (tf.cast(variable.value, x.dtype) for variable in (conv.kernel, conv.bias))
    before = conv.convolution_op(x, kernel)
    _, (gradient,) = gradients(lambda values: pool(tf.nn.relu(tf.nn.bias_add(values, bias))), pool, before)
    return tf.reduce_sum(tf.cast(gradient, tf.float32), axis=[0, 1, 2])


@pytest.mark.parametrize("dtype", POLICIES)
@pytest.mark.parametrize("height, width", [(8, 8), (9, 7), (2, 3)])
@pytest.mark.parametrize("flat", [False, True])
def test_the_block_computes_convolution_relu_and_pool(dtype, height, width, flat):
    keras.utils.set_random_seed(0)
    block = frames.ConvReluPool(5, 3, padding="same", bias_initializer="random_normal", dtype=dtype)
    plain = layers.Conv2D(5, 3, padding="same", activation="relu", dtype=dtype)
    x = tf.random.normal([2, height, width, 3])
    if flat:  # equal pixels: every maximum is a tie
        x = tf.ones_like(x)
    x = tf.cast(x, block.compute_dtype)
    for layer in (block, plain):
        layer.build(x.shape)
    plain.set_weights(block.get_weights())
    pool = layers.MaxPooling2D(2, dtype=dtype)
    one_by_one = keras.Sequential([plain, pool])
    expected, expected_gradients = tf.function(gradients)(one_by_one, plain, x)
    expected_gradients[-1] = bias_gradient(plain, pool, x)
    found, found_gradients = tf.function(gradients)(block, block, x)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    assert found.dtype == expected.dtype and block.compute_output_shape(x.shape) == tuple(found.shape)
    for a, b in zip([found, *found_gradients], [expected, *expected_gradients], strict=True):
        a, b = (tf.cast(value, tf.float32).numpy() for value in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(b).max()))


@pytest.mark.parametrize("dtype", POLICIES)
def test_the_block_runs_on_gpus(dtype):
    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow has no GPU kernels")
    block = frames.ConvReluPool(5, 3, padding="same", dtype=dtype)
    block.build((2, 8, 8, 3))
    x = tf.TensorSpec((2, 8, 8, 3), block.compute_dtype)
    assert missing(tf.function(functools.partial(gradients, block, block)), x) == set()


@pytest.mark.parametrize("dtype", POLICIES)
def test_batch_norm_computes_what_kerass_does(dtype):
    settings = dict(momentum=0.9, synchronized=True, dtype=dtype)
    ours, theirs = frames.BatchNorm(**settings), layers.BatchNormalization(**settings)
    random = np.random.default_rng(0)
    x = tf.cast(random.normal(3, 2, (4, 5, 6, 7)), ours.compute_dtype)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights([np.linspace(start, start + 1, 7) for start in (0.5, -1, 0, 0.3)])
    (found, found_gradients), (expected, expected_gradients) = (
        tf.function(gradients)(functools.partial(layer, training=True), layer, x) for layer in (ours, theirs)
    )
    tolerance = {"float32": 1e-4, "mixed_float16": 1e-2, "mixed_bfloat16": 5e-2}[dtype]
    assert found.dtype == expected.dtype
    for a, b in zip([found, *found_gradients], [expected, *expected_gradients], strict=True):
        assert a.dtype == b.dtype
        a, b = (tf.cast(value, tf.float32).numpy() for value in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("dtype", POLICIES)
def test_batch_norm_runs_on_gpus(dtype):
    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow has no GPU kernels")
    norm = frames.BatchNorm(dtype=dtype)
    norm.build((2, 8, 8, 3))
    run = functools.partial(gradients, functools.partial(norm, training=True), norm)
    assert missing(tf.function(run), tf.TensorSpec((2, 8, 8, 3), norm.compute_dtype)) == set()
