"""Runs the cells of a comparison (its trainings) on the nodes of a Ray cluster.

An actor of Ray holds the resources of one training. It starts a process on its node, which runs cells as the
processes of side_by_side do: in an environment without Ray, so that the results are the same.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import crew
from ucf50_tfrecord.evaluation.side_by_side import LocalProcess
from ucf50_tfrecord.ray_cluster import Resources, slots

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonListener
    from ucf50_tfrecord.evaluation.compare import Comparison
    from ucf50_tfrecord.evaluation.results import Cell

_END_SECS = 10.0


def run(
    comparison: Comparison,
    listener: ComparisonListener,
    *,
    resources: Resources,
    environment: Mapping[str, str],
    max_processes: int | None = None,
    prepare: Callable[[], None] | None = None,
    task: tuple[int, int] = (0, 1),
) -> bool:
    """Trains and tests the cells of a comparison on the cluster that this process is connected to.

    See ray_cluster.connected. All nodes must see the current folder, the dataset and the comparison's folder under
    the same paths. If a node or a process dies, its cell is tried once more elsewhere.

    Args:
      comparison, listener, task: as in crew.run.
      resources: the resources of each training.
      environment: environment variables of the processes that run cells.
      max_processes: largest number of trainings at a time; None for as many as the cluster holds now. A larger
        number also uses nodes that join later.
      prepare: as in side_by_side.run.

    Returns:
      As Comparison.run does.

    Raises:
      UserError: as crew.run does. Also if no node has the resources.
    """
    found = slots(resources)
    num_processes = max_processes or sum(found)
    return crew.run(
        comparison,
        listener,
        place=_Cluster(resources, prepare),
        environments=[environment] * num_processes,
        num_sharing=min(num_processes, max(found)),
        task=task,
    )


class _Cluster:
    """Starts processes on the nodes of the cluster; the crew.Place of `run`."""

    def __init__(self, resources: Resources, prepare: Callable[[], None] | None):
        self._resources, self._prepare = resources, prepare

    def start(self, environment: Mapping[str, str], payload: bytes) -> _RemoteProcess:
        prepare = functools.partial(_enter, os.getcwd(), self._prepare)
        actor = _ACTOR.options(**self._resources.options()).remote(dict(environment), prepare, payload)
        return _RemoteProcess(actor, environment)

    def wait(self, processes: Sequence[_RemoteProcess], timeout_secs: float) -> Collection[_RemoteProcess]:
        by_answer = {process.answer: process for process in processes}
        ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(by_answer), timeout=timeout_secs)
        return [by_answer[answer] for answer in ready]


class _RemoteProcess:
    """A process on a node of the cluster that runs cells; a crew.Process.

    answer: Ray's reference to the process's next messages.
    """

    def __init__(self, actor: ray.actor.ActorHandle, environment: Mapping[str, str]):
        self.environment = environment
        self.cell: Cell | None = None
        self.is_ready = False
        self._actor = actor
        self._loss: str | None = None  # how the actor was lost
        self.answer = actor.begin.remote()

    def give(self, cell: Cell) -> None:
        self.cell = cell
        self._actor.send.remote(cell)

    def ask_to_stop(self) -> None:
        if self.is_ready:
            self._actor.send.remote(None)

    def receive(self) -> list[tuple[str, Any]] | None:
        try:
            messages = ray.get(self.answer)
        except ray.exceptions.RayActorError as error:
            self._loss = _explain(error)
            return None
        self.is_ready = True
        self.answer = self._actor.receive.remote()
        return messages

    def end(self) -> str:
        if self._loss is None and self.is_ready:
            try:
                self._loss = ray.get(self._actor.end.remote(), timeout=_END_SECS)
            except ray.exceptions.RayError as error:  # it was lost, or it does not answer
                self._loss = _explain(error)
        ray.kill(self._actor)
        return self._loss or "its process was not started"


class _Slot:
    """An actor that holds the resources of one training on a node, and starts the process there.

    While `receive` waits in one thread, `send` runs in another, one call after another, and `end` in a third.
    """

    def __init__(self, environment: dict[str, str], prepare: Callable[[], None], payload: bytes):
        # Ray sets it; with another number of threads, sums would be rounded otherwise than without Ray.
        os.environ.pop("OMP_NUM_THREADS", None)
        self._process = LocalProcess(environment, prepare=prepare, payload=payload)

    def begin(self) -> list[tuple[str, Any]]:
        """Returns no messages, once the process has been started."""
        return []

    @ray.method(concurrency_group="send")
    def send(self, cell: Cell | None) -> None:
        """Gives the process a cell to run; None asks it to stop."""
        if cell is None:
            self._process.ask_to_stop()
        else:
            self._process.give(cell)

    def receive(self) -> list[tuple[str, Any]] | None:
        """Waits for messages of the process. Returns all that have arrived; None if the process has exited."""
        messages = self._process.receive()
        while messages is not None and self._process.connection.poll():
            more = self._process.receive()
            if more is None:
                break  # as the next call finds again
            messages += more
        return messages

    @ray.method(concurrency_group="end")
    def end(self) -> str:
        """Kills the process if it still runs; returns a clause that says how it exited, and where."""
        log = os.readlink("/proc/self/fd/2")
        return f"{self._process.end()} on {ray.util.get_node_ip_address()} (log: {log})"


_ACTOR = ray.remote(concurrency_groups={"send": 1, "end": 1})(_Slot)


def _enter(folder: str, prepare: Callable[[], None] | None) -> None:
    """Makes a folder the current one of a process on a node, and prepares the process."""
    try:
        os.chdir(folder)
    except OSError as error:
        node = ray.util.get_node_ip_address()
        raise UserError(
            f"Expected the folder {folder} on all nodes. The node {node} cannot open it: {error.strerror}"
        ) from error
    if prepare is not None:
        prepare()


def _explain(error: ray.exceptions.RayError) -> str:
    """Returns a clause about the loss of an actor."""
    lines = str(error).strip().split("\n")
    cause = re.search(r"because (its [^.]*)", str(error))  # such as "its node has died"
    if isinstance(error, ray.exceptions.ActorDiedError) and cause is None:
        return f"its Ray worker died: {lines[-1]}"
    return f"its Ray worker was lost{f', because {cause[1]}' if cause else ''}"
