import textwrap

import pytest

from tests.conftest import run_code

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


def test_tensorflow_does_not_warn_of_what_users_cannot_change():
    done = run_code(BUILDING)
    assert done.returncode == 0 and done.stderr == ""
