"""A program with planted faults, to test tools.fuzzing.watched.Helper, which runs it.

It answers each question with an empty list, but crashes if asked about number 1 and hangs for number 2.
"""

import os
import signal
import time

from tools.fuzzing import watched


def answer(question):
    if question["number"] == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if question["number"] == 2:
        time.sleep(60)
    return []


if __name__ == "__main__":
    watched.serve(answer)
