"""Reads and rewrites TensorBoard's event files, which are TFRecords of tf.Event. Does not load TensorFlow.

A run that resumes from a checkpoint repeats the steps after the checkpoint. The events of these steps are
removed from the files first, so that no curve jumps back.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util import tensor_util

from ucf50_tfrecord import storage, tfrecord
from ucf50_tfrecord.errors import UserError

# Without "tfevents", so that no reader takes an unfinished file for an event file.
_UNFINISHED_FILENAME = ".unfinished"


def find_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's event files in the order of reading; an empty list if the folder does not exist."""
    return sorted(folder.glob("*.tfevents.*"))


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields an event file's serialized events up to the first truncated or damaged record.

    Other readers of event files stop there, too.

    Raises:
      UserError: if the file cannot be read.
    """
    try:
        for _, payload in tfrecord.read_file(path):
            yield payload
    except UserError:  # a truncated or damaged record
        return
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error


def read_scalars(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the curves from a folder's event files.

    If several points of a curve have the same step, the one that was written last is kept.

    Returns:
      A dictionary from a curve's tag to the curve's points, (step, value), in the order of steps.

    Raises:
      UserError: if a file cannot be read.
    """
    curves: dict[str, dict[int, float]] = {}
    for path in find_files(folder):
        for payload in read_records(path):
            event = Event.FromString(payload)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    point = float(tensor_util.make_ndarray(value.tensor))
                    curves.setdefault(value.tag, {})[event.step] = point
    return {tag: sorted(points.items()) for tag, points in curves.items()}


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Replaces an event file by one with `records`; the iterable may read the old file meanwhile.

    A process that has the old file open continues to read the old contents.

    Raises:
      UserError: if the file cannot be written.
    """
    with storage.atomic_path(path, temporary_name=_UNFINISHED_FILENAME) as unfinished:
        with open(unfinished, "wb") as file:
            file.writelines(map(tfrecord.frame, records))


def write_scalars(path: pathlib.Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Replaces an event file by one with points of curves.

    Args:
      path: the file's path; its name must hold ".tfevents.".
      rows: for each step, counted from 1, a dictionary from a curve's tag to its value.

    Raises:
      UserError: if the file cannot be written.
    """
    now = time.time()
    records = [Event(wall_time=now, file_version="brain.Event:2")]
    for step, row in enumerate(rows, 1):
        event = Event(wall_time=now, step=step)
        for tag, value in row.items():
            event.summary.MergeFrom(scalar_pb(tag, float(value)))
        records.append(event)
    write_records(path, (event.SerializeToString() for event in records))


def drop_later(folder: pathlib.Path, step: int) -> int:
    """Removes the events of all steps after `step` from a folder's event files.

    Files without such events stay as they are. In the other files, a truncated last record is removed, too.

    Returns:
      The number of events that were removed.

    Raises:
      UserError: if a file cannot be read or written.
    """
    dropped = 0
    for path in find_files(folder):
        later = sum(_step(payload) > step for payload in read_records(path))
        if later:
            write_records(path, (payload for payload in read_records(path) if _step(payload) <= step))
        dropped += later
    return dropped


def await_new_name(folder: pathlib.Path) -> None:
    """Waits less than a second, until the name of a new event file sorts after the names of existing files.

    Event files are read in the order of their names, and tf.summary names them by the time in whole seconds.
    """
    for path in find_files(folder):
        second = path.name.partition(".tfevents.")[2].partition(".")[0]
        if second.isdecimal() and int(second) == int(time.time()):
            time.sleep(max(0.0, int(second) + 1 - time.time()))


def _step(payload: bytes) -> int:
    return Event.FromString(payload).step
