"""What the tests of the read side share."""

from __future__ import annotations

import numpy as np

from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.reader import ClipReader
from ucf50_tfrecord.specs import AugmentSpec

EVERY_AUGMENTATION = AugmentSpec(
    horizontal_flip=True,
    crop_area=0.5,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    temporal_shift=2,
    erase=0.5,
    frame_order="shuffled",
)


def read_batches(clips: ClipIndex, count: int | None = None, *, reader=None, **options) -> list[dict]:
    """Reads `count` batches, or all, from the shards as arrays; options are those of index_batches."""
    batches = pipeline.index_batches(clips, **options)
    dataset = pipeline.read_frames(batches, reader or ClipReader(clips))
    return [
        {name: value.numpy() for name, value in batch.items()}
        for batch in dataset.take(-1 if count is None else count)
    ]


def assert_equal_batches(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def indices(batches: list[dict]) -> list[int]:
    """The clips that count, in order."""
    return [int(i) for batch in batches for i, counts in zip(batch["index"], batch["mask"]) if counts]
