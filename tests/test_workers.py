"""Real processes that crash, hang and eat memory."""

import ctypes
import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from ucf50_tfrecord import workers
from ucf50_tfrecord.specs import UserError

MEMORY = 256 << 20


def spin():
    while True:
        pass


def eat():
    eaten = []
    while True:
        eaten.append(bytearray(1 << 20))


def fail():
    raise ArithmeticError("no such number")


ENDS = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": fail,
    "sleep": lambda: time.sleep(600),
    "spin": spin,
    "eat": eat,
    "pid": os.getpid,
}


def double_or_die(item):
    """Returns twice a number; a word says what to do instead."""
    return 2 * item if isinstance(item, int) else ENDS[item]()


def die_once(folder, item):
    """Crashes at the first call with an item, and works at the second."""
    marker = pathlib.Path(folder, str(item))
    if item % 2 and not marker.exists():
        marker.touch()
        os.abort()
    return item, os.getpid()


def call_of(function, timeout_secs=60.0, **options):
    """A call whose answers are taken as they are."""
    defaults = {"answer": Any, "parse": lambda item, answer: answer, "max_bytes": 1 << 20}
    return workers.Call(function=function, timeout_secs=lambda item: timeout_secs, **defaults | options)


def run(items, function=double_or_die, memory=MEMORY, timeout_secs=60.0, **options):
    with workers.IsolatedPool(memory) as pool:
        return list(pool.map(call_of(function, timeout_secs, **options), items))


def test_results_come_in_order_from_another_process():
    assert run([1, 2, 3]) == [(1, 2), (2, 4), (3, 6)]
    [(_, pid)] = run(["pid"])
    assert pid != os.getpid()
    assert run([]) == []


@pytest.mark.parametrize(
    "end, cause, reason",
    [
        ("abort", "crash", "its process crashed with SIGABRT"),
        ("segfault", "crash", "its process crashed with SIGSEGV"),
        ("exit", "crash", "its process ended with status 3"),
        ("kill", "killed", "its process was ended with SIGKILL, perhaps for want of memory"),
        ("raise", "crash", "ArithmeticError: no such number"),
        ("eat", "memory", "it needed more than 256 MiB of memory"),
    ],
)
def test_what_ends_a_worker_costs_itself_alone(end, cause, reason):
    items = [1, end, 2, 3, end]
    failure = workers.Failure(cause, reason)
    assert run(items) == [(1, 2), (end, failure), (2, 4), (3, 6), (end, failure)]


@pytest.mark.parametrize("end", ["sleep", "spin"])
def test_what_hangs_is_given_up(end):
    assert run([1, end, 2], timeout_secs=1.0) == [
        (1, 2),
        (end, workers.Failure("timeout", "it took longer than 1 s")),
        (2, 4),
    ]


def test_an_item_has_a_second_chance_alone_in_a_fresh_process(tmp_path):
    with workers.IsolatedPool(MEMORY, sandbox=False) as pool:  # it leaves a file
        results = list(pool.map(call_of(functools.partial(die_once, str(tmp_path))), [0, 1, 2, 3]))
    assert [item for item, (same, _) in results if item == same] == [0, 1, 2, 3]
    pids = [pid for _, (_, pid) in results]
    assert pids[0] != pids[1] and pids[2] != pids[3]


def test_workers_are_kept_from_call_to_call():
    with workers.IsolatedPool(MEMORY) as pool:
        pids = {pid for _ in range(3) for _, pid in pool.map(call_of(double_or_die), ["pid", "pid"])}
    assert len(pids) == 1


def test_closing_the_pool_ends_calls_that_run():
    errors = []

    def work(pool):
        try:
            list(pool.map(call_of(double_or_die), ["sleep"]))
        except workers.Cancelled as error:
            errors.append(error)

    with workers.IsolatedPool(MEMORY) as pool:
        threads = [threading.Thread(target=work, args=(pool,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        started = time.monotonic()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3 and time.monotonic() - started < 20
    with pytest.raises(workers.Cancelled):
        list(pool.map(call_of(double_or_die), [1]))


@pytest.mark.parametrize("item", ["sleep", "spin"])
def test_a_busy_worker_ends_with_its_parent(item):
    code = (
        "import sys; from tests.test_workers import call_of, double_or_die; from ucf50_tfrecord import workers\n"
        "with workers.IsolatedPool(1 << 28) as pool:\n"
        f"    for item, pid in pool.map(call_of(double_or_die), ['pid', {item!r}]): print(pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_pool_needs_no_main_guard(tmp_path):
    """A script without `if __name__ == "__main__"` does not start itself again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from ucf50_tfrecord import workers\n"
        "with workers.IsolatedPool(1 << 28) as pool:\n"
        "    call = workers.Call(function=abs, answer=int, parse=lambda item, answer: answer, max_bytes=99,"
        " timeout_secs=lambda item: 60)\n"
        "    print(list(pool.map(call, [-1])))\n"
    )
    result = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.stdout == "[(-1, 1)]\n", result.stderr


@pytest.mark.parametrize(
    "interpreter, message",
    [
        ("/nowhere/python", "Cannot start a worker process: No such file"),
        ("/bin/false", "did not start: .*status 1"),
    ],
)
def test_a_worker_that_does_not_start_is_an_error(monkeypatch, interpreter, message):
    monkeypatch.setattr(sys, "executable", interpreter)
    with pytest.raises(UserError, match=message):
        run([1])


class SlowToLoad:
    """A function that takes long to arrive in the worker, as one does that imports a lot."""

    def __init__(self, secs):
        self.secs = secs

    def __setstate__(self, state):
        self.__dict__.update(state)
        time.sleep(self.secs)

    def __call__(self, item):
        return item


def test_loading_does_not_count_against_the_first_item():
    assert run([1, 2], SlowToLoad(1.5), timeout_secs=0.7) == [(1, 1), (2, 2)]


def test_a_worker_killed_while_it_starts_is_started_again():
    with workers.IsolatedPool(MEMORY) as pool:
        results = []
        thread = threading.Thread(target=lambda: results.extend(pool.map(call_of(SlowToLoad(1.0)), [1, 2])))
        thread.start()
        time.sleep(0.6)
        os.kill(next(iter(pool._all))._process.pid, signal.SIGKILL)
        thread.join(30)
    assert results == [(1, 1), (2, 2)]
