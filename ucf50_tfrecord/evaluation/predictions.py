"""The predictions of a comparison: a Parquet file with one row per cell, intervention and tested clip.

A cell is one training of the comparison. Each row group (a range of rows that can be read alone) holds one
cell under one intervention. So logits are read when they are needed, and few are in memory at a time. Other
programs read the file as it is; docs/comparing.md describes its columns.

A file may be damaged or come from an untrusted source. `read` checks all but the logits, and each access to
logits checks these. Nothing is decoded before the sizes that the file states are checked, so a file cannot
take more memory than the comparison's clips and classes imply.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ucf50_tfrecord import parquet_pages, storage
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import interventions
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import Cell, CellResult, ComparedClips
from ucf50_tfrecord.specs import shorten

FILENAME = "predictions.parquet"
_NAME = pa.dictionary(pa.int32(), pa.string())
_KEY = {
    **dict.fromkeys(("model", "training", "split"), _NAME),
    **dict.fromkeys(("part", "seed"), pa.int64()),
    "held_out": _NAME,
    "intervention": _NAME,
}
_CLIP = {
    "clip": _NAME,
    **dict.fromkeys(("group", "fold", "label"), pa.int64()),
    "class_name": _NAME,
}
_LOGITS = {"logits": pa.list_(pa.field("element", pa.float32(), nullable=False))}
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in (_KEY | _CLIP | _LOGITS).items()])
_LEAF = "logits.list.element"  # Parquet's name of the column of all logits
_LEAVES = (*_KEY, *_CLIP, _LEAF)
_LATER = "held_out"  # a column that earlier versions did not write: no class was held out
_EARLIER_LEAVES = tuple(name for name in _LEAVES if name != _LATER)
_WRITER = {
    "compression": "zstd",
    "use_dictionary": [name for name in _LEAVES if name != _LEAF],
    # Splitting floats into their bytes makes them compress better.
    "column_encoding": {_LEAF: "BYTE_STREAM_SPLIT"},
    "write_statistics": list(_KEY),  # by which other programs skip row groups
}
# Upper limits on stated sizes. A row group's metadata take 2 KB, a value's levels (where lists begin) some bits.
_GROUP_METADATA_BYTES, _VALUE_BYTES, _EXTRA_BYTES = 16 << 10, 16, 64 << 10
_DAMAGE = (pa.ArrowException, UnicodeDecodeError)  # errors of PyArrow about a file's contents
_MAX_SHOWN = 200  # characters of a file's text in an error message


class Predictions(Mapping[str, np.ndarray]):
    """Logits of a cell's test clips by intervention, float32 [M, C], read from a file at each access.

    clips: indices of the M test clips in the comparison's clips, int64 [M].
    """

    def __init__(self, table: _Table, clips: np.ndarray, row_groups: Mapping[str, int]):
        self.clips = clips
        self._table, self._row_groups = table, row_groups

    def __getitem__(self, name: str) -> np.ndarray:
        return self._table.read_logits(self._row_groups[name])

    def __contains__(self, name: object) -> bool:
        return name in self._row_groups  # without reading it, as Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_groups)

    def __len__(self) -> int:
        return len(self._row_groups)


def write(path: pathlib.Path, clips: ComparedClips, results: Iterable[CellResult]) -> None:
    """Writes the predictions of cells into a file, one cell and intervention at a time.

    Equal predictions give equal bytes, with the same version of PyArrow.

    Args:
      path: path of the file.
      clips: the clips of the comparison.
      results: the cells' results.

    Raises:
      UserError: if the file cannot be written, or the logits of `results` cannot be read.
    """
    with (
        storage.atomic_write(path) as file,
        parquet.ParquetWriter(file, _SCHEMA, **_WRITER) as writer,
    ):
        for result in results:
            for name, logits in result.logits.items():
                columns = _key_columns(result.cell, name, len(logits)) | _clip_columns(clips, result.clips)
                columns["logits"] = _lists(logits)
                table = pa.table(columns, schema=_SCHEMA)
                writer.write_table(table, row_group_size=len(table))


def read(path: pathlib.Path, clips: ComparedClips, cells: Collection[Cell]) -> dict[Cell, Predictions]:
    """Reads a file of predictions, except for their logits.

    Args:
      path: path of the file.
      clips: the clips of the comparison.
      cells: the cells that the file must hold, and no others.

    Returns:
      A dictionary from each cell to its predictions, in the order of `cells`.

    Raises:
      storage.MissingError: if the file does not exist.
      UserError: if the file does not hold predictions of these cells.
    """
    names = interventions.names(clips.num_frames)
    table = _Table.open(path, clips, max_row_groups=len(cells) * len(names))
    keys = {_key(cell, name): (cell, name) for cell in cells for name in names}
    place = {_text(clip_id): i for i, clip_id in enumerate(clips.ids)}
    tested: dict[Cell, np.ndarray] = {}
    row_groups: dict[Cell, dict[str, int]] = {cell: {} for cell in cells}
    with table.naming():
        expect(len(place) == len(clips.ids), "distinct ids of clips", distinct=len(place))
        for number in range(table.num_row_groups):
            with _naming_row_group(number):
                columns = table.read_columns(number)
                key = tuple(_only(columns, name) for name in _KEY)
                wanted = f"a cell and an intervention of the comparison in {', '.join(_KEY)}"
                expect(key in keys, wanted, row=_shown(key))
                cell, name = keys[key]
                earlier = row_groups[cell].get(name)
                expect(earlier is None, f"{name!r} of {cell} once", row_groups=[earlier, number])
                chosen = _find_clips(columns, clips, place)
                expect(
                    np.array_equal(chosen, tested.setdefault(cell, chosen)),
                    f"the same clips under all interventions of {cell} in column clip",
                    intervention=name,
                )
                row_groups[cell][name] = number
        for cell, found in row_groups.items():
            expect(
                PLAIN in found, f"predictions for unchanged clips ({PLAIN!r}) of {cell}", found=list(found)
            )
    return {cell: Predictions(table, tested[cell], row_groups[cell]) for cell in cells}


@dataclasses.dataclass(frozen=True)
class _Table:
    """A file of predictions whose metadata are checked.

    path: path of the file.
    metadata: the metadata at the end of the file.
    num_classes: number of classes, C.
    text_bytes: upper limit on the bytes of the texts of a column of a row group.
    """

    path: pathlib.Path
    metadata: parquet.FileMetaData
    num_classes: int
    text_bytes: int

    @classmethod
    def open(cls, path: pathlib.Path, clips: ComparedClips, *, max_row_groups: int) -> _Table:
        """Opens a file of predictions for `clips`, and checks the sizes and types that it states."""
        with _naming(path):
            with _open(path) as file:
                most = _EXTRA_BYTES + max_row_groups * _GROUP_METADATA_BYTES
                parquet_pages.check_metadata_size(file.fileno(), most)
                metadata = parquet.read_metadata(pa.PythonFile(file, "r"))
            names = [*clips.ids, *clips.classes]
            text_bytes = sum(2 * (len(_text(name).encode()) + 4) for name in names)  # once in a dictionary
            table = cls(path, metadata, len(clips.classes), text_bytes)
            expect(
                0 < metadata.num_row_groups <= max_row_groups,
                f"1 to {max_row_groups} row groups",
                row_groups=metadata.num_row_groups,
            )
            table._check_types()
            for number in range(metadata.num_row_groups):
                with _naming_row_group(number):
                    table._check_row_group(number, max_rows=len(clips.ids))
        return table

    @functools.cached_property
    def leaves(self) -> tuple[str, ...]:
        """Names of the file's columns, with the logits' own one."""
        schema = self.metadata.schema
        return tuple(schema.column(number).path for number in range(len(schema)))

    @property
    def num_row_groups(self) -> int:
        return self.metadata.num_row_groups

    def naming(self) -> contextlib.AbstractContextManager[None]:
        """Converts errors of the block into UserErrors that name the file."""
        return _naming(self.path)

    def read_columns(self, number: int) -> pa.Table:
        """Reads all columns but the logits of a row group."""
        names = [*_KEY, *_CLIP]
        if _LATER in self.leaves:
            return self._read(number, names)
        found = self._read(number, [name for name in names if name != _LATER])
        return found.append_column(_SCHEMA.field(_LATER), pa.repeat("", len(found)).dictionary_encode())

    def read_logits(self, number: int) -> np.ndarray:
        """Reads the logits of a row group of M rows, float32 [M, C].

        Raises:
          UserError: if they are damaged, not finite, or not C in each row.
        """
        with self.naming(), _naming_row_group(number):
            column = self._read(number, ["logits"]).column("logits").combine_chunks()
            values = column.flatten().to_numpy().reshape(-1)
            lengths = np.diff(column.offsets.to_numpy())
            expect(
                bool((lengths == self.num_classes).all()) and not column.null_count,
                f"{self.num_classes} numbers in each row of column logits",
                fewest=int(lengths.min()),
                most=int(lengths.max()),
            )
            finite = np.isfinite(values)
            expect(bool(finite.all()), "finite numbers in column logits", not_finite=int((~finite).sum()))
            return values.reshape(-1, self.num_classes)

    def _read(self, number: int, columns: Sequence[str]) -> pa.Table:
        # Opened at each access, since a comparison may have more files than a process may have open.
        with _open(self.path) as file:
            source = pa.PythonFile(file, "r")
            with parquet.ParquetFile(source, metadata=self.metadata, pre_buffer=False) as reader:
                found = reader.read_row_group(number, columns=list(columns), use_threads=False)
        rows = self.metadata.row_group(number).num_rows
        expect(len(found) == rows, f"{rows} rows", rows=len(found))
        found.validate(full=True)  # the reader does not check indices, offsets and UTF-8
        return found

    def _check_types(self) -> None:
        expect(
            self.leaves in (_LEAVES, _EARLIER_LEAVES),
            f"the columns {', '.join(_LEAVES)}",
            columns=_shown(", ".join(self.leaves)),
        )
        found = self.metadata.schema.to_arrow_schema()
        for field in (field for field in _SCHEMA if field.name in found.names):
            expect(
                found.field(field.name).equals(field),
                f"{field.type} without nulls in column {field.name}",
                type=_shown(found.field(field.name).type),
            )

    def _check_row_group(self, number: int, *, max_rows: int) -> None:
        """Checks that the stated sizes of a row group are those of predictions for at most `max_rows` clips."""
        group = self.metadata.row_group(number)
        expect(0 < group.num_rows <= max_rows, f"1 to {max_rows} rows", rows=group.num_rows)
        with _open(self.path) as file:
            for place, name in enumerate(self.leaves):
                values = group.num_rows * (self.num_classes if name == _LEAF else 1)
                self._check_column(file.fileno(), group.column(place), name, values)

    def _check_column(
        self, file: int, column: parquet.ColumnChunkMetaData, name: str, num_values: int
    ) -> None:
        """Checks that a column of a row group states `num_values` values and the bytes that they may take."""
        most = num_values * _VALUE_BYTES + self.text_bytes + _EXTRA_BYTES
        found = parquet_pages.check_column(file, column, name, num_values=num_values, max_bytes=most)
        distinct = found.num_distinct
        expect(
            distinct <= num_values,
            f"at most {num_values} distinct values in column {name}",
            distinct=distinct,
        )


def _open(path: pathlib.Path):
    try:
        return storage.open_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise storage.MissingError(f"Cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Converts errors of the block into UserErrors that name the file of predictions at `path`."""
    problem = f"{path} does not hold predictions of this comparison"
    try:
        yield
    except storage.MissingError:
        raise
    except UserError as error:
        raise UserError(f"{problem}: {error}") from error
    except OSError as error:
        if error.errno:
            raise UserError(f"Cannot read {path}: {error.strerror}") from error
        raise UserError(f"{problem}: it is damaged: {_shown(error)}") from error  # PyArrow's have no errno
    except _DAMAGE as error:
        raise UserError(f"{problem}: it is damaged: {_shown(error)}") from error


@contextlib.contextmanager
def _naming_row_group(number: int) -> Iterator[None]:
    """Adds the number of a row group to UserErrors and PyArrow's errors of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"row group {number}: {error}") from error
    except _DAMAGE as error:
        raise UserError(f"row group {number} is damaged: {_shown(error)}") from error


def _shown(value: object) -> str:
    """Returns the text of a value out of a file, short enough for an error message."""
    return shorten(str(value).strip(), _MAX_SHOWN)


def _only(columns: pa.Table, name: str) -> str | int:
    """Returns the only value of a column; raises UserError if it has several."""
    values = columns.column(name).combine_chunks()
    found = values.unique()
    expect(len(found) == 1, f"one value in column {name}", values=len(found))
    return found[0].as_py()


def _find_clips(columns: pa.Table, clips: ComparedClips, place: Mapping[str, int]) -> np.ndarray:
    """Returns the indices of a row group's clips, int64 [M], and checks what its columns say about them.

    Args:
      columns: the columns _CLIP of the row group.
      clips: the clips of the comparison.
      place: dictionary from each clip's id, as in the file, to its index.
    """
    chosen = _look_up(columns, "clip", place)
    distinct = len(np.unique(chosen))
    expect(distinct == len(chosen), "each clip once in column clip", rows=len(chosen), distinct=distinct)
    labels = _look_up(columns, "class_name", {_text(name): i for i, name in enumerate(clips.classes)})
    found = {name: columns.column(name).to_numpy() for name in ("group", "fold", "label")}
    for name, values, known in (
        ("group", found["group"], clips.groups),
        ("fold", found["fold"], clips.folds),
        ("label", found["label"], clips.labels),
        ("class_name", labels, clips.labels),
    ):
        wrong = np.flatnonzero(values != known[chosen])
        if len(wrong):
            clip = chosen[wrong[0]]
            expected = f"{int(known[clip])} in column {name} of clip {clips.ids[clip]!r}"
            expect(False, expected, **{name: int(values[wrong[0]])})
    return chosen


def _look_up(columns: pa.Table, name: str, place: Mapping[str, int]) -> np.ndarray:
    """Converts a column of texts to numbers, int64 [M]; raises UserError if a text is not in `place`."""
    values = columns.column(name).combine_chunks()
    texts = values.dictionary.to_pylist()
    found = np.array([place.get(text, -1) for text in texts], np.int64)[values.indices.to_numpy()]
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        value = _shown(values[int(unknown[0])].as_py())
        expect(False, f"values of the comparison in column {name}", value=value)
    return found


def _key_columns(cell: Cell, name: str, count: int) -> dict[str, pa.Array]:
    """Returns the columns that name a cell and an intervention, in each of `count` rows."""
    return {
        column: pa.repeat(value, count).dictionary_encode() if isinstance(value, str) else [value] * count
        for column, value in zip(_KEY, _key(cell, name))
    }


def _clip_columns(clips: ComparedClips, chosen: np.ndarray) -> dict[str, pa.Array]:
    """Returns the columns about the clips with the indices `chosen`, int64 [M]."""
    labels = clips.labels[chosen]
    return {
        "clip": pa.array([_text(clips.ids[i]) for i in chosen]).dictionary_encode(),
        "group": clips.groups[chosen],
        "fold": clips.folds[chosen],
        "label": labels,
        "class_name": pa.array([_text(clips.classes[label]) for label in labels]).dictionary_encode(),
    }


def _lists(logits: np.ndarray) -> pa.ListArray:
    """Converts logits, float [M, C], to M lists of C numbers."""
    offsets = np.arange(len(logits) + 1, dtype=np.int32) * logits.shape[1]
    values = pa.array(np.ascontiguousarray(logits, np.float32).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values, type=_LOGITS["logits"])


def _key(cell: Cell, name: str) -> tuple[str | int, ...]:
    """Returns the values of the columns _KEY for a cell and the name of an intervention."""
    order, split = str(cell.training), str(cell.split)
    return (_text(cell.model), order, split, cell.part, cell.seed, cell.held_out_text, name)


def _text(name: str) -> str:
    """Returns a name as valid Unicode, which Parquet requires. Names from file names may hold other bytes."""
    return name.encode("utf-8", "backslashreplace").decode()
