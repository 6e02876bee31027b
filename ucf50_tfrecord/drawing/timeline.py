"""Draws the prediction for a long video: class probabilities over time.

A long video is cut into overlapping windows, each of which is predicted separately.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import FuncFormatter, MultipleLocator

from ucf50_tfrecord.drawing import canvas

_MAX_CLASSES = 7  # the number of colours without grey
_MAX_TICKS = 12
_TICK_SECS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
# With more windows, curves would be a tangle, and marks on the curves one thick line.
_MAX_CURVE_WINDOWS, _MAX_MARKED_WINDOWS = 150, 60
_NAMES_TITLE = "class (mean over the video)"


def draw_timeline(
    windows_secs: Sequence[tuple[float, float]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    secs: float,
) -> np.ndarray:
    """Draws the probabilities of a video's most important classes over time, as uint8 [height, width, 3].

    For up to 150 windows, each class is drawn as a curve; a strip below shows which class is most probable
    when. For more windows, each class is drawn as a row, which is the darker the more probable the class is.

    Args:
      windows_secs: start and end of each window in seconds; there are at least two windows.
      probabilities: the classes' probabilities in each window, float [windows, C].
      classes: the names of the C classes.
      secs: the video's duration in seconds.
    """
    means = probabilities.mean(axis=0)
    chosen = leading_classes(probabilities)
    names = {label: f"{canvas.short_name(classes[label])} ({means[label]:.2f})" for label in chosen}
    middles = np.array(windows_secs).mean(axis=1)
    edges = np.concatenate(
        [[0.0], (middles[1:] + middles[:-1]) / 2, [secs]]
    )  # where the nearest window changes
    figure = canvas.new_figure(10, 4.2)
    if len(windows_secs) <= _MAX_CURVE_WINDOWS:
        curves, axes = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
        _draw_curves(curves, middles, probabilities, names)
        _draw_leaders(axes, edges, probabilities.argmax(axis=1).tolist(), chosen)
        figure.legend(loc="outside right upper", frameon=False, title=_NAMES_TITLE, alignment="left")
    else:
        axes = figure.add_subplot()
        _draw_rows(figure, axes, edges, probabilities[:, chosen].T, list(names.values()))
    _set_time_axis(axes, secs)
    start, end = windows_secs[0]
    axes.set_xlabel(f"time; in windows of {end - start:.3g} s, each drawn at its middle")
    return canvas.render(figure)


def leading_classes(probabilities: np.ndarray) -> list[int]:
    """Returns the labels of the classes to draw, at most 7.

    First come classes that are the most probable class in most windows, then those with the highest mean
    probability.

    Args:
      probabilities: the classes' probabilities in each window, float [windows, C].
    """
    num_led = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return np.lexsort((-probabilities.mean(axis=0), -num_led))[:_MAX_CLASSES].tolist()


def _draw_curves(
    axes: matplotlib.axes.Axes, middles: np.ndarray, probabilities: np.ndarray, names: dict[int, str]
) -> None:
    """Draws a curve per class: the class's probability over the middles of the windows.

    Args:
      axes: the axes to draw in.
      middles: the times of the windows' middles, in seconds, float [windows].
      probabilities: the classes' probabilities in each window, float [windows, C].
      names: the names of the classes to draw, by label.
    """
    look = {"marker": "o" if len(middles) <= _MAX_MARKED_WINDOWS else None, "markersize": 3.5}
    for style, (label, name) in enumerate(names.items()):
        axes.plot(middles, probabilities[:, label], color=canvas.colour(style), label=name, **look)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("probability")
    axes.grid(color="0.9", linewidth=0.6)


def _draw_leaders(
    axes: matplotlib.axes.Axes, edges: np.ndarray, leaders: list[int], chosen: list[int]
) -> None:
    """Draws a strip over time, in the colour of the class that is most probable in the nearest window.

    Args:
      axes: the axes to draw in.
      edges: the times where the nearest window changes, in seconds, float [windows + 1].
      leaders: the label of each window's most probable class.
      chosen: the labels of the classes that have a colour; other classes are grey.
    """
    colours = [canvas.colour(chosen.index(label)) if label in chosen else canvas.GREY for label in leaders]
    axes.barh(0, np.diff(edges), left=edges[:-1], height=1, color=colours, linewidth=0)
    if canvas.GREY in colours:
        axes.barh(0, 0, color=canvas.GREY, label="another class leads")
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["leads"])
    axes.tick_params(axis="y", length=0)


def _draw_rows(
    figure: matplotlib.figure.Figure,
    axes: matplotlib.axes.Axes,
    edges: np.ndarray,
    values: np.ndarray,
    names: list[str],
) -> None:
    """Draws a row per class, the first class on top, and a bar that explains the colours.

    Args:
      figure: the figure that gets the bar.
      axes: the axes to draw the rows in.
      edges: the times where the nearest window changes, in seconds, float [windows + 1].
      values: the classes' probabilities, float [rows, windows].
      names: the names of the classes.
    """
    rows = np.arange(len(names) + 1) - 0.5
    image = axes.pcolormesh(edges, rows, values, cmap=canvas.AMOUNTS, vmin=0, vmax=1)
    axes.hlines(rows, 0, edges[-1], color="white", linewidth=3)
    axes.set_yticks(np.arange(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(_NAMES_TITLE, loc="left", fontsize=10)
    figure.colorbar(image, ax=axes, label="probability", pad=0.02)


def _set_time_axis(axes: matplotlib.axes.Axes, secs: float) -> None:
    """Puts ticks at round times on the time axis, written as minutes:seconds; with hours for long videos."""

    def to_text(value: float, _position: int) -> str:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d}" if secs >= 3600 else f"{minutes}:{rest:02d}"

    step = next((step for step in _TICK_SECS if secs / step <= _MAX_TICKS), secs / _MAX_TICKS)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(to_text))
    axes.set_xlim(0, secs)
