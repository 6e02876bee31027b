"""Draws diagrams that compare models or classes: forest plots, heat maps, curves and points.

A forest plot shows values with their confidence intervals. A picture is uint8 [height, width, 3].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import matplotlib.axes
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ucf50_tfrecord.drawing import canvas

# Sizes in inches.
_ROW = 0.24
_CHART_WIDTH, _CHART_HEIGHT = 4.6, 3.2
_MIN_LIMIT = 0.1  # least value of a heat map's strongest colour, so that small effects never look strong
_STRONG = 0.88  # from this fraction of a heat map's strongest colour on, white text reads better than black
# In a heat map with many rows, smaller values are not written: their entries are nearly white.
_MANY_ROWS, _MIN_WRITTEN = 20, 0.05
_FEW_ROWS = 10  # up to this many rows, the label of a heat map's colours takes two lines, as the map is low


class Estimate(Protocol):
    """A value and its confidence interval, from `low` to `high`."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Panel:
    """One diagram of a forest plot, which shows values with their confidence intervals, row by row.

    title: the text above the diagram.
    xlabel: the text below the horizontal axis, with the unit.
    series: the series by their names; a series has an estimate for each row, or None for a row without one.
    points: for each row, values to draw as small ticks.
    style: the number of the colour and marker, if there is one series; None gives each row its own.
    reference: the position of a dashed vertical line, and the line's meaning; None draws no line.
    """

    title: str
    xlabel: str
    series: Mapping[str, Sequence[Estimate | None]]
    points: Sequence[Sequence[float]] = ()
    style: int | None = None
    reference: tuple[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a diagram, with a band around it.

    name: the name in the legend.
    style: the number of the line's colour and marker.
    x, y: the points of the line, float [K] each.
    low, high: the lower and upper edge of the band at these points, float [K] each.
    """

    name: str
    style: int
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray
    high: Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Chart:
    """A diagram of curves.

    log: whether the vertical axis is logarithmic.
    xticks: positions and texts of the ticks of the horizontal axis, which is then logarithmic; None leaves
      both to matplotlib.
    reference: the position of a dashed horizontal line, and the line's meaning; None draws no line.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    log: bool = False
    xticks: Mapping[int, str] | None = None
    reference: tuple[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a diagram, with an interval of its height.

    name: the name in the legend.
    style: the number of the point's colour and marker.
    x: the horizontal position, positive.
    y: the height and its interval.
    """

    name: str
    style: int
    x: float
    y: Estimate


def draw_forest(rows: Sequence[str], panels: Sequence[Panel], *, panel_width: float = 3.6) -> np.ndarray:
    """Draws a forest plot, values with their confidence intervals, as panels that share their axes.

    Args:
      rows: the names of the rows.
      panels: one or more panels, each with an estimate per row and series.
      panel_width: the width of each panel, in inches.
    """
    most = max(len(panel.series) for panel in panels)
    names = [canvas.short_name(name) for name in rows]
    legend = _names_width(panels[0].series) if most > 1 else 0
    width = panel_width * len(panels) + _names_width(names) + legend
    figure = canvas.new_figure(width, max(1, len(rows)) * (_ROW + 0.13 * (most - 1)) + 1.1)
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, panel in zip(all_axes, panels):
        _draw_panel(axes, panel, len(rows))
    canvas.name_rows(all_axes[0], names)
    if most > 1:
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return canvas.render(figure)


def draw_changes(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    unsure: np.ndarray | None = None,
    limit: float | None = None,
) -> np.ndarray:
    """Draws a heat map of values with a sign, and writes the values into it.

    If the heat map has many rows, only values far enough from 0 are written.

    Args:
      values: the values, float [R, K]; NaN where there is no value, which leaves the entry grey.
      rows: the names of the R rows.
      columns: the names of the K columns.
      label: the meaning of the values, with their unit.
      unsure: which values are uncertain and therefore written in grey, the others in bold; bool [R, K] or
        None.
      limit: the size of the value with the strongest colour, for pictures with the same colours. None takes
        it from `values`, see colour_limit.
    """
    names = [canvas.short_name(name) for name in rows]
    height = _ROW * max(3, len(rows))
    figure = canvas.new_figure(_names_width(names) + 0.46 * len(columns) + 1.2, height + 1.5)
    axes = figure.add_subplot(facecolor="0.88")
    limit = limit or colour_limit(values)
    image = axes.imshow(values, cmap=canvas.SIGNED, vmin=-limit, vmax=limit, aspect="auto")
    smallest = _MIN_WRITTEN if len(rows) > _MANY_ROWS else 0.0
    for row, column in np.argwhere(~np.isnan(values) & (np.abs(values) >= smallest)):
        value = values[row, column]
        faint = unsure is not None and unsure[row, column]
        ink = "white" if abs(value) > _STRONG * limit else "0.45" if faint else "black"
        weight = "normal" if faint or unsure is None else "bold"
        text = f"{value:+z.2f}"
        canvas.write_entry(axes, row, column, text, fontsize=7.5, color=ink, fontweight=weight)
    column_names = [canvas.short_name(name) for name in columns]
    canvas.label_grid(axes, names, column_names, rotation=45, ha="right")
    label = label if len(rows) > _FEW_ROWS else label.replace(" of ", " of\n")
    figure.colorbar(image, ax=axes, label=label, shrink=min(1.0, 4 / height), pad=0.02)
    return canvas.render(figure)


def colour_limit(values: np.ndarray) -> float:
    """Returns the value for a heat map's strongest colour: the largest absolute value, ignoring NaN.

    It is at least 0.1, so that small effects do not look strong.
    """
    return max(_MIN_LIMIT, float(np.nanmax(np.abs(values), initial=0.0)))


def draw_charts(charts: Sequence[Chart], *, columns: int = 2) -> np.ndarray:
    """Draws several diagrams of curves as a grid of `columns` columns, with one legend for all diagrams."""
    rows = -(-len(charts) // columns)
    width = _CHART_WIDTH * min(columns, len(charts))
    figure = canvas.new_figure(width, _CHART_HEIGHT * rows + 0.5)
    all_axes = figure.subplots(rows, min(columns, len(charts)), squeeze=False).ravel()
    lines: dict[str, object] = {}
    for axes, chart in zip(all_axes, charts):
        lines |= _draw_chart(axes, chart)
    for axes in all_axes[len(charts) :]:
        axes.set_axis_off()
    ncols = min(max(1, int(width / (_names_width(lines) + 0.4))), len(lines))
    figure.legend(list(lines.values()), list(lines), loc="outside upper center", ncols=ncols, frameon=False)
    return canvas.render(figure)


def draw_points(points: Sequence[Point], *, xlabel: str, ylabel: str) -> np.ndarray:
    """Draws points and their intervals over a logarithmic horizontal axis, with a legend in the points' order."""
    figure = canvas.new_figure(
        _CHART_WIDTH + _names_width(point.name for point in points),
        max(_CHART_HEIGHT, 0.2 * len(points) + 0.6),
    )
    axes = figure.subplots()
    for point in points:
        look = {"color": canvas.colour(point.style)}
        axes.plot([point.x] * 2, [point.y.low, point.y.high], linewidth=1.4, **look)
        label, mark = canvas.short_name(point.name), canvas.marker(point.style)
        axes.plot(point.x, point.y.value, mark, markersize=6, label=label, **look)
    places = [point.x for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(places) / 1.6, max(places) * 1.6)  # wide enough for a tick, wherever the points are
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False)
    return canvas.render(figure)


def _draw_panel(axes: matplotlib.axes.Axes, panel: Panel, num_rows: int) -> None:
    several = len(panel.series) > 1
    offsets = np.linspace(-0.25, 0.25, len(panel.series)) if several else [0.0]
    for number, (offset, (name, estimates)) in enumerate(zip(offsets, panel.series.items())):
        label = canvas.literal(name)
        for row, estimate in enumerate(estimates):
            if estimate is None:
                continue
            style = number if several else row if panel.style is None else panel.style
            look = {"color": canvas.colour(style)}
            axes.plot([estimate.low, estimate.high], [row + offset] * 2, linewidth=1.6, **look)
            mark = canvas.marker(style)
            axes.plot(estimate.value, row + offset, mark, markersize=5.5, label=label, **look)
            label = None  # a series is named once
    for row, values in enumerate(panel.points):
        axes.plot(values, np.full(len(values), row + 0.28), "|", color="0.4", markersize=6)
    note = ""
    if panel.reference is not None:
        position, meaning = panel.reference
        axes.axvline(position, color="0.3", linestyle="--", linewidth=1, zorder=0.5)
        note = f"\ndashed: {meaning}"
    axes.set_xlabel(panel.xlabel + note)
    axes.set_title(canvas.literal(panel.title), fontsize=10)
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    across = axes.get_yaxis_transform()
    axes.hlines(np.arange(num_rows), 0, 1, transform=across, color="0.93", lw=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_axisbelow(True)


def _draw_chart(axes: matplotlib.axes.Axes, chart: Chart) -> dict[str, object]:
    """Draws one diagram of curves; returns a dictionary from the curves' names to matplotlib's lines."""
    lines = {}
    for curve in chart.curves:
        x, y, low, high = (np.asarray(part, float) for part in (curve.x, curve.y, curve.low, curve.high))
        if chart.log:  # a logarithmic axis has no 0
            y, low = np.where(y > 0, y, np.nan), np.where(low > 0, low, np.where(high > 0, y, np.nan))
        look = {"color": canvas.colour(curve.style)}
        axes.fill_between(x, low, high, alpha=0.15, linewidth=0, **look)
        mark = canvas.marker(curve.style)
        [lines[canvas.short_name(curve.name)]] = axes.plot(
            x, y, marker=mark, markersize=4.5, linewidth=1.4, **look
        )
    if chart.reference is not None:
        _draw_reference(axes, *chart.reference)
    if chart.log and any(np.any(np.asarray(curve.y) > 0) for curve in chart.curves):
        axes.set_yscale("log")
    if chart.xticks is not None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(chart.xticks), list(chart.xticks.values()))
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(canvas.literal(chart.title), fontsize=10)
    axes.set_xlabel(chart.xlabel)
    axes.set_ylabel(chart.ylabel)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    return lines


def _draw_reference(axes: matplotlib.axes.Axes, position: float, meaning: str) -> None:
    """Draws a dashed horizontal line, and writes the line's meaning above its right end."""
    axes.axhline(position, color="0.3", linestyle="--", linewidth=1)
    axes.annotate(
        meaning,
        (0.99, position),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color="0.3",
    )


def _names_width(names: Iterable[str]) -> float:
    """Returns the width, in inches, that names beside a diagram take."""
    return 0.4 + 0.075 * max(map(len, names), default=0)
