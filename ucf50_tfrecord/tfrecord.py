"""Reads and writes the TFRecord file format: a file of records, each with a length and checksums.

Source: the format comment in TensorFlow's core/lib/io/record_writer.h.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import crc32c

from ucf50_tfrecord.errors import UserError

# The header holds the payload's length and the length's checksum, the footer the payload's checksum.
HEADER_BYTES, FOOTER_BYTES = 12, 4


class Place(NamedTuple):
    """The position where a record starts; as a text it is the beginning of error messages.

    path: the path or URL of the record's file.
    offset: first byte of the record in the file.
    """

    path: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path}: the record at byte {self.offset}"


def frame(payload: bytes) -> bytes:
    """Returns a record: the payload's length, the length's checksum, the payload, the payload's checksum.

    Checksums are masked CRC-32Cs.
    """
    length = struct.pack("<Q", len(payload))
    return b"".join((length, checksum(crc32c.crc32c(length)), payload, checksum(crc32c.crc32c(payload))))


class Writer:
    """Appends records to a new file, and keeps what a shard's sidecar states about them.

    offsets: the first byte of each record in the file.
    """

    def __init__(self, file: BinaryIO):
        self.offsets: list[int] = []
        self._file, self._digest = file, hashlib.sha256()

    def write(self, payload: bytes) -> None:
        """Appends a record with the given payload."""
        framed = frame(payload)
        self.offsets.append(self._file.tell())
        self._digest.update(framed)
        self._file.write(framed)

    @property
    def num_bytes(self) -> int:
        """The size of the file. Only valid while the file is open."""
        return self._file.tell()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the records, in hexadecimal digits."""
        return self._digest.hexdigest()


def read(file: int, place: Place) -> bytes:
    """Reads the payload of a record from an open file, checking both checksums.

    Args:
      file: file descriptor.
      place: where the record starts; the path in it is used in messages only.

    Raises:
      UserError: if the record is damaged or cut short.
    """
    header = _read(file, HEADER_BYTES, place.offset)
    num_bytes = _record_bytes(header, place)
    if num_bytes > os.fstat(file).st_size - place.offset:
        raise UserError(f"{place} is cut short")
    return unframe(header + _read(file, num_bytes - HEADER_BYTES, place.offset + HEADER_BYTES), place)


def unframe(record: bytes, place: Place) -> bytes:
    """Returns the payload of a record whose bytes are given, checking both checksums.

    Args:
      record: the record's bytes, from its length to the payload's checksum.
      place: where the record starts, for error messages.

    Raises:
      UserError: if the record is damaged or cut short.
    """
    if len(record) < _record_bytes(record[:HEADER_BYTES], place):
        raise UserError(f"{place} is cut short")
    payload = record[HEADER_BYTES:-FOOTER_BYTES]
    if record[-FOOTER_BYTES:] != checksum(crc32c.crc32c(payload)):
        raise UserError(f"{place} is damaged: it has another checksum than it says")
    return payload


def read_file(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields a tuple of offset (in bytes) and payload for each record in a file, checking all checksums.

    Raises:
      OSError: if the file cannot be read.
      UserError: if a record is damaged or cut short.
    """
    with open(path, "rb", buffering=0) as file:
        offset = 0
        while offset < os.fstat(file.fileno()).st_size:
            payload = read(file.fileno(), Place(str(path), offset))
            yield offset, payload
            offset += HEADER_BYTES + len(payload) + FOOTER_BYTES


def checksum(crc: int) -> bytes:
    """Returns the stored form of a CRC-32C: masked, as 4 bytes."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record_bytes(header: bytes, place: Place) -> int:
    """Returns the size of a whole record in bytes, from its header. Raises UserError for a damaged header."""
    if len(header) < HEADER_BYTES:
        raise UserError(f"{place} is cut short")
    if header[8:] != checksum(crc32c.crc32c(header[:8])):
        raise UserError(f"{place} is damaged: its length has another checksum than it says")
    return HEADER_BYTES + struct.unpack("<Q", header[:8])[0] + FOOTER_BYTES


def _read(file: int, num_bytes: int, offset: int) -> bytes:
    """Reads num_bytes at an offset, in several calls if needed; returns fewer only at the file's end."""
    parts, end = [], offset + num_bytes
    while offset < end and (part := os.pread(file, min(end - offset, 1 << 30), offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
