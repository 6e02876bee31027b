"""Pools of processes that exit with their parent."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

from ucf50_tfrecord import worker_process


def pool(num_workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns fresh processes that exit when this one is killed, and leave no semaphores."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_exit_with_parent
    )


def _exit_with_parent() -> None:
    worker_process.exit_after(multiprocessing.parent_process().join)
