"""Tries JSON mutants (damaged JSON files) on the functions that read them, and some on whole programs."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Callable

from tools.fuzzing import readers, reading, samples, watched
from tools.fuzzing.findings import Counter, Findings, Problem, Stage
from ucf50_tfrecord.errors import UserError

# Every n-th mutant is also read by a program.
PROGRAM_EVERY = 200
_START_SECS, _READER_SECS, _PROGRAM_SECS = 300.0, 30.0, 300.0


class Documents:
    """Tries JSON mutants by number on the functions and programs that read them.

    Each mutant replaces its intact file in a folder of samples, which is restored afterwards.

    Args:
      seed: the campaign's seed.
      findings: receives the problems.
      work: folder that holds the folders `samples` and samples.VICTIM.
      command: start of the shell command that tries a mutant again.
    """

    def __init__(self, *, seed: int, findings: Findings, work: pathlib.Path, command: str):
        self._seed, self._findings, self._work, self._command = seed, findings, work, command
        self._samples, self._pristine = work / "samples", work / "pristine-samples"
        for name in ("samples", samples.VICTIM):
            shutil.copytree(work / name, work / f"pristine-{name}")
        self._helper = watched.Helper(reading.answer, work / "reading")

    def close(self) -> None:
        self._helper.stop()

    def run(self, numbers: range, until: Callable[[], bool] = lambda: False) -> int:
        """Tries the mutants with the given numbers, until `until` returns True; returns how many it tried."""
        for count, number in enumerate(numbers):
            if until():
                return count
            reader, content = readers.make_mutant(self._pristine, self._seed, number)
            self._add(number, Stage.READER, self._read(number, reader.name), reader.path, content)
            program = readers.choose_program(reader.path, self._seed, number)
            if number % PROGRAM_EVERY == 0 and program:
                self._findings.notes["programs run on damaged JSON"] += 1
                problems = try_program(program, content, self._work, self._restore_all)
                self._add(number, Stage.PROGRAM, problems, reader.path, content)
        return len(numbers)

    def _read(self, number: int, name: str) -> list[Problem]:
        if not self._helper.is_running:
            self._warm_up()
        try:
            return self._ask(_READER_SECS, number)
        except watched.Silent as error:
            self._restore_all()
            return [Problem(Counter.HANG if error.timed_out else Counter.CRASH, str(error), name)]

    def _ask(self, limit_secs: float, number: int | None) -> list[Problem]:
        return self._helper.ask(limit_secs, self._samples, self._pristine, self._seed, number)

    def _warm_up(self) -> None:
        """Starts the process that calls the readers, and lets each reader read its intact file.

        Raises:
          UserError: if a reader fails on an intact file.
        """
        try:
            self._ask(_START_SECS, None)
        except watched.Silent as error:
            raise UserError(
                f"The readers of tools/fuzzing/readers.py fail on intact files ({error}): "
                f"{self._helper.errors()}"
            ) from error

    def _restore_all(self) -> None:
        for name in ("samples", samples.VICTIM):
            shutil.rmtree(self._work / name, ignore_errors=True)
            shutil.copytree(self._work / f"pristine-{name}", self._work / name)

    def _add(self, number: int, stage: Stage, problems: list[Problem], path: str, content: bytes) -> None:
        if problems:
            copy = self._work / "mutant" / pathlib.Path(path).name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(content)
            command = f"{self._command} --first_json={number} --json=1 --videos=0"
            self._findings.add(problems, stage, number=number, command=command, inputs=(copy,))


def try_program(
    program: readers.Program, content: bytes, work: pathlib.Path, restore: Callable[[], None]
) -> list[Problem]:
    """Runs a program on a folder of intact samples in which one file is damaged.

    Args:
      program: the program, its arguments, and the file that is damaged.
      content: contents of the damaged file.
      work: folder that holds the folders `samples` and samples.VICTIM.
      restore: function that restores these two folders; called before and after the program.

    Returns:
      The problems that the program's exit and its changes of files show.
    """
    folder = work / "samples"
    restore()
    (folder / program.path).write_bytes(content)
    before = watched.snapshot(folder, still=work / samples.VICTIM)
    shutil.rmtree(work / "program", ignore_errors=True)
    arguments = [argument.replace("{}", str(folder)) for argument in program.arguments]
    command = [sys.executable, "-m", program.module, *arguments]
    ended = watched.run(command, work / "program", _PROGRAM_SECS)
    changed = watched.changes(before, watched.snapshot(folder, still=work / samples.VICTIM))
    outside = reading.foreign(changed, folder, rf"{program.writes}|.*\.lock.*")
    restore()
    found = [
        dataclasses.replace(problem, kind=f"{problem.kind} ({program.path})")
        for problem in watched.problems_of(ended, program.statuses)
    ]
    kind = f"{program.module}: {program.path}"
    return found + [Problem(Counter.OUTSIDE, text, kind) for text in outside]
