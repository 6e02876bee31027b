"""Compares methods: runs them in fresh processes, in turn, in several rounds; takes medians and ratios."""

from __future__ import annotations

import pathlib
import resource
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from pipelines import console, terminal
from tools import processes
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import expect

Key = TypeVar("Key", bound=Hashable)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a newly started process and returns its result.

    The function must be defined at the top level of a module, and arguments and result must be picklable.
    """
    with processes.pool(1) as fresh:
        return fresh.submit(function, *arguments).result()


def in_turn(
    methods: Mapping[Key, Callable[[], Any]], *, rounds: int, description: str
) -> dict[Key, list[Any]]:
    """Calls each method once per round, one after the other; returns each method's results by its key.

    Other work on the machine then slows all methods alike, so ratios within a round can be trusted.
    `description` is the text of the progress bar.
    """
    results: dict[Key, list[Any]] = {key: [] for key in methods}
    with console.progress_bar(rounds * len(methods), "run", description) as bar:
        for _ in range(rounds):
            for key, method in methods.items():
                results[key].append(method())
                bar.update()
    return results


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Returns the median over the rounds of the ratio of one method's figure to another's."""
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def peak_mb(who: int) -> float:
    """Returns the peak memory in MB of this process or of its largest child process that has exited.

    who: resource.RUSAGE_SELF or resource.RUSAGE_CHILDREN.
    """
    return resource.getrusage(who).ru_maxrss / 1024


def whole_numbers(words: Sequence[str]) -> list[int]:
    """Returns the values of a flag that lists whole numbers; raises UserError if one is not 1 or more."""
    expect(all(word.isdecimal() and int(word) for word in words), "whole numbers, 1 or more", numbers=words)
    return [int(word) for word in words]


def write_figures(path: str, figures: Any) -> None:
    """Writes a benchmark's figures, JSON values, into a file and prints the file's path."""
    storage.write_json(pathlib.Path(path), figures)
    terminal.say(f"Figures: {path}")


def spread(values: list[float]) -> str:
    """Formats the mean and standard deviation of a score over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"
