"""The classes of a clip: one, or in a data set with several labels per clip (multi-label), one or several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ucf50_tfrecord.errors import expect

# A clip's class: its number among the sorted class names. In a multi-label data set: the numbers of all its classes,
# one at least, in ascending order.
Label: TypeAlias = int | tuple[int, ...]
# The names of the same.
ClassName: TypeAlias = str | tuple[str, ...]
# Stands between the labels of a video in a list of videos.
SEPARATOR = ";"


def as_tuple(label: Any) -> tuple[Any, ...]:
    """Returns the classes of a Label or a ClassName as a tuple, also if there is only one."""
    return label if isinstance(label, tuple) else (label,)


def to_array(labels: Sequence[Label], num_classes: int, *, multi_label: bool) -> np.ndarray:
    """Returns the labels of N clips as an array.

    Returns:
      int32 [N], the clips' classes. With several labels per clip: uint8 [N, C], 1 for each of a clip's classes.
    """
    if not multi_label:
        return np.array(labels, np.int32)
    table = np.zeros((len(labels), num_classes), np.uint8)
    for row, label in zip(table, labels):
        row[list(as_tuple(label))] = 1
    return table


def of_row(row: Any) -> Label:
    """Returns the Label of one entry of the array that to_array returns."""
    return tuple(np.flatnonzero(row).tolist()) if np.ndim(row) else int(row)


def to_text(label: Label, classes: Sequence[str]) -> str:
    """Returns the names of a clip's classes as text, such as "run" or "jump, run"."""
    return ", ".join(classes[number] for number in as_tuple(label))


def class_name(label: Label, classes: Sequence[str]) -> ClassName:
    """Returns the name of a clip's class; a tuple of names for several labels."""
    return tuple(classes[number] for number in label) if isinstance(label, tuple) else classes[label]


def count_clips(labels: Iterable[Label], num_classes: int) -> np.ndarray:
    """Counts the clips of each class, int64 [C]. A clip with several labels counts in each of its classes."""
    numbers = [number for label in labels for number in as_tuple(label)]
    return np.bincount(np.array(numbers, np.int64), minlength=num_classes)


def expect_one(multi_label: bool, purpose: str, data_dir: str) -> None:
    """Raises UserError if a data set has several labels per clip.

    Args:
      multi_label: whether it has.
      purpose: what needs one label per clip, such as "a comparison".
      data_dir: the dataset's folder, for the message.
    """
    expect(
        not multi_label,
        f"one label per clip for {purpose}: it is not defined for clips with several labels, as those of this set",
        data_dir=data_dir,
    )
