"""Hooks for tests that may load tensorflow-io, which aborts a process at its exit if it has used s3://.

Once all tests are done, the hooks end such a process before it can abort, with pytest's exit status.
"""

import sys

from pipelines import console

_STATUS = 0


def pytest_sessionfinish(exitstatus):
    global _STATUS
    _STATUS = int(exitstatus)


def pytest_unconfigure():
    if "tensorflow_io" in sys.modules:
        console.end_at_once(_STATUS)
