"""Draws curves as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotext

_WIDTH, _HEIGHT = 80, 11  # characters and lines
# Markers of the first and the second curve, distinct without colours: plotext's name, and a sample.
_MARKERS = (("braille", "⢕"), ("hd", "▞"))
_COLOURS = ("blue", "orange")


def draw(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]]], *, is_coloured: bool = False
) -> str | None:
    """Draws up to two curves over the training step, 80 columns wide.

    Args:
      title: the quantity.
      curves: (step, value) by name of the curve; NaN and infinite values are left out.
      is_coloured: whether to use a terminal's colour codes.

    Returns:
      The lines, or None without a finite point.
    """
    finite = {
        name: [(step, value) for step, value in points if math.isfinite(value)]
        for name, points in curves.items()
    }
    drawn = [(name, points) for name, points in finite.items() if points]
    if not drawn:
        return None
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(_WIDTH, _HEIGHT)
    samples = []
    for (name, points), (marker, sample), colour in zip(drawn, _MARKERS, _COLOURS):
        steps, values = zip(*points)
        plotext.plot(steps, values, marker=marker, color=colour if is_coloured else None)
        samples.append(f"{sample} {name} {values[-1]:.4g}")
    plotext.title(f"{title}: {', '.join(samples)}")
    first, last = (limit(points[place][0] for _, points in drawn) for limit, place in ((min, 0), (max, -1)))
    plotext.xticks(sorted({round(first + part * (last - first) / 4) for part in range(5)}))
    built = plotext.build()
    return (built if is_coloured else plotext.uncolorize(built)).rstrip("\n")
