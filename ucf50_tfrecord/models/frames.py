"""Parts that the model families share: the input, the encoding of frames, the classifier, and layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import keras
import tensorflow as tf
from keras import layers, ops

from ucf50_tfrecord.architectures import is_own_code, model_traits
from ucf50_tfrecord.specs import ModelSpec

NUM_FEATURES = 256
_FRAME_FEATURES = "frame_features"  # name of the tensor at which split_at_frames cuts a model

Tensor: TypeAlias = keras.KerasTensor
Encoder = Callable[[Tensor], Tensor]


def clip_input(spec: ModelSpec) -> Tensor:
    """Returns the input of a model: clips uint8 [B, T, H, W, C], or stored features float16 [B, T, ...].

    C is 3, or 3 * (1 + k) if each frame has k stored neighbours (ClipFormat.motion_frames).
    """
    return keras.Input(
        spec.input_shape, dtype=spec.input_dtype, name="features" if spec.feature_shape else "video"
    )


def pixels(video: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Scales clips, uint8 [B, T, H, W, C], to frames with values in [0, 1], [B, T, H, W, 3], on the device.

    With motion input (ModelSpec.motion) the result has more channels after the frame's own: those of `differences`.
    """
    scaled = layers.Rescaling(1 / 255, dtype=dtype)(video)
    if spec.motion_frames:
        scaled = scaled[..., :3]
    if not spec.motion:
        return scaled
    return ops.concatenate([scaled, differences(video, scaled, spec, dtype)], axis=-1)


def differences(video: Tensor, scaled: Tensor, spec: ModelSpec, dtype: keras.DTypePolicy) -> Tensor:
    """Computes how the pictures of clips move, with values from -1 to 1.

    Args:
      video: the clips, uint8 [B, T, H, W, C].
      scaled: their frames with values in [0, 1], [B, T, H, W, 3].
      spec: the model's specification.
      dtype: the dtype policy of the layers.

    Returns:
      If each frame x(t) has k stored neighbours, x(t+1) - x(t) to x(t+k) - x(t), [B, T, H, W, 3 * k]. If there are
      none, the difference between each frame and the previous frame of the clip, [B, T, H, W, 3]; 0 for the first.
    """
    if not spec.motion_frames:
        difference = scaled[:, 1:] - scaled[:, :-1]
        return ops.concatenate([ops.zeros_like(scaled[:, :1]), difference], axis=1)
    # In float32, because neighbours differ by a few of 255 steps, which bfloat16 would round away near 1.
    exact = layers.Rescaling(1 / 255, dtype="float32")(video)
    neighbours = exact[..., 3:] - ops.concatenate([exact[..., :3]] * spec.motion_frames, axis=-1)
    return ops.cast(neighbours, dtype.compute_dtype)


def encode_frames(video: Tensor, encoder: Encoder) -> Tensor:
    """Runs a frame encoder over all frames of all clips in one call, without a loop over time.

    Args:
      video: the clips, [B, T, H, W, C].
      encoder: the frame encoder, which maps [B * T, H, W, C] to [B * T, ...].

    Returns:
      The encoded frames, [B, T, ...].
    """
    _, num_frames, *frame_shape = video.shape
    encoded = encoder(ops.reshape(video, (-1, *frame_shape)))
    return ops.reshape(encoded, (-1, num_frames, *encoded.shape[1:]))


def mark_frames(features: Tensor, spec: ModelSpec) -> Tensor:
    """Marks the features of a model's frames, [B, T, ...], as the place where split_at_frames cuts the model.

    Features that depend on other frames, too, are not marked: with differences of sampled frames. Stored neighbours
    are a part of their frame. Features of a user's own code are not marked either, of which this is not known.
    """
    sees_motion = spec.motion or model_traits(spec.name).has_motion_path
    sees_others = sees_motion and not spec.motion_frames
    if not (sees_others or is_own_code(spec.name) or is_own_code(spec.encoder)):
        features.name = _FRAME_FEATURES
    return features


def split_at_frames(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """Splits a model into two that share its weights: one of each frame by itself, and one of all frames.

    Returns:
      A tuple: a model from clips, uint8 [B, T, H, W, C], to the features of their frames, [B, T, ...], where the
      features of a frame depend on this frame and its neighbours alone; and a model from these features to logits.
      None if the model has no such features, or takes stored ones.
    """
    for operation in model.operations:
        features = getattr(operation, "output", None)  # an operation that was not called has none
        if getattr(features, "name", None) == _FRAME_FEATURES:
            return keras.Model(model.inputs, features), keras.Model(features, model.output)
    return None


def classify(features: Tensor, spec: ModelSpec, **init) -> Tensor:
    """Maps clips' features [B, F] to logits [B, num_classes], which are float32 under any dtype policy."""
    return layers.Dense(spec.num_classes, dtype="float32", name="logits", **init)(features)


def normalize(x: Tensor, dtype: keras.DTypePolicy) -> Tensor:
    """Applies batch norm over the last axis, with the statistics of the global batch (of all replicas).

    The momentum of the statistics is lower than Keras's 0.99, because epochs of small datasets have few
    steps.
    """
    return BatchNorm(momentum=0.9, synchronized=True, dtype=dtype)(x)


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class ConvReluPool(layers.Conv2D):
    """A layer of convolution, bias, ReLU and max-pool 2: [N, H, W, C] to [N, H // 2, W // 2, filters].

    It computes the same outputs and gradients as separate layers in less time. It computes the gradients of
    ReLU and bias from the pooled pixels only, a quarter of all pixels; see `_bias_relu_pool`.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _bias_relu_pool(
            self.convolution_op(inputs, self.kernel), tf.cast(self.bias, self.compute_dtype)
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        count, height, width, filters = super().compute_output_shape(input_shape)
        return count, height // 2, width // 2, filters


@tf.custom_gradient
def _bias_relu_pool(x: tf.Tensor, bias: tf.Tensor):
    """Applies bias [C], ReLU and max-pool 2, with their gradient: [N, H, W, C] to [N, H // 2, W // 2, C].

    Max-pooling passes the gradient of a maximum to the pixel that holds it. So ReLU's gradient can be
    computed from the maximum instead of the pixel. The gradients of ReLU and bias are therefore computed
    before the gradient of max-pooling, from a quarter of the pixels.
    """
    pool = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
    activation = tf.nn.relu(tf.nn.bias_add(x, bias))
    pooled = tf.raw_ops.MaxPool(input=activation, **pool)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=pooled)
        to_x = tf.raw_ops.MaxPoolGrad(orig_input=activation, orig_output=pooled, grad=upstream, **pool)
        # The op BiasAddGrad is not used, since it sums bfloat16 in bfloat16 on CPUs.
        to_bias = tf.reduce_sum(tf.cast(upstream, tf.float32), axis=[0, 1, 2])
        return to_x, tf.cast(to_bias, bias.dtype)

    return pooled, gradient


@keras.saving.register_keras_serializable(package="ucf50_tfrecord")
class BatchNorm(layers.BatchNormalization):
    """keras.layers.BatchNormalization computed by one fused op in training, for images on one replica.

    Keras's own layer takes about ten passes over the pixels. With several replicas Keras's layer is used,
    because the op cannot synchronize their statistics.
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        if not (training and self.trainable and alone and mask is None and len(inputs.shape) == 4):
            return super().call(inputs, training=training, mask=mask)
        result = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The op returns the unbiased variance; Keras uses the biased one.
        count = tf.cast(tf.size(inputs, tf.int64) // inputs.shape[-1], tf.float32)
        variance = result.batch_variance * (1 - 1 / count)
        for moving, batch in ((self.moving_mean, result.batch_mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return result.y
