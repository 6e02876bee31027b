"""Mixing: training clips become mixtures of two clips, and so do their targets, on the device in the training step.

mixup blends the pixels, or the stored features, of two clips: "mixup: Beyond Empirical Risk Minimization" (Zhang et al.
2018). CutMix replaces a rectangle of one clip by the same rectangle of the other: "CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features" (Yun et al. 2019). The rectangle is the same in all frames, which is
the best variant for videos in "VideoMix: Rethinking Data Augmentation for Video Classification" (Yun et al. 2020), and in
their neighbours (ClipFormat.motion_frames).

Each clip is mixed with its donor clip. The clips at positions 2i and 2i + 1 of the global batch are each other's donors.
As the order of the clips is random and new in each epoch, so are these pairs. No pair is divided between replicas (see
pipeline.part_size), so no replica needs clips of another one, and the mixtures do not depend on the number of
replicas. A clip is left as it is if its donor does not count: the last one of an odd number, or beside a skipped one.

All random numbers follow from the seed, the step and the clip's position, as in `augment`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord.dataset.per_clip import draw_rows, per_clip
from ucf50_tfrecord.specs import TrainSpec

_STREAM = 1 << 41  # separates the random numbers for mixtures from all others
_NUM_QUANTILES = 4096


class _Draws(NamedTuple):
    """The random numbers of a batch of clips: each field is float32 [B], one number in [0, 1) per clip."""

    kind: tf.Tensor
    fraction: tf.Tensor
    row: tf.Tensor
    column: tf.Tensor


def of_donors(values: tf.Tensor) -> tf.Tensor:
    """Returns what the donors of a replica's clips have: swaps the rows 2i and 2i + 1 of [B, ...].

    The last row of an odd number stays. The dtype must not be uint8, which TensorFlow does not gather on GPUs.
    """
    count = tf.shape(values)[0]
    place = tf.range(count)
    return tf.gather(values, tf.minimum(place + 1 - 2 * (place % 2), count - 1))


def mix(
    video: tf.Tensor,
    counts: tf.Tensor,
    position: tf.Tensor,
    *,
    spec: TrainSpec,
    seed: int | tf.Tensor,
    step: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each clip of a replica with its donor clip.

    Args:
      video: the clips, uint8 [B, T, H, W, C], or their features, float16 [B, T, ...]. Features have no rectangles:
        spec.cutmix must be 0 for them.
      counts: 1 for clips that count and 0 for others, float32 [B].
      position: the clips' positions in the global batch, int64 [B].
      spec: the settings of the training, of which mixup or cutmix is not 0. With both, each clip gets either with
        equal probability.
      seed, step: as in augment.augment.

    Returns:
      A tuple of the mixtures, of the shape and dtype of `video`, and the fraction of the clip in its mixture, float32
      [B]. The rest of the mixture is the donor's; the fraction is 1 for clips that stay as they are.
    """
    rows = draw_rows(
        len(_Draws._fields),
        position=position,
        batch_size=spec.batch_size,
        seed=seed,
        step=step,
        stream=_STREAM,
    )
    draws = _Draws(*tf.unstack(rows, axis=1))
    own, fraction = _blend(video, draws, spec.mixup) if spec.mixup else _cut(video, draws, spec.cutmix)
    if spec.mixup and spec.cutmix:
        cut, cut_fraction = _cut(video, draws, spec.cutmix)
        is_cut = draws.kind < 0.5
        own, fraction = (
            tf.where(per_clip(is_cut, len(cut.shape)), cut, own),
            tf.where(is_cut, cut_fraction, fraction),
        )
    has_donor = (counts * of_donors(counts) > 0) & (of_donors(position) != position)
    own, fraction = (
        tf.where(per_clip(has_donor, len(own.shape)), own, 1.0),
        tf.where(has_donor, fraction, 1.0),
    )
    values = tf.cast(video, tf.float32)
    mixed = own * values + (1 - own) * of_donors(values)
    return tf.cast(tf.round(mixed) if video.dtype == tf.uint8 else mixed, video.dtype), fraction


def _blend(video: tf.Tensor, draws: _Draws, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weight of each clip's own values, float32 [B, 1, ...] of the rank of `video`, and its fraction, [B]."""
    fraction = _beta(draws.fraction, alpha)
    return per_clip(fraction, len(video.shape)), fraction


def _cut(video: tf.Tensor, draws: _Draws, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weight of each clip's own pixels, float32 [B, 1, H, W, 1], and their fraction, [B].

    The weight is 0 in a rectangle and 1 elsewhere. The rectangle has the frame's shape and, before its parts outside of
    the frame are cut off, a fraction of its area that is drawn from Beta(alpha, alpha). Its centre may be anywhere in
    the frame.
    """
    _, _, height, width, _ = video.shape
    side = tf.sqrt(1 - _beta(draws.fraction, alpha))

    def span(size: int, draw: tf.Tensor) -> tf.Tensor:
        """Returns 1 for pixels within the rectangle and 0 for others, along one side of the frame, [B, size]."""
        length = tf.round(size * side)
        first = tf.floor(draw * size) - tf.floor(length / 2)
        pixel = tf.range(size, dtype=tf.float32)
        inside = (pixel >= first[:, tf.newaxis]) & (pixel < (first + length)[:, tf.newaxis])
        return tf.cast(inside, tf.float32)

    rows, columns = span(height, draws.row), span(width, draws.column)
    area = tf.reduce_sum(rows, axis=1) * tf.reduce_sum(columns, axis=1)
    inside = (
        rows[:, tf.newaxis, :, tf.newaxis, tf.newaxis] * columns[:, tf.newaxis, tf.newaxis, :, tf.newaxis]
    )
    return 1 - inside, 1 - area / (height * width)


def _beta(draw: tf.Tensor, alpha: float) -> tf.Tensor:
    """Maps uniform numbers in [0, 1) to quantiles of the distribution Beta(alpha, alpha), float32 [B].

    They come from a table. The usual ratio of gamma variates would become 0 / 0 for small alpha.
    """
    quantiles = special.betaincinv(alpha, alpha, (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES)
    return tf.gather(tf.constant(quantiles, tf.float32), tf.cast(draw * _NUM_QUANTILES, tf.int32))
