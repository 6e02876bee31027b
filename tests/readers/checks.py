"""Fidelity of frames, in the words of the table in docs/readers.md, and look-ups of shards."""

import glob
import os

import numpy as np
import tensorflow as tf

# Below the worst that docs/readers.md states for JPEG of the default quality.
MIN_PSNR_DB = 30


def psnr_db(frames: np.ndarray, others: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((frames.astype(float) - others) ** 2))


def fidelity(frames, expected: np.ndarray) -> str:
    """Returns "exact" or "JPEG"; fails if the frames are neither."""
    frames = np.asarray(frames)
    assert frames.dtype == np.uint8 and frames.shape == expected.shape
    if np.array_equal(frames, expected):
        return "exact"
    assert psnr_db(frames, expected) > MIN_PSNR_DB
    return "JPEG"


def shards(data_dir: str | os.PathLike, folds: str = "*") -> list[str]:
    """Finds shards as docs/readers.md does."""
    return sorted(glob.glob(f"{data_dir}/ucf50-fold{folds}.tfrecord-?????-of-?????"))


def images_of(payload: bytes) -> list[bytes]:
    """Returns a record's compressed frames."""
    steps = tf.train.SequenceExample.FromString(payload).feature_lists.feature_list["image/encoded"].feature
    return [step.bytes_list.value[0] for step in steps]
