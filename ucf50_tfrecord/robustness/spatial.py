"""Corruptions of pixels: noise, blur, weather, colour and compression, frame by frame.

Each function takes a clip with values from 0 to 1, float32 [T, H, W, 3], a strength and a random generator,
and returns a clip of the same shape, whose values may exceed this range. Noise differs between a clip's frames. Fog, the direction of blur, and changes of colour are the same in all of them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import signal

from ucf50_tfrecord.dataset.per_clip import LUMA

_DISC_POINTS, _LINE_POINTS = 65, 129  # per axis of a disc, and of a line
_REACH = 3  # of a Gaussian, in standard deviations
# From RGB to luma and two colour differences, the YIQ of analogue television.
_TO_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])


def gaussian_noise(clip: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Adds normally distributed noise."""
    return clip + deviation * rng.standard_normal(clip.shape, np.float32)


def shot_noise(clip: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces each value by a random count of photons, `photons` of which make white (Poisson distribution)."""
    return (rng.poisson(clip * photons) / photons).astype(np.float32)


def impulse_noise(clip: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Replaces a fraction of all values by 0 or 1 (salt and pepper)."""
    is_hit = rng.random(clip.shape, np.float32) < fraction
    salt = rng.random(clip.shape, np.float32) < 0.5
    return np.where(is_hit, salt.astype(np.float32), clip)


def speckle_noise(clip: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Adds normally distributed noise in proportion to each value."""
    return clip * (1 + deviation * rng.standard_normal(clip.shape, np.float32))


def defocus_blur(clip: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Spreads each pixel over a disc, as a lens out of focus does."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, _DISC_POINTS)] * 2)
    inside = np.hypot(y, x) <= 1
    return _spread(clip, radius * y[inside], radius * x[inside], np.ones(inside.sum()))


def motion_blur(clip: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Spreads each pixel along a line of random direction, with the weights of a Gaussian."""
    angle = rng.uniform(0, np.pi)
    along = np.linspace(-_REACH, _REACH, _LINE_POINTS)
    place = deviation * along
    return _spread(clip, place * np.sin(angle), place * np.cos(angle), np.exp(-0.5 * along**2))


def fog(clip: np.ndarray, thickness: float, rng: np.random.Generator) -> np.ndarray:
    """Adds light in clouds of all sizes, then darkens the clip to its own brightest value."""
    _, height, width, _ = clip.shape
    side = max(height, width)
    frequency = np.hypot(np.fft.fftfreq(side)[:, np.newaxis], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    # Amplitudes that fall with the square of the frequency look like clouds (fractional Brownian motion).
    clouds = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency**2, s=(side, side))
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    brightest = float(clip.max())
    foggy = clip + thickness * clouds[:height, :width, np.newaxis].astype(np.float32)
    return foggy * (brightest / (brightest + thickness))


def contrast(clip: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Keeps a fraction of each value's distance from the clip's mean colour."""
    mean = clip.mean(axis=(0, 1, 2))
    return mean + fraction * (clip - mean)


def brightness(clip: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Raises the value V of each pixel's HSV colour, its largest channel; keeps hue and saturation."""
    value = clip.max(axis=3, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    return np.where(value > 0, clip * (brighter / np.maximum(value, 1e-6)), brighter)


def jpeg(clip: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Stores each frame as a JPEG file of a quality as in libjpeg, and reads it back."""
    return np.stack([_through_jpeg(frame, round(quality)) for frame in to_uint8(clip)]) / np.float32(255)


def grey(clip: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Moves each pixel by a fraction of the way to the grey of its luma."""
    luma = clip @ np.array(LUMA, np.float32)
    return clip + fraction * (luma[..., np.newaxis] - clip)


def hue(clip: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Turns all colours by an angle around the axis of greys, one way or the other; keeps the luma."""
    angle = np.deg2rad(degrees) * rng.choice([-1, 1])
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return clip @ (np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ).T.astype(np.float32)


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """Converts values from 0 to 1, of any shape, to uint8; values out of this range are clipped."""
    return np.round(np.clip(clip, 0, 1) * 255).astype(np.uint8)


def _through_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _spread(clip: np.ndarray, y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spreads each pixel of a clip over P points; each of them is divided among the four pixels around it.

    Args:
      clip: the clip, float32 [T, H, W, 3]; its edges are repeated.
      y, x: distances of the points from the pixel, in pixels, float [P].
      weights: weights of the points, of any sum, float [P].
    """
    parts = []
    for places in (y, x):
        reach = int(np.ceil(np.abs(places).max()))
        distance = np.abs(places - np.arange(-reach, reach + 1)[:, np.newaxis])
        parts.append(np.maximum(0, 1 - distance))
    kernel = (parts[0] * (weights / weights.sum())) @ parts[1].T
    margins = [(0, 0), *((size // 2, size // 2) for size in kernel.shape), (0, 0)]
    spread = kernel.astype(np.float32)[np.newaxis, :, :, np.newaxis]
    return signal.fftconvolve(np.pad(clip, margins, mode="edge"), spread, mode="valid", axes=(1, 2))
