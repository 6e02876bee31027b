"""Makes pictures without matplotlib: frames side by side, and PNG files."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

_MAX_FRAMES, MIN_FRAME_HEIGHT, _GAP = 8, 128, 2  # for a strip of frames; the last two in pixels
_LEVELS = 31  # the highest value of a colour channel in a small PNG; 32 levels still look smooth


def evenly_spaced(num_frames: int, count: int) -> np.ndarray:
    """Returns the indices of up to `count` evenly spaced frames, including first and last: int64 [count]."""
    return np.linspace(0, num_frames - 1, min(num_frames, count)).round().astype(int)


def enlarge(frames: np.ndarray, factor: int) -> np.ndarray:
    """Enlarges frames by repeating each pixel: uint8 [..., H, W, 3] to [..., factor * H, factor * W, 3]."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def draw_strip(frames: np.ndarray, *, min_height: int = MIN_FRAME_HEIGHT) -> np.ndarray:
    """Lays up to 8 evenly spaced frames of a clip side by side.

    Small frames are enlarged by a whole factor, which keeps their pixels sharp.

    Args:
      frames: the clip, uint8 [T, H, W, C]. Only the frames are drawn, C's first 3, not their neighbours.
      min_height: height, in pixels, that frames are at least enlarged to.

    Returns:
      The picture, uint8 [height, width, 3].
    """
    num_frames, height = frames.shape[:2]
    chosen = frames[evenly_spaced(num_frames, _MAX_FRAMES), ..., :3]
    large = enlarge(chosen, math.ceil(min_height / height))
    framed = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)[:, :-_GAP]


def to_png(pixels: np.ndarray) -> bytes:
    """Encodes a picture, uint8 [height, width, 3], as PNG without loss."""
    return _encode(Image.fromarray(pixels))


def to_small_png(pixels: np.ndarray, *, photo: bool) -> bytes:
    """Encodes a picture as PNG with fewer colours, in half the bytes, because large pages open slowly.

    Args:
      pixels: the picture, uint8 [height, width, 3].
      photo: whether the picture shows frames. If not, it is also reduced to a palette of 256 colours.
    """
    levels = np.round(pixels * (_LEVELS / 255)).astype(np.uint16)
    return _encode(Image.fromarray(_colours(levels))) if photo else _encode(_palette(levels), optimize=True)


def _palette(levels: np.ndarray) -> Image.Image:
    """Reduces a drawing to its 256 most frequent colours; other colours are replaced by the nearest of these.

    The other colours occur at the edges of letters only. Unlike Pillow's palettes, this one keeps every
    colour that fills an entry of a heat map.

    Args:
      levels: the drawing, uint16 [height, width, 3] with values from 0 to _LEVELS.
    """
    code = (levels[..., 0] * (_LEVELS + 1) + levels[..., 1]) * (_LEVELS + 1) + levels[..., 2]
    counts = np.bincount(code.ravel(), minlength=(_LEVELS + 1) ** 3)
    found = np.flatnonzero(counts)
    rgb = np.stack(np.unravel_index(found, (_LEVELS + 1,) * 3), axis=1)  # [U, 3]
    kept = np.argsort(-counts[found], kind="stable")[:256]
    distance = ((rgb[:, np.newaxis] - rgb[kept]) ** 2).sum(axis=2)  # [U, 256]
    index = np.zeros(len(counts), np.uint8)
    index[found] = distance.argmin(axis=1)
    image = Image.fromarray(index[code])
    image.putpalette(_colours(rgb[kept]).tobytes())
    return image


def _colours(levels: np.ndarray) -> np.ndarray:
    return np.round(levels * (255 / _LEVELS)).astype(np.uint8)


def _encode(image: Image.Image, **options: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()
