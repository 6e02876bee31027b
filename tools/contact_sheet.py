"""Draws a contact sheet of a dataset: per class a row with frames of one clip, in stored pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ucf50_tfrecord.drawing.pixels import enlarge, evenly_spaced
from ucf50_tfrecord.specs import printable

# In pixels, unless named otherwise.
_MAX_STRIP_WIDTH = 1100
_MAX_FRAMES = 8
_MIN_FRAME_HEIGHT = 64
_MAX_ROWS = 25  # per column
_GAP, _MARGIN, _LABEL_WIDTH, _HEADER_HEIGHT = 2, 10, 210, 52
_BACKGROUND, _INK, _PALE_INK = "white", "black", (110, 110, 110)
_FONT_SIZE, _SMALL_FONT_SIZE = 15, 12


@dataclasses.dataclass(frozen=True)
class Row:
    """The row of a class. frames: uint8 [T, H, W, 3] of a clip, or None without clips."""

    name: str
    note: str
    frames: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions on the sheet. factor: width of a stored pixel on the sheet; indices: the frames shown."""

    height: int
    width: int
    factor: int
    indices: tuple[int, ...]
    num_rows: int

    @property
    def row_height(self) -> int:
        return max(self.height * self.factor, _FONT_SIZE + 2 * _SMALL_FONT_SIZE + 8) + 2 * _GAP

    @property
    def column_width(self) -> int:
        return _LABEL_WIDTH + len(self.indices) * (self.width * self.factor + _GAP) + _MARGIN

    @property
    def rows_per_column(self) -> int:
        num_columns = -(-self.num_rows // _MAX_ROWS)
        return -(-self.num_rows // num_columns)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        num_columns = -(-self.num_rows // self.rows_per_column)
        height = _HEADER_HEIGHT + self.rows_per_column * self.row_height + _MARGIN
        return _MARGIN + num_columns * self.column_width, height

    def corner(self, row: int) -> tuple[int, int]:
        """Returns x and y of a row's upper left corner."""
        column, place = divmod(row, self.rows_per_column)
        return _MARGIN + column * self.column_width, _HEADER_HEIGHT + place * self.row_height

    def frame_x(self, number: int) -> int:
        """Returns x of a frame, relative to the row's corner."""
        return _LABEL_WIDTH + number * (self.width * self.factor + _GAP)


def lay_out(shape: tuple[int, int, int, int], num_rows: int) -> Layout:
    """Chooses evenly spaced frames, with both ends, and their size for clips of [T, H, W, 3]."""
    num_frames, height, width, _ = shape
    # Few rows leave space for large frames.
    wanted_height = 2 * _MIN_FRAME_HEIGHT if num_rows <= 10 else _MIN_FRAME_HEIGHT
    factor = max(1, min(wanted_height // height, _MAX_STRIP_WIDTH // (_MAX_FRAMES * width)))
    count = min(_MAX_FRAMES, num_frames, max(2, _MAX_STRIP_WIDTH // (width * factor)))
    indices = evenly_spaced(num_frames, count)
    return Layout(height, width, factor, tuple(indices.tolist()), num_rows)


def draw(title: str, rows: Sequence[Row], shape: tuple[int, int, int, int]) -> np.ndarray:
    """Draws the sheet.

    Args:
      title: the top line.
      rows: the classes, at least one.
      shape: a clip's shape, [T, H, W, 3].

    Returns:
      uint8 [height, width, 3]. Frames are enlarged by a whole factor, without interpolation.
    """
    layout = lay_out(shape, len(rows))
    sheet = Image.new("RGB", layout.size, _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font, small_font = (ImageFont.load_default(size) for size in (_FONT_SIZE, _SMALL_FONT_SIZE))
    pen.text((_MARGIN, _MARGIN), printable(title), _INK, font)
    for column_start in range(0, len(rows), layout.rows_per_column):
        x, y = layout.corner(column_start)
        for number, index in enumerate(layout.indices):
            place = x + layout.frame_x(number), y - _SMALL_FONT_SIZE - 5
            pen.text(place, f"{index + 1} of {shape[0]}", _PALE_INK, small_font)
    for number, row in enumerate(rows):
        x, y = layout.corner(number)
        width = _LABEL_WIDTH - _MARGIN
        pen.text((x, y), fit(row.name, font, width), _INK, font)
        for line, text in enumerate(row.note.split("\n")):
            place = x, y + _FONT_SIZE + 5 + line * (_SMALL_FONT_SIZE + 2)
            pen.text(place, fit(text, small_font, width), _PALE_INK, small_font)
        if row.frames is None:
            continue
        for slot, index in enumerate(layout.indices):
            frame = Image.fromarray(enlarge(row.frames[index], layout.factor))
            sheet.paste(frame, (x + layout.frame_x(slot), y))
    return np.asarray(sheet)


def fit(text: str, font: ImageFont.ImageFont, width: int) -> str:
    """Shortens a text in its middle, where names differ least, to a width in pixels."""
    text = shown = printable(text)
    kept = len(text)
    while font.getlength(shown) > width and kept > 1:
        kept -= 1
        shown = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
    return shown
