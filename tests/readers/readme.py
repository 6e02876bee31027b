"""What the README says of other readers, taken from its text: the tests run its examples as they stand."""

import os
import re

from tests.conftest import REPOSITORY

SECTION = re.search(r"^## Other readers\n(.*?)^## ", (REPOSITORY / "README.md").read_text(), re.M | re.S)[1]


def example(marker: str, language: str = "python") -> str:
    """Returns the one block of code that holds a marker."""
    [block] = [
        code for code in re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.M | re.S) if marker in code
    ]
    return block


def run(marker: str, project: os.PathLike, monkeypatch) -> dict:
    """Runs an example in a project's folder; returns what it names."""
    monkeypatch.chdir(project)
    names: dict = {}
    exec(example(marker), names)
    return names


def sees(reader: str) -> dict[str, str]:
    """Returns the table's row of a reader: encoding -> exact, JPEG, none or fails."""
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in SECTION.splitlines()
        if line[:1] == "|"
    ]
    header, cells = rows[0], next(row for row in rows if row[0] == reader)
    return dict(zip(header[1:], cells[1:]))
