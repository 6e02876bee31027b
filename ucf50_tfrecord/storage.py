"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from ucf50_tfrecord.specs import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path` by rename once the block ends well.

    The temporary file lies beside `path` (a rename is atomic within a file system
    only), is flushed to disk before the rename, and is removed if the block fails.

    Raises:
      UserError: if the file cannot be written (no space, no permission, …).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # An error about another file (a video that was being read) is not ours to explain.
        if error.filename in (None, str(temporary), str(path), str(path.parent)):
            raise UserError(f"Cannot write {path}: {error.strerror or error}") from error
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON atomically, with sorted keys so that equal values give equal bytes."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: if the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
