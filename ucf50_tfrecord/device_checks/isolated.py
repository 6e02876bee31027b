"""Runs checks one after another, each in a process of its own.

So a check that crashes, hangs or sets up devices in its own way leaves the others alone, and each starts with
all of the GPU's memory. This process never loads TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from ucf50_tfrecord import texts, worker_process
from ucf50_tfrecord.device_checks.outcomes import Check, Options, Result, Status, not_checked

# A check is killed if it says nothing for so long: it hangs, as NCCL does between GPUs that cannot reach each other.
# On a busy machine, loading TensorFlow and compiling take a minute.
_MAX_SILENT_SECS = 180.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listener:
    """Functions that receive the progress of the checks. The defaults ignore it.

    start: called with a check, its number from 1 on, and the number of checks.
    doing: called with what the check is doing now.
    finish: called with each result.
    """

    start: Callable[[Check, int, int], None] = lambda check, number, total: None
    doing: Callable[[str], None] = lambda text: None
    finish: Callable[[Result], None] = lambda result: None


def run_all(
    checks: Mapping[str, Check], options: Options, *, max_secs: float, listener: Listener = Listener()
) -> dict[str, list[Result]]:
    """Runs checks, and divides the time among them by their weights.

    A check that needs less time leaves more to the others. One that has no time left is not run.

    Args:
      checks: the checks by name, in the order to run them.
      options: what all checks get; its `secs` is replaced by each check's part of the time.
      max_secs: seconds for all checks.
      listener: receives the progress.

    Returns:
      The results of each check, by its name.
    """
    end = time.monotonic() + max_secs
    results: dict[str, list[Result]] = {}
    left_weight = sum(check.weight for check in checks.values())
    for number, (name, check) in enumerate(checks.items(), 1):
        secs = (end - time.monotonic()) * check.weight / left_weight
        left_weight -= check.weight
        listener.start(check, number, len(checks))
        if reason := check.obstacle(len(options.gpus)) or ("the time is over" if secs <= 0 else ""):
            found = iter([not_checked(check.about, reason)])
        else:
            given = dataclasses.replace(options, secs=secs)
            found = run(check, given, doing=listener.doing)
        results[name] = []
        for result in found:
            results[name].append(result)
            listener.finish(result)
    return results


def run(
    check: Check,
    options: Options,
    *,
    max_silent_secs: float = _MAX_SILENT_SECS,
    doing: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Runs one check in a new process, and yields its results as they come.

    If it raises an exception, crashes or says nothing for `max_silent_secs`, the last result is one that has
    failed and says why.
    """
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, check, options))
    process.start()
    theirs.close()
    failed = functools.partial(Result, name=check.about, status=Status.FAILED)
    try:
        while True:
            if not connection.poll(max_silent_secs):
                yield failed(reason=f"no answer within {max_silent_secs:.0f} s")
                return
            kind, content = _receive(connection)
            match kind:
                case "doing":
                    doing(content)
                case "result":
                    yield content
                case "error":
                    yield failed(reason=content)
                    return
                case "end":
                    return
                case "exit":
                    process.join()
                    yield failed(reason=texts.exit_clause(process.exitcode))
                    return
    finally:
        process.kill()
        process.join()
        connection.close()


def _receive(connection: Connection) -> tuple[str, Any]:
    try:
        return connection.recv()
    except EOFError:
        return "exit", None


def _serve(connection: Connection, check: Check, options: Options) -> None:
    """Runs a check, and sends its results."""
    with serving(connection):
        if options.prepare is not None and check.loads_tensorflow:
            options.prepare()
        module, _, name = check.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        for result in function(options, lambda text: connection.send(("doing", text))):
            connection.send(("result", result))
        connection.send(("end", None))


@contextlib.contextmanager
def serving(connection: Connection) -> Iterator[None]:
    """Runs the block as all that a child process does; the process exits after the block, or with its parent.

    An exception of the block is sent to the parent as ("error", text). Ctrl-C is ignored: it reaches the parent, too,
    which then kills this process.
    """
    worker_process.exit_after(multiprocessing.parent_process().join)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    except Exception as error:  # whatever it is, the parent reports it and goes on
        connection.send(("error", f"{type(error).__name__}: {error}"))
    connection.close()
    os._exit(0)  # without destroying TensorFlow's objects, which may wait for reads
