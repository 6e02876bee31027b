"""The videos of one side of a comparison: what is known of each."""

from __future__ import annotations

import dataclasses

import numpy as np

from ucf50_tfrecord.choices import Measure

# Measures that are numbers, one per video.
NUMBERS = (Measure.CONFIDENCE, Measure.BRIGHTNESS, Measure.MOTION_ENERGY, Measure.FRAME_RATE)
# Of these, the ones that do not come from the model.
PICTURES = NUMBERS[1:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
    """N predicted videos.

    probabilities: class probabilities of each video, float64 [N, C].
    brightness, motion_energy: see inference.pictures; float64 [N]. None if unknown.
    frame_rate: frames per second that the container states, float64 [N]; 0 if it states none. None if unknown.
    """

    probabilities: np.ndarray
    brightness: np.ndarray | None = None
    motion_energy: np.ndarray | None = None
    frame_rate: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each video, int64 [N]."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most probable class, float64 [N]."""
        return self.probabilities.max(axis=1)

    def numbers(self, measure: Measure) -> np.ndarray | None:
        """Returns a measure of NUMBERS, float64 [N]; None if it is unknown."""
        return getattr(self, measure)

    def select(self, chosen: np.ndarray) -> Videos:
        """Returns some of the videos; `chosen` are positions, int64 [M], or a mask, bool [N]."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Videos(**{name: None if array is None else array[chosen] for name, array in arrays.items()})

    def without(self, measure: Measure) -> Videos:
        """Returns the same videos with a measure of PICTURES unknown."""
        return dataclasses.replace(self, **{measure: None})
