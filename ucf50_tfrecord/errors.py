"""Errors that a user can fix: their text states the facts, their `Remedy` objects state what helps.

The library knows no commands. An entry point (a command-line program) turns each remedy into a command.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Action(enum.StrEnum):
    """Kinds of remedies; the comment at each kind lists the entries of Remedy.details."""

    SET = "set"  # options by name; each with a value, a tuple of values to choose from, or a Change
    REPAIR = "repair"  # data_dir, videos_dir, and the options that the dataset was made with
    ENCODE = (
        "encode"  # frames_dir, data_dir, and the fields of the FeatureSpec that the features were made with
    )
    CONVERT = "convert"  # data_dir
    TRAIN = "train"  # none, or run_dir to resume a run
    EVALUATE = "evaluate"  # run_dir, weights
    LAUNCH = "launch"  # num_workers
    INSTALL = "install"  # extras, such as "convert,train"
    PIPE = "pipe"  # command: the words of another program's command, which writes a stream to its standard output


class Change(enum.StrEnum):
    """How to change an option's value, for remedies that cannot name the right value."""

    SMALLER = "smaller"
    LARGER = "larger"
    OTHER = "other"


@dataclasses.dataclass(frozen=True, init=False)
class Remedy:
    """One way to fix an error.

    action: the kind of action to take.
    purpose: what the action achieves, such as "to train without such clips"; "" if the action makes it clear.
    details: the details of the action, by name. An option has the name of its field or argument in the
      library.
    """

    action: Action
    purpose: str
    details: dict[str, Any]

    def __init__(self, action: Action, purpose: str = "", **details: Any):
        for name, value in (("action", action), ("purpose", purpose), ("details", details)):
            object.__setattr__(self, name, value)


class UserError(ValueError):
    """A mistake that the user can fix. Its text states the facts; `remedies` are ways to fix it, best first.

    Command-line programs print the facts and the remedies without a traceback and exit with status 2.
    """

    def __init__(self, facts: str, *remedies: Remedy):
        super().__init__(facts)
        self.remedies = remedies


class Advice(str):
    """The text of a warning, with `remedies`: ways to act on it, best first."""

    remedies: tuple[Remedy, ...]

    def __new__(cls, facts: str, *remedies: Remedy) -> Advice:
        advice = super().__new__(cls, facts)
        advice.remedies = remedies
        return advice


def expect(condition: object, expected: str, *remedies: Remedy, **received: Any) -> None:
    """Raises UserError("Expected <expected>. Received: <name>=<value>, …") unless the condition holds.

    Args:
      condition: the condition.
      expected: description of the allowed values.
      *remedies: ways to fix the error, best first.
      **received: the values that were received, by name.
    """
    if not condition:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise UserError(f"Expected {expected}. Received: {values}", *remedies)
