"""A pool of processes that end with their parent, however it ends."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ucf50_tfrecord.specs import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result]:
    """Calls a function for each item in worker processes, yielding results as they are done.

    Args:
      function: can be pickled.
      items: what it is called with.
      num_workers: processes, at most one an item.

    Raises:
      UserError: if a worker dies; exceptions of the function as they are.
    """
    # spawn: the caller's threads and signal handlers do not leak into the workers.
    pool = concurrent.futures.ProcessPoolExecutor(
        max_workers=max(1, min(num_workers, len(items))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_init_worker,
    )
    try:
        futures = [pool.submit(function, item) for item in items]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process died (out of memory, or a file that crashes the decoder). "
            "What is finished is kept; the same command goes on from there."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot end its workers.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
