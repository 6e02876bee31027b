"""A function with planted faults, to test tools.fuzzing.watched.Helper, which calls it in a process."""

import os
import signal
import time


def answer(samples, pristine, seed, number):
    """Returns an empty list, but crashes for number 1 and hangs for number 2."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        time.sleep(60)
    return []
