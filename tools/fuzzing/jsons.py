"""Tries JSON mutants (damaged JSON and Parquet files) on the functions that read them, and some on programs."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import resource
import shutil
import sys
import traceback
from collections.abc import Callable

from tools.fuzzing import readers, watched
from tools.fuzzing import samples as samples_lib
from tools.fuzzing.findings import Counter, Findings, Problem, Stage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import printable

# Every n-th mutant is also read by a program.
PROGRAM_EVERY = 200
MEMORY_BYTES = 256 << 20
_ADDRESS_SPACE_BYTES = 8 << 30
_SHOWN = 400  # characters
_START_SECS, _READER_SECS, _PROGRAM_SECS = 300.0, 30.0, 300.0


class Documents:
    """Tries JSON mutants by number on the functions and programs that read them.

    Each mutant replaces its intact file in a folder of samples, which is restored afterwards.

    Args:
      seed: the campaign's seed.
      findings: receives the problems.
      work: folder that holds the folders `samples` and samples_lib.VICTIM.
      command: start of the shell command that tries a mutant again.
    """

    def __init__(self, *, seed: int, findings: Findings, work: pathlib.Path, command: str):
        self._seed, self._findings, self._work, self._command = seed, findings, work, command
        self._samples, self._pristine = work / "samples", work / "pristine-samples"
        for name in ("samples", samples_lib.VICTIM):
            shutil.copytree(work / name, work / f"pristine-{name}")
        self._helper = watched.Helper(answer, work / "reading")

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
                problems = self.try_program(program, content)
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

    def try_program(self, program: readers.Program, content: bytes) -> list[Problem]:
        """Runs a program on the intact samples with one damaged file; returns wrong exits and changes of files."""
        self._restore_all()
        victim, scratch = self._work / samples_lib.VICTIM, self._work / "program"
        (self._samples / program.path).write_bytes(content)
        before = watched.snapshot(self._samples, still=victim)
        shutil.rmtree(scratch, ignore_errors=True)
        arguments = [argument.replace("{}", str(self._samples)) for argument in program.arguments]
        ended = watched.run([sys.executable, "-m", program.module, *arguments], scratch, _PROGRAM_SECS)
        changed = watched.changes(before, watched.snapshot(self._samples, still=victim))
        self._restore_all()
        found = [
            dataclasses.replace(problem, kind=f"{problem.kind} ({program.path})")
            for problem in watched.problems_of(ended, program.statuses)
        ]
        kind = f"{program.module}: {program.path}"
        outside = foreign(changed, self._samples, rf"{program.writes}|.*\.lock.*")
        return found + [Problem(Counter.OUTSIDE, text, kind) for text in outside]

    def _restore_all(self) -> None:
        for name in ("samples", samples_lib.VICTIM):
            shutil.rmtree(self._work / name, ignore_errors=True)
            shutil.copytree(self._work / f"pristine-{name}", self._work / name)

    def _add(self, number: int, stage: Stage, problems: list[Problem], path: str, content: bytes) -> None:
        if problems:
            copy = self._work / "mutant" / pathlib.Path(path).name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(content)
            command = f"{self._command} --first_json={number} --json=1 --videos=0"
            self._findings.add(problems, stage, number=number, command=command, inputs=(copy,))


# The following functions run in a process of their own, since a reader may crash.


def try_reader(
    reader: readers.Reader, content: bytes, samples: pathlib.Path, pristine: pathlib.Path
) -> list[Problem]:
    """Calls a reader on a damaged file; returns wrong exceptions and messages, and changes of files.

    Args:
      reader: the reader.
      content: contents of the damaged file.
      samples: folder of intact files. The reader's file in it is replaced by `content`, then restored. The
        folder VICTIM beside it must not change at all.
      pristine: intact copy of `samples`.
    """
    path = samples / reader.path
    path.write_bytes(content)
    outside = samples.parent / samples_lib.VICTIM
    before, before_bytes = watched.snapshot(samples, still=outside), _start_of_peak()
    found = [problem] if (problem := _call(reader, samples)) else []
    grown = _status_bytes("VmHWM") - before_bytes
    if grown > MEMORY_BYTES:
        found.append(Problem(Counter.MEMORY, f"{grown >> 20} MiB", reader.name))
    changed = watched.changes(before, watched.snapshot(samples, still=outside))
    for text in foreign(changed, samples, reader.writes):
        found.append(Problem(Counter.OUTSIDE, text, reader.name))
    restore(samples, pristine, [*_paths(changed), str(path)])
    return found


def _call(reader: readers.Reader, samples: pathlib.Path) -> Problem | None:
    path = samples / reader.path
    try:
        reader.read(samples)
    except UserError as error:
        if path.name not in str(error) and str(path.parent) not in str(error):
            kind = f"{reader.name}: {_place(error)}"
            return Problem(Counter.UNNAMED, printable(str(error)[:_SHOWN]), kind)
    except MemoryError as error:
        return Problem(Counter.MEMORY, repr(error), reader.name)
    except (Exception, SystemExit) as error:  # only a UserError is right
        kind = f"{reader.name}: {type(error).__name__} {_place(error)}"
        return Problem(Counter.EXCEPTION, printable(repr(error)[:_SHOWN]), kind)
    return None


def _place(error: BaseException) -> str:
    """Returns an error's place: the innermost function of this project in its traceback, and the file."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if re.search("/ucf50_tfrecord/|/pipelines/", frame.filename)]
    frame = (ours or frames)[-1]
    return f"in {frame.name} ({pathlib.Path(frame.filename).name})"


def foreign(changed: list[str], samples: pathlib.Path, writes: str) -> list[str]:
    """Returns those results of watched.changes that are not allowed.

    writes: regular expression for the paths, relative to `samples`, that may change.
    """
    allowed = re.compile(rf"\w+ {re.escape(str(samples))}/(?:{writes})")
    return [text for text in changed if not allowed.fullmatch(text)]


def _paths(changed: list[str]) -> list[str]:
    return [line.partition(" ")[2] for line in changed]


def restore(samples: pathlib.Path, pristine: pathlib.Path, paths: list[str]) -> None:
    """Restores files from their intact copies in `pristine` and beside it; removes files that have none."""
    for path in [path for path in map(pathlib.Path, paths) if not path.is_dir()]:
        source = pristine.parent / f"pristine-{path.relative_to(samples.parent)}"
        path.unlink(missing_ok=True)
        if source.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)


def _start_of_peak() -> int:
    """Resets this process's peak memory (VmHWM); returns the memory in use, in bytes."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) << 10


def warm_up(samples: pathlib.Path, pristine: pathlib.Path) -> None:
    """Calls each reader on intact files, so that the memory of its imports is not counted for a mutant."""
    for reader in readers.READERS:
        before = watched.snapshot(samples)
        reader.read(samples)
        changed = watched.changes(before, watched.snapshot(samples))
        restore(samples, pristine, _paths(changed))


def answer(samples: pathlib.Path, pristine: pathlib.Path, seed: int, number: int | None) -> list[Problem]:
    """Tries the mutant with the given number; or, if that is None, warms up and limits this process's memory."""
    if number is None:
        warm_up(samples, pristine)
        now = _status_bytes("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (now + _ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
        return []
    return try_reader(*readers.make_mutant(pristine, seed, number), samples, pristine)
