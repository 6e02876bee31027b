"""Runs programs, and worker processes that exit when their parent does."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipelines import terminal
from pipelines.remedies import shell_command
from ucf50_tfrecord import worker_process
from ucf50_tfrecord.errors import UserError


def run(
    command: Sequence[str], *, statuses: Collection[int] = (0,), env: Mapping[str, str] | None = None
) -> str:
    """Runs a program with further environment variables `env`; returns its standard output.

    Raises:
      UserError: if its exit status is none of `statuses`. Its standard error is printed first.
    """
    result = subprocess.run(command, env=os.environ | (env or {}), text=True, capture_output=True)
    if result.returncode not in statuses:
        terminal.note(*result.stderr.splitlines())
        raise UserError(f"{shell_command(command)} exited with status {result.returncode}, see above")
    return result.stdout


@contextlib.contextmanager
def pool(
    num_workers: int, *, max_tasks_per_child: int | None = None
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Yields a pool of newly started processes, which exit when this process is killed.

    They also leave no semaphores behind. If the block raises an exception, such as an interruption, they are killed;
    the pool itself would wait for all calls that it was given.
    """
    others = multiprocessing.active_children()
    with concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=exit_with_parent,
        max_tasks_per_child=max_tasks_per_child,
    ) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()
            raise


def exit_with_parent() -> None:
    """Makes this process, started by multiprocessing, exit when its parent is killed."""
    worker_process.exit_after(multiprocessing.parent_process().join)
