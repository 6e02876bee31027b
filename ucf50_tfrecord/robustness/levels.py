"""Severities of corruptions, and the strength of each severity by the size of a clip.

A strength is published for pictures of 64 and of 224 pixels, as those of Tiny ImageNet-C and ImageNet-C
(Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations"). A larger picture withstands more noise per pixel, so its strengths are larger.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)  # severity 0 is the unchanged clip

# One strength per severity.
Strengths: TypeAlias = tuple[float, float, float, float, float]

_SMALL, _LARGE = 64, 224  # sides, in pixels, of the pictures of the published strengths


@dataclasses.dataclass(frozen=True)
class Levels:
    """The strengths of a corruption of pixels, by severity and size of the frames.

    at_64: strengths for frames whose shorter side has 64 pixels.
    at_224: strengths for 224 pixels; None if the size does not matter. Between the two sizes, strengths are
      interpolated: their logarithms are linear in the logarithm of the side. Smaller and larger frames take
      the strengths of the nearer size.
    is_length: whether strengths are lengths in pixels, which are proportional to the side.
    """

    at_64: Strengths
    at_224: Strengths | None = None
    is_length: bool = False

    def of(self, severity: int, side: int) -> float:
        """Returns the strength of a severity from 1 to 5 for frames whose shorter side has `side` pixels."""
        small = self.at_64[severity - 1]
        if self.is_length:
            return small * side / _SMALL
        if self.at_224 is None:
            return small
        place = math.log(side / _SMALL) / math.log(_LARGE / _SMALL)
        return small * (self.at_224[severity - 1] / small) ** min(max(place, 0.0), 1.0)


def shorter_side(clip: np.ndarray) -> int:
    """Returns the shorter side, in pixels, of a clip's frames; the clip is [T, H, W, 3]."""
    return min(clip.shape[1:3])
