"""A model of two paths: one sees what the frames show, the other how the picture moves. They are fused late.

The paths are the streams of Simonyan and Zisserman 2014, "Two-stream convolutional networks for action recognition in
videos": a network on frames and one on motion. They fused the networks' scores, best by a linear classifier; here one
linear classifier of both paths' features is trained with them. Their motion is optical flow. Here it is differences of
frames, which cost next to nothing, as in Wang et al. 2016, "Temporal segment networks".
"""

from __future__ import annotations

import keras
from keras import ops

from ucf50_tfrecord.models import encoders, frames
from ucf50_tfrecord.models.dropout import Dropout
from ucf50_tfrecord.specs import ModelSpec

_MOTION_STREAM = 3  # of the dropout in the motion path's encoder; that of the other encoder has 0, the head 1


def two_path(spec: ModelSpec, dtype: keras.DTypePolicy) -> keras.Model:
    """Two frame encoders, of frames and of their motion; mean over time, dropout, classifier of both.

    The appearance path has the encoder that the specification names; the motion path always has the project's own, as
    no other has weights for differences. If frames have stored neighbours (ClipFormat.motion_frames), the motion path
    sees their differences, and the model is blind to the order of the sampled frames. Else it sees the differences of
    consecutive sampled frames, which depend on their order.
    """
    video = frames.clip_input(spec)
    scaled = frames.pixels(video, spec, dtype)  # [B, T, H, W, 3], as this model takes no ModelSpec.motion
    # Built first, so that a seed gives it the weights of frame_pool's.
    appearance = encoders.encode(scaled, spec, dtype)
    moving = frames.differences(video, scaled, spec, dtype)  # [B, T, H, W, 3 * k]
    motion_encoder = encoders.three_block(
        moving.shape[2:], spec, dtype, stream=_MOTION_STREAM, name="motion_encoder"
    )
    motion = frames.encode_frames(moving, motion_encoder)
    features = frames.mark_frames(ops.concatenate([appearance, motion], axis=-1), spec)  # [B, T, F + 256]
    # The classifier's kernel is one of each path, and the logits are their sum.
    pooled = Dropout(spec.dropout, stream=1, dtype=dtype)(ops.mean(features, axis=1))
    return keras.Model(video, frames.classify(pooled, spec), name=spec.name)
