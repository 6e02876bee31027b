"""Divides the GPUs and cores of this machine among processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from pipelines import console
from ucf50_tfrecord.errors import UserError


def visible_gpus() -> list[str]:
    """Returns the GPUs that a training on this machine would see, as CUDA_VISIBLE_DEVICES names them.

    Raises:
      UserError: if there is an NVIDIA driver, but nvidia-smi, which lists the GPUs, does not work.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() and not name.startswith("-")]
    if not console.has_nvidia_driver():
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"Cannot count the GPUs: {error}. Set CUDA_VISIBLE_DEVICES, for example to 0,1"
        ) from error


def environments(num_processes: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Returns the environment variables that divide the GPUs and the cores equally among processes.

    If there are more processes than GPUs, several processes share a GPU.

    Args:
      num_processes: number of processes.
      gpus: the GPUs, as visible_gpus returns them.
    """
    count = len(gpus) // num_processes
    threads = str(max(1, len(os.sched_getaffinity(0)) // num_processes))
    environments = []
    for index in range(num_processes):
        environment = {"TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", threads)}
        if gpus:
            own = gpus[index * count : (index + 1) * count] if count else [gpus[index % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        environments.append(environment)
    return environments
