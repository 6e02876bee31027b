"""Prints what a comparison will train, and estimates its time, memory and disk space from measured steps."""

from __future__ import annotations

import collections
import dataclasses
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines import console, terminal
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.specs import format_bytes, shorten

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.estimate import Cost, Needs, Work
    from ucf50_tfrecord.evaluation.results import Cell

_MAX_NAME = 30  # columns for a model's name


@dataclasses.dataclass(frozen=True)
class Engine:
    """The processes that run the cells of a comparison, its trainings.

    environments: the environment variables of each process, see side_by_side.run; empty for this process.
    task: tuple (index, count): this task and the number of tasks, as in Comparison.claimable.
    strategy: name of the distribution strategy, if this process runs the cells.
    num_on_ray: number of cells that a Ray cluster runs at a time; 0 without Ray. A process of this host is
      measured then.
    """

    environments: Sequence[Mapping[str, str]]
    task: tuple[int, int]
    strategy: str
    num_on_ray: int = 0

    @property
    def num_processes(self) -> int:
        """Number of processes of this task."""
        return self.num_on_ray or max(1, len(self.environments))

    def __str__(self) -> str:
        index, count = self.task
        tasks = f"; task {index} of {count}, each with as many processes" if count > 1 else ""
        if self.num_on_ray:
            return f"{self.num_on_ray} on a Ray cluster, taken to be as fast as this host{tasks}"
        if not self.environments:
            return f"this process{tasks}"
        gpus = [environment.get("CUDA_VISIBLE_DEVICES", "") for environment in self.environments]
        if any(gpus):
            return f"{len(gpus)} processes on the GPUs {', '.join(gpus)}{tasks}"
        threads = self.environments[0].get("TF_NUM_INTRAOP_THREADS", "1")
        return (
            f"{len(gpus)} processes on {len(os.sched_getaffinity(0))} cores, {threads} thread(s) each{tasks}"
        )


def show(comparison: Comparison, engine: Engine, *, num_missing: int, warn: Callable[[str], None]) -> None:
    """Prints the plan of a comparison. Trains nothing, and writes nothing into the comparison's folder.

    Args:
      comparison: the comparison.
      engine: the processes that would run it.
      num_missing: number of interventions under which clips are still to be encoded.
      warn: called with warnings of the measured trainings.
    """
    from ucf50_tfrecord.evaluation import estimate, trial
    from ucf50_tfrecord.evaluation.cells import ComparisonListener

    wanted, left = comparison.spec.cells(), comparison.unfinished()
    _show_counts(comparison, wanted, left)
    terminal.say(f"Processes: {engine}")
    if not left:
        terminal.say("All trainings are finished; without --dry_run, the same command writes the report.")
        return
    names = [name for name in comparison.spec.recipes if any(cell.model == name for cell in left)]
    # No more processes than the comparison would start.
    environments = list(engine.environments[: len(left)]) or [{}]
    terminal.say(f"Measuring {', '.join(names)} …", "", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        console.stop_requests() as should_stop,
        console.progress_bar(len(names) * len(environments), "run", "measuring") as bar,
    ):
        measured = trial.measure(
            comparison,
            names,
            ComparisonListener(warn=warn, should_stop=should_stop, finish=lambda cell: bar.update()),
            folder=folder,
            environments=environments,
            prepare=console.load_tensorflow,
            strategy=Strategy.ONE if engine.environments else engine.strategy,
        )
    if measured is None:
        terminal.say("Stopped.")
        return
    works = [(cell.model, estimate.work_of(comparison, cell)) for cell in left]
    finished = [estimate.work_of(comparison, cell) for cell in wanted if cell not in set(left)]
    needs = estimate.needs(
        measured.costs,
        works,
        num_finished_logits=sum(work.num_logits for work in finished),
        num_processes=min(engine.num_processes, len(left)),
        num_tasks=engine.task[1],
        launch_secs=measured.launch_secs,
    )
    _show_costs(measured.costs, works)
    _show_needs(comparison, needs, engine, num_missing=num_missing)


def _show_counts(comparison: Comparison, wanted: Sequence[Cell], left: Sequence[Cell]) -> None:
    from ucf50_tfrecord.evaluation import estimate

    spec = comparison.spec
    parts = f"{max(1, spec.num_parts)} part(s) x {spec.num_seeds} seed(s)"
    details = {
        "usual": f"{len(spec.recipes)} model(s) x {parts}",
        "without order": f"frames in training: {', '.join(spec.orders)}",
        "by video": f"audit of {', '.join(spec.audited)}",
        "without classes": f"{len(spec.held_out)} sets of classes to hold out",
    }
    counts, undone = (collections.Counter(map(estimate.kind_of, cells)) for cells in (wanted, left))
    terminal.say(
        f"Plan of the comparison in {comparison.folder}, which is left as it is:",
        f"  {'trainings':<15}{'all':>7}{'finished':>10}{'left':>7}",
    )
    for kind, count in counts.items():
        row = f"  {kind:<15}{count:>7}{count - undone[kind]:>10}{undone[kind]:>7}"
        terminal.say_wrapped(f"{row}  {details[kind]}", subsequent_indent=" " * 43)
    terminal.say(f"  {'in all':<15}{len(wanted):>7}{len(wanted) - len(left):>10}{len(left):>7}")


def _show_costs(costs: Mapping[str, Cost], works: Sequence[tuple[str, Work]]) -> None:
    from ucf50_tfrecord.evaluation import estimate

    width = max(len("model"), *(min(_MAX_NAME, len(name)) for name in costs))
    terminal.say(f"  {'model':<{width}}{'parameters':>12}{'ms/step':>9}{'s/training':>12}{'left':>6}")
    for name, cost in costs.items():
        secs = [estimate.cell_secs(cost, work) for model, work in works if model == name]
        terminal.say(
            f"  {shorten(name, _MAX_NAME):<{width}}{cost.num_parameters:>12,}{1000 * cost.step_secs:>9.1f}"
            f"{statistics.mean(secs):>12.1f}{len(secs):>6}"
        )


def _show_needs(comparison: Comparison, needs: Needs, engine: Engine, *, num_missing: int) -> None:
    count = engine.task[1]
    tasks = f" in each of {count} tasks" if count > 1 else ""
    processes = "1 process" if engine.num_processes == 1 else f"{engine.num_processes} processes"
    terminal.say("", f"About {_minutes(needs.secs)} with {processes}{tasks}, plus the report.")
    if num_missing:
        terminal.say(f"Before that, the clips are encoded under {num_missing} interventions.")
    if not engine.num_on_ray:  # else, each node needs a part that Ray chooses
        _show_need("Memory", needs.memory_bytes, memory.available_host_bytes())
    _show_need("Disk", needs.disk_bytes, shutil.disk_usage(_existing(comparison.folder)).free)


def _show_need(name: str, num_bytes: int, free: int | None) -> None:
    terminal.say(
        f"{name + ':':<8}about {format_bytes(num_bytes)}, "
        + ("the free space is unknown" if free is None else f"of {format_bytes(free)} free")
    )
    if free is not None and num_bytes > free:
        terminal.warn(f"the comparison may run out of {name.lower()}")


def _minutes(secs: float) -> str:
    minutes = secs / 60
    hours = f" ({minutes / 60:.1f} h)" if minutes >= 120 else ""
    return f"{minutes:.{0 if minutes >= 10 else 1}f} min{hours}"


def _existing(folder: str) -> str:
    """Returns a folder, or the closest of its parents that exists."""
    path = os.path.abspath(folder)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
