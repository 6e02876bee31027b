"""Reads the rows of lists of videos that are Parquet files. Loads PyArrow.

A list may come from a stranger. So a worker process reads it, which may crash without harm: PyArrow aborts at some
damaged metadata. The worker checks the sizes and types that the file states, and the sizes in the headers of its pages
(its units of compression), before PyArrow decodes them. Texts stay in dictionaries, in which each one comes once: a few
bytes may stand for a million copies of a long text.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
from pyarrow import parquet

from ucf50_tfrecord import parquet_pages, storage, workers
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import shorten

_MAX_ROWS = 1_000_000
_MAX_METADATA_BYTES = 8 << 20  # those of a thousand row groups take about 2 MB
_WORKER_BYTES, _WORKER_SECS = 2 << 30, 120.0
_NUMBER_BYTES = 9  # of a number in an answer, at most
_MAX_TEXT = 4096  # characters, as many as a path may have
_MAX_SHOWN = 200  # characters of a file's text in an error message
# Parquet's physical and logical types of columns that are read.
_TEXTS = {("BYTE_ARRAY", "STRING")}
# DuckDB writes a number such as 1.5 as an exact decimal.
_NUMBERS = {(kind, logical) for kind in ("INT32", "INT64") for logical in ("NONE", "INT", "DECIMAL")} | {
    ("FLOAT", "NONE"),
    ("DOUBLE", "NONE"),
}
_WITHOUT_VALUES = "UNKNOWN"  # the logical type of a column in which all values are missing


class _Column(msgspec.Struct, forbid_unknown_fields=True):
    """The values of a column, row by row; None for those that are missing.

    texts: the distinct texts of a column of texts, whose values are positions in it; None for numbers.
    """

    texts: list[str] | None
    values: list[int | float | None]


class _Table(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """A worker's answer: the columns by name, all of the same length."""

    columns: dict[str, _Column]


class _Refused(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """A worker's answer: the reason why the file is no list."""

    reason: str


class _Item(msgspec.Struct):
    """A list to read, as read_rows takes it."""

    path: str
    columns: tuple[str, ...]
    max_bytes: int


def read_rows(
    path: pathlib.Path, columns: Collection[str], *, max_bytes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number of each row, counted from 1, and its values by column, without missing ones.

    Args:
      path: the file.
      columns: the names that columns may have; path and label are required.
      max_bytes: largest size of the file, and of all its values.

    Raises:
      UserError: if the file cannot be read, is no Parquet file, states too large sizes, or has a column of another
        name or type.
    """
    try:
        storage.open_file(path).close()
    except OSError as error:
        raise UserError(f"Cannot read the list of videos {path}: {error.strerror or error}") from error
    call = workers.Call(
        function=read_table,
        answer=_Table | _Refused,
        parse=_check_answer,
        max_bytes=max_bytes + len(columns) * _MAX_ROWS * _NUMBER_BYTES,
        timeout_secs=lambda item: _WORKER_SECS,
        open_files=lambda item: [storage.open_file(item.path)],
    )
    item = _Item(str(path), tuple(columns), max_bytes)
    with workers.IsolatedPool(_WORKER_BYTES) as pool:
        [(_, found)] = pool.map(call, [item])
    if isinstance(found, workers.Failure):
        raise UserError(f"Cannot read the list of videos {path}: {found.reason}")
    if isinstance(found, _Refused):
        raise UserError(f"{path} is not a list of videos: {found.reason}")
    rows = zip(*(_values(column) for column in found.columns.values()), strict=True)
    for number, values in enumerate(rows, start=1):
        yield (
            number,
            {name: value for name, value in zip(found.columns, values) if value is not None},
        )


def _check_answer(item: _Item, answer: _Table | _Refused) -> _Table | _Refused:
    """Returns a worker's answer; raises ValueError if it is wrong."""
    if isinstance(answer, _Table):
        lengths = {len(column.values) for column in answer.columns.values()}
        if not set(answer.columns) <= set(item.columns) or len(lengths) != 1 or max(lengths) > _MAX_ROWS:
            raise ValueError("a table of other columns or rows")
        for column in answer.columns.values():
            if column.texts is not None:
                places = set(range(len(column.texts))) | {None}
                kinds = {type(value) for value in column.values}
                if not (kinds <= {int, type(None)} and places.issuperset(column.values)):
                    raise ValueError("a text that is missing")
    return answer


def _values(column: _Column) -> list[Any]:
    texts = column.texts
    if texts is None:
        return column.values
    return [None if place is None else texts[place] for place in column.values]  # type: ignore[index]


def read_table(item: _Item, file: BinaryIO) -> _Table | _Refused:
    """Reads all columns of a list, or says why it is none. Runs in a worker process."""
    try:
        return _Table(_read_columns(item, file))
    except UserError as error:
        return _Refused(str(error))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # about the file's contents
        return _Refused(f"PyArrow cannot decode it: {shorten(str(error), _MAX_SHOWN)}")


def _read_columns(item: _Item, file: BinaryIO) -> dict[str, _Column]:
    size = os.fstat(file.fileno()).st_size
    expect(size <= item.max_bytes, f"a file of at most {item.max_bytes} bytes", bytes=size)
    parquet_pages.check_metadata_size(file.fileno(), _MAX_METADATA_BYTES)
    source = pa.PythonFile(file, "r")
    metadata = parquet.read_metadata(source)
    texts = _check_columns(metadata.schema, item.columns)
    _check_sizes(file.fileno(), metadata, max_bytes=item.max_bytes)
    columns = {column: _Column([] if column in texts else None, []) for column in metadata.schema.names}
    with parquet.ParquetFile(source, metadata=metadata, read_dictionary=texts, pre_buffer=False) as reader:
        for number in range(metadata.num_row_groups):
            if not metadata.row_group(number).num_rows:  # whose pages are not checked
                continue
            table = reader.read_row_group(number, use_threads=False)
            table.validate(full=True)  # the reader does not check indices and UTF-8
            for name, column in columns.items():
                for chunk in table.column(name).chunks:
                    _append(column, chunk, name)
    return columns


def _check_columns(schema: parquet.ParquetSchema, known: Collection[str]) -> list[str]:
    """Checks the names and types of a file's columns; returns the names of those that hold texts."""
    found = [schema.column(place) for place in range(len(schema))]
    names = [column.path for column in found]
    unknown = [shorten(name, _MAX_SHOWN) for name in names if name not in known]
    expect(not unknown, f"columns out of {', '.join(known)}", columns=unknown[: len(known)])
    expect(len(set(names)) == len(names), "distinct columns", columns=names[: 2 * len(known)])
    for name in ("path", "label"):
        expect(name in names, f"a column {name}", columns=names)
    texts = []
    for column in found:
        kind = column.physical_type, column.logical_type.type
        is_flat = column.max_repetition_level == 0 and column.max_definition_level <= 1
        expect(
            is_flat and (kind in _TEXTS | _NUMBERS or kind[1] == _WITHOUT_VALUES),
            f"texts or numbers in column {column.path}",
            type=" ".join(kind),
        )
        if kind in _TEXTS:
            texts.append(column.path)
    return texts


def _check_sizes(file: int, metadata: parquet.FileMetaData, *, max_bytes: int) -> None:
    """Checks the numbers of rows that a file states, and the sizes that its pages state."""
    num_rows = num_bytes = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        expect(group.num_rows >= 0, "0 rows or more", rows=group.num_rows)
        num_rows += group.num_rows
        expect(num_rows <= _MAX_ROWS, f"at most {_MAX_ROWS} rows", rows=metadata.num_rows)
        expect(
            group.num_columns == len(metadata.schema),
            f"{len(metadata.schema)} columns in row group {number}",
            columns=group.num_columns,
        )
        for place in range(
            group.num_columns if group.num_rows else 0
        ):  # without rows, there need not be pages
            name = metadata.schema.column(place).path
            column = group.column(place)
            pages = parquet_pages.check_column(
                file, column, name, num_values=group.num_rows, max_bytes=max_bytes
            )
            num_bytes += pages.num_bytes
            expect(num_bytes <= max_bytes, f"at most {max_bytes} bytes of values", bytes=num_bytes)


def _append(column: _Column, chunk: pa.Array, name: str) -> None:
    """Appends the values of a chunk to a column.

    Raises:
      UserError: if a text is too long, or the file has another type of its own for the column, such as a duration,
        beside Parquet's.
    """
    kind = chunk.type
    if column.texts is None:
        if pa.types.is_decimal(kind):
            chunk, kind = chunk.cast(pa.float64()), pa.float64()
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
        expect(is_number, f"texts or numbers in column {name}", type=shorten(str(kind), _MAX_SHOWN))
        column.values += chunk.to_pylist()
        return
    is_text = pa.types.is_dictionary(kind) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    )
    expect(is_text, f"texts or numbers in column {name}", type=shorten(str(kind), _MAX_SHOWN))
    texts, places = chunk.dictionary.to_pylist(), chunk.indices.to_pylist()
    expect(None not in texts, f"no missing text in the dictionary of column {name}")
    # Each row's mistake shows its text: a long one in many rows would take hours.
    long = {place for place, text in enumerate(texts) if len(text) > _MAX_TEXT}
    row = next((row for row, place in enumerate(places) if place in long), None) if long else None
    if row is not None:
        raise UserError(
            f"row {len(column.values) + row + 1}: {name}: Expected a text of at most {_MAX_TEXT} characters. Received: "
            f"{len(texts[places[row]])} characters"
        )
    first = len(column.texts)
    column.texts += texts
    column.values += [None if place is None else first + place for place in places]
