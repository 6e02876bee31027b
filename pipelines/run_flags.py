"""Flags of entry points that use a finished run: its folder and its weights."""

from __future__ import annotations

from absl import flags

from ucf50_tfrecord.errors import UserError

_RUN = flags.DEFINE_string("run", None, "The run's folder.")
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ("last", "best"),
    "The run's checkpoint to use. Default: the one that its own scores are of.",
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
