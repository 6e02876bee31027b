"""Synthetic corpora whose classes differ by a known cause, to test a comparison of models.

A scenario defines how its classes differ: in the actor's colour, the place behind it, its path, or the time
at which its colour shows. It also lists the verdicts (answers to questions such as "does the model need
frame order?") that a comparison should reach on such a corpus. Everything else is random in the same way for
all classes. `tools.make_demo_videos --scenario=…` writes a scenario's clips as videos.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from ucf50_tfrecord.errors import expect

SIZE = 48  # pixels per side
# RGB, 0 to 255. The colours are far from each other and from any background.
ACTOR_COLORS = {"Red": (230, 40, 40), "Green": (40, 205, 60), "Blue": (50, 70, 240), "Yellow": (240, 220, 50)}
NEUTRAL_COLOR = (205, 205, 205)
# Tint and stripes of the backgrounds that can mark a class. The stripes' slopes along x and y are in radians
# per pixel. No stripes are oblique, so horizontally flipped clips keep their class.
CLASS_PLACES = {
    "Court": ((135, 95, 55), (0.55, 0.0)),
    "Field": ((60, 125, 65), (0.0, 0.55)),
    "Pool": ((55, 95, 140), (0.25, 0.0)),
    "Track": ((130, 65, 115), (0.0, 0.25)),
}
_MIDDLE = 95  # mean level of the backgrounds
_MIN_CONTRAST = 130  # distance of a group's colour from _MIDDLE, in the RGB cube

# Random streams, one for each thing that is drawn; tools.make_demo_videos uses 0 and 1.
_ACTOR, _PLACE, _RECORDING_PLACE, _RECORDING_COLOR, _CLIP = range(2, 7)

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


def fast_turns(num_frames: int) -> int:
    """Returns the number of turns of `fast`, the smallest from 3 to T - 2 that is coprime with T."""
    turns = [f for f in range(3, num_frames - 1) if math.gcd(f, num_frames) == 1]
    expect(turns, "a number of frames that slow and fast can share (not 4 or 6)", frames=num_frames)
    return turns[0]


@dataclasses.dataclass(frozen=True)
class Traits:
    """The marks by which a class of a scenario can be recognised."""

    color: tuple[int, int, int] | None = None  # of the actor; None draws a random colour for each group
    background: tuple | None = None  # as in CLASS_PLACES; None draws a random background for each group
    path: Path = circle
    # When the actor shows its colour: "always", or in the first ("start") or last ("end") quarter of the clip. In
    # the other frames the actor is grey.
    when: Literal["always", "start", "end"] = "always"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A synthetic corpus whose classes differ by a known ("planted") cause.

    description: one sentence on how the classes differ.
    classes: dictionary from class name to the class's traits.
    yes, no: kinds of verdict, keys of evaluation.verdicts.KINDS, by their right answer; for models_differ,
      "yes" means that the model that sees frame order is ahead of its control. Kinds whose right answer is not
      known are left out.
    recording_backgrounds: whether each recording (a class's clips in one group) has its own background.
    true_colors: fraction of recordings that show their class's colour; the others show a random colour.
    """

    description: str
    classes: dict[str, Traits]
    yes: str = ""
    no: str = ""
    recording_backgrounds: bool = False
    true_colors: float = 1.0

    @property
    def truth(self) -> dict[str, bool]:
        """A dictionary from the kind of a verdict to whether its right answer is "yes"."""
        return dict.fromkeys(self.yes.split(), True) | dict.fromkeys(self.no.split(), False)

    def __post_init__(self) -> None:
        expect(len(self.classes) >= 2, "at least 2 classes", classes=list(self.classes))
        expect(0 <= self.true_colors <= 1, "a fraction from 0 to 1", true_colors=self.true_colors)
        marked = any(traits.background is not None for traits in self.classes.values())
        expect(
            not (marked and self.recording_backgrounds),
            "backgrounds of either classes or recordings, not both",
        )


def render_clip(
    scenario: Scenario, class_name: str, *, group: int, clip: int, seed: int, num_frames: int
) -> np.ndarray:
    """Renders a scenario's clip: uint8 [num_frames, SIZE, SIZE, 3], RGB. Equal arguments give equal bytes."""
    traits, label = scenario.classes[class_name], list(scenario.classes).index(class_name)
    rng = np.random.default_rng([seed, _CLIP, label, group, clip])
    radius, group_color = _actor(group, seed)
    color = traits.color
    if scenario.true_colors < 1:
        chance = np.random.default_rng([seed, _RECORDING_COLOR, label, group])
        if chance.random() >= scenario.true_colors:
            color = list(ACTOR_COLORS.values())[chance.integers(len(ACTOR_COLORS))]
    shown = group_color if color is None else np.array(color)
    colors = _frame_colors(traits.when, shown, num_frames) + rng.uniform(-12, 12, 3)
    cover = _cover(traits.path(num_frames, rng), radius)  # [T, H, W, 1]
    place = render_background(scenario, class_name, group=group, seed=seed)
    video = place * (1 - cover) + colors[:, np.newaxis, np.newaxis].astype(np.float32) * cover
    video += 3 * rng.standard_normal((num_frames, SIZE, SIZE, 1), np.float32)
    return np.clip(video, 0, 255).astype(np.uint8)


def render_background(scenario: Scenario, class_name: str, *, group: int, seed: int) -> np.ndarray:
    """Renders the background of a recording (the clips of a class in a group), without noise.

    Returns:
      float32 [SIZE, SIZE, 3], from 0 to 255.
    """
    if scenario.recording_backgrounds:
        label = list(scenario.classes).index(class_name)
        return _waves(np.random.default_rng([seed, _RECORDING_PLACE, label, group]), tint=45, height=24)
    # Per group, not per recording: the classes of a group must differ only in their traits.
    rng = np.random.default_rng([seed, _PLACE, group])
    background = scenario.classes[class_name].background
    return _waves(rng, tint=20, height=12) if background is None else _class_place(background, rng)


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


def _actor(group: int, seed: int) -> tuple[float, np.ndarray]:
    """Draws a group's actor; returns a tuple: radius in pixels; colour, float64 [3], 0 to 255."""
    rng = np.random.default_rng([seed, _ACTOR, group])
    radius = rng.uniform(6.0, 6.5)
    color = rng.uniform(0, 255, 3)
    while np.linalg.norm(color - _MIDDLE) < _MIN_CONTRAST:
        color = rng.uniform(0, 255, 3)
    return radius, color


def _frame_colors(when: str, color: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns the actor's colour in each frame, float64 [T, 3]: grey in the frames that Traits.when excludes."""
    time, quarter = np.arange(num_frames), round(num_frames / 4)
    shown = {"always": time >= 0, "start": time < quarter, "end": time >= num_frames - quarter}
    return np.where(shown[when][:, np.newaxis], color, NEUTRAL_COLOR).astype(np.float64)


def _cover(places: np.ndarray, radius: float) -> np.ndarray:
    """Returns the fraction of each pixel that the actor, a disc, covers: float32 [T, SIZE, SIZE, 1].

    places: the actor's centre in each frame, float64 [T, 2], as fractions of the picture.
    """
    pixels = np.arange(SIZE, dtype=np.float32)
    dx, dy = (pixels - SIZE * places[:, axis, np.newaxis].astype(np.float32) for axis in (0, 1))  # [T, SIZE]
    distance = np.hypot(dx[:, np.newaxis], dy[:, :, np.newaxis])
    return np.clip(radius - distance + 0.5, 0, 1)[..., np.newaxis].astype(np.float32)  # smooth edge


def _waves(rng: np.random.Generator, *, tint: float, height: float) -> np.ndarray:
    """Draws a random background, a tint with a few soft waves: float32 [SIZE, SIZE, 3]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    place = np.zeros((SIZE, SIZE, 3)) + _MIDDLE + rng.uniform(-20, 20) + rng.uniform(-tint, tint, 3)
    for _ in range(4):
        slope_x, slope_y = rng.uniform(-0.35, 0.35, 2)
        wave = np.sin(x * slope_x + y * slope_y + rng.uniform(0, 2 * np.pi))
        place += wave[..., np.newaxis] * rng.uniform(-height, height, 3)
    return place.astype(np.float32)


def _class_place(place: tuple, rng: np.random.Generator) -> np.ndarray:
    """Draws a group's version of a background of CLASS_PLACES: float32 [SIZE, SIZE, 3]."""
    tint, (slope_x, slope_y) = place
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    stripes = np.sin(x * slope_x + y * slope_y + rng.uniform(0, 2 * np.pi)) * rng.uniform(10, 18)
    return (np.array(tint) + rng.uniform(-10, 10, 3) + stripes[..., np.newaxis]).astype(np.float32)


def _crossed(marks: dict[str, Traits], *paths: Path) -> dict[str, Traits]:
    """Returns the traits of one class for each combination of a mark and a path, by class name."""
    return {
        name + path.__name__.title(): dataclasses.replace(mark, path=path)
        for name, mark in marks.items()
        for path in paths
    }


_COLORS = {name: Traits(color=color) for name, color in ACTOR_COLORS.items()}
_PLACES = {name: Traits(background=place) for name, place in CLASS_PLACES.items()}
_TWO_COLORS = {name: _COLORS[name] for name in ("Red", "Blue")}
_TWO_PLACES = {name: _PLACES[name] for name in ("Field", "Pool")}
_UNMARKED = {name: Traits() for name in ("Alpha", "Beta", "Gamma", "Delta")}

SCENARIOS: dict[str, Scenario] = {
    "nothing": Scenario(
        "The classes do not differ.",
        _UNMARKED,
        no="above_chance appearance_suffices needs_order uses_direction needs_several_frames "
        "uses_background needs_full_rate evidence_at_start evidence_at_end recognises_recording "
        "models_differ",
    ),
    "appearance": Scenario(
        "Each class has an actor of its own colour.",
        _COLORS,
        yes="above_chance appearance_suffices",
        no="needs_order uses_direction needs_several_frames uses_background needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
    ),
    "background": Scenario(
        "Each class is recorded in a place of its own.",
        _PLACES,
        yes="above_chance appearance_suffices uses_background",
        no="needs_order uses_direction needs_several_frames needs_full_rate "
        "evidence_at_start evidence_at_end recognises_recording",
    ),
    "leak": Scenario(
        "The classes do not differ, but each recording has a place of its own.",
        _UNMARKED,
        yes="recognises_recording",
        no="above_chance appearance_suffices needs_order uses_direction needs_full_rate "
        "models_differ evidence_at_start evidence_at_end",
        recording_backgrounds=True,
    ),
    "order": Scenario(
        "One class shows the other's frames backwards.",
        {"Rise": Traits(path=rise), "Sink": Traits(path=sink)},
        yes="above_chance needs_order uses_direction needs_several_frames models_differ",
        no="appearance_suffices uses_background needs_full_rate",
    ),
    "speed": Scenario(
        "The actor passes the same positions slowly in one class and fast in the other.",
        {"Slow": Traits(path=slow), "Fast": Traits(path=fast)},
        yes="above_chance needs_order needs_several_frames models_differ",
        no="appearance_suffices uses_direction uses_background",
    ),
    "full_rate": Scenario(
        "The classes differ only between neighbouring frames: at half the frame rate they are equal.",
        {"Flicker": Traits(path=flicker), "SlowFlicker": Traits(path=slow_flicker)},
        yes="above_chance needs_order needs_several_frames needs_full_rate models_differ",
        no="appearance_suffices",
    ),
    "start": Scenario(
        "Each class has an actor of its own colour, which shows in the first quarter of the frames.",
        {name: dataclasses.replace(mark, when="start") for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices evidence_at_start",
        no="needs_order uses_background needs_full_rate evidence_at_end",
    ),
    "end": Scenario(
        "Each class has an actor of its own colour, which shows in the last quarter of the frames.",
        {name: dataclasses.replace(mark, when="end") for name, mark in _COLORS.items()},
        yes="above_chance appearance_suffices evidence_at_end",
        no="needs_order uses_background needs_full_rate evidence_at_start",
    ),
    "appearance_order": Scenario(
        "Two colours, each of which rises in one class and sinks in another.",
        _crossed(_TWO_COLORS, rise, sink),
        yes="above_chance appearance_suffices needs_order uses_direction needs_several_frames models_differ",
        no="uses_background needs_full_rate",
    ),
    "appearance_speed": Scenario(
        "Two colours, each of which moves slowly in one class and fast in another.",
        _crossed(_TWO_COLORS, slow, fast),
        yes="above_chance appearance_suffices needs_order needs_several_frames models_differ",
        no="uses_direction uses_background",
    ),
    "background_order": Scenario(
        "Two places, in each of which the actor rises in one class and sinks in another.",
        _crossed(_TWO_PLACES, rise, sink),
        yes="above_chance appearance_suffices needs_order uses_direction needs_several_frames "
        "uses_background models_differ",
        no="needs_full_rate",
    ),
    "leak_order": Scenario(
        "The actor rises in two classes and sinks in two, and each recording has a place of its own.",
        _crossed({"Alpha": Traits(), "Beta": Traits()}, rise, sink),
        yes="above_chance needs_order uses_direction needs_several_frames recognises_recording models_differ",
        no="appearance_suffices",
        recording_backgrounds=True,
    ),
    "appearance_leak": Scenario(
        "Six recordings in ten show their class's colour, the others a random one; each has its own place.",
        _COLORS,
        yes="above_chance appearance_suffices recognises_recording",
        no="needs_order uses_direction needs_full_rate evidence_at_start evidence_at_end",
        recording_backgrounds=True,
        true_colors=0.6,
    ),
}
