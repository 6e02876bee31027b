"""Checks in a worker process that a stranger's Parquet file can be decoded. Loads PyArrow.

PyArrow aborts its process at some damaged metadata, which no handler of errors can catch. Where a file is too large to
come out of a worker process as an answer, the worker decodes it first and keeps nothing. So damage of this kind ends
the worker, not the process that needs the values.
"""

from __future__ import annotations

import os
import pathlib
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

from ucf50_tfrecord import parquet_pages, storage, workers
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import shorten

# Of a file with 10,000 row groups, the metadata take about 30 MB, and 200 MB once they are decoded.
_MAX_METADATA_BYTES = 256 << 20
_MAX_COLUMN_BYTES = 1 << 30  # within a row group: the logits of 100,000 clips of 1000 classes take 400 MB
_WORKER_BYTES = 4 << 30
_WORKER_SECS, _BYTES_PER_SEC = 60.0, 1 << 20  # a busy core decodes fifty times as many bytes per second
_MAX_REASON = 1000  # characters
_MAX_ANSWER_BYTES = 16 << 10


def check(path: pathlib.Path) -> None:
    """Decodes all of a Parquet file in a worker process, row group by row group.

    Raises:
      UserError: if the file cannot be read, it ends the worker or exceeds the worker's memory or time, or PyArrow
        cannot decode it.
    """
    call: workers.Call[str, str, str] = workers.Call(
        function=decode,
        answer=str,
        parse=lambda item, answer: shorten(answer, _MAX_REASON),
        max_bytes=_MAX_ANSWER_BYTES,
        timeout_secs=lambda item: _WORKER_SECS + _size(item) / _BYTES_PER_SEC,
        open_files=lambda item: [storage.open_file(item)],
    )
    with workers.IsolatedPool(_WORKER_BYTES) as pool:
        [(_, found)] = pool.map(call, [str(path)])
    if isinstance(found, workers.Failure):
        raise UserError(f"Cannot read {path}: {found.reason}")
    if found:
        raise UserError(f"{path} is damaged: {found}")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it was there when it was opened; what is read is what the worker has
        return 0


def decode(item: str, file: BinaryIO) -> str:
    """Decodes all of a Parquet file; returns the reason if that fails, else "". Runs in a worker process.

    The sizes that the file states are checked before anything is decoded.
    """
    try:
        parquet_pages.check_metadata_size(file.fileno(), _MAX_METADATA_BYTES)
        source = pa.PythonFile(file, "r")
        metadata = parquet.read_metadata(source)
        metadata.schema.to_arrow_schema()
        for number in range(metadata.num_row_groups):
            _check_sizes(file.fileno(), metadata, number)
        with parquet.ParquetFile(source, metadata=metadata, pre_buffer=False) as reader:
            for number in range(metadata.num_row_groups):
                reader.read_row_group(number, use_threads=False).validate(full=True)
    except UserError as error:
        return str(error)
    except (OSError, UnicodeDecodeError, IndexError, pa.ArrowException) as error:  # about the file's contents
        return f"PyArrow cannot decode it: {shorten(str(error).strip(), _MAX_REASON // 2)}"
    return ""


def _check_sizes(file: int, metadata: parquet.FileMetaData, number: int) -> None:
    """Checks the sizes that the columns of a row group state, in the metadata and in their pages."""
    group = metadata.row_group(number)
    for place in range(len(metadata.schema)):
        column = group.column(place)
        parquet_pages.check_column(
            file,
            column,
            shorten(metadata.schema.column(place).path, _MAX_REASON // 10),
            num_values=column.num_values,
            max_bytes=_MAX_COLUMN_BYTES,
        )
