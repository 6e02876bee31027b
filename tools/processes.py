"""Processes of tools: pools of them, and what the benchmarks measure in one of its own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any


def pool(num_workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns fresh processes that also exit when this one is killed, and then leave no semaphores."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_exit_with_parent
    )


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of a module in a process that has done nothing else; returns what it returns."""
    with pool(1) as fresh:
        return fresh.submit(function, *arguments).result()


def _exit_with_parent() -> None:
    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
