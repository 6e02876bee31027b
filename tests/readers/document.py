"""Reads the examples and the table of docs/readers.md, so that tests run the examples unchanged."""

import os
import re

from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "readers.md").read_text()


def example(marker: str, language: str = "python") -> str:
    """Returns the code of the only example in docs/readers.md that contains the text `marker`.

    language: programming language of the example, as written at its start.
    """
    [block] = [
        code for code in re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S) if marker in code
    ]
    return block


def run(marker: str, project: os.PathLike, monkeypatch) -> dict:
    """Runs the example that contains `marker`, with a project folder as the current folder.

    Returns:
      A dictionary of the variables that the example has set.
    """
    monkeypatch.chdir(project)
    names: dict = {}
    exec(example(marker), names)
    return names


def sees(reader: str) -> dict[str, str]:
    """Returns a reader's row in the table of docs/readers.md.

    It is a dictionary from encoding to what the reader gets from such shards: exact, lossy, none or fails.
    """
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line[:1] == "|"
    ]
    header, cells = rows[0], next(row for row in rows if row[0] == reader)
    return dict(zip(header[1:], cells[1:]))
