"""What is asked for of a finished run, wherever one is used: its folder, and which of its weights."""

from __future__ import annotations

from absl import flags

from ucf50_tfrecord.errors import UserError

_RUN = flags.DEFINE_string("run", None, "The run's folder.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, ("last", "best"), "Which checkpoint of the run. Default: that of its own final scores."
)


def run_dir() -> str:
    """Returns the run's folder.

    Raises:
      UserError: if none is given.
    """
    if not _RUN.value:
        raise UserError("Pass --run=<folder of a run>.")
    return _RUN.value


def weights() -> str | None:
    """Returns "last", "best", or None for those of the run's own scores."""
    return _WEIGHTS.value
