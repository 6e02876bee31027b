"""Runs programs, and pools of worker processes that exit when their parent does."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence

from pipelines import terminal
from ucf50_tfrecord import worker_process
from ucf50_tfrecord.errors import UserError


def run(
    command: Sequence[str],
    failure: Callable[[int], str],
    *,
    statuses: Collection[int] = (0,),
    env: Mapping[str, str] | None = None,
) -> str:
    """Runs a program; returns its standard output.

    Args:
      command: the program's command line.
      failure: function from the exit status of a failed program to the text of the error.
      statuses: exit statuses of success.
      env: the program's environment variables; those of this process if None.

    Raises:
      UserError: if the program fails. Its standard error is printed first.
    """
    result = subprocess.run(command, env=env, text=True, capture_output=True)
    if result.returncode not in statuses:
        terminal.note(*result.stderr.splitlines())
        raise UserError(f"{failure(result.returncode)}, see above")
    return result.stdout


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
