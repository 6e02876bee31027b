"""Estimates the time, memory and disk space of a comparison from measured costs of its cells.

A cell is one training of the comparison and the test of its model. The costs are measured by
evaluation.trial; this module only counts and adds.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.evaluation import cells as cells_lib
from ucf50_tfrecord.training.run import RunOptions

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.results import Cell

_LOGIT_BYTES = 4  # of a logit in predictions.parquet: random bits of a float32 are hardly compressed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """The measured cost of a model's cells in one process, while all processes are busy.

    num_parameters: number of the model's weights.
    first_secs: seconds to compile the model. A process compiles it once per order of training frames.
    start_secs: seconds of a training that do not depend on its length.
    load_secs: seconds to load a clip into memory, once per process; 0 if clips are not kept in memory.
    frozen_step_secs: seconds per step while the encoder is frozen, if it is unfrozen later.
    step_secs: seconds per step.
    test_start_secs: seconds of a test that do not depend on the number of clips.
    test_secs: seconds per tested clip and intervention.
    inspect_secs: seconds to inspect the recurrent layer.
    peak_bytes: peak memory of the process in bytes, without the kept clips.
    cached_bytes: host memory in bytes for the clips that a process keeps.
    shared_bytes: host memory in bytes for the clips that the processes of a host keep together.
    checkpoint_bytes: size of a checkpoint in bytes.
    """

    num_parameters: int
    first_secs: float
    start_secs: float
    load_secs: float
    frozen_step_secs: float
    step_secs: float
    test_start_secs: float
    test_secs: float
    inspect_secs: float
    peak_bytes: int
    cached_bytes: int
    shared_bytes: int
    checkpoint_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one cell.

    order: order of the training frames, a value of choices.FrameOrder.
    num_clips: number of clips that are trained on or tested.
    num_frozen_steps: number of training steps with a frozen encoder that is unfrozen later.
    num_steps: number of all other training steps.
    num_tests: number of tested clips, summed over the interventions.
    num_epoch_tests: number of tested clips, summed over the evaluations after epochs.
    num_logits: number of logits that are stored.
    inspects: whether the model is looked inside after the tests, see ComparisonSpec.inside.
    """

    order: str
    num_clips: int
    num_frozen_steps: int
    num_steps: int
    num_tests: int
    num_epoch_tests: int
    num_logits: int
    inspects: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What the unfinished cells of a comparison need.

    secs: seconds from the start of the processes to the end of the last one.
    memory_bytes: host memory in bytes of all processes of this host.
    disk_bytes: size in bytes of the files that are still to be written, the predictions of all cells included.
    """

    secs: float
    memory_bytes: int
    disk_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """The times at which a short cell made progress, in seconds from its start.

    reports: the number of finished training steps and the time, after each call of training steps.
    num_frozen_steps: number of the first steps, with a frozen encoder that is unfrozen later.
    tests: the time after each batch of tested clips.
    batches_per_pass: number of batches in each pass over the tested clips. Each pass compiles a function.
    num_tested: number of clips per full batch, times the number of interventions of all passes.
    secs: the time at the end of the cell.
    """

    reports: Sequence[tuple[int, float]]
    num_frozen_steps: int
    tests: Sequence[float]
    batches_per_pass: int
    num_tested: int
    secs: float

    def costs(self, *, inspects: bool) -> dict[str, float]:
        """Returns those fields of Cost that follow from the times.

        Args:
          inspects: whether the cell looks inside its model after the tests, see ComparisonSpec.inside.
        """
        frozen = [report for report in self.reports if report[0] <= self.num_frozen_steps]
        others = self.reports[len(frozen) :]
        frozen_step_secs, step_secs = _step_secs(frozen), _step_secs(others)
        num_steps, trained = self.reports[-1]
        stepping = frozen_step_secs * self.num_frozen_steps + step_secs * (num_steps - self.num_frozen_steps)
        gaps = [end - start for start, end in zip((trained, *self.tests), self.tests)]
        later = [gap for number, gap in enumerate(gaps) if number % self.batches_per_pass]
        closing = self.secs - self.tests[-1]
        batch_secs = sum(later) / max(1, self.batches_per_pass - 1)
        return {
            "start_secs": trained - stepping,
            "frozen_step_secs": frozen_step_secs,
            "step_secs": step_secs,
            "test_start_secs": sum(gaps) - sum(later) + (0.0 if inspects else closing),
            "test_secs": batch_secs / self.num_tested,
            "inspect_secs": closing if inspects else 0.0,
        }


def _step_secs(reports: Sequence[tuple[int, float]]) -> float:
    """Returns the seconds per step. The first call is left out, as it compiles; so is the last one, which saves."""
    timed = reports[:-1] if len(reports) > 2 else reports
    if len(timed) < 2:
        return 0.0
    (first, began), (last, ended) = timed[0], timed[-1]
    return (ended - began) / (last - first)


def kind_of(cell: Cell) -> str:
    """Returns the kind of a cell.

    It is "usual", "without order" (of training frames), "by video" (for the audit) or "without classes".
    """
    if cell.held_out:
        return "without classes"
    if cell.split == FoldBy.VIDEO:
        return "by video"
    return "usual" if cell.training == FrameOrder.KEPT else "without order"


def work_of(comparison: Comparison, cell: Cell) -> Work:
    """Counts the work of a cell.

    Raises:
      UserError: if the clips cannot be split as the comparison asks for.
    """
    recipe, manifest = comparison.spec.recipes[cell.model], comparison.clips.manifest
    parts = comparison.parts[cell.split]
    num_tested = int((parts == cell.part).sum())
    num_trained = int(cells_lib.find_trained(comparison.clips, parts, cell).sum())
    steps_per_epoch = math.ceil(num_trained / recipe.train.batch_size)
    num_embedded = num_trained + num_tested if cell.held_out else 0
    num_frozen_steps = recipe.train.unfreeze_after_epoch * steps_per_epoch
    num_frames = recipe.model.num_frames
    names = set(
        cells_lib.interventions_of(cell, num_frames, of_features=manifest.features is not None)
    ) | set(comparison.changed).intersection(cells_lib.interventions_of(cell, num_frames))
    return Work(
        order=cell.training,
        num_clips=len(parts),
        num_frozen_steps=num_frozen_steps,
        num_steps=recipe.train.epochs * steps_per_epoch - num_frozen_steps,
        num_tests=num_tested * len(names) + num_embedded,
        num_epoch_tests=num_tested * recipe.train.epochs if comparison.tensorboard else 0,
        num_logits=num_tested * len(names) * len(manifest.classes),
        inspects=comparison.spec.inside and kind_of(cell) == "usual",
    )


def cell_secs(cost: Cost, work: Work) -> float:
    """Returns the seconds that a cell takes in a process that has compiled its model and loaded the clips."""
    return (
        cost.start_secs
        + cost.frozen_step_secs * work.num_frozen_steps
        + cost.step_secs * work.num_steps
        + cost.test_start_secs
        + cost.test_secs * (work.num_tests + work.num_epoch_tests)
        + cost.inspect_secs * work.inspects
    )


def total_secs(secs: Sequence[float], num_processes: int) -> float:
    """Returns the time in which processes run cells one after another, each taking the next one when it is free.

    Args:
      secs: seconds of each cell, in the order in which the cells are begun.
      num_processes: number of processes.
    """
    ends = [0.0] * num_processes
    for duration in secs:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def cell_bytes(cost: Cost, work: Work) -> int:
    """Returns the size in bytes of a cell's files, without event files: its checkpoints and predictions.

    A training keeps its last checkpoint, and the one before if there was one. If it is evaluated after each
    epoch, it also keeps the weights of the best epoch.
    """
    saves_often = cell_secs(cost, work) > RunOptions.checkpoint_secs or work.num_epoch_tests > 0
    num_checkpoints = 1 + saves_often + (work.num_epoch_tests > 0)
    return num_checkpoints * cost.checkpoint_bytes + _LOGIT_BYTES * work.num_logits


def needs(
    costs: Mapping[str, Cost],
    left: Sequence[tuple[str, Work]],
    *,
    num_finished_logits: int = 0,
    num_processes: int,
    num_tasks: int = 1,
    launch_secs: float = 0.0,
) -> Needs:
    """Estimates what the unfinished cells of a comparison need.

    Args:
      costs: dictionary from a model's name to the cost of its cells.
      left: the model's name and the work of each unfinished cell, in the order in which the cells are begun.
      num_finished_logits: number of the logits of finished cells, which the predictions of all cells hold, too.
      num_processes: number of processes on this host.
      num_tasks: number of tasks, such as hosts, that each run as many processes.
      launch_secs: seconds from the start of a process to its first cell.
    """
    if not left:
        return Needs(secs=0.0, memory_bytes=0, disk_bytes=0)
    used = [costs[model] for model in {model: None for model, _ in left}]
    durations = [cell_secs(costs[model], work) for model, work in left]
    num_logits = num_finished_logits + sum(work.num_logits for _, work in left)
    programs = {(model, work.order) for model, work in left}
    return Needs(
        # Each process loads all clips and compiles each model; all processes do so at the same time.
        secs=launch_secs
        + max(costs[model].load_secs * work.num_clips for model, work in left)
        + sum(costs[model].first_secs for model, _ in programs)
        + total_secs(durations, num_processes * num_tasks),
        memory_bytes=min(num_processes, len(left)) * max(cost.peak_bytes + cost.cached_bytes for cost in used)
        + max(cost.shared_bytes for cost in used),
        disk_bytes=sum(cell_bytes(costs[model], work) for model, work in left) + _LOGIT_BYTES * num_logits,
    )
