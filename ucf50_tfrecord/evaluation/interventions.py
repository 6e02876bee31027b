"""Interventions on evaluation clips: the accuracy that a model loses shows what it used.

INTERVENTIONS, at the end of this file, holds all that is known of each. They run on the device. Their random
numbers follow from a clip's id, so a clip is treated alike whatever else is evaluated with it.

The background is the median over a clip's frames, a temporal median filter (Piccardi 2004, "Background
subtraction techniques: a review"). Where the camera moves, it is a blurred mean of places.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset.augment import LUMA, take_frames
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import read_in_batches

PLAIN = "none"
SHUFFLED = "shuffle"  # all permutations together
NUM_SHUFFLES = 3
SHUFFLES = tuple(f"{SHUFFLED}{number}" for number in range(1, NUM_SHUFFLES + 1))
FIRST_SHUFFLE = SHUFFLES[0]
_GRID = 4  # patches per side
_FOREGROUND = 30  # distance from the background, in 8-bit levels of any channel, that makes foreground
_BLUR_DIVISOR = 4  # a side of the frame divided by the blur's width

# Maps clips uint8 [B, T, H, W, 3] and their indices int64 [B] to clips of the same shape and dtype.
Apply = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Intervention:
    """An intervention, or a family of interventions that differ by a number after their name.

    meaning: the input of the model. question: what the change of accuracy answers.
    make: makes the function for some clips; also takes the number, which is 0 outside a family.
    numbers: a family's numbers for clips of T frames.
    permutes: whether it only changes the order of a clip's frames, to which an order-blind model is blind.
    """

    name: str
    meaning: str
    question: str
    make: Callable[[ClipIndex, int], Apply]
    numbers: Callable[[int], Sequence[int]] | None = None
    permutes: bool = False

    def names(self, num_frames: int) -> tuple[str, ...]:
        """Lists the family's names on clips of `num_frames` frames, or the one name."""
        if self.numbers is None:
            return (self.name,)
        return tuple(f"{self.name}{number}" for number in self.numbers(num_frames))


def names(num_frames: int) -> tuple[str, ...]:
    """Lists the interventions on clips of `num_frames` frames."""
    return tuple(name for entry in INTERVENTIONS.values() for name in entry.names(num_frames))


def find(name: str) -> Intervention:
    """Returns the entry of INTERVENTIONS that a name, with or without a number, belongs to."""
    return INTERVENTIONS[name if name in INTERVENTIONS else name.rstrip("0123456789")]


def make(name: str, clips: ClipIndex) -> Apply:
    """Makes an intervention on some clips, for use in a compiled function.

    Args:
      name: one of `names`.
      clips: the clips; background_swap reads them.
    """
    entry = find(name)
    return entry.make(clips, int(name.removeprefix(entry.name) or 0))


def horizons(num_frames: int) -> tuple[int, ...]:
    """Returns the tested numbers of first and of last frames: 1, 2, 4, … below num_frames."""
    return tuple(2**i for i in range(num_frames) if 2**i < num_frames)


def quarter(num_frames: int) -> int:
    """Returns the longest horizon of at most a quarter of the clip, and at least 1 frame."""
    return max(k for k in horizons(num_frames) if k <= max(1, num_frames / 4))


def choose_donors(clips: ClipIndex) -> np.ndarray:
    """Draws a donor clip for each clip: indices int64 [N].

    A donor is of another class and group where there is one, else of another class or group, else any other.
    """
    donors = np.empty(len(clips), np.int64)
    for i, clip_id in enumerate(clips.ids):
        differences = 2 * (clips.labels != clips.labels[i]) + (clips.groups != clips.groups[i])
        differences[i] = -1
        candidates = np.flatnonzero(differences == differences.max())
        donors[i] = candidates[_rng(clip_id, 0).integers(len(candidates))]
    return donors


def background(video: tf.Tensor) -> tf.Tensor:
    """Computes the median over a clip's frames: uint8 [B, T, H, W, 3] to uint8 [B, H, W, 3]."""
    # Not by a transpose: TensorFlow would move it before the cast, and oneDNN then complains.
    pixels = tf.stack(tf.unstack(tf.cast(video, tf.float32), axis=1), axis=-1)
    ordered = tf.sort(pixels, axis=-1)  # [B, H, W, 3, T]
    return tf.cast(ordered[..., video.shape[1] // 2], tf.uint8)


def find_backgrounds(clips: ClipIndex) -> np.ndarray:
    """Reads clips from their shards and computes their backgrounds: uint8 [N, H, W, 3]."""
    middle = clips.manifest.format.num_frames // 2
    return np.concatenate([np.sort(video, axis=1)[:, middle] for video in read_in_batches(clips)])


def _rng(clip_id: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode("utf-8", "surrogateescape"))])


def _permutations(clip_ids: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws a permutation for each clip: int64 [N, count]."""
    orders = [_rng(clip_id, seed).permutation(count) for clip_id in clip_ids]
    return np.array(orders, np.int64).reshape(-1, count)


def _reorder(orders: np.ndarray) -> Apply:
    """Makes an intervention from each clip's order of frames, int64 [N, T]."""
    table = tf.constant(orders)
    return lambda video, index: take_frames(video, tf.gather(table, index))


def _shuffle(clips: ClipIndex, number: int) -> Apply:
    return _reorder(_permutations(clips.ids, clips.manifest.format.num_frames, seed=number - 1))


def _same_order(order: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[ClipIndex, int], Apply]:
    """Makes all clips' frames come in one order; `order` maps arange(T) and the number to int64 [T]."""

    def make_order(clips: ClipIndex, number: int) -> Apply:
        chosen = order(np.arange(clips.manifest.format.num_frames), number)
        return _reorder(np.tile(chosen, (len(clips), 1)))

    return make_order


def _pixels(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[ClipIndex, int], Apply]:
    """Makes an intervention from a function of the pixels alone."""
    return lambda clips, number: lambda video, index: function(video)


def _gap(video: tf.Tensor) -> tf.Tensor:
    num_frames = video.shape[1]
    time = np.arange(num_frames)
    kept = (time < num_frames // 3) | (time >= num_frames - num_frames // 3)
    return tf.where(kept[:, np.newaxis, np.newaxis, np.newaxis], video, tf.zeros_like(video))


def _grey(video: tf.Tensor) -> tf.Tensor:
    grey = tf.tensordot(tf.cast(video, tf.float32), tf.constant(LUMA), axes=1)[..., tf.newaxis]
    return tf.cast(tf.tile(tf.round(grey), (1, 1, 1, 1, 3)), tf.uint8)


def _blur_background(video: tf.Tensor) -> tf.Tensor:
    own = background(video)
    height, width = video.shape[2:4]
    size = max(1, height // _BLUR_DIVISOR), max(1, width // _BLUR_DIVISOR)
    blurred = tf.cast(own, tf.float32)
    for _ in range(2):  # two box filters are nearly a Gaussian
        blurred = tf.nn.avg_pool2d(blurred, size, strides=1, padding="SAME")
    return _replace_background(video, own, tf.cast(blurred, tf.uint8))


def _swap_background(clips: ClipIndex, _number: int) -> Apply:
    donated = find_backgrounds(clips)[choose_donors(clips)]
    table = tf.constant(donated.astype(np.float32))  # GPUs do not gather uint8

    def swap(video: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return _replace_background(video, background(video), tf.cast(tf.gather(table, index), tf.uint8))

    return swap


def _replace_background(video: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Puts a new background, uint8 [B, H, W, 3], where a clip's frames show their old one."""
    frames, old = tf.cast(video, tf.float32), tf.cast(old, tf.float32)[:, tf.newaxis]
    foreground = tf.reduce_max(tf.abs(frames - old), axis=-1, keepdims=True) > _FOREGROUND
    return tf.where(foreground, video, new[:, tf.newaxis])


def _scramble(clips: ClipIndex, _number: int) -> Apply:
    table = tf.constant(_permutations(clips.ids, _GRID**2, seed=0))  # [N, 16]

    def scramble(video: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        _, num_frames, height, width, _ = video.shape
        high, wide = height // _GRID, width // _GRID
        rows, columns = np.divmod(np.arange(_GRID**2), _GRID)
        starts = rows * high * width + columns * wide  # of the patches, among a frame's pixels
        y, x = (place.ravel() for place in np.mgrid[:height, :width])
        own = np.arange(height * width)
        inside = (y < high * _GRID) & (x < wide * _GRID)  # pixels beyond the grid stay in place
        patch = np.where(inside, y // high * _GRID + x // wide, 0)
        chosen = tf.gather(tf.gather(table, index), patch, axis=1)
        source = tf.gather(tf.constant(starts), chosen)  # [B, H * W]
        source = tf.where(inside, source + (own - starts[patch]), own)
        # TensorFlow does not gather uint8 on GPUs; float16 holds 0 to 255 exactly.
        pixels = tf.cast(tf.reshape(video, (-1, num_frames, height * width, 3)), tf.float16)
        return tf.reshape(tf.cast(tf.gather(pixels, source, axis=2, batch_dims=1), tf.uint8), tf.shape(video))

    return scramble


# An intervention is an entry here and a function above. Tables and figures keep this order.
_TABLE = (
    Intervention(PLAIN, "the clip as it is", "What does the model score?", _pixels(lambda video: video)),
    Intervention(
        SHUFFLED,
        f"the frames in a random order, another for each clip; the mean of {NUM_SHUFFLES} orders",
        "Does the order of frames matter?",
        _shuffle,
        numbers=lambda num_frames: range(1, NUM_SHUFFLES + 1),
        permutes=True,
    ),
    Intervention(
        "reverse",
        "the frames backwards",
        "Does the direction of time matter?",
        _same_order(lambda time, _: time[::-1]),
        permutes=True,
    ),
    Intervention(
        "middle1",
        "the clip frozen to its middle frame",
        "Is one frame enough?",
        _same_order(lambda time, _: np.full(len(time), len(time) // 2)),
    ),
    Intervention(
        "first",
        "the first k frames, the last of which is repeated; first1 is the clip frozen to its first frame",
        "How many frames from the start are enough?",
        _same_order(lambda time, number: np.minimum(time, number - 1)),
        numbers=horizons,
    ),
    Intervention(
        "last",
        "the last k frames, the first of which is repeated before; last1 is the clip frozen to its last frame",
        "How many frames from the end are enough?",
        _same_order(lambda time, number: np.maximum(time, len(time) - number)),
        numbers=horizons,
    ),
    Intervention(
        "half_rate",
        "every second frame, shown twice",
        "Is half the frame rate enough?",
        _same_order(lambda time, _: 2 * (time // 2)),
    ),
    Intervention("gap", "the middle third is black", "Does the middle of the clip matter?", _pixels(_gap)),
    Intervention(
        "background_swap",
        "the background of a donor clip, of another class and group where there is one",
        "Does it matter which background is shown?",
        _swap_background,
    ),
    Intervention(
        "background_blur",
        "the background blurred",
        "Do the details of the background matter?",
        _pixels(_blur_background),
    ),
    Intervention("grey", "without colour", "Does colour matter?", _pixels(_grey)),
    Intervention(
        "patches",
        f"a grid of {_GRID}x{_GRID} patches in a random order, the same in all frames of a clip",
        "Does the arrangement of the picture matter?",
        _scramble,
    ),
)
INTERVENTIONS = {entry.name: entry for entry in _TABLE}
