"""Command-line entry points, which turn flags into specifications and call the library with them."""

import os
import signal
import sys

# The name of the command that an installation of the package provides for all entry points.
CONSOLE_SCRIPT = "ucf50"

# Hides TensorFlow's notices, which would drown what these programs print; its errors are still shown.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def is_console_script(program: str) -> bool:
    """Tells whether a program's path is that of the console script, ucf50."""
    return os.path.basename(program) == CONSOLE_SCRIPT


def _exit_on_interrupt(_signum: int, _frame: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


def raise_on_interrupt() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again. Call it once an entry point can handle this exception."""
    if signal.getsignal(signal.SIGINT) is _exit_on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Without this handler Ctrl-C would show a traceback while Python still imports the entry point. While `python
# -m` looks for the entry point, sys.argv[0] is "-m".
if (sys.argv[:1] == ["-m"] or is_console_script(sys.argv[0])) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _exit_on_interrupt)
