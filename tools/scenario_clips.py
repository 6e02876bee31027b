"""Renders the clips of tools.scenarios."""

from __future__ import annotations

import dataclasses

import numpy as np

from tools.scenarios import ACTOR_COLORS, Scenario, Traits

SIZE = 48  # pixels per side
NEUTRAL_COLOR = (205, 205, 205)
_MIDDLE = 95  # mean level of the backgrounds
_MIN_CONTRAST = 130  # distance of a group's colour from _MIDDLE, in the RGB cube

# Random streams, one for each thing that is drawn; tools.make_demo_videos uses 0 and 1.
_ACTOR, _PLACE, _RECORDING_PLACE, _RECORDING_COLOR, _CLIP, _LABEL, _COPY = range(2, 9)


def render_clip(
    scenario: Scenario, class_name: str, *, group: int, clip: int, seed: int, num_frames: int
) -> np.ndarray:
    """Renders a scenario's clip: uint8 [num_frames, SIZE, SIZE, 3], RGB. Equal arguments give equal bytes."""
    label, shown_group = list(scenario.classes).index(class_name), _shown_group(scenario, group)
    traits = _shown_traits(scenario, class_name, group=shown_group, clip=clip, seed=seed)
    rng = np.random.default_rng([seed, _CLIP, label, shown_group, clip])
    radius, group_color = _actor(shown_group, seed)
    shown = group_color if traits.color is None else np.array(traits.color)
    colors = _frame_colors(traits.when, shown, num_frames) + rng.uniform(-12, 12, 3)
    cover = _cover(traits.path(num_frames, rng), radius)  # [T, H, W, 1]
    place = render_background(scenario, class_name, group=group, seed=seed)
    video = place * (1 - cover) + colors[:, np.newaxis, np.newaxis].astype(np.float32) * cover
    if shown_group != group:  # near-duplicates, which only differ in noise
        rng = np.random.default_rng([seed, _COPY, label, group, clip])
    video += 3 * rng.standard_normal((num_frames, SIZE, SIZE, 1), np.float32)
    return np.clip(video, 0, 255).astype(np.uint8)


def render_background(scenario: Scenario, class_name: str, *, group: int, seed: int) -> np.ndarray:
    """Renders the background of a recording (the clips of a class in a group), without noise.

    Returns:
      float32 [SIZE, SIZE, 3], from 0 to 255.
    """
    group = _shown_group(scenario, group)
    if scenario.recording_backgrounds:
        label = list(scenario.classes).index(class_name)
        return _waves(np.random.default_rng([seed, _RECORDING_PLACE, label, group]), tint=45, height=24)
    # Per group, not per recording: the classes of a group must differ only in their traits.
    rng = np.random.default_rng([seed, _PLACE, group])
    background = scenario.classes[class_name].background
    return _waves(rng, tint=20, height=12) if background is None else _class_place(background, rng)


def _shown_group(scenario: Scenario, group: int) -> int:
    """Returns the group whose clips a group shows, which is another one in copied groups."""
    return group - 1 if scenario.copied_groups and group % 2 == 0 else group


def _shown_traits(scenario: Scenario, class_name: str, *, group: int, clip: int, seed: int) -> Traits:
    """Returns the traits that a clip shows: its class's, or those that a planted fault puts in their place."""
    names = list(scenario.classes)
    label = names.index(class_name)
    traits = scenario.classes[class_name]
    if scenario.wrong_labels:
        rng = np.random.default_rng([seed, _LABEL, label, group, clip])
        if rng.random() < scenario.wrong_labels:
            traits = scenario.classes[names[(label + rng.integers(1, len(names))) % len(names)]]
    if scenario.true_colors < 1:
        rng = np.random.default_rng([seed, _RECORDING_COLOR, label, group])
        if rng.random() >= scenario.true_colors:
            color = list(ACTOR_COLORS.values())[rng.integers(len(ACTOR_COLORS))]
            traits = dataclasses.replace(traits, color=color)
    return traits


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
    middle = (num_frames - quarter) // 2
    shown = {
        "always": time >= 0,
        "start": time < quarter,
        "middle": (time >= middle) & (time < middle + quarter),
        "end": time >= num_frames - quarter,
    }
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
