"""Measures how a comparison of thousands of trainings is run and resumed.

  python -m benchmarks.cells

A cell is one training of a comparison. First, cells that only sleep run side by
side, through the engine of `make compare`. Then a comparison finds out that all
of its cells are finished, as it does when the command is given again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from benchmarks import measuring
from pipelines import console, terminal
from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import failures, side_by_side
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.manifest import Manifest, ManifestShard
from ucf50_tfrecord.specs import ClipFormat, FoldRule, ModelSpec, TrainSpec, to_json
from ucf50_tfrecord.training.listener import Listener, TrainProgress

if TYPE_CHECKING:
    from ucf50_tfrecord.dataset.clips import ClipIndex
    from ucf50_tfrecord.evaluation.compare import Comparison

_CELLS = flags.DEFINE_integer("cells", 10_000, "Number of cells.", lower_bound=100)
_SLEEP = flags.DEFINE_float("sleep", 0.05, "Seconds that a cell sleeps, in place of a training.")
_PROCESSES = flags.DEFINE_integer("processes", 2, "Number of processes that run cells.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/cells.json", "File for the figures.")

# Reports of progress per cell, such as one per epoch.
_NUM_REPORTS = 20
# The parent's memory is compared from this fraction of the cells to the end.
_GROWTH_START = 0.1
# A data set like UCF50.
_NUM_CLASSES, _NUM_GROUPS, _NUM_CLIPS, _SHARDS_PER_GROUP = 50, 25, 6681, 2


@dataclasses.dataclass(frozen=True)
class SleepingCell:
    """A cell that sleeps."""

    number: int

    def __str__(self) -> str:
        return f"cell{self.number}"


@dataclasses.dataclass(frozen=True)
class SleepingSpec:
    """The list of cells that sleep."""

    num_cells: int

    def cells(self) -> list[SleepingCell]:
        return [SleepingCell(number) for number in range(self.num_cells)]


@dataclasses.dataclass(frozen=True)
class SleepingComparison:
    """Has the interface of compare.Comparison that side_by_side uses; its cells sleep, and write a file each."""

    folder: str
    spec: SleepingSpec
    secs: float
    num_processes: int = 1
    shared_dir: str | None = None

    def claimable(self, task: tuple[int, int] = (0, 1)) -> list[SleepingCell]:
        finished = set(os.listdir(self.folder))
        return [cell for cell in self.spec.cells() if str(cell) not in finished]

    def on_one_device(self) -> Callable[..., Outcome]:
        return self._run_cell

    def _run_cell(self, cell: SleepingCell, *, listener: Listener, on_start: Callable[[], None]) -> Outcome:
        on_start()
        time.sleep(self.secs)
        for epoch in range(1, _NUM_REPORTS + 1):
            if listener.should_stop():
                return Outcome.STOPPED
            listener.report(
                TrainProgress(step=epoch, num_steps=_NUM_REPORTS, epoch=epoch, num_epochs=_NUM_REPORTS)
            )
        pathlib.Path(self.folder, str(cell)).touch()
        return Outcome.FINISHED


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of the engine and of a restart."""

    num_cells: int
    num_processes: int
    sleep_secs: float
    overhead_ms: float  # per cell of a process, beyond the sleep
    growth_mb: float  # of the parent's memory, from 10 % of the cells to the end
    restart_secs: float  # until all cells are known to be finished
    restart_cpu_secs: float


def measure_engine(num_cells: int, num_processes: int, secs: float) -> tuple[float, float]:
    """Runs cells that sleep. Runs in a fresh process.

    Returns:
      A tuple: the overhead in seconds per cell of a process, and the growth in MB of this process's memory.
    """
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation.cells import ComparisonListener

    times: list[float] = []
    memory: list[float] = []

    def note(*_: Any) -> None:
        times.append(time.perf_counter())
        memory.append(_resident_mb())

    def note_first(*_: Any) -> None:
        if not times:
            note()

    with tempfile.TemporaryDirectory() as folder:
        comparison: Any = SleepingComparison(folder, SleepingSpec(num_cells), secs)
        side_by_side.run(
            comparison,
            ComparisonListener(start=note_first, finish=note),
            environments=[{}] * num_processes,
        )
        failed = failures.load(folder, comparison.spec.cells())
        expect(not failed, "that no cell fails", failed=len(failed))
    overhead = (times[-1] - times[0]) * num_processes / num_cells - secs
    return overhead, memory[-1] - memory[int(num_cells * _GROWTH_START)]


def measure_restart(num_cells: int) -> tuple[float, float]:
    """Measures how long a comparison takes to find that all its cells are finished. Runs in a fresh process.

    Returns:
      A tuple of the seconds and the seconds of CPU time, which depend less on other work on the machine.
    """
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import predictions, result_files
    from ucf50_tfrecord.training import run as run_lib

    with tempfile.TemporaryDirectory() as folder:
        comparison = make_comparison(folder, num_cells)
        cells = comparison.spec.cells()
        for cell in cells:
            run_dir = comparison.run_dir(cell)
            os.makedirs(run_dir)
            config = to_json(comparison._config(cell))
            # As run.open_run and result_files.save_cell name them, but without waiting for the disk.
            pathlib.Path(run_dir, run_lib.CONFIG_FILENAME).write_text(json.dumps(config, indent=1))
            pathlib.Path(run_dir, predictions.FILENAME).touch()
            pathlib.Path(run_dir, result_files.CELL_FILENAME).write_text("{}")
        again = dataclasses.replace(comparison)  # without the cached properties
        started, cpu_started = time.perf_counter(), time.process_time()
        expect(not again.claimable(), "that all cells are finished", cells=len(cells))
        return time.perf_counter() - started, time.process_time() - cpu_started


def make_comparison(folder: str, num_cells: int) -> Comparison:
    """Makes a comparison of `num_cells` cells, rounded down, on a simulated data set, whose shards do not exist."""
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe
    from ucf50_tfrecord.evaluation.compare import Comparison

    stored = ClipFormat()
    recipes = {
        name: Recipe(
            model=ModelSpec(
                name=name,
                num_classes=_NUM_CLASSES,
                num_frames=stored.num_frames,
                height=stored.height,
                width=stored.width,
            ),
            train=TrainSpec(precision="float32"),
        )
        for name in ("frame_pool", "lstm")
    }
    spec = ComparisonSpec(recipes=recipes, num_seeds=1, orders=(FrameOrder.SHUFFLED,), audited=tuple(recipes))
    num_seeds = max(1, num_cells // len(spec.cells()))
    return Comparison(
        folder=folder, spec=dataclasses.replace(spec, num_seeds=num_seeds), clips=simulate_clips()
    )


def simulate_clips() -> ClipIndex:
    """Makes an index of clips like UCF50's; the shards do not exist."""
    from ucf50_tfrecord.dataset.clips import ClipIndex

    numbers = np.arange(_NUM_CLIPS)
    groups, labels = 1 + numbers * _NUM_GROUPS // _NUM_CLIPS, numbers % _NUM_CLASSES
    classes = tuple(f"Class{label:02d}" for label in range(_NUM_CLASSES))
    shards = tuple(
        ManifestShard(
            filename=f"bench-fold{group:02d}.tfrecord-{number:05d}-of-{_SHARDS_PER_GROUP:05d}",
            fold=group,
            num_clips=_NUM_CLIPS // _NUM_GROUPS // _SHARDS_PER_GROUP,
            num_bytes=64 << 20,
            sha256=f"{group * _SHARDS_PER_GROUP + number:064x}",
        )
        for group in range(1, _NUM_GROUPS + 1)
        for number in range(_SHARDS_PER_GROUP)
    )
    manifest = Manifest(
        data_dir="/data",
        name="bench",
        videos_dir="/videos",
        format=ClipFormat(),
        fold_rule=FoldRule(),
        decoder="bench",
        shard_bytes=64 << 20,
        classes=classes,
        num_videos=_NUM_CLIPS,
        clips_per_class={
            group: tuple(np.bincount(labels[groups == group], minlength=_NUM_CLASSES).tolist())
            for group in range(1, _NUM_GROUPS + 1)
        },
        shards=shards,
        quarantined=(),
    )
    return ClipIndex(
        manifest=manifest,
        shard_paths=tuple(f"/data/{shard.filename}" for shard in shards),
        ids=tuple(f"{classes[label]}/clip{number}" for number, label in enumerate(labels.tolist())),
        shards=numbers * len(shards) // _NUM_CLIPS,
        offsets=numbers,
        sizes=np.ones_like(numbers),
        labels=labels.astype(np.int32),
        groups=groups,
        folds=groups,
    )


def _resident_mb() -> float:
    """Returns the memory in MB that this process occupies now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> None:
    num_cells, num_processes, secs = _CELLS.value, _PROCESSES.value, _SLEEP.value
    overhead, growth = measuring.in_fresh_process(measure_engine, num_cells, num_processes, secs)
    restart_secs, cpu_secs = measuring.in_fresh_process(measure_restart, num_cells)
    row = Row(
        num_cells=num_cells,
        num_processes=num_processes,
        sleep_secs=secs,
        overhead_ms=1000 * overhead,
        growth_mb=growth,
        restart_secs=restart_secs,
        restart_cpu_secs=cpu_secs,
    )
    terminal.say(
        f"{'cells':>7}{'processes':>11}{'sleep, ms':>11}{'overhead, ms':>14}{'growth, MB':>12}{'restart, s':>12}"
        f"{'CPU, s':>8}",
        f"{row.num_cells:>7}{row.num_processes:>11}{1000 * row.sleep_secs:>11.1f}{row.overhead_ms:>14.2f}"
        f"{row.growth_mb:>12.1f}{row.restart_secs:>12.2f}{row.restart_cpu_secs:>8.2f}",
    )
    measuring.write_figures(_OUTPUT.value, to_json(row))


if __name__ == "__main__":
    console.run(main)
