"""Runs the trainings of a comparison: in this process, in several of this host, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console, convert, devices, ray_flags, terminal
from pipelines.comparison_progress import Display, listener
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.errors import expect

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.compare import Comparison

_JOBS = flags.DEFINE_string(
    "jobs",
    "auto",
    "Number of trainings at a time, each in its own process; auto uses all GPUs, or all cores without GPUs. With "
    "--engine=ray, auto uses the whole cluster.",
)
_THREADS_PER_JOB = flags.DEFINE_integer(
    "threads_per_job",
    1,
    "CPU threads per training, if there is no GPU. It changes the rounding of results; --jobs does not.",
    lower_bound=1,
)
_JOBS_PER_GPU = flags.DEFINE_integer(
    "jobs_per_gpu", 1, "Number of trainings that share a GPU.", lower_bound=1
)
_GPUS_PER_JOB = flags.DEFINE_float(
    "gpus_per_job",
    None,
    "With --engine=ray: GPUs that Ray reserves per training; 0.5 lets two share a GPU. Default: 1 if the cluster "
    "has GPUs, else 0.",
    lower_bound=0.0,
)
_GIB_PER_JOB = flags.DEFINE_float(
    "gib_per_job",
    2.0,
    "With --engine=ray: host memory that Ray reserves per training, in GiB.",
    lower_bound=0.0,
)
STRATEGY = flags.DEFINE_enum(
    "strategy",
    Strategy.AUTO,
    [Strategy.AUTO, Strategy.ONE, Strategy.MIRRORED],
    "Devices per training: one; mirrored (all, one training at a time); or auto. With several trainings at a "
    "time, each uses one device.",
)

# Host memory that each training side by side is given: TensorFlow and a small model take about half of it.
_JOB_BYTES = 2 << 30
# Beginnings of the names of environment variables that change what a training computes.
_NUMERIC_VARIABLES = ("TF_", "XLA_", "KERAS_", "ONEDNN_", "DNNL_", "OMP_")


def train_cells(
    comparison: Comparison, environments: Sequence[Mapping[str, str]], task: tuple[int, int]
) -> bool:
    """Trains and tests the cells of an evaluation.compare.Comparison, and shows the progress.

    Args:
      comparison: the comparison.
      environments: the environment variables of each process, see side_by_side.run. If empty, this process
        runs the cells.
      task: as in Comparison.claimable.

    Returns:
      False if the user stopped the comparison. True if all cells are finished, except cells that failed and cells
      that other processes are running.
    """
    if convert.uses_ray():
        return train_cells_on_ray(comparison, task)
    from ucf50_tfrecord.evaluation import side_by_side
    from ucf50_tfrecord.training import strategy as strategy_lib

    with console.stop_requests() as should_stop, Display() as display:
        to_display = listener(display, should_stop)
        if environments:
            return side_by_side.run(
                comparison,
                to_display,
                environments=environments,
                prepare=console.load_tensorflow,
                task=task,
            )
        strategy = strategy_lib.make_strategy(STRATEGY.value, environment={})
        return comparison.run(to_display, strategy=strategy, task=task)


def train_cells_on_ray(comparison: Comparison, task: tuple[int, int]) -> bool:
    """Does the same as train_cells on the Ray cluster of the flags."""
    with ray_flags.connected(), console.stop_requests() as should_stop, Display() as display:
        from ucf50_tfrecord import ray_cluster
        from ucf50_tfrecord.evaluation import on_ray

        resources = ray_resources()
        slots = ray_cluster.slots(resources)
        terminal.say(f"Ray holds {sum(slots)} trainings at a time, each with {resources}", flush=True)
        return on_ray.run(
            comparison,
            listener(display, should_stop),
            resources=resources,
            environment=ray_environment(resources.num_cpus, resources.num_gpus),
            max_processes=None if _JOBS.value == "auto" else int(_JOBS.value),
            prepare=ray_flags.prepare_process,
            task=task,
        )


def ray_resources():
    """Returns what Ray reserves for each training, a ray_cluster.Resources. Call it while connected to Ray."""
    from ucf50_tfrecord import ray_cluster

    num_gpus = _GPUS_PER_JOB.value
    return ray_cluster.Resources(
        num_cpus=ray_flags.cpus_per_job(_THREADS_PER_JOB.value),
        num_gpus=float(ray_cluster.has_gpus()) if num_gpus is None else num_gpus,
        memory_bytes=int(_GIB_PER_JOB.value * 2**30),
    )


def count_on_ray() -> int:
    """Returns the number of trainings that would run on Ray at a time; 0 if another engine runs them."""
    if not convert.uses_ray():
        return 0
    with ray_flags.connected():
        from ucf50_tfrecord import ray_cluster

        held = sum(ray_cluster.slots(ray_resources()))
    return held if _JOBS.value == "auto" else min(held, int(_JOBS.value))


def ray_environment(num_cpus: float, num_gpus: float) -> dict[str, str]:
    """Returns the environment variables of a training on Ray with the given resources."""
    numeric = {name: value for name, value in os.environ.items() if name.startswith(_NUMERIC_VARIABLES)}
    if num_gpus:  # Ray chooses them
        return numeric | {"TF_NUM_INTRAOP_THREADS": str(max(1, int(num_cpus)))}
    return {
        "TF_NUM_INTRAOP_THREADS": str(_THREADS_PER_JOB.value),
        **numeric,
        "CUDA_VISIBLE_DEVICES": "-1",  # Ray hides no GPU from a training without one
    }


def check_ray_flags() -> None:
    """Checks the flags that depend on whether Ray runs the trainings.

    Raises:
      UserError: if a flag belongs to another engine, or Ray is asked for but not installed.
    """
    if not convert.uses_ray():
        ray_flags.check_unused("gpus_per_job", "gib_per_job")
        return
    for name, instead in (("strategy", "one device per training"), ("jobs_per_gpu", "--gpus_per_job")):
        expect(
            not flags.FLAGS[name].present,
            f"{instead}, not --{name}, with --engine=ray",
            **{name: flags.FLAGS[name].value},
        )
    ray_flags.check_installed()


def job_environments() -> list[dict[str, str]]:
    """Returns the environment variables of each process that --jobs asks for.

    The list is empty if this process runs all trainings itself, or Ray does. Without GPUs, also sets the number
    of threads of this process and its children. Call this function before TensorFlow is loaded.

    Raises:
      UserError: if flags contradict each other, or Ray is not installed.
    """
    expect(
        _JOBS.value == "auto" or (_JOBS.value.isdecimal() and int(_JOBS.value) >= 1),
        "--jobs=auto or --jobs=<a number from 1 on>",
        jobs=_JOBS.value,
    )
    check_ray_flags()
    if STRATEGY.value == Strategy.MIRRORED:
        expect(_JOBS.value in ("auto", "1"), "--jobs=1 with --strategy=mirrored", jobs=_JOBS.value)
        return []
    gpus = devices.visible_gpus()
    if not gpus:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(_THREADS_PER_JOB.value))
    if convert.uses_ray():
        return []
    if gpus:
        most = len(gpus) * _JOBS_PER_GPU.value
    else:
        most = max(1, len(os.sched_getaffinity(0)) // _THREADS_PER_JOB.value)
        free = memory.available_host_bytes()
        if _JOBS.value == "auto" and free is not None:
            most = min(most, max(1, free // _JOB_BYTES))
    num_jobs = most if _JOBS.value == "auto" else int(_JOBS.value)
    expect(
        not gpus or num_jobs <= most,
        f"at most {most} jobs on {len(gpus)} GPUs with --jobs_per_gpu={_JOBS_PER_GPU.value}",
        jobs=num_jobs,
    )
    return devices.environments(num_jobs, gpus) if num_jobs > 1 else []
