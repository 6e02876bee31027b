"""The basis of all drawings: matplotlib figures, colours, and text drawn literally, without mathtext.

Figures are made without pyplot, which keeps them in a global list and looks for a screen. The colours
can be told apart by the colour-blind: one hue from light to dark for amounts, orange over white to blue
for values with a sign, and the colours of Okabe and Ito 2008, "Color Universal Design", for series.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap

from ucf50_tfrecord.specs import printable, shorten

SCREEN_DPI = 100
PRINT_DPI = 144  # finer than a screen needs, for printed reports
AMOUNTS = "Blues"
BLUE, GREY = "#08519c", "0.75"
SIGNED = LinearSegmentedColormap.from_list("orange-blue", ["#b35900", "#f5b366", "#ffffff", "#8fbbdd", BLUE])
# Okabe and Ito's colours without their yellow, which is hard to see on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
_MARKERS = "osD^vPX*<>"
_MAX_NAME_LENGTH = 30


def colour(style: int) -> str:
    """Returns the colour of a series, whose style is its number."""
    return COLOURS[style % len(COLOURS)]


def marker(style: int) -> str:
    """Returns the marker of a series, whose style is its number."""
    return _MARKERS[style % len(_MARKERS)]


def literal(text: str) -> str:
    """Escapes a text so that matplotlib draws it literally: between dollars, it would read a formula."""
    return printable(text).replace("$", r"\$")


def short_name(name: str) -> str:
    """Escapes a name for matplotlib, and cuts it to the length that drawings have space for."""
    return literal(shorten(name, _MAX_NAME_LENGTH))


def new_figure(
    width: float, height: float, *, dpi: int = PRINT_DPI, layout: str | None = "constrained"
) -> matplotlib.figure.Figure:
    """Returns an empty figure, whose width and height are given in inches."""
    return matplotlib.figure.Figure(figsize=(width, height), dpi=dpi, layout=layout)


def render(figure: matplotlib.figure.Figure) -> np.ndarray:
    """Renders a figure to pixels, uint8 [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def label_grid(
    axes: matplotlib.axes.Axes, rows: Sequence[str], columns: Sequence[str], **options: object
) -> None:
    """Writes the names of a grid's rows and columns, and draws lines between the grid's entries.

    Args:
      axes: the axes that the grid is drawn in; an entry is 1 wide and 1 high.
      rows: the names of the rows, escaped.
      columns: the names of the columns, escaped.
      options: matplotlib's text options for the names of the columns.
    """
    axes.set_xticks(np.arange(len(columns)), columns, **options)
    axes.set_yticks(np.arange(len(rows)), rows)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def write_entry(axes: matplotlib.axes.Axes, row: int, column: int, text: str, **options: object) -> None:
    """Writes a text into the middle of an entry of a grid; `options` are matplotlib's text options."""
    written = axes.text(column, row, text, ha="center", va="center", **options)
    written.set_in_layout(False)  # measuring hundreds of texts takes longer than drawing them


def name_rows(axes: matplotlib.axes.Axes, names: Sequence[str]) -> None:
    """Writes the names of a diagram's rows beside it, and puts the first row on top."""
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
