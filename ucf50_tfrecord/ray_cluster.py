"""Connects this process to a Ray cluster, and counts the units of work that the cluster can hold."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray

import ucf50_tfrecord
from ucf50_tfrecord.errors import UserError, expect

# The address that stands for a cluster of this host alone.
LOCAL = "local"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that Ray reserves for one unit of work, such as a shard or a training.

    num_cpus: number of CPUs.
    num_gpus: number of GPUs; a fraction below 1 shares a GPU.
    memory_bytes: host memory; 0 reserves none.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def __post_init__(self):
        expect(self.num_cpus >= 0, "at least 0 CPUs per unit of work", num_cpus=self.num_cpus)
        expect(
            self.num_gpus >= 0 and (self.num_gpus <= 1 or self.num_gpus == int(self.num_gpus)),
            "a fraction of a GPU, or whole GPUs, per unit of work",
            num_gpus=self.num_gpus,
        )

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 2**30:.3g} GiB of memory" if self.memory_bytes else ""
        return f"{self.num_cpus:g} CPUs, {self.num_gpus:g} GPUs{memory}"

    def options(self) -> dict[str, Any]:
        """Returns the resources as options of a Ray task or actor."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory_bytes or None}

    def slots_of(self, node: dict[str, float]) -> int:
        """Returns how many units of work a node with the given total resources can hold at a time."""
        wanted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory_bytes}
        limits = [node.get(name, 0.0) / amount for name, amount in wanted.items() if amount]
        return int(min(limits, default=node.get("CPU", 0.0)) + 1e-6)  # 1e-6: 0.3 / 0.1 is below 3


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connects this process to a Ray cluster while the block runs.

    The cluster's workers use the code of this process: its folder must exist on all nodes.

    Args:
      address: <host>:<port> of the cluster; "auto" for the cluster that this host belongs to; or LOCAL, which
        starts Ray on this host, with the cores of this process, and stops it after the block.

    Raises:
      UserError: if there is no such cluster, or Ray cannot be started.
    """
    options: dict[str, Any] = {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default; set, it does not warn
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            logging_level="ERROR",
            # Else, the log of a node that died would be printed. Logs of this host's own cluster are not kept.
            log_to_driver=address == LOCAL,
            runtime_env={"env_vars": {"PYTHONPATH": _python_path()}},
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        verb = "start Ray" if address == LOCAL else f"connect to a Ray cluster at {address}"
        raise UserError(f"Cannot {verb}: {' '.join(str(error).split())}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
        yield
    finally:
        ray.shutdown()


def slots(resources: Resources) -> list[int]:
    """Returns for each node of the cluster how many units of work it can hold at a time; at least one in all.

    Raises:
      UserError: if no node has the resources for one unit.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = [resources.slots_of(node) for node in nodes]
    if not any(found):
        have = "; ".join(
            str(
                Resources(
                    num_cpus=node.get("CPU", 0),
                    num_gpus=int(node.get("GPU", 0)),
                    memory_bytes=int(node.get("memory", 0)),
                )
            )
            for node in nodes
        )
        raise UserError(f"Expected a Ray node with {resources}. Found nodes with {have}")
    return found


def has_gpus() -> bool:
    """Tells whether a node of the cluster has GPUs."""
    return any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])


def first_sentence(error: Exception) -> str:
    """Returns the first sentence of an error of Ray; further ones list ids and possible causes."""
    return re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")


def _python_path() -> str:
    """Returns PYTHONPATH with absolute paths, preceded by the folder of this package."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = str(pathlib.Path(ucf50_tfrecord.__file__).parents[1])
    return os.pathsep.join(dict.fromkeys(os.path.abspath(path) for path in [own, *given]))
