"""Checks and measures training on this machine's GPUs, in at most eight minutes.

  python -m pipelines.check_gpu

It needs no data: it makes random clips. It checks that all GPUs train like one,
that 16 bits train like float32, that LSTM and GRU run in cuDNN's kernel and
clips stay on the GPU; it measures clips/s, the fraction of the card's peak, the
waiting for input, memory, and trainings that share a GPU. Without a GPU it
checks what a CPU can show. Exits with status 1 if a check fails.
"""

from __future__ import annotations

import collections
import itertools
import math
import os
import platform
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from pipelines import console, devices, terminal
from ucf50_tfrecord import recipes, storage
from ucf50_tfrecord.device_checks import isolated, made_clips
from ucf50_tfrecord.device_checks.outcomes import CHECKS, Check, Options, Result, Status
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import ClipFormat, parse_size, to_json

_MAX_SECS = flags.DEFINE_float(
    "max_secs",
    480.0,
    "Seconds that all checks may take; less time makes measurements shorter.",
    lower_bound=1.0,
)
_CHECKS = flags.DEFINE_list("checks", list(CHECKS), "Checks to run.")
_MODELS = flags.DEFINE_list(
    "models",
    ["lstm", "gru", "frame_pool", "seed_lstm", "transformer", "conv3d"],
    "Recipes whose speed is measured. The first one is taken where one is enough, and is all that is measured "
    "without a GPU.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Clips per step; 0: as in the recipe.", lower_bound=0)
_SIZE = flags.DEFINE_string(
    "size",
    None,
    "Frame size of the made-up clips, as 64 or 112x96 (height x width). Default: as a conversion's, or 32 without "
    "a GPU.",
)
_FRAMES = flags.DEFINE_integer(
    "frames", None, "Frames per made-up clip. Default: as a conversion's, or 8 without a GPU."
)
_CLIPS = flags.DEFINE_integer("clips", 256, "Number of made-up clips.", lower_bound=made_clips.NUM_CLASSES)
_TRAININGS = flags.DEFINE_list(
    "trainings", ["1", "2", "4"], "Numbers of trainings to measure side by side on one GPU."
)
_OUTPUT = flags.DEFINE_string("output", "bench_results/check_gpu.json", "File for the results.")

# Columns of the table: header and width.
_COLUMNS = {"check": 20, "result": 24, "expected": 18, "": 15}
_MAX_CPU_TRAININGS = 2
_CPU_FORMAT = ClipFormat(num_frames=8, height=32, width=32)


def main() -> int:
    checks, gpus = chosen_checks(), devices.visible_gpus()
    clip_format = chosen_format(has_gpu=bool(gpus))
    if not gpus:
        terminal.say("There is no GPU on this machine: only what a CPU can show is checked.")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        terminal.say(f"Making {_CLIPS.value} clips of {clip_format} …", flush=True)
        made_clips.write(folder, clip_format, num_clips=_CLIPS.value)
        options = Options(
            data_dir=folder,
            models=chosen_models(),
            batch_size=_BATCH_SIZE.value,
            secs=_MAX_SECS.value,
            gpus=tuple(gpus),
            sharing=shared_environments(gpus),
            prepare=console.load_tensorflow,
        )
        left = _MAX_SECS.value - (time.monotonic() - started)
        results = isolated.run_all(checks, options, max_secs=left, listener=progress(started))
    secs = time.monotonic() - started
    print_table(list(itertools.chain.from_iterable(results.values())))
    write_results(_OUTPUT.value, results, gpus=gpus, secs=secs)
    return status_of(results)


def chosen_format(*, has_gpu: bool) -> ClipFormat:
    """Returns the format of the made-up clips: by default that of a conversion, or a smaller one for a CPU."""
    default = ClipFormat() if has_gpu else _CPU_FORMAT
    height, width = parse_size(_SIZE.value) if _SIZE.value else (default.height, default.width)
    num_frames = default.num_frames if _FRAMES.value is None else _FRAMES.value
    return ClipFormat(num_frames=num_frames, height=height, width=width)


def chosen_checks() -> dict[str, Check]:
    """Returns the checks that --checks names, in the order of the table of checks."""
    unknown = sorted(set(_CHECKS.value) - set(CHECKS))
    expect(not unknown and _CHECKS.value, f"checks out of {', '.join(CHECKS)}", checks=unknown)
    return {name: check for name, check in CHECKS.items() if name in _CHECKS.value}


def chosen_models() -> tuple[str, ...]:
    """Returns the models that --models names: those of frames that are also the names of recipes."""
    known = [name for name in recipes.names() if recipes.load(name)["model"] == name]
    unknown = sorted(set(_MODELS.value) - set(known))
    expect(not unknown and _MODELS.value, f"models out of {', '.join(known)}", models=unknown)
    return tuple(dict.fromkeys(_MODELS.value))


def shared_environments(gpus: Sequence[str]) -> tuple[tuple[dict[str, str], ...], ...]:
    """Returns the environment variables of each training, for each number of trainings of --trainings.

    They share the first GPU. Without GPUs, each has its part of the cores, and there are at most two.
    """
    numbers = _TRAININGS.value
    expect(
        numbers and all(number.isdecimal() and int(number) for number in numbers) and int(min(numbers)) == 1,
        "numbers from 1 on, 1 among them",
        trainings=numbers,
    )
    counts = [count for count in sorted(map(int, numbers)) if gpus or count <= _MAX_CPU_TRAININGS]
    return tuple(tuple(devices.environments(count, gpus[:1])) for count in counts)


def progress(started: float) -> isolated.Listener:
    """Returns a listener that prints what is done, and each result, with the time since `started`."""

    def start(check: Check, number: int, total: int) -> None:
        passed = time.monotonic() - started
        terminal.say(f"[{number}/{total}, after {passed:.0f} s] {check.about}", flush=True)

    def finish(result: Result) -> None:
        terminal.say(f"    {result.status}: {result.name}", flush=True)

    return isolated.Listener(
        start=start, doing=lambda text: terminal.say(f"    {text} …", flush=True), finish=finish
    )


def print_table(results: Sequence[Result]) -> None:
    """Prints a row per result; a cell that is wider than its column takes several lines."""
    terminal.say("")
    _print_row(list(_COLUMNS))
    _print_row(["-" * width for width in _COLUMNS.values()])
    for result in results:
        reasons = {Status.OK: "", Status.FAILED: ": ", Status.NOT_CHECKED: " because "}
        status = f"{result.status}{reasons[result.status] and reasons[result.status] + result.reason}"
        _print_row([result.name, result.found, result.expected, status])
    counts = collections.Counter(result.status for result in results)
    terminal.say("", ", ".join(f"{counts[status]} {status}" for status in Status))


def _print_row(cells: Sequence[str]) -> None:
    wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)]
    for line in itertools.zip_longest(*wrapped, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(line, _COLUMNS.values()))
        terminal.say(" ".join(padded).rstrip())


def write_results(
    path: str, results: Mapping[str, Sequence[Result]], *, gpus: Sequence[str], secs: float
) -> None:
    """Writes the results as JSON: {"checks": {<check>: [<result>, …]}, …}."""
    value: dict[str, Any] = {
        "checks": _without_nan(to_json(dict(results))),
        "gpus": len(gpus),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "secs": round(secs, 1),
        "status": status_of(results),
    }
    storage.write_json(path, value)
    terminal.say(f"Results: {path}")


def _without_nan(value: Any) -> Any:
    """Returns a JSON value with "nan", "inf" and "-inf" in place of the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def status_of(results: Mapping[str, Sequence[Result]]) -> int:
    """Returns the exit status: 1 if a check has failed, else 0."""
    failed = any(result.status == Status.FAILED for found in results.values() for result in found)
    return int(failed)


if __name__ == "__main__":
    console.run(main)
