"""Calls the functions of tools.fuzzing.readers on damaged JSON files.

tools.fuzzing.jsons does so in a process of its own, since a reader may crash.
"""

from __future__ import annotations

import pathlib
import re
import resource
import shutil
import traceback

from tools.fuzzing import readers, watched
from tools.fuzzing.findings import Counter, Problem
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import printable

MEMORY_BYTES = 256 << 20
_ADDRESS_SPACE_BYTES = 8 << 30
_SHOWN = 400  # characters


def try_reader(
    reader: readers.Reader, content: bytes, samples: pathlib.Path, pristine: pathlib.Path
) -> list[Problem]:
    """Calls a reader on a damaged file; returns wrong exceptions and messages, and changes of files.

    Args:
      reader: the reader.
      content: contents of the damaged file.
      samples: folder of intact files, in which the reader's file is damaged and restored afterwards. The
        folder VICTIM beside it must not change at all.
      pristine: intact copy of `samples`.
    """
    path = samples / reader.path
    path.write_bytes(content)
    outside = samples.parent / readers.samples.VICTIM
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
