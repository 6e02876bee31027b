"""A comparison whose cells do what their names say, for tests of the processes that run cells.

It does not load TensorFlow, so that its processes start fast.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import time

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation.crew import Outcome
from ucf50_tfrecord.storage import LockedError, folder_lock
from ucf50_tfrecord.training.listener import TrainProgress


@dataclasses.dataclass(frozen=True)
class MadeUpCell:
    """does: what the cell does: "finish"; "die_once" and "die_always" by SIGKILL; "die_unheard" once, before it says
    that it has started; "raise_twice" a ValueError; "fail" with a UserError; "wait" until it is told to stop, and
    "wait_once"; "leave_lock" dies once, and its folder's lock stays held for a while."""

    does: str
    number: int

    def __str__(self):
        return f"{self.does}-{self.number}"


@dataclasses.dataclass(frozen=True)
class MadeUpSpec:
    what: tuple[str, ...]

    def cells(self):
        return [MadeUpCell(does, number) for number, does in enumerate(self.what)]


@dataclasses.dataclass(frozen=True)
class MadeUpComparison:
    """Has the interface of compare.Comparison that side_by_side uses; its cells train nothing."""

    folder: str
    spec: MadeUpSpec
    num_processes: int = 1
    shared_dir: str | None = None

    def claimable(self, task):
        return [cell for cell in self.spec.cells() if not self._path(cell, "done").exists()]

    def on_one_device(self):
        return self._run_cell

    def _run_cell(self, cell, *, listener, on_start):
        folder = pathlib.Path(self.folder, str(cell))
        folder.mkdir(exist_ok=True)
        try:
            with folder_lock(folder):
                if cell.does == "die_unheard" and not self._path(cell, "try0").exists():
                    self._path(cell, "try0").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                on_start()
                return self._run(cell, listener)
        except LockedError:
            return Outcome.ELSEWHERE

    def _run(self, cell, listener):
        tries = len(list(pathlib.Path(self.folder, str(cell)).glob("try*")))
        self._path(cell, f"try{tries}").write_text(str(os.getpid()))
        listener.report(TrainProgress(step=1, num_steps=2, epoch=1, num_epochs=2))
        if cell.does == "leave_lock" and not tries:
            lock = next(int(file) for file in os.listdir("/proc/self/fd") if _is_lock(file))
            subprocess.Popen(["sleep", "1"], pass_fds=[lock])
        if cell.does == "die_always" or (cell.does in ("die_once", "leave_lock") and not tries):
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.does == "fail":
            raise UserError(f"{cell} cannot be trained")
        if cell.does == "raise_twice" and tries < 2:
            raise ValueError("no good")
        while cell.does == "wait" or (cell.does == "wait_once" and not tries):
            if listener.should_stop():
                self._path(cell, "stopped").touch()
                return Outcome.STOPPED
            time.sleep(0.01)
        threads = os.environ["THREADS"]
        self._path(cell, "done").write_text(f"{threads} {self.num_processes}")
        return Outcome.FINISHED

    def _path(self, cell, name):
        return pathlib.Path(self.folder, str(cell), name)


def _is_lock(file):
    try:
        return os.readlink(f"/proc/self/fd/{file}").endswith("/.lock")
    except OSError:  # the file by which the folder was listed
        return False
