"""Finds the recording groups of videos by their paths, and numbers groups and folds that have names."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping

from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.shards import Named
from ucf50_tfrecord.specs import MAX_FOLD, FoldRule

# A group or a fold as a list or a pattern gives it: its name, or its number as text or int.
Given = str | int | None

_UCF_NAME = re.compile(r"_g(\d+)_c\d+$")
# Names of splits. Folds of these names are numbered first, in this order.
SPLITS = ("train", "val", "validation", "valid", "test")


def find_group(path: str, rule: FoldRule) -> Given:
    """Finds the recording group in a video's relative path: what the rule's pattern finds, else that of a UCF name.

    Returns:
      The text that the pattern's group "group" matches, the number in a UCF name, or None.
    """
    if rule.group_pattern:
        match = re.search(rule.group_pattern, path)
        return (match["group"] or None) if match else None
    return ucf_group(path)


def ucf_group(path: str) -> int | None:
    """Returns the number of the recording group in a UCF name such as v_Biking_g07_c02.avi, or None."""
    name = _UCF_NAME.search(pathlib.PurePosixPath(path).stem)
    return int(name[1]) if name else None


def check_found(groups: Iterable[Given], rule: FoldRule, source: str) -> None:
    """Raises UserError if the rule has a pattern, and it found no group in any path."""
    if rule.group_pattern and all(group is None for group in groups):
        raise UserError(f"group_pattern={rule.group_pattern!r} finds no group in the paths of {source}")


def number(given: Iterable[Given], what: str, source: str) -> dict[Given, int]:
    """Numbers groups or folds.

    If all are written as numbers, they keep these. Otherwise they are numbered from 1 in the alphabetical order of
    their names, train, val and test before all others. So a new name may change the numbers of others.

    Args:
      given: the groups or folds, in any order and with repetitions; None is ignored.
      what: "groups" or "folds", for messages.
      source: path of the list or the folder, for messages.

    Returns:
      A dictionary from what is given, except None, to its number.

    Raises:
      UserError: if a number exceeds specs.MAX_FOLD.
    """
    distinct = {item for item in given if item is not None}
    if all(map(_is_number, distinct)):
        numbers: dict[Given, int] = {item: int(item) for item in distinct}
    else:
        names = sorted({str(item) for item in distinct}, key=lambda name: (_rank(name), name))
        ranks = {name: rank for rank, name in enumerate(names, start=1)}
        numbers = {item: ranks[str(item)] for item in distinct}
    largest = max(numbers.values(), default=0)
    expect(largest <= MAX_FOLD, f"{what} up to number {MAX_FOLD} in {source}", largest=largest)
    return numbers


def names_of(numbers: Mapping[Given, int]) -> tuple[Named, ...]:
    """Returns the names of groups or folds in the order of their numbers; () if all are written as numbers."""
    if all(map(_is_number, numbers)):
        return ()
    named = {number: str(name) for name, number in numbers.items()}
    return tuple(Named(name=name, number=number) for number, name in sorted(named.items()))


def _is_number(given: Given) -> bool:
    return re.fullmatch("[0-9]+", str(given)) is not None


def _rank(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS)
