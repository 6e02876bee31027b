"""Command-line entry points: flags to specs to the library."""

import os
import signal
import sys

# The command that an installation provides for all entry points.
CONSOLE_SCRIPT = "ucf50"

# TensorFlow's own notices drown what these programs print; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def is_console_script(program: str) -> bool:
    """Tells whether a path is the console script's."""
    return os.path.basename(program) == CONSOLE_SCRIPT


def _exit_on_interrupt(_signum: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def raise_on_interrupt() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt again, once an entry point is ready to handle it."""
    if signal.getsignal(signal.SIGINT) is _exit_on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Ctrl-C would show a traceback until the entry point is imported: `python -m` is still looking for it.
if (sys.argv[:1] == ["-m"] or is_console_script(sys.argv[0])) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _exit_on_interrupt)
