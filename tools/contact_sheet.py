"""Draws a dataset's contact sheet, a picture with one row per class that shows frames of one of its clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ucf50_tfrecord.drawing.pixels import enlarge, evenly_spaced
from ucf50_tfrecord.specs import printable

# Sizes are in pixels, unless their names or comments say otherwise.
_MAX_STRIP_WIDTH = 1100
_MAX_FRAMES = 8
_MIN_FRAME_HEIGHT = 64
_MAX_ROWS = 25  # per column
_GAP, _MARGIN, _LABEL_WIDTH, _HEADER_HEIGHT = 2, 10, 210, 52
_BACKGROUND, _INK, _PALE_INK = "white", "black", (110, 110, 110)
_FONT_SIZE, _SMALL_FONT_SIZE = 15, 12


@dataclasses.dataclass(frozen=True)
class Row:
    """A class's row of a contact sheet."""

    name: str
    note: str  # shown under the name
    frames: np.ndarray | None  # of one of the class's clips, uint8 [T, H, W, C]; None if it has no clips


@dataclasses.dataclass(frozen=True)
class Layout:
    """The positions of all rows and frames on a contact sheet."""

    height: int  # of a clip's frames in stored pixels
    width: int
    factor: int  # the sheet's pixels per stored pixel, in both directions
    indices: tuple[int, ...]  # of the frames shown of each clip
    num_rows: int  # one per class

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
        """Width and height of the sheet in pixels."""
        num_columns = -(-self.num_rows // self.rows_per_column)
        height = _HEADER_HEIGHT + self.rows_per_column * self.row_height + _MARGIN
        return _MARGIN + num_columns * self.column_width, height

    def corner(self, row: int) -> tuple[int, int]:
        """Returns the position (x, y) of a row's upper left corner on the sheet, in pixels."""
        column, place = divmod(row, self.rows_per_column)
        return _MARGIN + column * self.column_width, _HEADER_HEIGHT + place * self.row_height

    def frame_x(self, number: int) -> int:
        """Returns the horizontal distance, in pixels, of a row's n-th frame from the row's left edge."""
        return _LABEL_WIDTH + number * (self.width * self.factor + _GAP)


def lay_out(shape: tuple[int, int, int, int], num_rows: int) -> Layout:
    """Chooses which frames of each clip a sheet shows, evenly spaced, and how much it enlarges them."""
    num_frames, height, width, _ = shape
    # Few rows leave space for large frames.
    wanted_height = 2 * _MIN_FRAME_HEIGHT if num_rows <= 10 else _MIN_FRAME_HEIGHT
    factor = max(1, min(wanted_height // height, _MAX_STRIP_WIDTH // (_MAX_FRAMES * width)))
    count = min(_MAX_FRAMES, num_frames, max(2, _MAX_STRIP_WIDTH // (width * factor)))
    indices = evenly_spaced(num_frames, count)
    return Layout(height, width, factor, tuple(indices.tolist()), num_rows)


def draw(title: str, rows: Sequence[Row], shape: tuple[int, int, int, int]) -> np.ndarray:
    """Draws a contact sheet of clips of a shape, [T, H, W, 3], with at least one row.

    Returns:
      The picture, uint8 [height, width, 3]. Frames are enlarged by a whole factor, without interpolation.
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
            frame = Image.fromarray(enlarge(row.frames[index, ..., :3], layout.factor))
            sheet.paste(frame, (x + layout.frame_x(slot), y))
    return np.asarray(sheet)


def fit(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Shortens a text to a width in pixels by cutting out its middle, where names differ least."""
    text = shown = printable(text)
    kept = len(text)
    while font.getlength(shown) > width and kept > 1:
        kept -= 1
        shown = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
    return shown
