"""Finds the workers that train together, from TF_CONFIG or Slurm, and waits until all have started.

A worker is one process of a training that may have several. This module does not load TensorFlow, so that
mistakes show before any slow work starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect

TF_CONFIG = "TF_CONFIG"
# The jobs in TF_CONFIG whose tasks train. The chief, if there is one, is numbered before the workers.
_JOBS = ("chief", "worker")
_EXAMPLE = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'
# The first bytes that a worker sends, since other programs may connect to a worker's port, too.
_GREETING, _INDEX_BYTES = b"ucf50-tfrecord worker", 4
_VISIT_SECS = 5.0
_POLL_SECS = 0.2
# Variables that srun sets for each task of a job step.
_SLURM_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
)
# Ports below those that systems assign by themselves (from 32768 on Linux).
_FIRST_PORT, _NUM_PORT_BLOCKS, _PORTS_PER_BLOCK = 12_000, 1_250, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers that train together, and the index of this process among them.

    addresses: each worker's address, as host:port. Worker 0 is the chief.
    worker: the index of this process in `addresses`.
    """

    addresses: tuple[str, ...]
    worker: int

    def __post_init__(self):
        expect(
            0 <= self.worker < len(self.addresses),
            f"a task index from 0 to {len(self.addresses) - 1}",
            task=self.worker,
        )


def uses_workers(strategy: str, environment: Mapping[str, str]) -> bool:
    """Tells whether a strategy trains with the workers that the environment variables name.

    "multi_worker" always does. "auto" does if TF_CONFIG names more than one worker; if each worker trained
    alone, all would write into one folder. Other strategies never do.

    Args:
      strategy: the strategy's name, see choices.Strategy.
      environment: the environment variables of this process.

    Raises:
      UserError: if the strategy is "multi_worker" or "auto", and TF_CONFIG is set but cannot be used. Also if
        the strategy is "multi_worker", and neither TF_CONFIG nor Slurm names the workers.
    """
    strategy = Strategy(strategy)
    if strategy == Strategy.MULTI_WORKER:
        if from_tf_config(environment) is None and not is_slurm_step(environment):
            raise UserError(
                f"The strategy multi_worker needs workers: set {TF_CONFIG}, for example to '{_EXAMPLE}', or start "
                "the workers with srun (Slurm). Neither was found",
                Remedy(Action.LAUNCH, num_workers=2),
            )
        return True
    cluster = from_tf_config(environment) if strategy == Strategy.AUTO else None
    return cluster is not None and len(cluster.addresses) > 1


def from_tf_config(environment: Mapping[str, str]) -> Cluster | None:
    """Reads the workers from TF_CONFIG, TensorFlow's own environment variable for naming workers.

    Returns:
      The cluster, or None if TF_CONFIG is not set or names no workers.

    Raises:
      UserError: if TF_CONFIG is set and cannot be used.
    """
    text = environment.get(TF_CONFIG, "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise _unusable(text, f"it is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster", {}), dict):
        raise _unusable(text, "it names no cluster")
    jobs: dict[str, Any] = config.get("cluster", {})
    if not jobs:
        return None
    problem = _problem_of_jobs(jobs) or _problem_of_task(config.get("task"), jobs)
    if problem:
        raise _unusable(text, problem)
    task = config["task"]
    addresses = [address for job in _JOBS for address in jobs.get(job, [])]
    first = len(jobs.get("chief", [])) if task["type"] == "worker" else 0
    return Cluster(addresses=tuple(addresses), worker=first + int(task["index"]))


def _problem_of_jobs(jobs: dict[str, Any]) -> str | None:
    for job, addresses in jobs.items():
        if job not in _JOBS:
            return f"its jobs may be {' and '.join(_JOBS)} only, not {job!r}"
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            return f"{job!r} must be a list of host:port"
    return "it may name one chief at most" if len(jobs.get("chief", [])) > 1 else None


def _problem_of_task(task: Any, jobs: dict[str, Any]) -> str | None:
    if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
        return "its task needs a type and an index"
    job, index = task["type"], task["index"]
    if not isinstance(job, str) or job not in jobs:
        return f"a task of type {job!r} is not in its cluster"
    if not re.fullmatch(r"[0-9]{1,9}", str(index)) or int(index) >= len(jobs[job]):
        return f"there is no task {index!r} among the {len(jobs[job])} of {job!r}"
    return None


def is_slurm_step(environment: Mapping[str, str]) -> bool:
    """Tells whether Slurm's srun started this process as a task of a job step."""
    return all(name in environment for name in _SLURM_VARIABLES)


def slurm_port(environment: Mapping[str, str]) -> int:
    """Returns the first port for the tasks of a Slurm job step.

    The port is computed from the job's and the step's numbers. So other steps on the same host most likely
    get other ports.
    """
    step = re.sub(r"\D", "", environment.get("SLURM_STEP_ID", "")) or "0"
    block = (31 * int(environment["SLURM_JOB_ID"]) + int(step)) % _NUM_PORT_BLOCKS
    return _FIRST_PORT + _PORTS_PER_BLOCK * block


def slurm_worker(addresses: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Returns the worker number of this Slurm task: its index in `addresses`.

    Finds the task by its host and its place on that host, because Slurm's ranks may count hosts in another
    order than `addresses`.

    Args:
      addresses: the workers' addresses, as host:port.
      environment: the environment variables of this process.

    Raises:
      UserError: if this task's address is not in `addresses`.
    """
    host, place = environment.get("SLURMD_NODENAME"), environment.get("SLURM_LOCALID")
    if host is None or place is None:
        return int(environment["SLURM_PROCID"])
    own = f"{host}:{slurm_port(environment) + int(place)}"
    expect(
        own in addresses, f"the address {own} of this task among those of the Slurm step", addresses=addresses
    )
    return addresses.index(own)


def meet(cluster: Cluster, *, timeout_secs: float) -> None:
    """Waits until all workers of a cluster have called this function.

    The other workers connect to worker 0. Worker 0 tells them when all workers have connected.

    Args:
      cluster: the workers, and the index of this process among them.
      timeout_secs: the longest wait for the others.

    Raises:
      UserError: if workers are missing after `timeout_secs`; in worker 0 the message names them.
    """
    if len(cluster.addresses) == 1:
        return
    deadline = time.monotonic() + timeout_secs
    if cluster.worker:
        _visit(cluster, deadline)
    else:
        _receive(cluster, deadline)


def _receive(cluster: Cluster, deadline: float) -> None:
    """Waits, as worker 0, until all other workers have connected; then tells each that all have started."""
    missing = set(range(1, len(cluster.addresses)))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(cluster.addresses[0], deadline))
        visitors = []
        while missing and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # nobody has connected yet, or a connection broke
                visitor = stack.enter_context(server.accept()[0])
                visitor.settimeout(_VISIT_SECS)
                greeting = visitor.recv(len(_GREETING) + _INDEX_BYTES, socket.MSG_WAITALL)
                if greeting.startswith(_GREETING):  # else a worker of an earlier start calls
                    missing.discard(int.from_bytes(greeting[len(_GREETING) :]))
                    visitors.append(visitor)
        if missing:
            names = ", ".join(f"{index} ({cluster.addresses[index]})" for index in sorted(missing))
            raise UserError(f"Some of the {len(cluster.addresses)} workers did not connect in time: {names}")
        for visitor in visitors:
            with contextlib.suppress(OSError):  # the visitor gave up this connection for a new one
                visitor.sendall(_GREETING)


def _visit(cluster: Cluster, deadline: float) -> None:
    """Connects to worker 0, as another worker, and waits until it reports that all workers have started."""
    host, _, port = cluster.addresses[0].rpartition(":")
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # worker 0 does not listen yet
            with socket.create_connection((host.strip("[]"), int(port)), _VISIT_SECS) as connection:
                connection.sendall(_GREETING + cluster.worker.to_bytes(_INDEX_BYTES))
                connection.settimeout(max(0.0, deadline - time.monotonic()) + _VISIT_SECS)
                if connection.recv(len(_GREETING), socket.MSG_WAITALL) == _GREETING:
                    return
        time.sleep(_POLL_SECS)
    raise UserError(
        f"Worker 0 ({cluster.addresses[0]}) did not report in time that all {len(cluster.addresses)} workers have "
        "started"
    )


def _listen(address: str, deadline: float) -> socket.socket:
    port = int(address.rpartition(":")[2])
    both: dict[str, Any] = (
        {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    )
    while True:
        try:
            server = socket.create_server(("", port), **both)
            server.settimeout(_POLL_SECS)
            return server
        except OSError as error:  # perhaps an earlier start still holds the port
            if time.monotonic() >= deadline:
                raise UserError(f"Cannot listen at port {port} of this host: {error.strerror}") from error
        time.sleep(_POLL_SECS)


def host(address: str) -> str:
    """Returns the host of an address, host:port."""
    return address.rpartition(":")[0]


def _is_address(value: object) -> bool:
    match = re.fullmatch(r"\S+:([0-9]{1,5})", value) if isinstance(value, str) else None
    return match is not None and int(match[1]) < 1 << 16


def _unusable(text: str, reason: str) -> UserError:
    return UserError(f"Cannot use {TF_CONFIG}={text!r}: {reason}. Expected, for example: {_EXAMPLE}")
