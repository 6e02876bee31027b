"""A long video's picture: what the model says, window by window."""

from __future__ import annotations

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import FuncFormatter, MultipleLocator

from ucf50_tfrecord.inference.predict import Prediction
from ucf50_tfrecord.report import plots
from ucf50_tfrecord.training import figures

_MAX_CLASSES = 7  # as many as there are colours but for grey
_MAX_TICKS = 12
_TICK_SECS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_OTHER = "0.75"
# More windows make curves a tangle, and marks on them one thick line.
_MAX_CURVE_WINDOWS, _MAX_MARKED_WINDOWS = 150, 60
_NAMES_TITLE = "class (mean over the video)"


def draw_timeline(prediction: Prediction, classes: tuple[str, ...]) -> np.ndarray:
    """Draws the probabilities of a few classes over time.

    Of up to 150 windows as curves, with a strip below that shows which class leads when; of more
    each class as a row that is the darker the more probable it is.

    Args:
      prediction: of a video in several windows.
      classes: C names.

    Returns:
      uint8 [height, width, 3].
    """
    chosen = leading_classes(prediction.window_probabilities)
    means = prediction.probabilities
    names = {label: f"{plots.shown(classes[label])} ({means[label]:.2f})" for label in chosen}
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), dpi=plots.DPI, layout="constrained")
    draw = _draw_curves if len(prediction.windows_secs) <= _MAX_CURVE_WINDOWS else _draw_rows
    axes = draw(figure, prediction, names)
    _set_time_axis(axes, prediction.secs)
    start, end = prediction.windows_secs[0]
    axes.set_xlabel(f"time; in windows of {end - start:.3g} s, each drawn at its middle")
    return figures.rendered(figure, plots.DPI)


def leading_classes(probabilities: np.ndarray) -> list[int]:
    """Chooses the classes to be shown: first those that lead most windows, then the most probable.

    Args:
      probabilities: float [windows, C].
    """
    num_led = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return np.lexsort((-probabilities.mean(axis=0), -num_led))[:_MAX_CLASSES].tolist()


def _draw_curves(
    figure: matplotlib.figure.Figure, prediction: Prediction, names: dict[int, str]
) -> matplotlib.axes.Axes:
    """Draws a curve a class, by label, and the strip below; returns the axes at the bottom."""
    curves, leaders = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
    middles = np.array(prediction.windows_secs).mean(axis=1)
    marker = "o" if len(middles) <= _MAX_MARKED_WINDOWS else None
    for style, (label, name) in enumerate(names.items()):
        values = prediction.window_probabilities[:, label]
        curves.plot(middles, values, color=plots.colour(style), marker=marker, markersize=3.5, label=name)
    curves.set_ylim(-0.02, 1.02)
    curves.set_ylabel("probability")
    curves.grid(color="0.9", linewidth=0.6)
    _draw_leaders(leaders, prediction, list(names))
    figure.legend(loc="outside right upper", frameon=False, title=_NAMES_TITLE, alignment="left")
    return leaders


def _draw_leaders(axes: matplotlib.axes.Axes, prediction: Prediction, chosen: list[int]) -> None:
    """Draws a strip in which each moment has the colour of the class that leads in the nearest window."""
    edges = _edges(prediction)
    leaders = prediction.window_probabilities.argmax(axis=1).tolist()
    shades = [plots.colour(chosen.index(label)) if label in chosen else _OTHER for label in leaders]
    axes.barh(0, np.diff(edges), left=edges[:-1], height=1, color=shades, linewidth=0)
    if _OTHER in shades:
        axes.barh(0, 0, color=_OTHER, label="another class leads")
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["leads"])
    axes.tick_params(axis="y", length=0)


def _draw_rows(
    figure: matplotlib.figure.Figure, prediction: Prediction, names: dict[int, str]
) -> matplotlib.axes.Axes:
    """Draws a row a class, by label, the first on top."""
    axes = figure.add_subplot()
    values = prediction.window_probabilities[:, list(names)].T  # [rows, windows]
    rows = np.arange(len(names) + 1) - 0.5
    image = axes.pcolormesh(_edges(prediction), rows, values, cmap="Blues", vmin=0, vmax=1)
    axes.hlines(rows, 0, prediction.secs, color="white", linewidth=3)
    axes.set_yticks(np.arange(len(names)), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(_NAMES_TITLE, loc="left", fontsize=10)
    figure.colorbar(image, ax=axes, label="probability", pad=0.02)
    return axes


def _edges(prediction: Prediction) -> np.ndarray:
    """Where in seconds the nearest window changes, the video's start and end included: float64 [windows + 1]."""
    middles = np.array(prediction.windows_secs).mean(axis=1)
    return np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [prediction.secs]])


def _set_time_axis(axes: matplotlib.axes.Axes, secs: float) -> None:
    """Puts ticks at round times: minutes and seconds, and hours where there are some."""

    def show(value: float, _position: int) -> str:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{rest:02d}" if secs >= 3600 else f"{minutes}:{rest:02d}"

    step = next((step for step in _TICK_SECS if secs / step <= _MAX_TICKS), secs / _MAX_TICKS)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(show))
    axes.set_xlim(0, secs)
