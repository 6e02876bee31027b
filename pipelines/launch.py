"""Starts several workers on this machine that train one model together.

  python -m pipelines.launch --workers=2 -- --videos=/data/UCF50 --recipe=lstm

The flags after -- are those of pipelines.train. The videos are converted before
the workers start. Each worker gets an equal part of the GPUs and the cores. The
first worker's output is shown in full. The other workers show only errors.
Signals are passed on to all workers. No worker outlives this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from absl import flags

from pipelines import console, convert, devices, remedies, terminal, train
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.training import cluster
from ucf50_tfrecord.training import run as run_lib

flags.adopt_module_key_flags(train)

_POLL_SECS = 0.05
# Time for the other workers to report their errors, once one worker has failed and they cannot go on.
_GRACE_SECS = 3.0
# Systems assign higher ports by themselves, so these stay free until a worker listens.
_PORTS = range(20_000, 32_000)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
# Starts of messages that every worker prints; only the first worker's messages are shown.
_SAID_BY_ALL = ("warning:", "stopping after this step")


def main(num_workers: int) -> int:
    """Starts the workers, waits until all have exited, and returns the exit status of this program.

    Args:
      num_workers: number of workers to start.

    Raises:
      UserError: if the flags are wrong, there are too few GPUs, or the videos cannot be converted.
    """
    expect(num_workers >= 1, "at least 1 worker", workers=num_workers)
    strategy = flags.FLAGS["strategy"].value
    expect(
        strategy in (Strategy.AUTO, Strategy.MULTI_WORKER),
        "a --strategy of multi_worker or auto",
        strategy=strategy,
    )
    expect(
        cluster.TF_CONFIG not in os.environ,
        f"no {cluster.TF_CONFIG}: each worker gets its own",
        TF_CONFIG=os.environ.get(cluster.TF_CONFIG),
    )
    environments = worker_environments(num_workers, devices.visible_gpus())
    settings, *_ = train.read_flags()  # so that mistakes show before anything is converted
    manifest = convert.load_or_convert()
    given = flags.FLAGS["run"].value
    run_dir = given or run_lib.make_run_dir(manifest.data_dir, settings["model"])
    decided = ["--strategy=multi_worker", "--videos=", f"--data={manifest.data_dir}", f"--run={run_dir}"]
    command = [sys.executable, "-m", "pipelines.train", *sys.argv[1:], *decided]
    status, was_signalled = run_workers(command, environments)
    if not given:
        with contextlib.suppress(OSError):  # a folder that the workers wrote into stays
            os.rmdir(run_dir)
    if was_signalled and status == 0 and not pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME).exists():
        terminal.say("To start them again on this machine:", f"  {remedies.this_command(run=run_dir)}")
    return status


def worker_environments(num_workers: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Returns each worker's environment variables.

    They hold the addresses of all workers, and the worker's equal part of the GPUs and the cores.

    Args:
      num_workers: number of workers.
      gpus: the GPUs, as devices.visible_gpus returns them.

    Raises:
      UserError: if there are GPUs, but not one for each worker.
    """
    expect(not gpus or len(gpus) >= num_workers, f"a GPU for each of {num_workers} workers", gpus=len(gpus))
    addresses = [f"localhost:{port}" for port in free_ports(num_workers)]
    environments = []
    for index, own in enumerate(devices.environments(num_workers, gpus)):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        # Silences TensorFlow, which would report a lost worker many times; run_workers reports it once.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        environments.append(quiet | os.environ | own | {cluster.TF_CONFIG: json.dumps(config)})
    return environments


def free_ports(count: int) -> list[int]:
    """Returns `count` ports of this machine at which no process listens.

    Raises:
      UserError: if there are fewer free ports.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    expect(
        len(found) == count, f"{count} free ports from {_PORTS.start} to {_PORTS.stop - 1}", free=len(found)
    )
    return found


def run_workers(command: Sequence[str], environments: Sequence[dict[str, str]]) -> tuple[int, bool]:
    """Runs one worker process per environment until all have exited, and passes signals on to the workers.

    If a worker fails, the others get a moment to exit by themselves; then they are killed.

    Args:
      command: the words of the command that starts a worker.
      environments: the environment variables of each worker.

    Returns:
      A tuple: the exit status of the worker that failed, or 0 if none did; and whether a signal arrived.
    """
    received: list[int] = []
    with _signals_noted(received), contextlib.ExitStack() as stack:
        workers = [_start(command, *item, stack) for item in enumerate(environments)]
        for index, worker in enumerate(workers[1:], 1):
            reader = threading.Thread(target=_show_errors, args=(worker, index), daemon=True)
            reader.start()
            stack.callback(reader.join, _GRACE_SECS)
        num_passed_on, failed, deadline = 0, None, float("inf")
        while any(worker.poll() is None for worker in workers):
            for signum in received[num_passed_on:]:
                num_passed_on += 1
                for worker in workers:
                    worker.send_signal(signum)
                if num_passed_on == 2:  # a worker that waits for another does not notice signals
                    deadline = min(deadline, time.monotonic() + _GRACE_SECS)
            if failed is None:
                failed = _failed(workers)
                if failed is not None:
                    grace_secs = 0.0 if workers[failed].returncode < 0 else _GRACE_SECS
                    deadline = min(deadline, time.monotonic() + grace_secs)
            if time.monotonic() >= deadline:
                for worker in workers:
                    worker.kill()
            time.sleep(_POLL_SECS)
        failed = _failed(workers) if failed is None else failed
    if failed is None:
        return 0, bool(received)
    return _explain(failed, workers[failed].returncode, bool(received)), bool(received)


def _failed(workers: Sequence[subprocess.Popen]) -> int | None:
    """Returns the index of the worker that failed, or None.

    If several workers have failed, returns a worker that was killed, if there is one: it made the others
    fail.
    """
    bad = [index for index, worker in enumerate(workers) if worker.poll()]
    return min(bad, key=lambda index: workers[index].returncode >= 0, default=None)


def _explain(index: int, returncode: int, was_signalled: bool) -> int:
    """Prints how a worker failed, and returns the exit status of this program.

    Prints nothing if the user stopped the workers by a signal.

    Args:
      index: the worker's index.
      returncode: the worker's return code, as subprocess.Popen gives it.
      was_signalled: whether a signal arrived.
    """
    if returncode > 0:
        if not was_signalled:
            terminal.note(f"error: worker {index} exited with status {returncode}, see above")
        return returncode
    if not was_signalled:
        terminal.note(
            f"error: worker {index} was killed by {signal.Signals(-returncode).name}, so the others were stopped, "
            "too. Run the same command again to continue from the last checkpoint"
        )
    return 128 - returncode


def _start(
    command: Sequence[str], index: int, environment: dict[str, str], stack: contextlib.ExitStack
) -> subprocess.Popen:
    """Starts a worker process. Leaving `stack` kills the worker if it still runs."""
    is_first = index == 0
    worker = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=None if is_first else subprocess.DEVNULL,
        stderr=None if is_first else subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        process_group=0,  # so that Ctrl-C reaches only this process, which passes it on to the workers
        preexec_fn=functools.partial(_exit_with_parent, os.getpid()),
    )
    stack.callback(worker.wait)
    stack.callback(worker.kill)
    return worker


def _show_errors(worker: subprocess.Popen, index: int) -> None:
    for line in worker.stderr:
        if line.strip() and not line.startswith(_SAID_BY_ALL):
            terminal.note(f"worker {index}: {line.rstrip()}")


def _exit_with_parent(parent: int) -> None:
    """Makes the system kill this process when its parent exits, even if the parent is killed."""
    if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) or os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def _signals_noted(received: list[int]) -> Iterator[None]:
    def note(signum: int, _frame) -> None:
        received.append(signum)

    previous = {
        signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _take_own_flags() -> int:
    """Returns the value of --workers, and reduces sys.argv to the flags after --."""
    parser = terminal.ArgumentParser(remedies.program("launch"), description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, required=True, help="number of workers to start")
    parser.add_argument("flags", nargs="*", help="-- and the flags of pipelines.train")
    parsed = parser.parse_args()
    sys.argv[1:] = parsed.flags
    return parsed.workers


if __name__ == "__main__":
    console.run(functools.partial(main, _take_own_flags()))
