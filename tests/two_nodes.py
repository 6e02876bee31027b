"""A Ray cluster in processes of this host: a head that runs no work, and two nodes, one of which a test kills."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import child_pids


@dataclasses.dataclass
class TwoNodes:
    """address: the cluster's address, as --ray_address takes it."""

    address: str
    _cluster: Any
    _nodes: list

    def descendants(self, index: int) -> list[int]:
        """Returns the ids of the processes that node `index`, 0 or 1, has started, and of those that they started."""
        found, new = [], [info.process.pid for info in self._nodes[index].all_processes["raylet"]]
        while new:
            new = [child for pid in new for child in child_pids(pid)]
            found += new
        return found

    def kill(self, index: int) -> None:
        """Kills node `index` as a power failure would."""
        self._cluster.remove_node(self._nodes[index], allow_graceful=False)


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Starts the cluster, with one CPU per node; stops it at the end of the block. Skips the test without Ray."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        yield TwoNodes(cluster.address, cluster, nodes)
    finally:
        cluster.shutdown()
