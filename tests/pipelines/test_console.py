import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY, run_code

# A dataset that reads two clips side by side: one fails, the other is kept waiting by its store.
READING = """
import threading
import tensorflow as tf
from pipelines import console
from ucf50_tfrecord.specs import UserError

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
    done = run_code(READING.format(ending=textwrap.indent(ending, " " * 8)), timeout=120)
    assert done.returncode == status, done.stderr
    assert done.stderr.splitlines()[-1] == last_line


PRINTING = """
import sys
from pipelines import console
from ucf50_tfrecord.specs import UserError

def main():
    sys.modules.update({loaded})
    print("a line, which waits in a buffer")
    sys.stdin.read()  # until the reader has gone
    {ending}

console.run(main)
"""


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
