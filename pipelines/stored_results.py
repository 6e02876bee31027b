"""Reads the results of a comparison, which may come from a stranger."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from pipelines import console
from ucf50_tfrecord import parquet_check

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.results import Results


def load(path: pathlib.Path) -> Results:
    """Reads a comparison's results.json and the predictions beside it, and loads TensorFlow.

    A worker process decodes the predictions first, since PyArrow aborts at some damaged files.

    Raises:
      UserError: as parquet_check.check and evaluation.result_files.load do.
    """
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import predictions, result_files

    beside = path.with_name(predictions.FILENAME)
    if path.exists() and beside.exists():  # else result_files.load says what is missing
        parquet_check.check(beside)
    return result_files.load(path)
