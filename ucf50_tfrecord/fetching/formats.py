"""Recognizes archives by their first bytes."""

from __future__ import annotations

from ucf50_tfrecord.errors import UserError

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
RAR = (b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00")
# An archive's first bytes; longer than each beginning above.
NUM_BYTES = 8


def check_beginning(content: bytes, name: str) -> None:
    """Checks that the first bytes of a file may be those of an archive.

    Args:
      content: the file's first bytes, as many as are known.
      name: the file's path or URL, for the error.

    Raises:
      UserError: if they are not those of a RAR or ZIP archive.
    """
    size = min(len(content), NUM_BYTES)
    if not any(content[:size].startswith(start[:size]) for start in (*ZIP, *RAR)):
        raise UserError(
            f"Expected a RAR or ZIP archive. Received: {name}, which begins with {content[:16]!r}"
        )
