"""Processes that run the cells of a comparison side by side: real processes, made-up cells."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, child_pids, is_running
from tests.evaluation.made_up_cells import MadeUpComparison, MadeUpSpec
from tests.waiting import wait_for
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import failures, side_by_side
from ucf50_tfrecord.evaluation.cells import ComparisonListener
from ucf50_tfrecord.storage import folder_lock

ENVIRONMENTS = ({"THREADS": "3"}, {"THREADS": "3"})


class Heard:
    """What a listener heard of a comparison."""

    def __init__(self, stop_after=None):
        self.started, self.reported, self.finished, self.failed, self.warned = [], [], [], [], []
        self.listener = ComparisonListener(
            start=lambda cell, number, total: self.started.append((str(cell), number, total)),
            report=lambda cell, progress: self.reported.append((str(cell), progress.step)),
            finish=lambda cell: self.finished.append(str(cell)),
            fail=lambda cell, reason: self.failed.append((str(cell), reason)),
            warn=self.warned.append,
            should_stop=lambda: stop_after is not None and len(self.reported) >= stop_after,
        )


def comparison(folder, *models):
    return MadeUpComparison(str(folder), MadeUpSpec(models))


def run(made_up, heard):
    return side_by_side.run(made_up, heard.listener, environments=ENVIRONMENTS)


def test_a_killed_process_costs_its_cell_one_retry_and_the_others_nothing(tmp_path):
    models = ("finish", "die_once", "die_always", "finish", "finish")
    made_up, heard = comparison(tmp_path, *models), Heard()
    assert run(made_up, heard) is True
    assert heard.failed == [("die_always-2", "its process was killed by SIGKILL")]
    names = [str(cell) for cell in made_up.spec.cells()]
    finished = [name for name in names if not name.startswith("die_always")]
    assert sorted(heard.finished) == sorted(finished)
    assert {(tmp_path / name / "done").read_text() for name in finished} == {"3 2"}
    tries = {name.split("-")[0]: len(list((tmp_path / name).glob("try*"))) for name in names}
    assert tries == {"finish": 1, "die_once": 2, "die_always": 2}
    assert sum("it is tried again" in text for text in heard.warned) == 2
    assert sorted({number for _, number, _ in heard.started}) == [0, 1, 2, 3, 4]
    assert {name for name, step in heard.reported if step == 1} == set(names)


def test_a_cell_whose_process_dies_before_it_is_heard_is_counted_once(tmp_path):
    made_up, heard = comparison(tmp_path, "die_unheard", "die_once", "finish"), Heard()
    assert run(made_up, heard) is True
    assert len(heard.finished) == 3
    assert sorted({number for _, number, _ in heard.started}) == [0, 1, 2]


def test_a_failed_cell_is_noted_until_the_comparison_is_started_again(tmp_path):
    made_up = comparison(tmp_path, "raise_twice", "finish")
    cells = made_up.spec.cells()
    assert run(made_up, heard := Heard()) is True
    reason = "its process raised ValueError: no good"
    assert heard.failed == [("raise_twice-0", reason)] and heard.finished == ["finish-1"]
    assert failures.load(str(tmp_path), cells) == {cells[0]: reason}
    assert run(made_up, heard := Heard()) is True
    assert heard.finished == ["raise_twice-0"] and not heard.failed
    assert failures.load(str(tmp_path), cells) == {}


def test_a_cell_that_failed_in_another_process_meanwhile_is_left_out(tmp_path):
    made_up = comparison(tmp_path, *["finish"] * 6)
    *_, last = made_up.spec.cells()
    heard = Heard()

    def fail_elsewhere(cell, progress):
        failures.save(str(tmp_path), last, "its process was killed by SIGKILL")

    heard.listener = dataclasses.replace(heard.listener, report=fail_elsewhere)
    assert run(made_up, heard) is True
    assert len(heard.finished) == 5 and str(last) not in heard.finished
    assert not list((tmp_path / str(last)).glob("*")) and not heard.failed


def test_a_damaged_note_is_an_error_that_names_it(tmp_path):
    (cell,) = comparison(tmp_path, "finish").spec.cells()
    failures.save(str(tmp_path), cell, "x" * 5000)
    assert failures.load(str(tmp_path), [cell]) == {cell: "x" * 1000}
    (tmp_path / "failed" / "finish-0.json").write_text("{}")
    with pytest.raises(UserError, match="failed/finish-0.json is not a note .*: Expected a field reason"):
        failures.load(str(tmp_path), [cell])


def test_a_lock_that_outlives_its_process_is_waited_for(tmp_path):
    made_up, heard = comparison(tmp_path, "leave_lock", "finish"), Heard()
    assert run(made_up, heard) is True
    assert sorted(heard.finished) == ["finish-1", "leave_lock-0"]
    assert (tmp_path / "leave_lock-0" / "try1").exists()


def test_an_error_of_a_cell_is_raised_here_and_ends_the_others(tmp_path):
    made_up = comparison(tmp_path, "fail", "wait")
    with pytest.raises(UserError, match="fail-0 cannot be trained"):
        run(made_up, Heard())
    assert not list(tmp_path.glob("*/done"))


def test_a_request_to_stop_reaches_every_cell_and_is_answered(tmp_path):
    made_up = comparison(tmp_path, "wait", "wait", "finish")
    assert run(made_up, Heard(stop_after=2)) is False
    assert len(list(tmp_path.glob("wait*/stopped"))) == 2 and not list(tmp_path.glob("finish*"))


def test_cells_of_other_processes_are_left_to_them(tmp_path):
    made_up, heard = comparison(tmp_path, "finish", "finish"), Heard()
    other, own = map(str, made_up.spec.cells())
    (tmp_path / other).mkdir()
    with folder_lock(tmp_path / other):
        assert run(made_up, heard) is True
    assert heard.finished == [own] and not (tmp_path / other / "done").exists()


PARENT = """
import sys
from tests.evaluation.test_side_by_side import Heard, comparison, run
run(comparison(sys.argv[1], "wait", "wait"), Heard())
"""


def test_cells_are_stopped_when_the_parent_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=REPOSITORY)
    wait_for(lambda: len(list(tmp_path.glob("*/try0"))) == 2, process=parent)
    children = child_pids(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(map(is_running, children)))
    assert len(list(tmp_path.glob("*/stopped"))) == 2
