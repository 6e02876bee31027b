"""Interventions: changes of the test clips, such as shuffled frames, that show what a model relies on.

If a model loses accuracy under an intervention, it relies on what the intervention removes, or the change
disturbs it. The table INTERVENTIONS, at the end of this file, describes each of them. Interventions run on
the device. Their random numbers depend only on a clip's id. So a clip is changed in the same way regardless
of the other clips that are evaluated.

A clip's background is the median over its frames, a temporal median filter (Piccardi 2004, "Background
subtraction techniques: a review"). Where the camera moves, it is a blurred mean of places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.dataset.augment import take_frames
from ucf50_tfrecord.dataset.clips import ClipIndex, name_hash
from ucf50_tfrecord.dataset.feed import read_in_batches
from ucf50_tfrecord.dataset.per_clip import LUMA, per_picture

PLAIN = "none"  # the unchanged clip
SHUFFLED = "shuffle"  # the names in SHUFFLES, taken together
NUM_SHUFFLES = 3
SHUFFLES = tuple(f"{SHUFFLED}{number}" for number in range(1, NUM_SHUFFLES + 1))
FIRST_SHUFFLE = SHUFFLES[0]
_GRID = 4  # patches per side
_FOREGROUND = 30  # distance from the background, in 8-bit levels of any channel, that makes foreground
_PAINT = 128  # grey level, of 255, in place of a removed background
_BLUR_DIVISOR = 4  # ratio of a frame's side to the width of the blur


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """A function that changes clips, and its numbers for each clip of an index.

    The function is the same for all members of a family and for all indices. So a compiled function of it
    serves many interventions and many sets of clips.

    function: maps clips, uint8 [B, T, H, W, C] or features float16 [B, T, ...], to changed clips of equal shape
      and dtype. If there is a table, its second argument is the clips' rows of the table, [B, ...].
    table: each clip's numbers, such as its order of frames, [N, ...]; None if the function needs none.
    """

    function: Callable[..., tf.Tensor]
    table: np.ndarray | None = None

    def __call__(self, video: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Changes clips, [B, ...], whose indices in the index of clips are `index`, int64 [B]."""
        if self.table is None:
            return self.function(video)
        return self.function(video, tf.gather(self.table, index))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """An intervention (a change of the test clips), or a family of them that differ by a number.

    The members of a family are named by the family's name and the number, such as first4.

    name: name of the intervention, or of the family.
    meaning: description of the clip that the model gets.
    question: the question that the change of accuracy answers.
    make: function that takes an index of clips, the number of their frames that are tested, and a member's number (0
      if this is no family), and returns the change of these clips.
    numbers: function from a clip's number of frames to the family's numbers; None if this is no family.
    needs_pixels: whether the intervention changes pixels. Other interventions only choose frames, and so work
      on the stored features of frames, too.
    permutes: whether the intervention only reorders a clip's frames. If so, it does not change the logits of
      an order-blind model.
    """

    name: str
    meaning: str
    question: str
    make: Callable[[ClipIndex, int, int], Change]
    numbers: Callable[[int], Sequence[int]] | None = None
    permutes: bool = False
    needs_pixels: bool = False

    def names(self, num_frames: int) -> tuple[str, ...]:
        """Lists the names of the family's members for clips of `num_frames` frames; if no family, the own name."""
        if self.numbers is None:
            return (self.name,)
        return tuple(f"{self.name}{number}" for number in self.numbers(num_frames))


def names(num_frames: int, *, of_features: bool = False) -> tuple[str, ...]:
    """Lists the names of all interventions for clips of `num_frames` frames, PLAIN included.

    Args:
      num_frames: frames per clip.
      of_features: whether to list only interventions that work on stored features, because they only choose
        frames.
    """
    entries = [entry for entry in INTERVENTIONS.values() if not (of_features and entry.needs_pixels)]
    return tuple(name for entry in entries for name in entry.names(num_frames))


def find(name: str) -> Intervention:
    """Returns the entry of INTERVENTIONS for an intervention's name; for "first4", the entry of "first"."""
    return INTERVENTIONS[name if name in INTERVENTIONS else name.rstrip("0123456789")]


def make(name: str, clips: ClipIndex, num_frames: int | None = None) -> Change:
    """Returns the change of clips by an intervention.

    Args:
      name: the intervention's name, as `names` lists it.
      clips: index of the clips to change; background_swap also reads their frames, all that are stored.
      num_frames: frames per clip that are changed, if not all stored ones are tested; see dataset.segments.
    """
    entry = find(name)
    count = num_frames or clips.manifest.format.num_frames
    return entry.make(clips, count, int(name.removeprefix(entry.name) or 0))


def horizons(num_frames: int) -> tuple[int, ...]:
    """Returns the k of the interventions first<k> and last<k>: the powers of two below `num_frames`."""
    return tuple(2**i for i in range(num_frames) if 2**i < num_frames)


def quarter(num_frames: int) -> int:
    """Returns the largest of `horizons` that is at most a quarter of `num_frames`, or else 1."""
    return max(k for k in horizons(num_frames) if k <= max(1, num_frames / 4))


def choose_donors(ids: Sequence[str], labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Draws a donor clip for each of N clips. The donor's background replaces the clip's own.

    A donor has another class and another group than the clip. If there is no such clip, it has another class;
    if there is none, another group; if there is none, it is any other clip.

    Args:
      ids: ids of the clips.
      labels: class of each clip, int [N].
      groups: recording group of each clip, int [N].

    Returns:
      The donors' positions among these clips, int64 [N].
    """
    donors = np.empty(len(ids), np.int64)
    for i, clip_id in enumerate(ids):
        differences = 2 * (labels != labels[i]) + (groups != groups[i])
        differences[i] = -1
        candidates = np.flatnonzero(differences == differences.max())
        donors[i] = candidates[_rng(clip_id, 0).integers(len(candidates))]
    return donors


def background(video: tf.Tensor) -> tf.Tensor:
    """Computes clips' backgrounds (medians over frames), uint8 [B, H, W, 3], from uint8 [B, T, H, W, C].

    Neighbours of frames are left out: a clip's frames and their neighbours have one background.
    """
    frames = tf.cast(video, tf.float32)
    if video.shape[-1] > 3:
        frames = frames[..., :3]
    # Not tf.transpose: TensorFlow would move it before the cast, and oneDNN then complains.
    pixels = tf.stack(tf.unstack(frames, axis=1), axis=-1)
    ordered = tf.sort(pixels, axis=-1)  # [B, H, W, 3, T]
    return tf.cast(ordered[..., video.shape[1] // 2], tf.uint8)


def find_backgrounds(clips: ClipIndex) -> np.ndarray:
    """Reads N clips from their shards and returns their backgrounds, uint8 [N, H, W, 3]."""
    middle = clips.manifest.format.num_frames // 2
    return np.concatenate([np.sort(video[..., :3], axis=1)[:, middle] for video in read_in_batches(clips)])


def _rng(clip_id: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, name_hash(clip_id)])


def _permutations(clip_ids: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Draws a permutation of range(count) for each of N clips, from its id and `seed`: int64 [N, count]."""
    orders = [_rng(clip_id, seed).permutation(count) for clip_id in clip_ids]
    return np.array(orders, np.int64).reshape(-1, count)


def _shuffle(clips: ClipIndex, num_frames: int, number: int) -> Change:
    orders = _permutations(clips.ids, num_frames, seed=number - 1)
    return Change(function=take_frames, table=orders)


def _same_order(order: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[ClipIndex, int, int], Change]:
    """Returns a value for Intervention.make: the intervention reorders the frames of all clips alike.

    `order` maps arange(T) and the family's number to the indices of the frames to show, int64 [T].
    """

    def make_order(clips: ClipIndex, num_frames: int, number: int) -> Change:
        chosen = order(np.arange(num_frames), number)
        return Change(function=take_frames, table=np.tile(chosen, (len(clips), 1)))

    return make_order


def _pixels(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[ClipIndex, int, int], Change]:
    """Returns a value for Intervention.make: the intervention maps clips to changed clips by `function`."""
    return lambda clips, num_frames, number: Change(function=function)


def _keep(video: tf.Tensor) -> tf.Tensor:
    return video


def _gap(video: tf.Tensor) -> tf.Tensor:
    num_frames = video.shape[1]
    time = np.arange(num_frames)
    kept = (time < num_frames // 3) | (time >= num_frames - num_frames // 3)
    return tf.where(kept[:, np.newaxis, np.newaxis, np.newaxis], video, tf.zeros_like(video))


def _grey(video: tf.Tensor) -> tf.Tensor:
    def to_grey(frames: tf.Tensor) -> tf.Tensor:
        grey = tf.tensordot(tf.cast(frames, tf.float32), tf.constant(LUMA), axes=1)[..., tf.newaxis]
        return tf.cast(tf.tile(tf.round(grey), (1, 1, 1, 1, 3)), tf.uint8)

    return per_picture(to_grey, video)


def _blur_background(video: tf.Tensor) -> tf.Tensor:
    own = background(video)
    height, width = video.shape[2:4]
    size = max(1, height // _BLUR_DIVISOR), max(1, width // _BLUR_DIVISOR)
    blurred = tf.cast(own, tf.float32)
    for _ in range(2):  # two box filters are nearly a Gaussian
        blurred = tf.nn.avg_pool2d(blurred, size, strides=1, padding="SAME")
    return _replace_background(video, own, tf.cast(blurred, tf.uint8))


def _swap_background(clips: ClipIndex, _num_frames: int, _number: int) -> Change:
    donated = find_backgrounds(clips)[choose_donors(clips.ids, clips.labels, clips.groups)]
    return Change(function=_give_background, table=donated.astype(np.float32))  # GPUs do not gather uint8


def _give_background(video: tf.Tensor, donated: tf.Tensor) -> tf.Tensor:
    """Replaces the clips' backgrounds by those of donors, float32 [B, H, W, 3] of 8-bit levels."""
    return _replace_background(video, background(video), tf.cast(donated, tf.uint8))


def _replace_background(video: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Replaces pixels of `video` that resemble the background `old`, [B, H, W, 3], by those of `new`."""
    old = tf.cast(old, tf.float32)[:, tf.newaxis]

    def replace(frames: tf.Tensor) -> tf.Tensor:
        distance = tf.reduce_max(tf.abs(tf.cast(frames, tf.float32) - old), axis=-1, keepdims=True)
        return tf.where(distance > _FOREGROUND, frames, new[:, tf.newaxis])

    return per_picture(replace, video)


def _shuffle_patches(clips: ClipIndex, _num_frames: int, _number: int) -> Change:
    return Change(function=_scramble, table=_permutations(clips.ids, _GRID**2, seed=0))


def _foreground_only(video: tf.Tensor) -> tf.Tensor:
    return _replace_background(video, background(video), tf.constant(_PAINT, tf.uint8, (1, 1, 1, 3)))


def _background_only(video: tf.Tensor) -> tf.Tensor:
    own = tf.cast(background(video), tf.float16)[:, tf.newaxis]  # GPUs do not tile uint8
    return tf.cast(tf.tile(own, (1, video.shape[1], 1, 1, video.shape[-1] // 3)), tf.uint8)


def _scramble(video: tf.Tensor, orders: tf.Tensor) -> tf.Tensor:
    """Puts the patches of all frames of a clip into a new order, int64 [B, 16]."""
    _, num_frames, height, width, channels = video.shape
    high, wide = height // _GRID, width // _GRID
    rows, columns = np.divmod(np.arange(_GRID**2), _GRID)
    starts = rows * high * width + columns * wide  # of each patch's first pixel in a frame
    y, x = (place.ravel() for place in np.mgrid[:height, :width])
    own = np.arange(height * width)
    inside = (y < high * _GRID) & (x < wide * _GRID)  # pixels beyond the grid stay in place
    patch = np.where(inside, y // high * _GRID + x // wide, 0)
    source = tf.gather(tf.constant(starts), tf.gather(orders, patch, axis=1))  # [B, H * W]
    source = tf.where(inside, source + (own - starts[patch]), own)
    # TensorFlow does not gather uint8 on GPUs; float16 holds 0 to 255 exactly.
    pixels = tf.cast(tf.reshape(video, (-1, num_frames, height * width, channels)), tf.float16)
    return tf.reshape(tf.cast(tf.gather(pixels, source, axis=2, batch_dims=1), tf.uint8), tf.shape(video))


# The interventions. Tables and figures keep this order. A new one needs an entry here and a function above.
_TABLE = (
    Intervention(PLAIN, "the clip as it is", "What does the model score?", _pixels(_keep)),
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
    Intervention(
        "gap",
        "the middle third is black",
        "Does the middle of the clip matter?",
        _pixels(_gap),
        needs_pixels=True,
    ),
    Intervention(
        "background_swap",
        "the background of a donor clip, of another class and group where there is one",
        "Does it matter which background is shown?",
        _swap_background,
        needs_pixels=True,
    ),
    Intervention(
        "background_blur",
        "the background blurred",
        "Do the details of the background matter?",
        _pixels(_blur_background),
        needs_pixels=True,
    ),
    Intervention(
        "foreground_only",
        "the background painted grey",
        "Is the moving foreground enough?",
        _pixels(_foreground_only),
        needs_pixels=True,
    ),
    Intervention(
        "background_only",
        "the background in all frames, without the foreground",
        "Is the background enough?",
        _pixels(_background_only),
        needs_pixels=True,
    ),
    Intervention("grey", "without colour", "Does colour matter?", _pixels(_grey), needs_pixels=True),
    Intervention(
        "patches",
        f"a grid of {_GRID}x{_GRID} patches in a random order, the same in all frames of a clip",
        "Does the arrangement of the picture matter?",
        _shuffle_patches,
        needs_pixels=True,
    ),
)
INTERVENTIONS = {entry.name: entry for entry in _TABLE}
