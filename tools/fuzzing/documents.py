"""Damages JSON documents, by changing their values or their bytes."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools.fuzzing import mutate

# JSON texts that json.dumps cannot write. Each replaces a mark, such as "@deep list@", in what it wrote.
_TEXTS = {
    "@deep list@": "[" * 100_000 + "]" * 100_000,
    "@deep dict@": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "@huge number@": "9" * 5_000,
    "@long string@": '"' + "x" * 1_000_000 + '"',
}
_NUMBERS = (-1, 0, 1, 2, 3, 255, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30, -(2**63), -(10**30))
_FLOATS = (0.5, -0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
_STRINGS = ("", " ", "0", "none", "\0", "\x1b[31mred\n", "\ud800", "a" * 300, "%s%n{0}", "é" * 200)
_PATHS = (
    *("/", ".", "..", "../../victim/data", "../victim/data", "a/../../../victim/data", "mine.txt"),
    *("/dev/zero", "file:///dev/zero", "http://127.0.0.1:9/x", "s3://bucket/x"),
)
# A function that returns a damaged document's value with a correct checksum, or raises an error.
Seal = Callable[[Any], Any]


def paths_like(victim: str) -> Sequence[str]:
    """Returns paths and URLs that lead out of a folder, such as to `victim`, to replace strings of documents."""
    return (*_PATHS, victim, f"file://{victim}")


def damage(
    text: bytes, rng: random.Random, names: Sequence[str], seal: Seal, *, is_lines: bool = False
) -> bytes:
    """Returns a damaged version of a JSON document, as bytes that need not be valid JSON.

    If `is_lines`, the document holds one JSON value per line, one of which is damaged. `names` are strings,
    such as paths, that may replace the document's strings.
    """
    if rng.random() < 0.2:
        return mutate.damage(text, rng)[0]
    if not is_lines:
        return _damage_values(text, rng, names, seal)
    lines = text.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    lines[number] = _damage_values(lines[number], rng, names, seal) + b"\n"
    return b"".join(lines)


def _damage_values(text: bytes, rng: random.Random, names: Sequence[str], seal: Seal) -> bytes:
    root = [json.loads(text)]
    if rng.random() < 0.2:
        _rename(root, rng, names)
    else:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _damage_one(root, rng, names)
    value = root[0] if root else None
    if rng.random() < 0.7:
        # A value that is no longer a document of its kind may have no checksum.
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            value = seal(copy.deepcopy(value))
    damaged = json.dumps(value)
    for mark, replacement in _TEXTS.items():
        damaged = damaged.replace(f'"{mark}"', replacement, 1)
    return damaged.encode()


def _rename(root: list, rng: random.Random, names: Sequence[str]) -> None:
    """Replaces one string of the document root[0] by one of `names`. All strings are equally likely."""
    if strings := list(_strings(root)):
        parent, key = rng.choice(strings)
        parent[key] = rng.choice(names)


def _strings(parent: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each string in a JSON value: the list or dict that holds it, and its index or key there."""
    for key, value in parent.items() if isinstance(parent, dict) else enumerate(parent):
        if isinstance(value, str):
            yield parent, key
        elif isinstance(value, (dict, list)):
            yield from _strings(value)


def _damage_one(root: list, rng: random.Random, names: Sequence[str]) -> None:
    """Changes, replaces, renames or removes one value of the document root[0], or adds a value within it."""
    parent, key = _choose(root, rng)
    value = parent[key]
    what = rng.random()
    if what < 0.12:
        del parent[key]
    elif what < 0.2 and isinstance(value, dict):
        value[rng.choice(("extra", "", "__class__", *map(str, value)))] = _anything(rng, names)
    elif what < 0.26 and isinstance(parent, dict):
        parent[rng.choice((f"{key}s", str(key).upper(), ""))] = parent.pop(key)
    elif what < 0.32 and isinstance(value, list) and value:
        value.insert(rng.randrange(len(value) + 1), copy.deepcopy(rng.choice(value)))
    elif what < 0.4:
        other, place = _choose(root, rng)
        parent[key] = copy.deepcopy(other[place])
    elif what < 0.55 and isinstance(value, (int, float)):
        parent[key] = rng.choice(
            (-value, value + 1, value - 1, value * 1000, float(value), str(value), bool(value))
        )
    elif what < 0.75 and isinstance(value, str):
        parent[key] = rng.choice((rng.choice(names), rng.choice(names), value + "x", value[:-1], value * 2))
    elif what < 0.8:
        parent[key] = rng.choice(
            ([value], {"value": value}, [value] * (1 if isinstance(value, (dict, list)) else 1000), [[value]])
        )
    else:
        parent[key] = _anything(rng, names)


def _choose(root: list, rng: random.Random) -> tuple[Any, Any]:
    """Chooses a value by a random descent, which favours values near the root.

    Returns the list or dict that holds the value, and the value's index or key there.
    """
    parent, key = root, 0
    if not root:
        root.append({})
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    return parent, key


def _anything(rng: random.Random, names: Sequence[str]) -> Any:
    kind: Any = rng.choice(
        (None, True, *("number",) * 4, *("string",) * 3, "name", "name", "mark", [], {}, [[]], [{}])
    )
    if kind == "number":
        return rng.choice((rng.choice(_NUMBERS), rng.choice(_FLOATS)))
    if kind == "string":
        return rng.choice(_STRINGS)
    if kind == "name":
        return rng.choice(names)
    return rng.choice(list(_TEXTS)) if kind == "mark" else copy.deepcopy(kind)
