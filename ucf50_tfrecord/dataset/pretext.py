"""The pretext task of frame order: labels for pretraining that need no classes.

Half of the clips keep the order of their frames, the frames of the others are shuffled, and the model says which. An
encoder that is trained so needs no labels; a training on classes then starts with its weights. Source: "Shuffle and
Learn: Unsupervised Learning using Temporal Order Verification" (Misra, Zitnick and Hebert 2016). They verify the order
of three frames, chosen where there is motion, and count a reversed clip as in order. Here all frames that the model
takes are shuffled, and a reversed clip is one of the shuffled ones. Chance is an accuracy of 0.5.

In training, labels and orders are drawn on the device, anew in each step. They follow from the seed, the step and the
clip's position, as in `augment`. In evaluation, they follow from the clip's id, so that they are the same in each epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset.augment import take_frames
from ucf50_tfrecord.dataset.clips import ClipIndex, name_hash
from ucf50_tfrecord.dataset.per_clip import draw_rows
from ucf50_tfrecord.manifest import Manifest

CLASSES = ("in order", "shuffled")
# Separates the random numbers for the pretext task from all others: in evaluation, those of interventions follow from a
# clip's id, too.
_STREAM = 1 << 44


def draw(
    video: tf.Tensor,
    *,
    position: tf.Tensor,
    batch_size: int,
    seed: int | tf.Tensor,
    step: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Shuffles the frames of each clip with a probability of a half.

    Args:
      video: the clips of a replica, uint8 [B, T, H, W, C]; T is at least 2.
      position, batch_size, seed, step: as in per_clip.draw_rows.

    Returns:
      A tuple of the clips, of the shape and dtype of `video`, and their labels in CLASSES, int32 [B].
    """
    num_frames = video.shape[1]
    draws = draw_rows(
        1 + num_frames, position=position, batch_size=batch_size, seed=seed, step=step, stream=_STREAM
    )
    labels = tf.cast(draws[:, 0] >= 0.5, tf.int32)
    kept = tf.range(num_frames, dtype=tf.int64)[tf.newaxis]  # [1, T]
    shuffled = tf.cast(tf.argsort(draws[:, 1:], axis=1), tf.int64)
    # A random order of few frames may be the old one, which would have the wrong label.
    is_kept = tf.reduce_all(shuffled == kept, axis=1, keepdims=True)
    shuffled = tf.where(is_kept, tf.reverse(shuffled, axis=[1]), shuffled)
    return take_frames(video, tf.where(labels[:, tf.newaxis] == 1, shuffled, kept)), labels


def fixed_labels(ids: Sequence[str]) -> np.ndarray:
    """Returns the labels in CLASSES of clips to evaluate, int32 [N], which follow from their ids."""
    return np.array([_generator(clip_id).integers(2) for clip_id in ids], np.int32)


def fixed_orders(ids: Sequence[str], num_frames: int) -> np.ndarray:
    """Returns the order of the frames of clips to evaluate, int64 [N, num_frames], which follows from their ids."""
    orders = np.tile(np.arange(num_frames, dtype=np.int64), (len(ids), 1))
    for order, clip_id in zip(orders, ids):
        generator = _generator(clip_id)
        if generator.integers(2):
            drawn = generator.permutation(num_frames)
            order[:] = drawn[::-1] if np.array_equal(drawn, order) else drawn
    return orders


def relabel(clips: ClipIndex) -> ClipIndex:
    """Returns an index of the same clips with the labels of the pretext task. No record can be read through it.

    Records hold the clips' own labels, with which readers compare those of the index.
    """
    return dataclasses.replace(
        clips, manifest=relabel_manifest(clips.manifest), labels=fixed_labels(clips.ids)
    )


def relabel_manifest(manifest: Manifest) -> Manifest:
    """Returns a dataset's manifest with the classes of the pretext task. Its counts per class are the old ones."""
    return dataclasses.replace(manifest, classes=CLASSES, multi_label=False)


def _generator(clip_id: str) -> np.random.Generator:
    return np.random.default_rng([name_hash(clip_id), _STREAM])
