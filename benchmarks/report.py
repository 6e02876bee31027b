"""Measures the files and the report of a comparison with made-up predictions.

  python -m benchmarks.report --seeds=3

By default, the comparison is one of five models on UCF50, with all
interventions. Prints seconds and peak memory of writing the results, of reading
them, of the verdicts, and of the report.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from absl import flags

from benchmarks import measuring
from pipelines import console, terminal
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.results import Cell, Results

T = TypeVar("T")

_MODELS = flags.DEFINE_list(
    "models", ["frame_pool", "rnn", "lstm", "conv3d", "transformer"], "Models of the comparison."
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each model and part.", lower_bound=1)
_PARTS = flags.DEFINE_integer("parts", 5, "Parts of the cross-validation.", lower_bound=2)
_CLIPS = flags.DEFINE_integer("clips", 6681, "Number of clips.", lower_bound=100)
_CLASSES = flags.DEFINE_integer("classes", 50, "Number of classes.", lower_bound=2)
_GROUPS = flags.DEFINE_integer("groups", 25, "Number of recording groups.", lower_bound=2)
_FRAMES = flags.DEFINE_integer("frames", 15, "Frames per clip.", lower_bound=4)
_OUTPUT = flags.DEFINE_string("output", "bench_results/report.json", "File for the figures.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a made-up comparison; the fields are those of the flags."""

    models: tuple[str, ...]
    seeds: int
    parts: int
    clips: int
    classes: int
    groups: int
    frames: int


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one step."""

    step: str
    secs: float
    cpu_secs: float  # of all threads; other work on the machine changes it less than `secs`
    peak_mb: float  # of the process so far


class MadeUpLogits(Mapping[str, np.ndarray]):
    """Random logits of a cell (one training), float32 [M, C], drawn again at each access.

    The largest logit is the true class's in about two of three clips.

    Args:
      cell: the cell.
      labels: classes of the M test clips, int64 [M].
      num_classes: number of classes, C.
      names: names of the interventions, each with the name of the intervention that has the same logits.
    """

    def __init__(self, cell: Cell, labels: np.ndarray, num_classes: int, names: Mapping[str, str]):
        self._cell, self._labels, self._num_classes, self._names = cell, labels, num_classes, names

    def __getitem__(self, name: str) -> np.ndarray:
        rng = np.random.default_rng(list(f"{self._cell} {self._names[name]}".encode()))
        logits = rng.normal(0, 1, (len(self._labels), self._num_classes)).astype(np.float32)
        logits[np.arange(len(logits)), self._labels] += rng.normal(3, 1, len(logits))
        return logits

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def make_results(size: Size) -> Results:
    """Makes the results of a comparison in which each group of clips is a fold."""
    from ucf50_tfrecord.choices import FoldBy
    from ucf50_tfrecord.evaluation import cells, interventions
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe
    from ucf50_tfrecord.evaluation.results import CellResult, Results

    number = np.arange(size.clips)
    labels, groups = number % size.classes, number // size.classes % size.groups + 1
    models = {
        name: ModelSpec(name=name, num_classes=size.classes, num_frames=size.frames, height=64, width=64)
        for name in size.models
    }
    recipes = {name: Recipe(model=model, train=TrainSpec()) for name, model in models.items()}
    spec = ComparisonSpec(recipes=recipes, num_parts=size.parts, num_seeds=size.seeds, audited=size.models)
    parts = {FoldBy.GROUP: groups % size.parts, FoldBy.VIDEO: number % size.parts}
    found = []
    for cell in spec.cells():
        chosen = np.flatnonzero(parts[FoldBy(cell.split)] == cell.part)
        names = {name: name for name in cells.interventions_of(cell, size.frames)}
        if recipes[cell.model].is_order_blind:
            names |= {name: interventions.PLAIN for name in names if interventions.find(name).permutes}
        result = CellResult(
            cell=cell,
            architecture=cell.model,
            clips=chosen,
            logits=MadeUpLogits(cell, labels[chosen], size.classes, names),
            recurrence=None,
            run_dir="",
            precision="float32",
        )
        found.append(result)
    return Results(
        name="made up",
        classes=tuple(f"Class{label:02d}" for label in range(size.classes)),
        num_frames=size.frames,
        ids=tuple(
            f"Class{label:02d}/v_Class{label:02d}_g{group:02d}_c{i:05d}"
            for i, (label, group) in enumerate(zip(labels, groups))
        ),
        labels=labels,
        groups=groups,
        folds=groups,
        of_features=False,
        cells=tuple(found),
    )


def measure_writing(size: Size, folder: pathlib.Path) -> list[Row]:
    """Measures writing the results into a folder. Runs in a fresh process."""
    from ucf50_tfrecord.evaluation import result_files

    results = make_results(size)
    return [_measure("write the results", lambda: result_files.save(folder, results))[0]]


def measure_report(folder: pathlib.Path) -> list[Row]:
    """Measures the steps from the results in a folder to the report. Runs in a fresh process."""
    from ucf50_tfrecord.evaluation import result_files, verdicts
    from ucf50_tfrecord.report import build

    read, results = _measure(
        "read the results", lambda: result_files.load(folder / result_files.RESULTS_FILENAME)
    )
    judge, judged = _measure("verdicts", lambda: verdicts.judge(results))
    report, _ = _measure("report", lambda: build.write(folder, results, judged))
    return [read, judge, report]


def _measure(step: str, run: Callable[[], T]) -> tuple[Row, T]:
    started, started_cpu = time.perf_counter(), time.process_time()
    result = run()
    secs, cpu_secs = time.perf_counter() - started, time.process_time() - started_cpu
    return Row(step, secs, cpu_secs, measuring.peak_mb(resource.RUSAGE_SELF)), result


def main() -> None:
    size = Size(
        models=tuple(_MODELS.value),
        seeds=_SEEDS.value,
        parts=_PARTS.value,
        clips=_CLIPS.value,
        classes=_CLASSES.value,
        groups=_GROUPS.value,
        frames=_FRAMES.value,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows = measuring.in_fresh_process(measure_writing, size, folder)
        rows += measuring.in_fresh_process(measure_report, folder)
        num_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    terminal.say(f"{'':<20}{'seconds':>10}{'CPU, s':>10}{'peak, MB':>10}")
    for row in rows:
        terminal.say(f"{row.step:<20}{row.secs:>10.1f}{row.cpu_secs:>10.1f}{row.peak_mb:>10.0f}")
    terminal.say(*(f"{name}: {count / 1e6:.2f} MB" for name, count in num_bytes.items()))
    measuring.write_figures(_OUTPUT.value, {"size": to_json(size), "rows": to_json(rows), "bytes": num_bytes})


if __name__ == "__main__":
    console.run(main)
