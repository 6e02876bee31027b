"""Measures methods in turn: fresh processes, several rounds, medians and ratios."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from pipelines import console, terminal
from tools import processes
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError

Key = TypeVar("Key", bound=Hashable)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a module's function in a process that has done nothing else; returns its result."""
    with processes.pool(1) as fresh:
        return fresh.submit(function, *arguments).result()


def in_turn(
    methods: Mapping[Key, Callable[[], Any]], *, rounds: int, description: str
) -> dict[Key, list[Any]]:
    """Calls each method once per round, in turn; returns the results of each by round.

    Other work on the machine then slows all methods alike, so ratios within a round can be trusted.
    """
    results: dict[Key, list[Any]] = {key: [] for key in methods}
    with console.progress_bar(rounds * len(methods), "run", description) as bar:
        for _ in range(rounds):
            for key, method in methods.items():
                results[key].append(method())
                bar.update()
    return results


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of one method's figure to another's."""
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def require_videos(videos_dir: str | None) -> str:
    """Returns --videos.

    Raises:
      UserError: if it was not passed.
    """
    if not videos_dir:
        raise UserError("Pass --videos=<folder of class folders>.")
    return videos_dir


def write_figures(path: str, figures: Any) -> None:
    """Writes the figures as JSON and prints where they are."""
    storage.write_json(pathlib.Path(path), figures)
    terminal.say(f"Figures: {path}")
