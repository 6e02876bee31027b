"""The examples and the table of docs/readers.md. Tests run the examples unchanged."""

import os
import re

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "readers.md").read_text()


def example(marker: str, language: str = "python") -> str:
    """Returns the only block of code that contains a marker."""
    [block] = [
        code for code in re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S) if marker in code
    ]
    return block


def run(marker: str, project: os.PathLike, monkeypatch) -> dict:
    """Runs an example in a project's folder; returns its variables."""
    monkeypatch.chdir(project)
    names: dict = {}
    exec(example(marker), names)
    return names


def sees(reader: str) -> dict[str, str]:
    """Returns the table's row of a reader: encoding -> exact, JPEG, none or fails."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line[:1] == "|"
    ]
    header, cells = rows[0], next(row for row in rows if row[0] == reader)
    return dict(zip(header[1:], cells[1:]))
