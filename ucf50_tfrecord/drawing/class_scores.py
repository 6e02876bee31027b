"""Draws pictures of one model's scores by class, and of its mistakes, as uint8 [height, width, 3]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ucf50_tfrecord.drawing import canvas
from ucf50_tfrecord.drawing.pixels import MIN_FRAME_HEIGHT, draw_strip

# Sizes in pixels.
_CAPTION_HEIGHT, _MARGIN = 26, 8
_MIN_WIDTH = 640  # holds a caption above a strip of few or narrow frames


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws a confusion matrix; an entry's number counts clips, its colour is the fraction of the true class.

    Args:
      matrix: numbers of clips, int [C, C]; rows are the true classes.
      classes: the names of the C classes.
    """
    size = max(4.5, 0.28 * len(classes) + 2.5)  # inches: keeps the names of 50 classes apart
    figure = canvas.new_figure(size + 1.0, size, dpi=canvas.SCREEN_DPI)
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1)
    fractions = matrix / np.maximum(totals, 1)[:, np.newaxis]
    image = axes.imshow(fractions, cmap=canvas.AMOUNTS, vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        ink = "white" if fractions[row, column] > 0.5 else "black"
        canvas.write_entry(axes, row, column, str(matrix[row, column]), fontsize=8, color=ink)
    names = [canvas.short_name(name) for name in classes]
    canvas.label_grid(axes, names, names, rotation=90)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{np.trace(matrix)} of {totals.sum()} right")
    figure.colorbar(image, ax=axes, label="fraction of the true class's clips", shrink=0.6)
    return canvas.render(figure)


def draw_class_f1(f1: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws each class's F1 as a bar, the best class on top, and the mean of the classes' F1 as a line.

    Args:
      f1: each class's F1, float [C], 0 to 1; NaN for a class without clips, which is drawn at the bottom.
      classes: the names of the C classes.
    """
    order = np.argsort(-np.asarray(f1, np.float64), kind="stable")  # NaN comes last
    values = np.asarray(f1, np.float64)[order]
    figure = canvas.new_figure(6.5, 0.22 * len(classes) + 1.6, dpi=canvas.SCREEN_DPI)
    axes = figure.add_subplot()
    bars = axes.barh(np.arange(len(classes)), np.nan_to_num(values), color=canvas.BLUE, height=0.7)
    labels = ["no clips" if math.isnan(value) else f"{value:.2f}" for value in values]
    axes.bar_label(bars, labels, padding=3, fontsize=9, bbox={"fc": "white", "ec": "none", "pad": 0.5})
    canvas.name_rows(axes, [canvas.short_name(classes[i]) for i in order])
    axes.set_xlim(0, 1.08)  # leaves space for the numbers
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.grid(axis="x", color="0.85", linewidth=0.5)
    axes.set_axisbelow(True)
    if not np.isnan(values).all():
        mean = np.nanmean(values)
        axes.axvline(mean, color="black", linestyle="--", linewidth=1, zorder=0.5)  # behind bars and numbers
        axes.set_title(f"mean of the classes (dashed): {mean:.3f}")
    axes.set_xlabel("F1, 0 to 1")
    return canvas.render(figure)


def draw_captioned_clips(
    video: np.ndarray, captions: Sequence[str], *, min_height: int = MIN_FRAME_HEIGHT
) -> np.ndarray:
    """Draws clips below each other, each as a caption above up to 8 evenly spaced frames.

    Args:
      video: the clips, uint8 [N, T, H, W, 3]; if there are none, the picture says "no mistakes".
      captions: the captions of the N clips.
      min_height: height, in pixels, that frames are at least enlarged to.
    """
    strips = [draw_strip(frames, min_height=min_height) for frames in video]
    strip_height, strip_width = strips[0].shape[:2] if strips else (0, 0)
    row_height = _CAPTION_HEIGHT + strip_height + _MARGIN
    height = len(strips) * row_height if strips else 2 * _CAPTION_HEIGHT
    width = max(strip_width + 2 * _MARGIN, _MIN_WIDTH)
    dpi = canvas.SCREEN_DPI
    figure = canvas.new_figure(width / dpi, height / dpi, dpi=dpi, layout=None)
    for row, caption in enumerate(captions if strips else ["no mistakes"]):
        top = height - row * row_height  # matplotlib counts a figure's pixels from its bottom
        figure.text(_MARGIN / width, (top - 20) / height, canvas.literal(caption), fontsize=10, color="black")
    for row, strip in enumerate(strips):
        below = height - (row + 1) * row_height + _MARGIN
        figure.figimage(strip, xo=_MARGIN, yo=below, origin="upper")
    return canvas.render(figure)
