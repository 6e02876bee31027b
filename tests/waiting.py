"""Waits of tests for other processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

# Longest wait for a step of a test, in seconds. Only a test that fails waits so long: on a busy machine, the start of a
# process took more than a minute, that of a cluster more than two.
MAX_SECS = 500.0


def wait_for(
    condition: Callable[[], Any], *, process: subprocess.Popen | None = None, poll_secs: float = 0.02
) -> Any:
    """Waits until a condition is true; returns its value.

    Args:
      condition: the condition.
      process: the process that should make the condition true, if the test fails once it has exited without.
      poll_secs: seconds between two tries.
    """
    deadline = time.monotonic() + MAX_SECS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition was not met within {MAX_SECS:.0f} s"
        if process is not None and process.poll() is not None and not condition():
            errors = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"the process exited with status {process.returncode}: {errors}")
        time.sleep(poll_secs)
    return value
