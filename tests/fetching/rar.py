"""Writes RAR archives whose files are stored, not compressed: their format is published, the compression is not."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Mapping

_STORED, COMPRESSED = 0x30, 0x33
_UNIX = 3


def write_rar4(
    files: Mapping[str, bytes],
    *,
    modes: Mapping[str, int] | None = None,
    methods: Mapping[str, int] | None = None,
    crcs: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    solid: bool = False,
) -> bytes:
    """Returns a RAR archive of version 4.

    Args:
      files: the contents of the files, by their names, in which a slash separates folders.
      modes: Unix modes that differ from that of a regular file, by the files' names.
      methods: methods of compression to state. Only an empty file may state another one than "stored".
      crcs, sizes: CRC-32s and sizes to state that differ from the true ones, by the files' names.
      solid: whether the archive calls itself solid.
    """
    parts = [b"Rar!\x1a\x07\x00", _block4(0x73, 0x08 if solid else 0, bytes(6))]
    for name, content in files.items():
        encoded = name.encode()
        header = struct.pack(
            "<LLBLLBBHL",
            len(content),
            (sizes or {}).get(name, len(content)),
            _UNIX,
            (crcs or {}).get(name, zlib.crc32(content)),
            0x5A21_0000,  # a date
            29,
            (methods or {}).get(name, _STORED),
            len(encoded),
            (modes or {}).get(name, stat.S_IFREG | 0o644),
        )
        parts += [_block4(0x74, 0x8000, header + encoded), content]
    return b"".join([*parts, _block4(0x7B, 0x4000, b"")])


def _block4(kind: int, flags: int, content: bytes) -> bytes:
    header = struct.pack("<BHH", kind, flags, 7 + len(content)) + content
    return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header


def write_rar5(files: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    """Returns a RAR archive of version 5.

    Args:
      files: as in write_rar4.
      links: targets of symbolic links, by their names.
    """
    parts = [b"Rar!\x1a\x07\x01\x00", _block5(1, b"\x00")]
    for name, content in files.items():
        parts += [_block5(2, _file5(name, content), data=content), content]
    for name, target in (links or {}).items():
        redirection = _number(5) + _number(1) + _number(0) + _number(len(target)) + target.encode()
        parts.append(_block5(2, _file5(name, b""), extra=_number(len(redirection)) + redirection))
    return b"".join([*parts, _block5(5, b"\x00")])


def _file5(name: str, content: bytes) -> bytes:
    flags, method, system = 0x04, 0, 1  # with a CRC-32; stored; Unix
    fields = _number(flags) + _number(len(content)) + _number(stat.S_IFREG | 0o644)
    fields += struct.pack("<L", zlib.crc32(content)) + _number(method) + _number(system)
    return fields + _number(len(name.encode())) + name.encode()


def _block5(kind: int, content: bytes, *, data: bytes | None = None, extra: bytes = b"") -> bytes:
    flags = (0x01 if extra else 0) | (0x02 if data is not None else 0)
    header = _number(kind) + _number(flags)
    header += _number(len(extra)) if extra else b""
    header += _number(len(data)) if data is not None else b""
    header += content + extra
    header = _number(len(header)) + header
    return struct.pack("<L", zlib.crc32(header)) + header


def _number(value: int) -> bytes:
    """Returns a number as RAR 5 writes it: 7 bits per byte, the lowest first."""
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])
