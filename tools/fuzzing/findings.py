"""Counts the problems of a fuzz campaign (one run of tools.fuzz), and keeps the files that cause them."""

from __future__ import annotations

import collections
import dataclasses
import enum
import pathlib
import shutil
from collections.abc import Iterable, Sequence

from ucf50_tfrecord import storage

# One fault can fail thousands of inputs, so only the first inputs of each kind of problem are kept.
_MAX_KEPT_PER_KIND = 3
_MAX_KINDS_SHOWN = 30


class Counter(enum.StrEnum):
    """The counters of problems in a fuzz campaign; after a campaign without failures, all are zero."""

    CRASH = "crashes"
    HANG = "hangs"
    TRACEBACK = "tracebacks"
    STATUS = "wrong exit status"
    ACCOUNT = "videos not in exactly one of clips and quarantine"
    PIXELS = "clips unlike an ordered reference"
    CANARY_PIXELS = "clips of another file's pixels"
    OPENED = "other files opened"
    CONNECTED = "connections"
    PROCESS = "processes left"
    TEMPORARY = "temporary files left"
    CONTROL = "control characters printed"
    EXCEPTION = "exceptions other than UserError"
    UNNAMED = "messages that do not name the file"
    OUTSIDE = "other files made, changed or removed"
    MEMORY = "mutants beyond the memory limit"


class Stage(enum.StrEnum):
    """The part of this project that showed a problem when it read a damaged or hostile file."""

    CONVERT = "convert"
    PREDICT = "predict"
    READER = "JSON readers"
    PROGRAM = "JSON programs"


@dataclasses.dataclass(frozen=True)
class Problem:
    """A wrong reaction of a program or function to a mutant, a damaged or hostile file."""

    counter: Counter
    detail: str
    kind: str = ""  # equal for problems that probably have the same cause
    times: int = 1


class Findings:
    """Counts the problems of a fuzz campaign; keeps each kind's first inputs in folders within `folder`."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.counts: collections.Counter[tuple[Stage, Counter]] = collections.Counter()
        self.kinds: collections.Counter[tuple[Stage, Counter, str]] = collections.Counter()
        self._kept: collections.Counter[tuple[Stage, Counter, str]] = collections.Counter()
        # Counts of facts that are not failures, such as the causes of quarantine.
        self.notes: collections.Counter[str] = collections.Counter()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(
        self,
        problems: Iterable[Problem],
        stage: Stage,
        *,
        number: int,
        command: str,
        inputs: Sequence[pathlib.Path] = (),
    ) -> None:
        """Counts problems of the mutant `number`, which `command` tries again.

        Keeps its inputs (files and folders) if the problem is among the first of its kind.
        """
        for problem in problems:
            kind = stage, problem.counter, problem.kind
            self.counts[stage, problem.counter] += problem.times
            self.kinds[kind] += problem.times
            self._kept[kind] += 1
            if self._kept[kind] > _MAX_KEPT_PER_KIND:
                continue
            name = f"{self.total:05d}-{stage}-{number}-{problem.counter.name.lower()}"
            folder = self.folder / name.replace(" ", "_")
            folder.mkdir(parents=True)
            for path in inputs:
                if path.is_dir():
                    shutil.copytree(path, folder / path.name, symlinks=True)
                elif path.exists():
                    shutil.copy(path, folder / path.name)
            facts = {"stage": stage, "number": number, "command": command}
            storage.write_json(folder / "problem.json", dataclasses.asdict(problem) | facts)

    def table(self) -> list[str]:
        """Returns lines with each counter by stage, the notes, and the most common kinds of problems."""
        lines = [f"{'':<52}" + "".join(f"{stage:>15}" for stage in Stage)]
        for counter in Counter:
            cells = "".join(f"{self.counts[stage, counter]:>15}" for stage in Stage)
            lines.append(f"{counter:<52}{cells}")
        lines += [f"{note:<52}{count:>15}" for note, count in sorted(self.notes.items())]
        for (stage, counter, kind), count in self.kinds.most_common(_MAX_KINDS_SHOWN):
            lines.append(f"  {count:>6} x {stage}: {counter}: {kind}")
        if self.total:
            lines.append(f"Inputs and commands: {self.folder}")
        return lines
