"""Damages Parquet files, by changing their columns, rows and row groups (ranges of rows), or their bytes."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tools.fuzzing import mutate

_NUMBERS = (-1, 0, 1, 2, 7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1e38, 1e-45, float("nan"), float("inf"))
_TEXTS = ("", " ", "none", "shuffle1", "\0", "é" * 200, "x" * 1_000_000)
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"compression": "none"},
    {"compression": "gzip"},
    {"data_page_version": "2.0"},
    {"use_dictionary": False},
    {"store_schema": False},
    {"data_page_size": 64, "write_batch_size": 4},
)
# A row with so many numbers takes 40 MB, out of some KB.
_LONG = 10_000_000

Change = Callable[[pa.Table, random.Random, Sequence[str]], pa.Table]


def damage(content: bytes, rng: random.Random, names: Sequence[str]) -> bytes:
    """Returns a damaged version of a Parquet file; `names` are strings that may replace the file's strings."""
    if rng.random() < 0.5:
        return _damage_bytes(content, rng)
    with parquet.ParquetFile(io.BytesIO(content)) as file:
        tables = [file.read_row_group(number) for number in range(file.num_row_groups)]
    everywhere = rng.random() < 0.2
    change, place = rng.choice(_CHANGES), rng.randrange(len(tables))
    state = rng.getstate()
    for number in range(len(tables)):
        if everywhere or number == place:
            rng.setstate(state)  # the same change of each table, so that they keep one schema
            tables[number] = change(tables[number], rng, names)
    schema = tables[place].schema
    if rng.random() < 0.1:
        rng.shuffle(tables)
    if rng.random() < 0.1:
        del tables[rng.randrange(len(tables))]
    written = io.BytesIO()
    with parquet.ParquetWriter(written, schema, **rng.choice(({}, {}, {}, *_OPTIONS))) as writer:
        for table in tables:
            if table.schema.equals(schema):
                writer.write_table(table)
    return written.getvalue()


def _damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damages bytes anywhere, or in the metadata at the end, which are few of the bytes."""
    start = 0
    if rng.random() < 0.5:
        start = max(0, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))
    return content[:start] + mutate.damage(content[start:], rng)[0]


def _column(table: pa.Table, rng: random.Random) -> tuple[int, pa.Field, list]:
    place = rng.randrange(table.num_columns)
    return place, table.schema.field(place), table.column(place).to_pylist()


def _change_value(table: pa.Table, rng: random.Random, names: Sequence[str]) -> pa.Table:
    """Replaces one value, or all values, of a column."""
    place, field, values = _column(table, rng)
    if pa.types.is_list(field.type):
        width = rng.choice((0, 1, 3, len(values[0]), len(values[0]) * 2, _LONG if len(values) < 100 else 9))
        new: Any = [rng.choice(_FLOATS)] * width
    elif pa.types.is_dictionary(field.type):
        new = rng.choice((*_TEXTS, *values[:3], *names)).encode(errors="replace").decode()
    else:
        new = rng.choice((*_NUMBERS, *values[:3]))
    if rng.random() < 0.3:
        values = [new] * len(values) if not isinstance(new, list) or len(new) < 100 else [new]
        values += [new] * (len(table) - len(values)) if not isinstance(new, list) else []
        table = table.slice(0, len(values))
    else:
        values[rng.randrange(len(values))] = new
    return table.set_column(place, field, pa.array(values, field.type))


def _change_type(table: pa.Table, rng: random.Random, names: Sequence[str]) -> pa.Table:
    """Replaces a column by one of another type, of nulls for instance."""
    place, field, values = _column(table, rng)
    kind = rng.choice(
        (pa.string(), pa.int32(), pa.float64(), pa.bool_(), pa.list_(pa.float64()), pa.binary())
    )
    return table.set_column(place, pa.field(field.name, kind), pa.array([None] * len(values), kind))


def _change_columns(table: pa.Table, rng: random.Random, names: Sequence[str]) -> pa.Table:
    """Removes, renames, repeats or moves a column."""
    place, field, _ = _column(table, rng)
    how = rng.randrange(4)
    if how == 0:
        return table.remove_column(place)
    if how == 1:
        return table.rename_columns([f"{n}s" if n == field.name else n for n in table.column_names])
    return table.add_column(0, field.with_name(f"more {how}"), table.column(place))


def _change_rows(table: pa.Table, rng: random.Random, names: Sequence[str]) -> pa.Table:
    """Removes, repeats or shuffles rows."""
    rows = list(range(len(table)))
    how = rng.randrange(4)
    if how == 0:
        del rows[rng.randrange(len(rows))]
    elif how == 1:
        rows.append(rng.choice(rows))
    elif how == 2:
        rng.shuffle(rows)
    else:
        rows *= rng.choice((0, 2, 1000))
    return table.take(pa.array(rows, pa.int64()))


_CHANGES: tuple[Change, ...] = (
    *(_change_value,) * 4,
    _change_type,
    _change_columns,
    *(_change_rows,) * 2,
)
