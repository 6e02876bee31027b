"""Defines the flags of entry points that use a finished run: the run's folder and its weights."""

from __future__ import annotations

from absl import flags

from ucf50_tfrecord.errors import UserError

_RUN = flags.DEFINE_string("run", None, "The run's folder.")
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ("last", "best"),
    "The run's checkpoint to use. Default: the one of the run's own final scores.",
)


def run_dir() -> str:
    """Returns the run's folder, the value of --run.

    Raises:
      UserError: if --run is not given.
    """
    if not _RUN.value:
        raise UserError("Pass --run=<folder of a run>.")
    return _RUN.value


def weights() -> str | None:
    """Returns the value of --weights: the checkpoint of the run to use, "last" or "best".

    None stands for the checkpoint that the run's own final scores were computed with.
    """
    return _WEIGHTS.value
