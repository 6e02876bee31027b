"""Checks the pages of a Parquet file, its units of compression, before a library decodes them.

Metadata at the end of a Parquet file states the sizes of its columns. Each page has a header that states the
page's own sizes, and a decoder allocates what the header says. In a hostile file, a page of some bytes may
state gigabytes. So this module reads the headers first.

Source: https://parquet.apache.org/docs/file-format/data-pages/, and the compact protocol of Apache Thrift.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ucf50_tfrecord.errors import UserError, expect

if TYPE_CHECKING:
    from pyarrow import parquet

# A header takes about 30 bytes, and up to 17 KB with the least and the greatest value, each stated twice. PyArrow
# leaves out values of more than 4 KB.
_MAX_HEADER_BYTES = 20 << 10
_MAX_DEPTH = 3  # structures in a header: the page's, the kind's, the statistics
_MAX_FIELD = 15
_MAX_INT32 = 2**31 - 1
# Fields of a page's header, of the structures for the kinds of pages, and of the latter.
_KIND, _UNCOMPRESSED, _COMPRESSED, _DATA, _DICTIONARY, _NUM_VALUES = 1, 2, 3, 5, 7, 1
_ENCODING = 2
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
# The encoding in which a value may repeat the beginning of the one before (DELTA_BYTE_ARRAY): some bytes would make
# gigabytes. All other encodings of texts hold each value's bytes.
_SHARED_BEGINNINGS = 7
_FOOTER = b"PAR1"  # the end of a file, behind the length of its metadata in 4 bytes

Fields = dict[int, "int | bytes | Fields"]


class Pages(NamedTuple):
    """The sizes that the pages of one column state, within a row group (a range of rows).

    num_values: number of values in the data pages.
    num_distinct: number of values in the dictionary page; 0 without one.
    num_bytes: bytes of all pages once they are decompressed.
    """

    num_values: int
    num_distinct: int
    num_bytes: int


def check_metadata_size(file: int, max_bytes: int) -> None:
    """Checks the stated length of a file's metadata, which a reader decodes as a whole.

    Args:
      file: descriptor of the open file.
      max_bytes: largest length.

    Raises:
      UserError: if the file is no Parquet file, or its metadata are longer than `max_bytes` or the file.
    """
    size = os.fstat(file).st_size
    ending = os.pread(file, 8, max(0, size - 8))
    expect(ending[4:] == _FOOTER and size >= 12, "a Parquet file", ending=ending[4:])
    length, most = int.from_bytes(ending[:4], "little"), min(max_bytes, size - 12)
    expect(length <= most, f"at most {most} bytes of metadata", bytes=length)


def check_column(
    file: int, column: parquet.ColumnChunkMetaData, name: str, *, num_values: int, max_bytes: int
) -> Pages:
    """Checks that a column of a row group states a number of values, and how many bytes they take at most.

    Args:
      file: descriptor of the open file.
      column: the column's metadata.
      name: the column's name, for messages.
      num_values: the number of values.
      max_bytes: largest size of the pages, compressed and decompressed.

    Raises:
      UserError: if it states something else, or its bytes are no pages.
    """
    size, first = column.total_compressed_size, column.data_page_offset
    expect(size <= max_bytes, f"at most {max_bytes} bytes in column {name}", bytes=size)
    if column.has_dictionary_page:
        first = min(first, column.dictionary_page_offset)
    try:
        found = measure(file, first, size)
    except ValueError as error:
        raise UserError(f"Expected pages of values in column {name}. Received: {error}") from None
    expect(
        found.num_values == column.num_values == num_values,
        f"{num_values} values in column {name}",
        values=found.num_values,
        stated=column.num_values,
    )
    expect(found.num_bytes <= max_bytes, f"at most {max_bytes} bytes in column {name}", bytes=found.num_bytes)
    return found


def measure(file: int, start: int, num_bytes: int) -> Pages:
    """Reads the headers of a column's pages within a row group.

    Args:
      file: descriptor of the open file.
      start: position of the first page.
      num_bytes: bytes of all pages with their headers.

    Raises:
      ValueError: if the bytes are not a sequence of pages, of the first version of data pages.
    """
    place, end = start, start + num_bytes
    values = distinct = decompressed = 0
    while place < end:
        header = os.pread(file, min(_MAX_HEADER_BYTES, end - place), place)
        try:
            fields, length = _parse_struct(header, 0, depth=1)
        except IndexError:
            raise ValueError("a page's header that does not end") from None
        kind, size = _number(fields, _KIND), _number(fields, _COMPRESSED)
        if kind not in (_DATA_PAGE, _DICTIONARY_PAGE):
            raise ValueError(f"a page of kind {kind}")
        described = _struct(fields, _DATA if kind == _DATA_PAGE else _DICTIONARY)
        if described.get(_ENCODING) == _SHARED_BEGINNINGS:
            raise ValueError("a page whose values share their beginnings")
        count = _number(described, _NUM_VALUES)
        if kind == _DATA_PAGE:
            values += count
        elif place == start:
            distinct = count
        else:
            raise ValueError("a page with a second dictionary")
        decompressed += _number(fields, _UNCOMPRESSED)
        place += length + size
    if place != end:
        raise ValueError("a page that is longer than its column")
    return Pages(values, distinct, decompressed)


def _number(fields: Fields, field: int) -> int:
    value = fields.get(field)
    if not isinstance(value, int) or not 0 <= value <= _MAX_INT32:
        raise ValueError(f"a page's header whose field {field} is no number of bytes or values")
    return value


def _struct(fields: Fields, field: int) -> Fields:
    value = fields.get(field)
    if not isinstance(value, dict):
        raise ValueError(f"a page's header without field {field}")
    return value


def _parse_struct(data: bytes, place: int, *, depth: int) -> tuple[Fields, int]:
    """Parses a structure of Thrift's compact protocol; returns its fields and the position behind it.

    Refuses what other parsers may read in another way, such as a field that comes twice.

    Raises:
      IndexError: if the data ends within the structure.
      ValueError: if it is no structure of a page's header.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("a page's header that is nested too deeply")
    fields: Fields = {}
    field = 0
    while head := data[place]:
        place += 1
        if not head >> 4:
            raise ValueError("a page's header with an unusual field")
        field += head >> 4
        if field > _MAX_FIELD or field in fields:
            raise ValueError("a page's header with an unknown field")
        match head & 15:
            case 1 | 2 as kind:  # a truth value lies in its kind
                fields[field] = int(kind == 1)
            case 5 | 6:
                number, place = _parse_varint(data, place)
                fields[field] = number >> 1 ^ -(number & 1)
            case 8:
                length, place = _parse_varint(data, place)
                fields[field] = data[place : place + length]
                place += length
            case 12:
                fields[field], place = _parse_struct(data, place, depth=depth + 1)
            case kind:
                raise ValueError(f"a page's header with a value of kind {kind}")
    return fields, place + 1


def _parse_varint(data: bytes, place: int) -> tuple[int, int]:
    """Parses an unsigned number of up to 63 bits; returns it and the position behind it."""
    number = 0
    for shift in range(0, 63, 7):
        number |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            return number, place
    raise ValueError("a page's header with a number of more than 63 bits")
