import itertools
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap

import pytest

from pipelines import console, remedies
from tests import warm
from tests.conftest import REPOSITORY, run_code
from ucf50_tfrecord.training import listener

# A dataset that reads two clips side by side: one fails, the other is kept waiting by its store.
READING = """
import threading
import tensorflow as tf
from pipelines import console
from ucf50_tfrecord.errors import UserError

waiting = threading.Event()

def read(index):
    if index == 1:
        waiting.set()
        threading.Event().wait(600)
    waiting.wait()
    raise UserError("the store is gone")

def main():
    clips = tf.data.Dataset.range(2).map(
        lambda index: tf.numpy_function(read, [index], tf.int64), num_parallel_calls=2
    )
    try:
        for _ in clips:
            pass
    except tf.errors.OpError as error:
{ending}

console.run(main)
"""


@pytest.mark.parametrize(
    "ending, status, last_line",
    [
        ('raise UserError("the store is gone") from error', 2, "error: the store is gone"),
        ("raise KeyboardInterrupt from error", 130, "interrupted"),
        ('raise RuntimeError("a mistake of ours") from error', 1, "RuntimeError: a mistake of ours"),
    ],
)
def test_a_process_that_fails_ends_while_a_read_is_under_way(ending, status, last_line):
    done = warm.run_code(READING.format(ending=textwrap.indent(ending, " " * 8)), timeout=120)
    assert done.returncode == status, done.stderr
    assert done.stderr.splitlines()[-1] == last_line


BUILDING = """
from pipelines import console

def main():
    console.load_tensorflow()
    import tensorflow as tf

    def add(x, y):
        return x + y

    traced = tf.function(add)
    for number in range(9):
        traced(number, number)  # numbers of Python's: traced each time

console.run(main)
"""


PRINTING = """
import sys
from pipelines import console
from ucf50_tfrecord.errors import UserError

def main():
    sys.modules.update({loaded})
    print("a line, which waits in a buffer")
    sys.stdin.read()  # until the reader has gone
    {ending}

console.run(main)
"""


def test_tensorflow_does_not_warn_of_what_users_cannot_change():
    done = run_code(BUILDING)
    assert done.returncode == 0 and done.stderr == ""


def test_a_bar_shows_its_scores_in_80_columns(monkeypatch):
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    scores = {"loss": 2.6789, "accuracy": 0.1234, "gradient_norm": 3.21, "input/clips_per_sec": 1234.5}
    progress = listener.TrainProgress(step=1300, num_steps=20 * 334, epoch=4, num_epochs=20, scores=scores)
    with open(end, "w", encoding="ascii") as stderr, console.TrainingDisplay() as display:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr("tqdm.std.time", itertools.count(step=20).__next__)  # seconds
        display.update(progress)
        poll, written = select.poll(), b""
        poll.register(terminal, select.POLLIN)
        while b"accuracy" not in written and poll.poll(10_000):  # milliseconds
            written += os.read(terminal, 1 << 16)  # in as many parts as the system makes of it
        shown = written.decode().split("\r")[-1]
    os.close(terminal)
    assert re.match(r"epoch 4/20: 298/334 \|[#\d ]+\| .*, loss=2.68, accuracy=0.123$", shown)
    assert len(shown) < 80


def test_commands_are_shown_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert remedies.python() == ".venv/bin/python"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert remedies.python() == str(tmp_path / ".venv" / "bin" / "python")


@pytest.mark.parametrize("loaded", ["", "tensorflow=None"])
@pytest.mark.parametrize(
    "ending, status, errors",
    [("return 0", 0, ""), ("return 1", 1, ""), ('raise UserError("no")', 2, "error: no\n")],
)
def test_a_reader_that_is_gone_before_the_output_is_no_error(loaded, ending, status, errors):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING.format(loaded=loaded, ending=ending)],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == errors and process.wait(60) == status
    process.stderr.close()


@pytest.mark.parametrize("module", ["pipelines.convert", "tools.inspect_data", "tools.doctor"])
def test_ctrl_c_while_an_entry_point_is_imported_shows_no_traceback(tmp_path, module):
    """A package that is imported early on tells when, and waits."""
    early = {"pipelines.convert": "absl", "tools.inspect_data": "numpy", "tools.doctor": "argparse"}[module]
    waiting = "print('importing', flush=True)\nimport time\ntime.sleep(60)\n"
    (tmp_path / f"{early}.py").write_text(waiting)
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted\n") and process.returncode == 130


def test_importing_the_entry_points_leaves_ctrl_c_to_others():
    code = "import signal, pipelines, tools; print(signal.getsignal(signal.SIGINT).__name__)"
    assert run_code(code).stdout == "default_int_handler\n"
