"""Defines --allow_code, the flag by which a user lets a run import code outside this package."""

from __future__ import annotations

from absl import flags

_ALLOW_CODE = flags.DEFINE_list(
    "allow_code",
    [],
    "Code outside this package, as <module>:<builder>, that a run may name as its model or encoder. Loading the "
    "run imports it, which executes it: allow only code that you trust.",
)


def allowed_code() -> list[str]:
    """Returns the names, <module>:<builder>, of the code outside this package that a run may import."""
    return _ALLOW_CODE.value
