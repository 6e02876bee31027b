"""Dataclass fields that serve as options: their default, help text and allowed values."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ucf50_tfrecord.choices import Choice
from ucf50_tfrecord.errors import expect


class Range(NamedTuple):
    """The range of a number's allowed values, from `low` to `high`; each bound may be excluded."""

    low: float
    high: float
    excludes_low: bool = False
    excludes_high: bool = False

    def allows(self, value: float) -> bool:
        """Tells whether a value is in the range. NaN is in no range."""
        is_inside = self.low <= value <= self.high
        return is_inside and not (
            self.excludes_low and value == self.low or self.excludes_high and value == self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low}," if self.excludes_low else f"from {self.low}"
        return f"{low} to {'below ' if self.excludes_high else ''}{self.high}"


def setting(default: Any, text: str, allowed: Range | None = None, *, omit_default: bool = False) -> Any:
    """Returns a dataclass field that serves as an option.

    Args:
      default: the field's default value.
      text: help text of the option.
      allowed: the range of allowed values, which check_settings checks; None allows every value.
      omit_default: whether specs.to_json leaves the field out while it has its default, so that a new field does not
        change the fingerprints of what is stored already.
    """
    metadata = {"help": text, "range": allowed} | ({"omit_default": True} if omit_default else {})
    return dataclasses.field(default=default, metadata=metadata)


def check_settings(spec: Any) -> None:
    """Checks the fields of a dataclass: words against their Choice class, numbers against their range.

    It also replaces words by members of their Choice class, as read_choices does.

    Raises:
      UserError: if a field's value is not allowed.
    """
    read_choices(spec)
    for field in dataclasses.fields(spec):
        allowed, value = field.metadata.get("range"), getattr(spec, field.name)
        expect(allowed is None or allowed.allows(value), f"{field.name} {allowed}", **{field.name: value})


def read_choices(spec: Any) -> None:
    """Replaces the words in a frozen dataclass's fields by members of their Choice class.

    A field's Choice class is the class of its default; fields with other defaults are left alone.

    Raises:
      UserError: if a field holds an unknown word.
    """
    for field in dataclasses.fields(spec):
        if isinstance(field.default, Choice):
            kind, value = type(field.default), getattr(spec, field.name)
            if isinstance(value, kind):
                continue
            expect(value in tuple(kind), kind.expected(), **{field.name: value})
            object.__setattr__(spec, field.name, kind(value))
