"""Reads the project's pins: the tested version of each package it depends on, and its files' hashes."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection
from typing import NamedTuple

REPOSITORY = pathlib.Path(__file__).parents[1]
# The extra `io`, TensorFlow 2.17 with tensorflow-io, has pins of its own.
PINS, IO_PINS = REPOSITORY / "constraints.txt", REPOSITORY / "constraints-io.txt"
_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.!+-]+)(?P<hashes>( +--hash=sha256:[0-9a-f]{64})*)")


class Pin(NamedTuple):
    """The pinned version of a package and the hashes of its files, each as a pip option --hash=sha256:…."""

    version: str
    hashes: tuple[str, ...]


def pins_file(extras: Collection[str]) -> pathlib.Path:
    """Returns the path of the constraints file that pins the packages of the given extras."""
    return IO_PINS if "io" in extras else PINS


def read_pins(path: pathlib.Path) -> dict[str, Pin]:
    """Reads a constraints file into a dictionary from normalized package name to Pin.

    Raises:
      ValueError: if a line is not name==version, optionally followed by sha256 hashes.
    """
    pins = {}
    for line in re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8")).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _PIN.fullmatch(line.rstrip())
        if match is None:
            raise ValueError(f"{path}: expected name==version with hashes. Found: {line[:80]!r}")
        pins[normalize(match["name"])] = Pin(match["version"], tuple(match["hashes"].split()))
    return pins


def normalize(name: str) -> str:
    """Returns a package's name in the spelling of the constraints files: foo-bar for Foo_Bar."""
    return re.sub(r"[-_.]+", "-", name).lower()
