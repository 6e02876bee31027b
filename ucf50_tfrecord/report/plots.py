"""The pictures of a comparison's report, uint8 [height, width, 3].

Without pyplot, as training.figures. Models differ in colour (Okabe and Ito 2008, "Color Universal
Design") and in marker; what has a sign goes from orange over white to blue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.specs import printable
from ucf50_tfrecord.training import figures

DPI = 144  # twice as fine as the words need: they are printed, too
# Okabe and Ito's without their yellow, which white paper swallows.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
_MARKERS = "osD^vPX*<>"
_SIGNED = LinearSegmentedColormap.from_list(
    "orange-blue", ["#b35900", "#f5b366", "#ffffff", "#8fbbdd", "#08519c"]
)
_MIN_RANGE = 0.1  # of a heat map's colours: less is no effect to be painted strongly
_ROW = 0.24  # inches
_STRONG = 0.88  # share of the strongest colour from which white can be read on it better than black
# A heat map of more rows has numbers only where they are at least so large: the others are white anyway.
_MANY_ROWS, _LEAST_SHOWN = 20, 0.05
_LOW = 10  # rows beside which a long label has no room in one line


@dataclasses.dataclass(frozen=True)
class Panel:
    """One diagram of a forest plot.

    title: above it. xlabel: with the unit.
    series: by name, an estimate a row, None where there is none.
    points: by row, single values that are shown as small ticks.
    style: which colour and marker a single series has; without it each row has its own.
    reference: where a dashed line stands, and what it means.
    """

    title: str
    xlabel: str
    series: Mapping[str, Sequence[Estimate | None]]
    points: Sequence[Sequence[float]] = ()
    style: int | None = None
    reference: tuple[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line with a band. style: which colour and marker. x, y, low, high: float [K]."""

    name: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves in one diagram. reference: where a dashed line stands, and what it means."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    log: bool = False
    xticks: Mapping[float, str] | None = None
    reference: tuple[float, str] | None = None


def draw_forest(rows: Sequence[str], panels: Sequence[Panel], *, panel_width: float = 3.6) -> np.ndarray:
    """Draws estimates with their intervals, a row each, in panels side by side that share their axes.

    Args:
      rows: R names.
      panels: one or more.
      panel_width: inches of each.
    """
    most = max(len(panel.series) for panel in panels)
    names = [shown(name) for name in rows]
    width = panel_width * len(panels) + _room(names) + (_room(panels[0].series) if most > 1 else 0)
    figure = _figure(width, max(1, len(rows)) * (_ROW + 0.13 * (most - 1)) + 1.1)
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, panel in zip(every, panels):
        _draw_panel(axes, panel, len(rows))
    first = figure.axes[0]
    first.set_yticks(np.arange(len(rows)), names)
    first.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    if most > 1:
        figure.legend(*first.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figures.rendered(figure, DPI)


def draw_changes(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    unsure: np.ndarray | None = None,
    limit: float | None = None,
) -> np.ndarray:
    """Draws a heat map of values with a sign, with the numbers in its cells; of many rows the larger ones.

    Args:
      values: float [R, K]; NaN where there is none, which is grey.
      rows, columns: R and K names.
      label: what the values are, with their unit.
      limit: the value of the strongest colour, where several pictures are to have the same.
      unsure: bool [R, K], those that are shown in grey.
    """
    names = [shown(name) for name in rows]
    figure = _figure(_room(names) + 0.46 * len(columns) + 1.2, _ROW * max(3, len(rows)) + 1.5)
    axes = figure.add_subplot(facecolor="0.88")
    largest = limit or color_range(values)
    image = axes.imshow(values, cmap=_SIGNED, vmin=-largest, vmax=largest, aspect="auto")
    least = _LEAST_SHOWN if len(rows) > _MANY_ROWS else 0.0
    for row, column in np.argwhere(~np.isnan(values) & (np.abs(values) >= least)):
        value = values[row, column]
        faint = unsure is not None and unsure[row, column]
        strong = abs(value) > _STRONG * largest
        number = axes.text(column, row, f"{value:+z.2f}", ha="center", va="center", fontsize=7.5)
        number.set_color("white" if strong else "0.45" if faint else "black")
        number.set_fontweight("normal" if faint or unsure is None else "bold")
        number.set_in_layout(False)  # measuring hundreds of them takes longer than drawing them
    axes.set_xticks(np.arange(len(columns)), [shown(name) for name in columns], rotation=45, ha="right")
    axes.set_yticks(np.arange(len(rows)), names)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(
        image,
        ax=axes,
        label=label if len(rows) > _LOW else label.replace(" of ", " of\n"),
        shrink=min(1.0, 4 / (_ROW * max(3, len(rows)))),
        pad=0.02,
    )
    return figures.rendered(figure, DPI)


def draw_charts(charts: Sequence[Chart], *, columns: int = 2) -> np.ndarray:
    """Draws diagrams of curves beside and below each other, with one legend for the names in all of them."""
    rows = -(-len(charts) // columns)
    columns = min(columns, len(charts))
    figure = _figure(4.6 * columns, 3.2 * rows + 0.5)
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict[str, object] = {}
    for axes, chart in zip(every, charts):
        handles |= _draw_chart(axes, chart)
    for axes in every[len(charts) :]:
        axes.set_axis_off()
    beside = max(1, int(4.6 * columns / (_room(handles) + 0.4)))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=min(beside, len(handles)),
        frameon=False,
    )
    return figures.rendered(figure, DPI)


def _draw_panel(axes: matplotlib.axes.Axes, panel: Panel, num_rows: int) -> None:
    several = len(panel.series) > 1
    offsets = np.linspace(-0.25, 0.25, len(panel.series)) if several else [0.0]
    for number, (offset, (name, estimates)) in enumerate(zip(offsets, panel.series.items())):
        drawn = [(row, estimate) for row, estimate in enumerate(estimates) if estimate is not None]
        for index, (row, estimate) in enumerate(drawn):
            style = number if several else row if panel.style is None else panel.style
            axes.plot([estimate.low, estimate.high], [row + offset] * 2, color=colour(style), linewidth=1.6)
            axes.plot(
                estimate.value,
                row + offset,
                _marker(style),
                color=colour(style),
                markersize=5.5,
                label=_literal(name) if index == 0 else None,
            )
    for row, values in enumerate(panel.points):
        axes.plot(values, np.full(len(values), row + 0.28), "|", color="0.4", markersize=6)
    if panel.reference is not None:
        axes.axvline(panel.reference[0], color="0.3", linestyle="--", linewidth=1, zorder=0.5)
        axes.set_xlabel(f"{panel.xlabel}\ndashed: {panel.reference[1]}")
    else:
        axes.set_xlabel(panel.xlabel)
    axes.set_title(_literal(panel.title), fontsize=10)
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    axes.hlines(
        np.arange(num_rows), 0, 1, transform=axes.get_yaxis_transform(), color="0.93", lw=0.6, zorder=0
    )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_axisbelow(True)


def _draw_chart(axes: matplotlib.axes.Axes, chart: Chart) -> dict[str, object]:
    """Returns the lines by their names."""
    handles = {}
    for curve in chart.curves:
        x, y, low, high = (np.asarray(part, float) for part in (curve.x, curve.y, curve.low, curve.high))
        if chart.log:  # has no place for 0
            y, low = np.where(y > 0, y, np.nan), np.where(low > 0, low, np.where(high > 0, y, np.nan))
        shade = colour(curve.style)
        axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
        [handles[shown(curve.name)]] = axes.plot(
            x, y, marker=_marker(curve.style), color=shade, markersize=4.5, linewidth=1.4
        )
    if chart.reference is not None:
        axes.axhline(chart.reference[0], color="0.3", linestyle="--", linewidth=1)
        axes.annotate(
            chart.reference[1],
            (0.99, chart.reference[0]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
            color="0.3",
        )
    if chart.log and any(np.any(np.asarray(curve.y) > 0) for curve in chart.curves):
        axes.set_yscale("log")
    if chart.xticks is not None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(chart.xticks), list(chart.xticks.values()))
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(_literal(chart.title), fontsize=10)
    axes.set_xlabel(chart.xlabel)
    axes.set_ylabel(chart.ylabel)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    return handles


def color_range(values: np.ndarray) -> float:
    """The largest size of some values, float of any shape, for the colours of a heat map; NaN is left out."""
    return max(_MIN_RANGE, float(np.nanmax(np.abs(values), initial=0.0)))


def _room(names: Iterable[str]) -> float:
    """Inches for names beside a diagram."""
    return 0.4 + 0.075 * max(map(len, names), default=0)


def colour(style: int) -> str:
    """A colour that can be told from its neighbours by the colour-blind, too."""
    return _COLOURS[style % len(_COLOURS)]


def _marker(style: int) -> str:
    return _MARKERS[style % len(_MARKERS)]


def shown(name: str) -> str:
    """A name, as far as there is room for it."""
    return _literal(figures.shown(name))


def _literal(text: str) -> str:
    """A text in which dollars are dollars, not the ends of a formula."""
    return printable(text).replace("$", r"\$")


def _figure(width: float, height: float) -> matplotlib.figure.Figure:
    """Inches."""
    return matplotlib.figure.Figure(figsize=(width, height), dpi=DPI, layout="constrained")
