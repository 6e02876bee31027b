"""Chooses the frames that a model takes, where clips store more of them.

A clip's T stored frames are divided into n equal segments, and the model takes one frame of each. In training, each
segment's frame is drawn anew each time; in tests, it is the segment's middle. Source: "Temporal Segment Networks" (Wang
et al. 2016). As each segment gives a frame, a clip always covers the whole video, which short random spans do not.

Clips are uint8 [B, T, H, W, C] or features, floating [B, T, ...].
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset.augment import take_frames
from ucf50_tfrecord.dataset.per_clip import draw_rows
from ucf50_tfrecord.errors import expect

_STREAM = 1 << 42  # separates the random numbers for frames of segments from all others

Clips = TypeVar("Clips", np.ndarray, tf.Tensor)


def middles(num_stored: int, num_frames: int, *, part: int = 0, num_parts: int = 1) -> np.ndarray:
    """Returns a frame of each of `num_frames` equal segments of `num_stored` frames, int64 [num_frames].

    The numbers count from 0 and ascend. They are the segments' middle frames or, if each segment is divided into
    `num_parts` equal parts, the middle frames of the part with the number `part`, from 0. Of two middle frames, the later is
    taken.
    """
    expect(
        1 <= num_frames <= num_stored,
        f"1 to {num_stored} frames, as many as clips store",
        num_frames=num_frames,
    )
    halves = 2 * (np.arange(num_frames, dtype=np.int64) * num_parts + part) + 1
    return halves * num_stored // (2 * num_frames * num_parts)


def take_middles(clips: Clips, num_frames: int, *, part: int = 0, num_parts: int = 1) -> Clips:
    """Returns the middle frames of each clip's segments, [B, num_frames, ...] of the same dtype, as tests do.

    Args:
      clips: the clips, [B, T, ...]. If T is `num_frames`, they are returned as they are.
      num_frames: number of frames that the model takes.
      part, num_parts: as in `middles`.
    """
    if clips.shape[1] == num_frames:
        return clips
    numbers = middles(clips.shape[1], num_frames, part=part, num_parts=num_parts)
    if isinstance(clips, np.ndarray):
        return clips[:, numbers]
    return take_frames(clips, tf.repeat(numbers[np.newaxis], tf.shape(clips)[0], axis=0))


def draw_frames(
    clips: tf.Tensor,
    num_frames: int,
    *,
    position: tf.Tensor,
    batch_size: int,
    seed: int | tf.Tensor,
    step: tf.Tensor,
) -> tf.Tensor:
    """Returns a random frame of each segment of each clip, [B, num_frames, ...] of the same dtype, as training does.

    The segments need not be whole numbers of frames: one with a part of a frame draws it with that much of the
    probability, and its neighbour may draw it, too.

    Args:
      clips: the clips, [B, T, ...]. If T is `num_frames`, they are returned as they are.
      num_frames: number of frames that the model takes, at most T.
      position, batch_size, seed, step: as in per_clip.draw_rows. The frames follow from these alone.
    """
    num_stored = clips.shape[1]
    if num_stored == num_frames:
        return clips
    draws = draw_rows(
        num_frames, position=position, batch_size=batch_size, seed=seed, step=step, stream=_STREAM
    )
    numbers = (tf.range(num_frames, dtype=tf.float32) + draws) * (num_stored / num_frames)
    # Rounding may give num_stored.
    return take_frames(clips, tf.minimum(tf.cast(numbers, tf.int64), num_stored - 1))
