"""A helper process of the fuzz campaign with planted faults, by the number that it is asked about."""

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
