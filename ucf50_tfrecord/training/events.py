"""Event files, as TensorBoard reads them: TFRecords of tf.Event.

A run that goes on from a checkpoint repeats the steps after it. Their events are taken out of the files
first, so that no reader sees a curve jump back.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterable, Iterator

import tensorflow as tf

from ucf50_tfrecord.specs import UserError

# Without "tfevents", so that no reader takes an unfinished file for an event file.
_UNFINISHED_FILENAME = ".unfinished"


def find_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's event files in the order in which they are read; none if there is no folder."""
    return sorted(folder.glob("*.tfevents.*"))


def read_records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields a file's events, serialized, up to a torn or damaged record: readers stop there as well.

    Raises:
      UserError: if the file cannot be read.
    """
    records = iter(tf.data.TFRecordDataset(str(path)))
    while True:
        try:
            yield next(records).numpy()
        except (StopIteration, tf.errors.DataLossError):
            return
        except tf.errors.OpError as error:
            raise UserError(f"Cannot read {path}: {error.message}") from error


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Writes an event file in the place of what is there; `records` may come from that very file.

    A process that has the old file open keeps on reading the old one.

    Raises:
      UserError: if the file cannot be written.
    """
    unfinished = path.with_name(_UNFINISHED_FILENAME)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tf.io.TFRecordWriter(str(unfinished)) as writer:
            for record in records:
                writer.write(record)
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"Cannot write {path}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def drop_later(folder: pathlib.Path, step: int) -> int:
    """Takes the events of steps after `step` out of a folder's files; returns how many there were.

    A file without such events is left as it is. A torn end goes with the events that are dropped.

    Raises:
      UserError: if a file cannot be read or written.
    """
    dropped = 0
    for path in find_files(folder):
        later = sum(_step(record) > step for record in read_records(path))
        if later:
            write_records(path, (record for record in read_records(path) if _step(record) <= step))
        dropped += later
    return dropped


def await_new_name(folder: pathlib.Path) -> None:
    """Waits, less than a second, until the name of a new file comes after those that are there.

    Files are read in the order of their names, and tf.summary names them by the second.
    """
    for path in find_files(folder):
        second = path.name.partition(".tfevents.")[2].partition(".")[0]
        if second.isdecimal() and int(second) == int(time.time()):
            time.sleep(max(0.0, int(second) + 1 - time.time()))


def _step(record: bytes) -> int:
    return tf.compat.v1.Event.FromString(record).step
