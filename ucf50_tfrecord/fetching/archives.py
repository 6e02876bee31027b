"""Lists the files in an archive and reads their bytes; nothing is written here.

Archives come from strangers. Only regular files with names inside the archive are listed; an archive with a link,
or with a name that leads outside, is refused as a whole. Sizes and CRC-32s are checked for both formats here,
whatever decompresses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import lzma
import os
import pathlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import IO, Protocol

from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.fetching import formats, unpackers

_CHUNK_BYTES = 1 << 20
_MAX_ENTRIES = 200_000
# What the readers of archives raise for damaged ones, besides rarfile's own errors.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A regular file in an archive.

    path: its path in the archive, checked: relative, without "..", printable.
    num_bytes: its size, as the archive states it.
    crc: its CRC-32, as the archive states it.
    position: its position among the archive's entries.
    """

    path: pathlib.PurePosixPath
    num_bytes: int
    crc: int
    position: int


class Archive(Protocol):
    """An open archive.

    entries: its regular files, in the archive's order.
    """

    entries: tuple[Entry, ...]

    def read(self, wanted: Collection[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Yields each wanted entry with its bytes, in chunks, which must be used before the next entry.

        Raises (also while the bytes are used):
          UserError: if the archive is damaged, or cannot be decompressed here.
        """
        ...


@contextlib.contextmanager
def open_archive(path: pathlib.Path) -> Iterator[Archive]:
    """Opens a RAR or ZIP archive, which its first bytes tell apart.

    Raises:
      UserError: if the file cannot be read, is no such archive, is damaged, encrypted, or not safe to unpack.
    """
    try:
        with storage.open_file(path) as file:
            beginning = file.read(formats.NUM_BYTES)
    except OSError as error:
        raise UserError(f"Cannot read the archive {path}: {error.strerror}") from error
    formats.check_beginning(beginning.ljust(formats.NUM_BYTES, b"\0"), str(path))
    with contextlib.ExitStack() as stack:
        with _explained(path):
            if beginning.startswith(formats.ZIP):
                archive: Archive = _Zip(path, stack.enter_context(zipfile.ZipFile(path)))
            else:
                archive = _Rar(path)
        yield archive


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    """Turns the block's errors of a damaged or unreadable archive into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, _DAMAGE) and type(error).__module__ != "rarfile":
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The archive {path} is damaged, or of an unknown kind: {text}") from error


def safe_path(name: str, archive: pathlib.Path) -> pathlib.PurePosixPath:
    """Returns the path of an archive's entry from its name, in which a backslash separates folders, too.

    Raises:
      UserError: if the path is absolute or leads outside of the archive, or has characters that do not print.
    """
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    has_drive = path.parts and path.parts[0].endswith(":")
    if not name.isprintable() or path.is_absolute() or has_drive or ".." in path.parts or not path.parts:
        raise UserError(f"The archive {archive} is not safe to unpack: it holds a file named {name!r}")
    return path


def _refuse(archive: pathlib.Path, name: str, what: str) -> UserError:
    return UserError(f"The archive {archive} is not safe to unpack: {name!r} in it is {what}")


def _check_number(archive: pathlib.Path, number: int) -> None:
    if number > _MAX_ENTRIES:
        raise UserError(
            f"Expected an archive of at most {_MAX_ENTRIES} files. Received: {archive} with {number}"
        )


def _checked(archive: pathlib.Path, entry: Entry, chunks: Iterator[bytes], hint: str = "") -> Iterator[bytes]:
    """Yields an entry's chunks; never more bytes than it states.

    Raises:
      UserError: after the last chunk, if size or CRC differ.
    """
    num_read, crc = 0, 0
    with _explained(archive):
        for chunk in chunks:
            num_read, crc = num_read + len(chunk), zlib.crc32(chunk, crc)
            if num_read > entry.num_bytes:
                break
            yield chunk
    if (num_read, crc) != (entry.num_bytes, entry.crc):
        raise UserError(
            f"The archive {archive} is damaged: {entry.path} in it has another size or CRC-32 than stated{hint}"
        )


def _read_each(
    archive: Archive, path: pathlib.Path, wanted: Collection[Entry], open_entry: Callable[[Entry], IO[bytes]]
) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Reads entries that can be opened one by one; see Archive.read."""
    for entry in archive.entries:
        if entry in wanted:
            with _explained(path):
                file = open_entry(entry)
            with file:
                yield entry, _checked(path, entry, iter(lambda: file.read(_CHUNK_BYTES), b""))


class _Zip(Archive):
    def __init__(self, path: pathlib.Path, opened: zipfile.ZipFile):
        self._path, self._opened = path, opened
        self._infos = opened.infolist()
        _check_number(path, len(self._infos))
        self.entries = tuple(
            self._entry(position, info) for position, info in enumerate(self._infos) if not info.is_dir()
        )

    def _entry(self, position: int, info: zipfile.ZipInfo) -> Entry:
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if another system than Unix made the archive
        if kind not in (0, stat.S_IFREG):
            raise _refuse(self._path, info.filename, "no regular file, such as a link")
        if info.flag_bits & 1:
            raise _refuse(self._path, info.filename, "encrypted")
        return Entry(safe_path(info.filename, self._path), info.file_size, info.CRC, position)

    def read(self, wanted: Collection[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        return _read_each(
            self, self._path, wanted, lambda entry: self._opened.open(self._infos[entry.position])
        )


class _Rar(Archive):
    """A RAR archive: listed by rarfile, which also reads what is stored uncompressed; else by an unpacker."""

    def __init__(self, path: pathlib.Path):
        try:
            import rarfile
        except ImportError as error:
            raise UserError(
                f"Reading the RAR archive {path} needs a package that is missing ({error})",
                Remedy(Action.INSTALL, extras="convert"),
            ) from error
        # Comments are not needed, and rarfile would start a program for a compressed one.
        rarfile.RAR_MAX_COMMENT = -1
        self._path, self._rarfile = path, rarfile
        with _explained(path):
            self._opened = rarfile.RarFile(os.fspath(path), errors="strict", part_only=True)
            if self._opened.needs_password():
                raise UserError(f"Expected an archive that is not encrypted. Received: {path}")
            self._infos = self._opened.infolist()
            _check_number(path, len(self._infos))
            self.entries = tuple(
                self._entry(position, info) for position, info in enumerate(self._infos) if not info.is_dir()
            )

    def _entry(self, position: int, info) -> Entry:
        if not info.is_file() or info.file_redir is not None:
            raise _refuse(self._path, info.filename, "no regular file, such as a link")
        if info.CRC is None:
            raise UserError(f"Expected an archive with CRC-32s. Received: {self._path}, which has none")
        return Entry(safe_path(info.filename, self._path), info.file_size, info.CRC, position)

    def read(self, wanted: Collection[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        infos = [self._infos[entry.position] for entry in self.entries]
        if all(info.compress_type == self._rarfile.RAR_M0 for info in infos):
            return _read_each(
                self, self._path, wanted, lambda entry: self._opened.open(self._infos[entry.position])
            )
        return self._read_compressed(wanted)

    def _read_compressed(self, wanted: Collection[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Splits the output of an unpacker, which is the contents of all files in their order."""
        tool = unpackers.find(solid=self._opened.is_solid())
        hint = f", or {tool.name} cannot decompress it"
        with unpackers.running(tool, self._path) as read:
            for entry in self.entries:
                chunks = _checked(self._path, entry, _take(read, entry.num_bytes), hint)
                if entry in wanted:
                    yield entry, chunks
                for _ in chunks:
                    pass  # the next file begins behind this one's bytes
            if read(1):
                raise UserError(
                    f"{tool.name} found other files in the archive {self._path} than are listed in it"
                )


def _take(read: Callable[[int], bytes], num_bytes: int) -> Iterator[bytes]:
    """Yields the next bytes of a stream, in chunks; fewer if the stream ends."""
    while num_bytes and (chunk := read(min(num_bytes, _CHUNK_BYTES))):
        num_bytes -= len(chunk)
        yield chunk
