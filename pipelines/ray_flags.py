"""Flags of work on a Ray cluster (--engine=ray), for conversions and comparisons."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from absl import flags

from pipelines import console, scratch
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect

_ADDRESS = flags.DEFINE_string(
    "ray_address",
    "local",
    "With --engine=ray: <host>:<port> of the cluster; auto, for the cluster that this host belongs to; or local, "
    "which starts Ray on this host for this command.",
)
_CPUS = flags.DEFINE_float(
    "cpus_per_job",
    None,
    "With --engine=ray: CPUs that Ray reserves per shard, and per training of a comparison. Default: 1 per shard, "
    "--threads_per_job per training.",
    lower_bound=0.0,
)


def check_unused(*others: str) -> None:
    """Raises UserError if a flag of Ray, one of these or of `others`, is given to a command without Ray."""
    for name in ("ray_address", "cpus_per_job", *others):
        expect(
            not flags.FLAGS[name].present, f"--engine=ray with --{name}", **{name: flags.FLAGS[name].value}
        )


def cpus_per_job(default: float) -> float:
    return default if _CPUS.value is None else _CPUS.value


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connects to the cluster of --ray_address while the block runs.

    Raises:
      UserError: if Ray is not installed, or there is no such cluster.
    """
    check_installed()
    from ucf50_tfrecord import ray_cluster

    if _ADDRESS.value != ray_cluster.LOCAL:
        # Ray notes the address of this host's cluster in the user's folder of temporary files, and TMPDIR is
        # this process's own folder in it.
        os.environ.setdefault("RAY_TMPDIR", os.path.dirname(tempfile.gettempdir()))
    with ray_cluster.connected(_ADDRESS.value):
        yield


def prepare_process() -> None:
    """Prepares a process for trainings on a node, as console.run and load_tensorflow do on this host."""
    scratch.use_own_folder()
    console.load_tensorflow()


def check_installed() -> None:
    """Raises UserError if Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The engine ray needs packages that are missing ({error})", Remedy(Action.INSTALL, extras="ray")
        ) from error
