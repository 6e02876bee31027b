"""Draws curves of training, such as the loss by step, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotext

from pipelines import terminal

_HEIGHT = 11  # lines
# Markers of the first and the second curve, which differ even without colours: plotext's name, and a sample.
_MARKERS = (("braille", "⢕"), ("hd", "▞"))
_COLOURS = ("blue", "orange")


def draw(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]]], *, is_coloured: bool = False
) -> str | None:
    """Draws up to two curves of one quantity over the training step as text, as wide as a terminal.

    curves: each curve's points (step, value) by its name. Points that are not finite are left out.

    Returns:
      The drawing as lines of text, or None if no point has a finite value.
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
    plotext.plot_size(terminal.WIDTH, _HEIGHT)
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
