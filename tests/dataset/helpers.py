"""Helpers for the tests of ucf50_tfrecord.dataset, which reads shards."""

from __future__ import annotations

import numpy as np

from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.reader import ClipReader
from ucf50_tfrecord.specs import AugmentSpec

# Each field differs from its default; the tests also use the fields one by one.
EVERY_AUGMENTATION = AugmentSpec(
    horizontal_flip=True,
    crop_area=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    temporal_shift=2,
    randaugment_ops=2,
    randaugment_magnitude=12.0,
    erase=0.5,
    frame_order="shuffled",
)


def read_batches(clips: ClipIndex, count: int | None = None, *, reader=None, **options) -> list[dict]:
    """Reads batches of clips from the shards, as NumPy arrays.

    Args:
      clips: the clips.
      count: number of batches; None reads all.
      reader: the ClipReader; None makes one for the clips.
      options: keyword arguments of pipeline.index_batches.

    Returns:
      One dictionary from name to array per batch.
    """
    batches = pipeline.index_batches(clips, **options)
    dataset = pipeline.read_frames(batches, reader or ClipReader(clips))
    return [
        {name: value.numpy() for name, value in batch.items()}
        for batch in dataset.take(-1 if count is None else count)
    ]


def assert_equal_batches(found: list[dict], expected: list[dict]) -> None:
    """Asserts that two lists of batches have the same arrays under the same names."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def indices(batches: list[dict]) -> list[int]:
    """Returns the indices of the clips in batches, in order, without padding (clips whose mask is False)."""
    return [int(i) for batch in batches for i, counts in zip(batch["index"], batch["mask"]) if counts]
