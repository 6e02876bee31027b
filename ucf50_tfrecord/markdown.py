"""Text of Markdown files: escaped texts, tables, and YAML headers as the Hugging Face Hub reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ucf50_tfrecord.specs import printable


def escape(text: str) -> str:
    """Escapes characters that Markdown would interpret; an underscore within a word needs no escape."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", printable(text))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return re.sub(r"^(\s*\d*)([#+.)-])(?=[\s#])", r"\1\\\2", text)  # no heading, no list


def table(rows: Sequence[Sequence[str]], is_numeric: Sequence[bool]) -> str:
    """Returns a table of plain texts.

    Args:
      rows: the rows, the names of the columns first.
      is_numeric: for each column, whether it is aligned to the right.
    """
    head, *rest = [list(map(escape, row)) for row in rows]
    rule = ["---:" if numeric else "---" for numeric in is_numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def yaml_header(values: Mapping[str, Any]) -> str:
    """Returns the YAML header of a Markdown file.

    Each value is written as JSON, which is YAML, too. Numbers have at most four decimals, because YAML 1.1 reads
    1e-05 as a text. Unprintable characters are escaped, because YAML forbids most of them.

    Args:
      values: a dictionary from name to value: a text, number, bool, list or dictionary, also nested.

    Raises:
      ValueError: if a number is infinite or NaN.
    """
    lines = [
        f"{name}: {json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)}\n"
        for name, value in values.items()
    ]
    return f"---\n{''.join(lines)}---\n\n"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {printable(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return value
