"""Interventions on evaluation clips: what a model loses shows what it used.

All of them are made on the device, and what they draw by chance follows from a clip's id, so a
clip is changed alike whatever else is evaluated with it.

What stands still counts as background: it is the median over a clip's frames, as in background
subtraction by a temporal median (Piccardi 2004, "Background subtraction techniques: a review").
Where the camera moves that is a blurred mean of places.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset.augment import LUMA, take_frames
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import read_in_batches

NUM_SHUFFLES = 3
PLAIN = "none"
FIRST_SHUFFLE = "shuffle1"
SHUFFLES = tuple(f"shuffle{number}" for number in range(1, NUM_SHUFFLES + 1))
_GRID = 4  # patches a side
# Further than so many of 255 steps from the background, in any channel, is foreground.
_FOREGROUND = 30
_BLUR_SHARE = 4  # of the frame's sides: the blur's width

# What each intervention shows the model; of those with a number, by what stands before it.
MEANINGS = {
    PLAIN: "the clip as it is",
    "shuffle": f"the frames in a random order, which differs from clip to clip; mean of {NUM_SHUFFLES} orders",
    "reverse": "the frames backwards",
    "middle1": "the clip frozen to its middle frame",
    "first": "only the first k frames, the last of which stands for all that follow; first1 is the clip frozen to it",
    "last": "only the last k frames, the first of which stands for all before; last1 is the clip frozen to it",
    "half_rate": "every second frame, shown twice",
    "gap": "the middle third is black",
    "background_swap": "the background of another clip, of another class and group where there is one",
    "background_blur": "the background blurred",
    "grey": "without colour",
    "patches": f"a grid of {_GRID}x{_GRID} patches in a random order, the same in all frames of a clip",
}

Intervention = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def names(num_frames: int) -> tuple[str, ...]:
    """Lists the interventions on clips of so many frames; MEANINGS says what they are."""
    ends = [f"{end}{k}" for end in ("first", "last") for k in horizons(num_frames)]
    others = ("half_rate", "gap", "background_swap", "background_blur", "grey", "patches")
    return (PLAIN, *SHUFFLES, "reverse", "middle1", *ends, *others)


def stem(name: str) -> str:
    """Returns an intervention's entry in MEANINGS."""
    return name if name in MEANINGS else name.rstrip("0123456789")


def horizons(num_frames: int) -> tuple[int, ...]:
    """The numbers of first and of last frames that are tried: 1, 2, 4, … below num_frames."""
    return tuple(2**i for i in range(num_frames) if 2**i < num_frames)


def quarter(num_frames: int) -> int:
    """The longest horizon of at most a quarter of the clip, and at least 1 frame."""
    return max(k for k in horizons(num_frames) if k <= max(1, num_frames / 4))


def frame_orders(clip_ids: Sequence[str], num_frames: int, *, seed: int) -> np.ndarray:
    """Draws a random order of frames for each clip: int64 [N, T].

    A clip's order follows from (seed, clip id), whatever else is evaluated with it.
    """
    return _drawn(clip_ids, num_frames, seed)


def partners(clips: ClipIndex) -> np.ndarray:
    """Draws another clip for each one: int64 [N].

    Of another class and group where there is one, else of another class or group, else any other.
    """
    found = np.empty(len(clips), np.int64)
    for i, clip_id in enumerate(clips.ids):
        strange = 2 * (clips.labels != clips.labels[i]) + (clips.groups != clips.groups[i])
        strange[i] = -1
        choice = np.flatnonzero(strange == strange.max())
        found[i] = choice[_rng(clip_id, 0).integers(len(choice))]
    return found


def background(video: tf.Tensor) -> tf.Tensor:
    """Returns the median over a clip's frames: uint8 [B, T, H, W, 3] to uint8 [B, H, W, 3]."""
    # Not by a transpose, which TensorFlow would move before the cast, and oneDNN complains of.
    pixels = tf.stack(tf.unstack(tf.cast(video, tf.float32), axis=1), axis=-1)
    ordered = tf.sort(pixels, axis=-1)  # [B, H, W, 3, T]
    return tf.cast(ordered[..., video.shape[1] // 2], tf.uint8)


def find_backgrounds(clips: ClipIndex) -> np.ndarray:
    """Reads clips from their shards and returns what `background` does: uint8 [N, H, W, 3]."""
    middle = clips.manifest.format.num_frames // 2
    return np.concatenate([np.sort(video, axis=1)[:, middle] for video in read_in_batches(clips)])


def make(name: str, clips: ClipIndex, backgrounds: np.ndarray | None = None) -> Intervention:
    """Returns an intervention on some clips, for use in a compiled function.

    Args:
      name: one of `names`.
      clips: the clips.
      backgrounds: uint8 [N, H, W, 3], where name is background_swap: what `find_backgrounds` returns.

    Returns:
      A function of uint8 [B, T, H, W, 3] and the clips' indices int64 [B] to the former's kind.
    """
    num_frames = clips.manifest.format.num_frames
    if name == PLAIN:
        return lambda video, index: video
    if name in SHUFFLES:
        return _reorder_each(frame_orders(clips.ids, num_frames, seed=SHUFFLES.index(name)))
    if name == "background_swap":
        return _swap_background(partners(clips), backgrounds)
    if name == "patches":
        return _scramble(_drawn(clips.ids, _GRID**2, seed=0))
    if name in _PICTURES:
        return lambda video, index: _PICTURES[name](video)
    order = _order(name, num_frames)
    return _reorder_each(np.tile(order, (len(clips), 1)))


def _order(name: str, num_frames: int) -> np.ndarray:
    """Returns which frame stands where, int64 [T], in interventions that treat all clips alike."""
    time = np.arange(num_frames)
    if name == "reverse":
        return time[::-1]
    if name == "half_rate":
        return 2 * (time // 2)
    if name == "middle1":
        return np.full(num_frames, num_frames // 2)
    if name.startswith("first"):
        return np.minimum(time, int(name.removeprefix("first")) - 1)
    return np.maximum(time, num_frames - int(name.removeprefix("last")))


def _reorder_each(orders: np.ndarray) -> Intervention:
    table = tf.constant(orders)
    return lambda video, index: take_frames(video, tf.gather(table, index))


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
    size = max(1, height // _BLUR_SHARE), max(1, width // _BLUR_SHARE)
    blurred = tf.cast(own, tf.float32)
    for _ in range(2):  # a box twice is nearly a bell
        blurred = tf.nn.avg_pool2d(blurred, size, strides=1, padding="SAME")
    return _behind(video, own, tf.cast(blurred, tf.uint8))


def _swap_background(partner: np.ndarray, backgrounds: np.ndarray) -> Intervention:
    table = tf.constant(backgrounds[partner].astype(np.float32))  # GPUs do not gather uint8

    def swap(video: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return _behind(video, background(video), tf.cast(tf.gather(table, index), tf.uint8))

    return swap


def _behind(video: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Puts a new background, uint8 [B, H, W, 3], where a clip's frames show their old one."""
    frames, old = tf.cast(video, tf.float32), tf.cast(old, tf.float32)[:, tf.newaxis]
    foreground = tf.reduce_max(tf.abs(frames - old), axis=-1, keepdims=True) > _FOREGROUND
    return tf.where(foreground, video, new[:, tf.newaxis])


def _scramble(orders: np.ndarray) -> Intervention:
    table = tf.constant(orders)  # [N, 16]

    def scramble(video: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        _, num_frames, height, width, _ = video.shape
        high, wide = height // _GRID, width // _GRID
        rows, columns = np.divmod(np.arange(_GRID**2), _GRID)
        starts = rows * high * width + columns * wide  # of the patches, among a frame's pixels
        y, x = (place.ravel() for place in np.mgrid[:height, :width])
        own = np.arange(height * width)
        inside = (y < high * _GRID) & (x < wide * _GRID)  # what is left over stays in its place
        patch = np.where(inside, y // high * _GRID + x // wide, 0)
        source = tf.gather(
            tf.constant(starts), tf.gather(tf.gather(table, index), patch, axis=1)
        )  # [B, H * W]
        source = tf.where(inside, source + (own - starts[patch]), own)
        # TensorFlow does not gather uint8 on GPUs; float16 holds 0 to 255 exactly.
        pixels = tf.cast(tf.reshape(video, (-1, num_frames, height * width, 3)), tf.float16)
        return tf.reshape(tf.cast(tf.gather(pixels, source, axis=2, batch_dims=1), tf.uint8), tf.shape(video))

    return scramble


_PICTURES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gap": _gap,
    "grey": _grey,
    "background_blur": _blur_background,
}


def _rng(clip_id: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode("utf-8", "surrogateescape"))])


def _drawn(clip_ids: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws a permutation for each clip: int64 [N, count]."""
    orders = [_rng(clip_id, seed).permutation(count) for clip_id in clip_ids]
    return np.array(orders, np.int64).reshape(-1, count)
