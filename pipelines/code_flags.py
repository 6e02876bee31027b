"""Defines --allow_code, the flag by which a user lets a run import code outside this package."""

from __future__ import annotations

from absl import flags

_ALLOW_CODE = flags.DEFINE_list(
    "allow_code",
    [],
    "Names, as <module>:<builder>, of code outside this package that may be loaded as a run's model or encoder. "
    "Loading executes the code: allow only code that you trust.",
)


def allowed_code() -> list[str]:
    """Returns the names, <module>:<builder>, of the code outside this package that a run may import."""
    return _ALLOW_CODE.value
