"""Tests that may load tensorflow-io, which aborts a process that has used its s3:// at its end."""

import sys

from pipelines import console

_STATUS = 0


def pytest_sessionfinish(exitstatus):
    global _STATUS
    _STATUS = int(exitstatus)


def pytest_unconfigure():
    if "tensorflow_io" in sys.modules:
        console.end_at_once(_STATUS)
