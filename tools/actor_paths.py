"""Paths of the actor in synthetic clips, by which the classes of some scenarios differ."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ucf50_tfrecord.errors import expect

# A path takes the number of frames T and a random generator. It returns the actor's centre in each frame:
# float64 [T, 2], x and y as fractions of the picture, y downwards.
Path = Callable[[int, np.random.Generator], np.ndarray]


def circle(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path of one turn about the picture's centre, with random start and direction."""
    radii = rng.uniform(0.28, 0.32, 2)
    return 0.5 + radii * _round_trip(num_frames, 1, rng)


def rise(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path from the bottom of the picture to its top.

    If the number of frames is even, the actor is in the picture's middle in both middle frames. Otherwise
    the later of the two would show the actor higher in rising clips than in sinking ones. Models of one frame
    see that frame.
    """
    time = np.arange(num_frames)
    steps = time - num_frames // 2 + ((time < num_frames // 2) & (num_frames % 2 == 0))
    y = 0.5 + rng.uniform(-0.03, 0.03) - 0.45 * steps / steps[-1]
    return np.stack([np.full(num_frames, rng.uniform(0.25, 0.75)), y], axis=1)


def sink(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path from the top of the picture to its bottom: `rise`, reversed in time."""
    return rise(num_frames, rng)[::-1]


def slow(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path to and fro once, on a flat ellipse, so that the actor does not pause at the ends."""
    return _to_and_fro(num_frames, 1, rng)


def fast(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path to and fro several times, through exactly the positions of `slow`.

    The number of turns is coprime with num_frames. So the frames show the positions of `slow` in another
    order, and a model that is blind to frame order sees no difference. It is at most num_frames - 2, since
    num_frames - 1 turns would equal one turn backwards.
    """
    return _to_and_fro(num_frames, fast_turns(num_frames), rng)


def flicker(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path that changes between two places at every frame except one in mid-clip."""
    return _jumps(num_frames, 1, rng)


def slow_flicker(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path with one jump, in mid-clip; every second frame of `flicker` shows the same."""
    return _jumps(num_frames, 0, rng)


def any_of_four(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A path that is `circle`, `rise`, `sink` or `slow` at random."""
    paths = (circle, rise, sink, slow)
    return paths[rng.integers(len(paths))](num_frames, rng)


def fast_turns(num_frames: int) -> int:
    """Returns the number of turns of `fast`, the smallest from 3 to T - 2 that is coprime with T."""
    turns = [f for f in range(3, num_frames - 1) if math.gcd(f, num_frames) == 1]
    expect(turns, "a number of frames that slow and fast can share (not 4 or 6)", frames=num_frames)
    return turns[0]


def _round_trip(num_frames: int, turns: int, rng: np.random.Generator) -> np.ndarray:
    """Returns points on the unit circle, float64 [T, 2], that make whole turns with random start and direction."""
    phase, direction = rng.uniform(), rng.choice([-1, 1])
    # Modulo num_frames, so that any number of turns gives the same positions to the last bit.
    steps = direction * turns * np.arange(num_frames) % num_frames
    angles = 2 * np.pi * (steps / num_frames + phase)
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)


def _to_and_fro(num_frames: int, turns: int, rng: np.random.Generator) -> np.ndarray:
    centre = np.array([0.5, rng.uniform(0.35, 0.65)])
    return centre + np.array([0.32, 0.15]) * _round_trip(num_frames, turns, rng)


def _jumps(num_frames: int, jumps_within_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Returns an actor's path that jumps between two places and spends half of the frames in each.

    Frames come in pairs. In the first frame of a pair, the only one that remains at half the frame rate, the
    actor is in one place during the clip's first half and in the other place during its second half. In the
    second frame of a pair the actor is in the same place as in the first (jumps_within_pairs of 0) or in the
    other place (1). At half the frame rate both kinds of clips are equal and look like `slow_flicker`, so a
    model cannot be right about both. Frames beyond a multiple of 4 alternate between the places.
    """
    time = np.arange(num_frames)
    whole = num_frames - num_frames % 4
    place = np.where(time < whole, (2 * time >= whole) + jumps_within_pairs * time, time + 1) % 2
    places = np.stack([[0.27, 0.73] + rng.uniform(-0.05, 0.05, 2), rng.uniform(0.3, 0.7, 2)], axis=1)
    return places[place ^ rng.integers(2)]  # starts in a random place
