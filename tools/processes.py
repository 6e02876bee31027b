"""Pools of worker processes that exit when their parent does."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

from ucf50_tfrecord import worker_process


def pool(num_workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool of newly started processes, which exit when this process is killed.

    They also leave no semaphores behind.
    """
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_exit_with_parent
    )


def _exit_with_parent() -> None:
    worker_process.exit_after(multiprocessing.parent_process().join)
