"""Command-line entry points: flags to specs to the library."""

import os
import signal
import sys

# TensorFlow's own notices drown what these programs print; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _end_on_interrupt(_signum: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def raise_on_interrupt() -> None:
    """Has Ctrl-C raise KeyboardInterrupt again, once an entry point is ready to handle it."""
    if signal.getsignal(signal.SIGINT) is _end_on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Python is looking for the module of `python -m`. Until that is imported, Ctrl-C would show a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_on_interrupt)
