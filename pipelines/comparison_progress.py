"""Shows the progress of a comparison."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines import console, terminal
from ucf50_tfrecord.errors import Advice

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonListener
    from ucf50_tfrecord.evaluation.results import Cell


class Display:
    """Shows a comparison's progress: a bar for all trainings on a terminal, else a line per training."""

    def __init__(self):
        self._bar: console.ProgressBar | None = None
        self._running: dict[Cell, str] = {}  # the trainings in progress, as text
        self._num_failed = 0
        self._warned: set[str] = set()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, cell: Cell, number: int, total: int) -> None:
        if self._bar is None:
            self._bar = console.progress_bar(total, "run", "comparing")
            self._bar.update(number)
        self._show(cell, "")
        if not sys.stderr.isatty():
            terminal.say(f"{number + 1}/{total}  {cell}", flush=True)

    def report(self, cell: Cell, progress) -> None:
        """Shows the progress of a training, a training.listener.TrainProgress, after each epoch."""
        if progress.epoch_done:
            shown = [name for name in ("accuracy", "train_loss") if name in progress.scores][:1]
            score = "".join(f" {name} {progress.scores[name]:.2f}" for name in shown)
            self._show(cell, f" {progress.epoch}/{progress.num_epochs}{score}")

    def finish(self, cell: Cell) -> None:
        self._running.pop(cell, None)
        if self._bar is not None:
            self._bar.update()

    def fail(self, cell: Cell, reason: str) -> None:
        self._running.pop(cell, None)
        self._num_failed += 1
        if self._bar is not None:
            self._bar.set_description_str(f"comparing, {self._num_failed} failed")
        terminal.warn(f"{cell} failed twice: {reason}. The other trainings go on")

    def warn(self, text: str) -> None:
        """Shows a warning, unless it was shown before; advice is the same even if its numbers differ."""
        kind = re.sub(r"[0-9]+", "", text) if isinstance(text, Advice) else text
        if kind not in self._warned:
            self._warned.add(kind)
            terminal.warn(text)

    def _show(self, cell: Cell, text: str) -> None:
        self._running[cell] = f"{cell}{text}"
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._running.values()))


def listener(display: Display, should_stop: Callable[[], bool]) -> ComparisonListener:
    """Returns the listener of a comparison that shows its progress on a display."""
    from ucf50_tfrecord.evaluation.cells import ComparisonListener

    return ComparisonListener(
        start=display.start,
        report=display.report,
        finish=display.finish,
        fail=display.fail,
        warn=display.warn,
        should_stop=should_stop,
    )
