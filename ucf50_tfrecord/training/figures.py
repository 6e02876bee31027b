"""Pictures for TensorBoard, uint8 [height, width, 3].

Without pyplot, which keeps figures in a global list and looks for a screen. Colours can be told apart by
the colour-blind: one hue from light to dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ucf50_tfrecord.specs import printable

_DPI = 100
_COLOURS = "Blues"
_MAX_NAME_LENGTH = 30
# Mistakes: pixels.
_MAX_FRAMES = 8
_MIN_FRAME_HEIGHT = 128
_GAP = 2
_CAPTION_HEIGHT = 26
_MARGIN = 8
_MIN_WIDTH = 640  # room for a caption above a strip of few or narrow frames


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws a confusion matrix: colours are shares of the true class, numbers count clips.

    Args:
      matrix: counts [C, C], rows are the true classes.
      classes: C names.

    Returns:
      uint8 [height, width, 3].
    """
    size = max(4.5, 0.28 * len(classes) + 2.5)  # inches: keeps the names of 50 classes apart
    figure = matplotlib.figure.Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, np.newaxis]
    image = axes.imshow(shares, cmap=_COLOURS, vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        number = axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8)
        number.set_color("white" if shares[row, column] > 0.5 else "black")
        number.set_in_layout(False)  # measuring hundreds of them takes longer than drawing them
    ticks, names = np.arange(len(classes)), [shown(name) for name in classes]
    axes.set_xticks(ticks, names, rotation=90, parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    # Lines between the cells, so that the eye finds a row's name.
    axes.set_xticks(ticks[1:] - 0.5, minor=True)
    axes.set_yticks(ticks[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{np.trace(matrix)} of {totals.sum()} right")
    figure.colorbar(image, ax=axes, label="share of the true class's clips", shrink=0.6)
    return rendered(figure)


def draw_class_f1(f1: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws each class's F1 as a bar, the best on top, and their mean as a line.

    Args:
      f1: float [C], 0 to 1; NaN for a class without clips, which is named at the bottom.
      classes: C names.

    Returns:
      uint8 [height, width, 3].
    """
    order = np.argsort(-np.asarray(f1, np.float64), kind="stable")  # NaN comes last
    values, names = np.asarray(f1, np.float64)[order], [shown(classes[i]) for i in order]
    figure = matplotlib.figure.Figure(figsize=(6.5, 0.22 * len(classes) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(np.arange(len(names)), np.nan_to_num(values), color="#08519c", height=0.7)
    labels = ["no clips" if math.isnan(value) else f"{value:.2f}" for value in values]
    axes.bar_label(bars, labels, padding=3, fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 0.5})
    axes.set_yticks(np.arange(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 1.08)  # room for the numbers
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.grid(axis="x", color="0.85", linewidth=0.5)
    axes.set_axisbelow(True)
    if not np.isnan(values).all():
        mean = np.nanmean(values)
        axes.axvline(mean, color="black", linestyle="--", linewidth=1, zorder=0.5)  # behind bars and numbers
        axes.set_title(f"mean of the classes (dashed): {mean:.3f}")
    axes.set_xlabel("F1, 0 to 1")
    return rendered(figure)


def draw_mistakes(video: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Draws clips below each other, each as a caption above up to 8 of its frames, evenly spaced.

    Small frames are enlarged by a whole number, so that their pixels stay what they are.

    Args:
      video: uint8 [N, T, H, W, 3]; without clips the picture says so.
      captions: N texts.

    Returns:
      uint8 [height, width, 3].
    """
    strips = [draw_strip(frames) for frames in video]
    strip_height, strip_width = strips[0].shape[:2] if strips else (0, 0)
    row_height = _CAPTION_HEIGHT + strip_height + _MARGIN
    height = len(strips) * row_height if strips else 2 * _CAPTION_HEIGHT
    width = max(strip_width + 2 * _MARGIN, _MIN_WIDTH)
    figure = matplotlib.figure.Figure(figsize=(width / _DPI, height / _DPI))
    captions = [printable(caption) for caption in captions] if strips else ["no mistakes"]
    for row, caption in enumerate(captions):
        top = height - row * row_height  # figures count pixels from below
        figure.text(
            _MARGIN / width, (top - 20) / height, caption, fontsize=10, color="black", parse_math=False
        )
    for row, strip in enumerate(strips):
        below = height - (row + 1) * row_height + _MARGIN
        figure.figimage(strip, xo=_MARGIN, yo=below, origin="upper")
    return rendered(figure)


def draw_strip(frames: np.ndarray) -> np.ndarray:
    """Lays up to 8 evenly spaced frames side by side: uint8 [T, H, W, 3] to uint8 [height, width, 3]."""
    num_frames, height = frames.shape[:2]
    chosen = frames[np.linspace(0, num_frames - 1, min(num_frames, _MAX_FRAMES)).round().astype(int)]
    factor = math.ceil(_MIN_FRAME_HEIGHT / height)
    large = chosen.repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)[:, :-_GAP]


def rendered(figure: matplotlib.figure.Figure, dpi: int = _DPI) -> np.ndarray:
    """Renders a figure to uint8 [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def shown(name: str) -> str:
    """A class's name, as far as there is room for it."""
    name = printable(name)
    return name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"
