"""Helpers for the tests of docs/readers.md: they find shards and compare frames with the expected ones."""

import glob
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Lower than the lowest PSNR that docs/readers.md states for JPEG of the default quality.
MIN_PSNR_DB = 30


def psnr_db(frames: np.ndarray, others: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio of uint8 frames to others, in dB."""
    return 10 * np.log10(255**2 / np.mean((frames.astype(float) - others) ** 2))


def fidelity(frames, expected: np.ndarray) -> str:
    """Returns how close frames are to the expected ones: "exact" if equal, "lossy" if only similar.

    Fails if they are neither.
    """
    frames = np.asarray(frames)
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    if np.array_equal(frames, expected):
        return "exact"
    assert psnr_db(frames, expected) > MIN_PSNR_DB
    return "lossy"


def seen(read: Callable[[], np.ndarray], expected: np.ndarray) -> str:
    """Returns what a reader gets, as docs/readers.md says it: a fidelity, or "fails".

    read: function that returns the frames as the reader sees them, or raises TensorFlow's error.
    """
    try:
        frames = read()
    except tf.errors.InvalidArgumentError:
        return "fails"
    return fidelity(frames, expected) if frames.shape == expected.shape else "fails"


def shards(data_dir: str | os.PathLike, folds: str = "*") -> list[str]:
    """Returns the paths of a dataset's shards, found by the pattern that docs/readers.md uses.

    folds: the folds' numbers, as a pattern of glob.
    """
    return sorted(glob.glob(f"{data_dir}/ucf50-fold{folds}.tfrecord-?????-of-?????"))


def images_of(payload: bytes) -> list[bytes]:
    """Returns the compressed frames, such as JPEG files, of a serialized record."""
    steps = tf.train.SequenceExample.FromString(payload).feature_lists.feature_list["image/encoded"].feature
    return [step.bytes_list.value[0] for step in steps]
