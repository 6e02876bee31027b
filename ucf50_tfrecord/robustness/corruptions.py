"""Corruptions: changes of test clips, in five severities, such as recordings and networks make.

The table CORRUPTIONS, at the end of this file, describes each of them. Severity 0 is the unchanged clip. The
random numbers of a corruption depend only on the seed, the corruption and the clip's id. So a clip is
corrupted alike in each run, regardless of the other clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ucf50_tfrecord.choices import CorruptionFamily, Recoding
from ucf50_tfrecord.dataset.clips import name_hash
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.robustness import spatial, temporal
from ucf50_tfrecord.robustness.levels import Levels, shorter_side
from ucf50_tfrecord.specs import ClipFormat

# Maps a clip, uint8 [T, H, W, 3], a severity from 1 to 5 and a random generator to a clip of the same shape.
Apply = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corruption:
    """A corruption of clips.

    name: name of the corruption.
    family: what it changes.
    meaning: description of a corrupted clip.
    unit: meaning of the numbers that `strength` returns.
    strength: maps a severity from 1 to 5 and the format of the clips to the strength.
    apply: corrupts a clip; None for corruptions of the codec, which change the video before clips are taken.
    recoding: how the video is coded again, for corruptions of the codec; else None.
    """

    name: str
    family: CorruptionFamily
    meaning: str
    unit: str
    strength: Callable[[int, ClipFormat], float]
    apply: Apply | None = None
    recoding: Recoding | None = None


def names(families: Iterable[CorruptionFamily] = tuple(CorruptionFamily)) -> tuple[str, ...]:
    """Lists the names of the corruptions of some families, in the order of the table."""
    chosen = tuple(families)
    return tuple(name for name, entry in CORRUPTIONS.items() if entry.family in chosen)


def select(wanted: Sequence[str]) -> tuple[str, ...]:
    """Lists corruptions in the order of the table, by their own names or those of their families.

    Raises:
      UserError: if a name is unknown.
    """
    known = {*CORRUPTIONS, *CorruptionFamily}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"Expected corruptions out of {', '.join(CORRUPTIONS)}, or the families "
            f"{', '.join(CorruptionFamily)}. Received: {', '.join(unknown)}"
        )
    return tuple(name for name, entry in CORRUPTIONS.items() if {name, entry.family} & {*wanted})


def corrupt(clip: np.ndarray, clip_id: str, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
    """Corrupts a clip, unless the severity is 0.

    Args:
      clip: the clip, uint8 [T, H, W, 3].
      clip_id: the clip's id, from which random numbers follow.
      name: name of a corruption that is not of the codec.
      severity: severity from 0 to 5.
      seed: seed of the random numbers.

    Returns:
      The corrupted clip, uint8 [T, H, W, 3].
    """
    if not severity:
        return clip
    return CORRUPTIONS[name].apply(clip, severity, generator(clip_id, name, seed))


def generator(clip_id: str, name: str, seed: int) -> np.random.Generator:
    """Returns the random generator of a corruption of a clip; it is the same for all severities."""
    return np.random.default_rng([seed, name_hash(name), name_hash(clip_id)])


def _by_size(levels: Levels) -> Callable[[int, ClipFormat], float]:
    """Returns a value for Corruption.strength that follows from the shorter side of the clips' frames."""
    return lambda severity, clips: levels.of(severity, min(clips.height, clips.width))


def _spatial(
    name: str,
    meaning: str,
    unit: str,
    levels: Levels,
    function: Callable[[np.ndarray, float, np.random.Generator], np.ndarray],
) -> Corruption:
    """Returns the entry of a corruption of pixels; `function` is as spatial.py describes."""

    def apply(clip: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
        strength = levels.of(severity, shorter_side(clip))
        return spatial.to_uint8(function(clip.astype(np.float32) / 255, strength, rng))

    return Corruption(
        name=name,
        family=CorruptionFamily.SPATIAL,
        meaning=meaning,
        unit=unit,
        strength=_by_size(levels),
        apply=apply,
    )


def _temporal(
    name: str, meaning: str, unit: str, strength: Callable[[int, int], float], apply: Apply
) -> Corruption:
    """Returns the entry of a corruption of time; `strength` takes a severity and a clip's number of frames."""
    return Corruption(
        name=name,
        family=CorruptionFamily.TEMPORAL,
        meaning=meaning,
        unit=unit,
        strength=lambda severity, clips: strength(severity, clips.num_frames),
        apply=apply,
    )


def _reorder(choose: Callable[[int, int, np.random.Generator], np.ndarray]) -> Apply:
    """Returns a value for Corruption.apply that shows the frames whose indices `choose` returns."""
    return lambda clip, severity, rng: clip[choose(len(clip), severity, rng)]


def _codec(name: str, meaning: str, unit: str, levels: Levels, recoding: Recoding) -> Corruption:
    """Returns the entry of a corruption of the codec."""
    return Corruption(
        name=name,
        family=CorruptionFamily.CODEC,
        meaning=meaning,
        unit=unit,
        strength=_by_size(levels),
        recoding=recoding,
    )


# The corruptions. Tables and figures keep this order. A new one needs an entry here and a function.
_TABLE = (
    _spatial(
        "gaussian_noise",
        "noise of a sensor in poor light",
        "standard deviation, of the range 0 to 1",
        Levels((0.04, 0.08, 0.12, 0.15, 0.18), (0.08, 0.12, 0.18, 0.26, 0.38)),
        spatial.gaussian_noise,
    ),
    _spatial(
        "shot_noise",
        "noise of few photons",
        "photons per white pixel",
        Levels((250, 100, 50, 30, 15), (60, 25, 12, 5, 3)),
        spatial.shot_noise,
    ),
    _spatial(
        "impulse_noise",
        "values that are black or white by a defect (salt and pepper)",
        "fraction of values",
        Levels((0.01, 0.02, 0.05, 0.08, 0.14), (0.03, 0.06, 0.09, 0.17, 0.27)),
        spatial.impulse_noise,
    ),
    _spatial(
        "speckle_noise",
        "noise in proportion to brightness",
        "standard deviation, of the value",
        Levels((0.15, 0.2, 0.25, 0.3, 0.35), (0.15, 0.2, 0.35, 0.45, 0.6)),
        spatial.speckle_noise,
    ),
    _spatial(
        "defocus_blur",
        "a lens out of focus",
        "radius of the disc, in pixels",
        Levels((0.5, 1, 1.5, 2.5, 3), is_length=True),
        spatial.defocus_blur,
    ),
    _spatial(
        "motion_blur",
        "a camera that moves while the shutter is open",
        "standard deviation along the line, in pixels",
        Levels((1, 1.5, 2, 2.5, 3), is_length=True),
        spatial.motion_blur,
    ),
    _spatial(
        "fog",
        "fog in front of the camera",
        "brightness of the fog, of the range 0 to 1",
        Levels((0.4, 0.7, 1, 1.5, 2), (1.5, 2, 2.25, 2.5, 3)),
        spatial.fog,
    ),
    _spatial(
        "contrast",
        "less contrast",
        "fraction of the contrast that is left",
        Levels((0.4, 0.3, 0.2, 0.1, 0.05)),
        spatial.contrast,
    ),
    _spatial(
        "brightness",
        "an exposure that is too long",
        "added to the value V of HSV, of the range 0 to 1",
        Levels((0.1, 0.2, 0.3, 0.4, 0.5)),
        spatial.brightness,
    ),
    _spatial(
        "jpeg",
        "each frame stored as a JPEG file",
        "quality, 1 to 100",
        Levels((65, 58, 50, 40, 25), (25, 18, 15, 10, 7)),
        spatial.jpeg,
    ),
    _spatial(
        "grey",
        "less colour; none at severity 5",
        "fraction of the colour that is lost",
        Levels((0.2, 0.4, 0.6, 0.8, 1)),
        spatial.grey,
    ),
    _spatial(
        "hue",
        "other colours, as by a wrong white balance",
        "angle around the axis of greys, in degrees",
        Levels((30, 60, 90, 135, 180)),
        spatial.hue,
    ),
    _temporal(
        "stride",
        "fewer frames, each shown for longer",
        "distinct frames",
        temporal.distinct_frames,
        _reorder(temporal.stride),
    ),
    _temporal(
        "jumble",
        "frames in a random order within windows",
        "frames per window",
        temporal.window,
        _reorder(temporal.jumble),
    ),
    _temporal(
        "frozen_tail",
        "the picture freezes",
        "frames before it freezes",
        temporal.live_frames,
        _reorder(temporal.frozen_tail),
    ),
    _temporal(
        "time_blur",
        "each frame mixed with its neighbours",
        "standard deviation, in frames",
        temporal.blur_frames,
        lambda clip, severity, rng: temporal.blurred(clip, severity),
    ),
    _codec(
        "h264_quality",
        "the video compressed by H.264",
        "constant rate factor (CRF), 0 to 51",
        Levels((23, 30, 37, 44, 51)),
        Recoding.QUALITY,
    ),
    _codec(
        "h264_bit_rate",
        "the video compressed by H.264 to a lower bit rate",
        "divisor of the video's bit rate",
        Levels((2, 4, 8, 16, 32)),
        Recoding.BIT_RATE,
    ),
    _codec(
        "packet_loss",
        "the video compressed by H.264 and sent over a network that loses parts of frames",
        "fraction of slices that are lost",
        Levels((0.01, 0.02, 0.05, 0.1, 0.2)),
        Recoding.LOSS,
    ),
    _codec(
        "frame_rate",
        "frames of the video dropped",
        "frames per second",
        Levels((20, 16, 12, 9, 6)),
        Recoding.FRAME_RATE,
    ),
    _codec(
        "resolution",
        "the video scaled down, then up again",
        "height in between, of the clips' height",
        Levels((1, 0.75, 0.5, 0.375, 0.25)),
        Recoding.HEIGHT,
    ),
)
CORRUPTIONS = {entry.name: entry for entry in _TABLE}
