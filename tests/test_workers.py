"""Real processes that crash, hang and eat memory."""

import functools
import os
import pathlib
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Annotated, Any

import msgspec
import pytest

from tests.conftest import REPOSITORY, is_running
from tests.misbehaving import (
    SlowToLoad,
    attempt,
    count_or_die,
    die_once,
    double_or_die,
    grow,
    misbehave,
    read_file,
)
from ucf50_tfrecord import storage, workers
from ucf50_tfrecord.errors import UserError

MEMORY = 256 << 20


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
        ("exit", "crash", "its process exited with status 3"),
        ("kill", "killed", "its process was killed with SIGKILL, perhaps because memory ran out"),
        ("raise", "crash", "ArithmeticError: no such number"),
        ("eat", "memory", "it needed more than 256 MiB of memory"),
    ],
)
def test_an_item_that_kills_its_worker_loses_only_itself(end, cause, reason):
    items = [1, end, 2, 3, end]
    failure = workers.Failure(cause, reason)
    assert run(items) == [(1, 2), (end, failure), (2, 4), (3, 6), (end, failure)]


@pytest.mark.parametrize("end", ["sleep", "spin"])
def test_an_item_that_hangs_is_given_up(end):
    assert run([1, end, 2], timeout_secs=1.0) == [
        (1, 2),
        (end, workers.Failure("timeout", "it took longer than 1 s")),
        (2, 4),
    ]


def test_a_failed_item_is_tried_again_alone_in_a_fresh_process(tmp_path):
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
        "import sys; from tests.misbehaving import double_or_die; from tests.test_workers import call_of\n"
        "from ucf50_tfrecord import workers\n"
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


def test_loading_does_not_count_against_the_first_item():
    assert run([1, 2], SlowToLoad(2.5), timeout_secs=2.0) == [(1, 1), (2, 2)]


def test_a_worker_killed_while_it_starts_is_started_again():
    with workers.IsolatedPool(MEMORY) as pool:
        results = []
        thread = threading.Thread(target=lambda: results.extend(pool.map(call_of(SlowToLoad(1.0)), [1, 2])))
        thread.start()
        deadline = time.monotonic() + 30
        while not pool._all and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(next(iter(pool._all))._process.pid, signal.SIGKILL)
        thread.join(30)
    assert results == [(1, 1), (2, 2)]


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "video").write_text("video")
    return str(tmp_path / "secret")


def attempt_all(secret, *, sandbox, kinds):
    call = call_of(attempt, open_files=lambda item: [storage.open_file(secret.replace("secret", "video"))])
    with workers.IsolatedPool(MEMORY, sandbox=sandbox) as pool:
        state = pool.start()
        return state, [result for _, result in pool.map(call, [(kind, secret) for kind in kinds])]


@pytest.mark.parametrize(
    "needs, kinds",
    [
        ("landlock_abi", ["other file", "through proc", "new file", "unlink", "list", "memory"]),
        ("seccomp", ["chmod", "socket", "connect", "program", "process", "signal"]),
    ],
)
def test_a_worker_is_refused_all_but_its_file(secret, needs, kinds):
    state, results = attempt_all(secret, sandbox=True, kinds=kinds)
    if not getattr(state, needs):
        pytest.skip(f"this kernel has no {needs}")
    assert results == ["PermissionError"] * len(kinds)
    assert pathlib.Path(secret).read_text() == "secret" and not os.path.exists(secret + ".new")


def test_a_restricted_worker_has_what_it_needs(secret):
    _, results = attempt_all(secret, sandbox=True, kinds=["own file", "thread", "library"])
    assert results == ["video", "None", "wave"]


def test_a_sandbox_can_be_left_off(secret):
    state, results = attempt_all(secret, sandbox=False, kinds=["other file", "signal"])
    assert (state.landlock_abi, state.seccomp, results) == (0, False, ["secret", "None"])


def test_a_file_that_cannot_be_opened_costs_its_item_alone(tmp_path):
    (tmp_path / "1").write_text("one")
    os.mkfifo(tmp_path / "2")
    call = call_of(read_file, open_files=lambda item: [storage.open_file(tmp_path / item)])
    with workers.IsolatedPool(MEMORY) as pool:
        found = dict(pool.map(call, ["0", "1", "2", "1"]))
    assert found == {
        "0": workers.Failure("unreadable", "FileNotFoundError: No such file or directory"),
        "1": "one",
        "2": workers.Failure(
            "unreadable", f"Expected a regular file. Received: {tmp_path / '2'}, which is a named pipe"
        ),
    }


class Answer(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=0, le=100)]


def message(kind, content, length=None):
    return kind + struct.pack("<Q", len(content) if length is None else length) + content


NO_ANSWER = "its process gave no answer of the expected form"


@pytest.mark.parametrize(
    "item, cause, reason",
    [
        (message(b"A", pickle.dumps(print)), "crash", NO_ANSWER),
        (message(b"A", b""), "crash", NO_ANSWER),
        (message(b"A", msgspec.msgpack.encode({"number": 101})), "crash", NO_ANSWER),
        (message(b"A", msgspec.msgpack.encode({"number": "1"})), "crash", NO_ANSWER),
        (message(b"A", b"", 1 << 62), "crash", "its process gave an answer of 4611686018427387904 bytes"),
        (message(b"X", msgspec.msgpack.encode({"cause": "killed", "reason": ""})), "crash", NO_ANSWER),
        (message(b"?", b"garbage"), "crash", NO_ANSWER),
        (message(b"A", b"x", 100), "timeout", "it took longer than 2 s"),
        (b"A", "timeout", "it took longer than 2 s"),
    ],
)
def test_a_malformed_answer_ends_its_worker_and_costs_its_item_alone(item, cause, reason):
    found = run([{"number": 1}, item, {"number": 2}], misbehave, timeout_secs=2.0, answer=Answer)
    assert [result for _, result in found][::2] == [Answer(1), Answer(2)]
    failure = found[1][1]
    assert failure.cause == cause and failure.reason.startswith(reason)


def test_an_answer_that_cannot_be_right_counts_as_malformed():
    def parse(item, answer):
        if item != answer:
            raise ValueError("another number than was asked for")
        return answer

    [(_, failure)] = run([2], parse=parse)
    assert failure == workers.Failure("crash", f"{NO_ANSWER}: another number than was asked for")


def stream(item, function=count_or_die, timeout_secs=60.0, **options):
    with workers.IsolatedPool(MEMORY) as pool:
        return list(pool.stream(call_of(function, timeout_secs, **options), item))


def test_the_answers_of_a_stream_come_one_by_one():
    with workers.IsolatedPool(MEMORY) as pool:
        answers = pool.stream(call_of(count_or_die, 2.0), (3, "sleep"))
        assert [next(answers) for _ in range(3)] == [0, 1, 2]
        assert list(answers) == [workers.Failure("timeout", "it took longer than 2 s")]
        assert list(pool.stream(call_of(count_or_die), (2, ""))) == [0, 1]
        assert list(pool.map(call_of(double_or_die), [4])) == [(4, 8)]  # by the same worker
    assert stream((0, "")) == []


@pytest.mark.parametrize(
    "end, cause, reason",
    [
        ("abort", "crash", "its process crashed with SIGABRT"),
        ("raise", "crash", "ArithmeticError: no such number"),
        ("eat", "memory", "it needed more than 256 MiB of memory"),
    ],
)
def test_a_stream_that_dies_is_not_tried_again(end, cause, reason):
    assert stream((2, end)) == [0, 1, workers.Failure(cause, reason)]


def test_memory_is_limited_while_answers_follow_each_other():
    *_, failure = stream(1 << 20, grow)
    assert failure == workers.Failure("memory", "it needed more than 256 MiB of memory")


def test_the_file_of_a_stream_is_opened_once(tmp_path):
    opened = []

    def open_files(item):
        opened.append(item)
        raise FileNotFoundError(2, "No such file")

    [failure] = stream((1, ""), open_files=open_files)
    assert failure == workers.Failure("unreadable", "FileNotFoundError: No such file") and len(opened) == 1


@pytest.mark.parametrize("item", [message(b"?", b""), message(b"A", msgspec.msgpack.encode({"number": 101}))])
def test_a_malformed_answer_ends_a_stream(item):
    [failure] = stream(item, misbehave, timeout_secs=2.0, answer=Answer)
    assert failure.cause == "crash" and failure.reason.startswith(NO_ANSWER)


def test_the_end_of_a_stream_is_no_answer_to_another_call():
    [_, (_, failure), _] = run(
        [{"number": 1}, message(b"E", b""), {"number": 2}], misbehave, timeout_secs=2.0, answer=Answer
    )
    assert failure.cause == "crash" and failure.reason.startswith(NO_ANSWER)


def test_closing_the_pool_ends_a_stream():
    pool = workers.IsolatedPool(MEMORY)
    threading.Timer(1.0, pool.close).start()
    with pytest.raises(workers.Cancelled):
        list(pool.stream(call_of(count_or_die), (1, "sleep")))
