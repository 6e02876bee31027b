"""A long video's picture: what the model says, window by window."""

from __future__ import annotations

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import FuncFormatter, MultipleLocator

from ucf50_tfrecord.inference.predict import Prediction
from ucf50_tfrecord.report import plots
from ucf50_tfrecord.training import figures

_MAX_CLASSES = 6  # as many as colours that are told apart at a glance
_MAX_TICKS = 12
_TICK_SECS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_OTHER = "0.75"
_MAX_MARKED = 60  # windows; more of them make one thick line


def draw_timeline(prediction: Prediction, classes: tuple[str, ...]) -> np.ndarray:
    """Draws the probabilities of a few classes over time, and below them which class leads when.

    Args:
      prediction: of a video in several windows.
      classes: C names.

    Returns:
      uint8 [height, width, 3].
    """
    chosen = leading_classes(prediction.window_probabilities)
    middles = np.array(prediction.windows_secs).mean(axis=1)
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), dpi=plots.DPI, layout="constrained")
    curves, leaders = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
    marker = "o" if len(middles) <= _MAX_MARKED else None
    for style, label in enumerate(chosen):
        values = prediction.window_probabilities[:, label]
        name = f"{plots.shown(classes[label])} ({prediction.probabilities[label]:.2f})"
        curves.plot(middles, values, color=plots.colour(style), marker=marker, markersize=3.5, label=name)
    curves.set_ylim(-0.02, 1.02)
    curves.set_ylabel("probability")
    curves.grid(color="0.9", linewidth=0.6)
    _draw_leaders(leaders, prediction, chosen)
    _set_time_axis(leaders, prediction.secs)
    first = prediction.windows_secs[0]
    leaders.set_xlabel(f"time; each point is the middle of a window of {first[1] - first[0]:.3g} s")
    figure.legend(
        loc="outside right upper", frameon=False, title="class (mean over the video)", alignment="left"
    )
    return figures.rendered(figure, plots.DPI)


def leading_classes(probabilities: np.ndarray) -> list[int]:
    """Chooses the classes to be shown: first those that lead most windows, then the most probable.

    Args:
      probabilities: float [windows, C].
    """
    num_led = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return np.lexsort((-probabilities.mean(axis=0), -num_led))[:_MAX_CLASSES].tolist()


def _draw_leaders(axes: matplotlib.axes.Axes, prediction: Prediction, chosen: list[int]) -> None:
    """Draws a strip in which each moment has the colour of the class that leads in the nearest window."""
    middles = np.array(prediction.windows_secs).mean(axis=1)
    edges = np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [prediction.secs]])
    leaders = prediction.window_probabilities.argmax(axis=1).tolist()
    shades = [plots.colour(chosen.index(label)) if label in chosen else _OTHER for label in leaders]
    axes.barh(0, np.diff(edges), left=edges[:-1], height=1, color=shades, linewidth=0)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["leads"])
    axes.tick_params(axis="y", length=0)


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
