"""Cells of a comparison on a Ray cluster: real nodes, made-up cells."""

import dataclasses
import importlib

import pytest

from tests.evaluation.test_side_by_side import Heard, comparison
from tests.two_nodes import two_nodes
from ucf50_tfrecord.errors import UserError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    from ucf50_tfrecord import ray_cluster

    with two_nodes() as cluster, ray_cluster.connected(cluster.address):
        yield cluster


def run(made_up, heard, prepare=None, **options):
    from ucf50_tfrecord.evaluation import on_ray
    from ucf50_tfrecord.ray_cluster import Resources

    return on_ray.run(
        made_up,
        heard.listener,
        resources=Resources(**options),
        environment={"THREADS": "3"},
        prepare=prepare,
    )


def test_a_killed_process_costs_its_cell_one_retry_and_the_others_nothing(nodes, tmp_path):
    models = ("finish", "die_once", "die_always", "finish")
    made_up, heard = comparison(tmp_path, *models), Heard()
    assert run(made_up, heard) is True
    [(name, reason)] = heard.failed
    assert name == "die_always-2" and reason.startswith("its process was killed by SIGKILL on ")
    assert sorted(heard.finished) == ["die_once-1", "finish-0", "finish-3"]
    # On each node, one training has the memory.
    assert {path.read_text() for path in tmp_path.glob("*/done")} == {"3 1"}
    assert sum("it is tried again" in text for text in heard.warned) == 2
    assert sorted({number for _, number, _ in heard.started}) == [0, 1, 2, 3]


def test_an_error_of_a_cell_is_raised_here_and_ends_the_others(nodes, tmp_path):
    with pytest.raises(UserError, match="fail-0 cannot be trained"):
        run(comparison(tmp_path, "fail", "wait"), Heard())
    assert not list(tmp_path.glob("*/done"))


def test_a_request_to_stop_reaches_every_cell_and_is_answered(nodes, tmp_path):
    assert run(comparison(tmp_path, "wait", "wait", "finish"), Heard(stop_after=2)) is False
    assert len(list(tmp_path.glob("wait*/stopped"))) == 2 and not list(tmp_path.glob("finish*"))


def test_resources_that_no_node_has_are_an_error(nodes, tmp_path):
    with pytest.raises(UserError, match="Expected a Ray node with 1 CPUs, 2 GPUs. Found nodes with "):
        run(comparison(tmp_path, "finish"), Heard(), num_gpus=2)


def test_a_folder_that_the_nodes_do_not_see_is_an_error(nodes, tmp_path, monkeypatch):
    monkeypatch.setattr("os.getcwd", lambda: "/nowhere")
    with pytest.raises(UserError, match="Expected the folder /nowhere on all nodes"):
        run(comparison(tmp_path, "finish"), Heard())


class OnlyHere:
    """Stands for a function of a module that the nodes lack."""

    def __reduce__(self):
        return importlib.import_module, ("only_here",)


def test_nodes_that_lack_a_module_are_an_error(nodes, tmp_path):
    with pytest.raises(UserError, match="Cannot start a process .* No module named 'only_here'"):
        run(comparison(tmp_path, "finish"), Heard(), prepare=OnlyHere())


def test_a_killed_node_costs_its_cell_one_retry(nodes, tmp_path):
    """The last test, as it leaves one node."""
    made_up, heard = comparison(tmp_path, "wait_once", "finish", "finish", "finish"), Heard()

    def kill_node_of(cell, progress):
        if cell.does == "wait_once" and not heard.warned:
            pid = int((tmp_path / "wait_once-0" / "try0").read_text())
            nodes.kill(next(index for index in (0, 1) if pid in nodes.descendants(index)))

    heard.listener = dataclasses.replace(heard.listener, report=kill_node_of)
    assert run(made_up, heard) is True
    assert sorted(heard.finished) == ["finish-1", "finish-2", "finish-3", "wait_once-0"]
    assert len(heard.warned) == 1
    assert heard.warned[0].startswith("wait_once-0: its Ray worker was lost")
