"""Matches the classes of another data set to the classes of a run: by their names, or by a file that maps them."""

from __future__ import annotations

import collections
import csv
import io
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect

UNMATCHED = -1
_MAX_SHOWN = 200  # names in a list of an error message
_BY_FILE = Remedy(Action.SET, "to match classes by a file", class_map=...)


def match_classes(
    theirs: Sequence[str], ours: Sequence[str], class_map: Mapping[str, str] | None = None
) -> tuple[int, ...]:
    """Finds the run's class of each class of another data set.

    A class is matched by `class_map` if that names it, else to the class of exactly the same name, else to the
    only class whose name differs in nothing but case, spaces, underscores and hyphens.

    Args:
      theirs: names of the classes of the other data set.
      ours: names of the run's classes.
      class_map: dictionary from classes of the other set to classes of the run; "" stands for no class.

    Returns:
      The index in `ours` of each class of `theirs`, or UNMATCHED.

    Raises:
      UserError: if `class_map` names an unknown class, names are ambiguous, or no class is matched.
    """
    class_map = class_map or {}
    _check_known("of the other data set", class_map, theirs)
    _check_known("of the run", [name for name in class_map.values() if name], ours)
    unnamed = [name for name in theirs if name not in class_map]
    by_name = _match_names(unnamed, ours)
    chosen = {name: class_map.get(name) or by_name.get(name) for name in theirs}
    if not any(chosen.values()):
        raise UserError(
            f"No class of the other data set is a class of the run. Its classes: {_list(theirs)}. The run's "
            f"classes: {_list(ours)}",
            _BY_FILE,
        )
    place = {name: i for i, name in enumerate(ours)}
    return tuple(UNMATCHED if name is None else place[name] for name in (chosen[name] for name in theirs))


def load_class_map(path: str) -> dict[str, str]:
    """Reads a file that maps classes of another data set to classes of a run.

    A .json file holds an object from class to class, where null or "" stands for no class. A .csv file holds two
    columns without a header, where an empty second column stands for no class.

    Returns:
      A dictionary from each class of the other set to the run's class, or to "".

    Raises:
      UserError: if the file cannot be read or holds something else.
    """
    suffix = pathlib.PurePath(path).suffix.lower()
    expect(suffix in (".json", ".csv"), "a file that ends in .json or .csv", class_map=path)
    if suffix == ".json":
        found = parsing.read(path, dict[str, str | None], "a map of classes")
        return {name: ours or "" for name, ours in found.items()}
    return _parse_csv(path)


def _parse_csv(path: str) -> dict[str, str]:
    try:
        text = storage.read_bytes(path).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, str] = {}
    try:
        for row in rows:
            if not row:
                continue
            problem = f"{path} is not a map of classes: line {rows.line_num}: Expected"
            if len(row) != 2:
                raise UserError(f"{problem} a class and the run's class. Received: {len(row)} columns")
            name, ours = (value.strip() for value in row)
            if not name or name in found:
                raise UserError(f"{problem} the name of each class once. Received: {name!r}")
            found[name] = ours
    except csv.Error as error:
        raise UserError(f"{path} is not a map of classes: line {rows.line_num}: {error}") from error
    return found


def _match_names(theirs: Iterable[str], ours: Sequence[str]) -> dict[str, str]:
    """Returns the classes of `theirs` that are matched by name, with the class of `ours`.

    Raises:
      UserError: if a class fits several of the other set's classes.
    """
    alike = collections.defaultdict(list)
    for name in ours:
        alike[_plain(name)].append(name)
    found: dict[str, str] = {}
    takers = collections.defaultdict(list)
    for name in theirs:
        fitting = [name] if name in ours else alike.get(_plain(name), [])
        if len(fitting) > 1:
            raise UserError(f"The class {name!r} fits several classes of the run: {_list(fitting)}", _BY_FILE)
        for own in fitting:
            found[name] = own
            takers[own].append(name)
    for own, names in takers.items():
        if len(names) > 1:
            raise UserError(
                f"Several classes of the other data set fit the run's class {own!r}: {_list(names)}", _BY_FILE
            )
    return found


def _plain(name: str) -> str:
    """Returns a name without case, spaces, underscores and hyphens; a name of nothing else is unchanged."""
    return re.sub(r"[\s_-]+", "", name).casefold() or name


def _check_known(whose: str, names: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(
            f"The map of classes names no classes {whose}: {_list(unknown)}. Expected some of: {_list(known)}"
        )


def _list(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _MAX_SHOWN else ""
    return ", ".join(map(repr, names[:_MAX_SHOWN])) + more
