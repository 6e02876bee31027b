"""The errors that a user can fix: the facts as text, what helps as data.

The library knows no commands. Entry points render a remedy as one.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Action(enum.StrEnum):
    """Kinds of remedies; each comment lists a remedy's details."""

    SET = "set"  # options and their values: a value, several to choose from as a tuple, or a Change
    REPAIR = "repair"  # data_dir and videos_dir; the options that the dataset was made with
    CONVERT = "convert"  # data_dir
    TRAIN = "train"  # none, or run_dir to resume a run
    EVALUATE = "evaluate"  # run_dir, weights
    LAUNCH = "launch"  # num_workers
    INSTALL = "install"  # extras, such as "convert,train"


class Change(enum.StrEnum):
    """How an option's value should change where no single value is right."""

    SMALLER = "smaller"
    LARGER = "larger"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, init=False)
class Remedy:
    """One way out of an error.

    action: what to do.
    purpose: what it achieves, such as "to train without such clips"; "" where the action says it.
    details: of the action, by name. Options have the names of the specs' fields.
    """

    action: Action
    purpose: str
    details: dict[str, Any]

    def __init__(self, action: Action, purpose: str = "", **details: Any):
        for name, value in (("action", action), ("purpose", purpose), ("details", details)):
            object.__setattr__(self, name, value)


class UserError(ValueError):
    """A mistake that the user can fix. Its text states the facts; `remedies` are ways to fix it, best first.

    Entry points print both without a traceback and exit with status 2.
    """

    def __init__(self, facts: str, *remedies: Remedy):
        super().__init__(facts)
        self.remedies = remedies


class Advice(str):
    """A warning's text with remedies, as a UserError has them."""

    remedies: tuple[Remedy, ...]

    def __new__(cls, facts: str, *remedies: Remedy) -> Advice:
        advice = super().__new__(cls, facts)
        advice.remedies = remedies
        return advice


def expect(condition: bool, expected: str, *remedies: Remedy, **received: Any) -> None:
    """Raises UserError("Expected …. Received: name=value") unless the condition holds."""
    if not condition:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise UserError(f"Expected {expected}. Received: {values}", *remedies)
