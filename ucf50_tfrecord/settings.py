"""Fields of dataclasses that are options: their default, help text and allowed values."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ucf50_tfrecord.choices import Choice
from ucf50_tfrecord.errors import UserError, expect


class Range(NamedTuple):
    """Allowed values of a number; a bound may be excluded."""

    low: float
    high: float
    excludes_low: bool = False
    excludes_high: bool = False

    def allows(self, value: float) -> bool:
        """Tells whether a value is in the range; NaN never is."""
        is_inside = self.low <= value <= self.high
        return is_inside and not (
            self.excludes_low and value == self.low or self.excludes_high and value == self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low}," if self.excludes_low else f"from {self.low}"
        return f"{low} to {'below ' if self.excludes_high else ''}{self.high}"


def setting(default: Any, text: str, allowed: Range | None = None) -> Any:
    """Returns a dataclass field with a default, a help text and the range of its values. See check_settings."""
    return dataclasses.field(default=default, metadata={"help": text, "range": allowed})


def check_settings(spec: Any) -> None:
    """Checks the fields of a dataclass: words against their choices, numbers against their ranges.

    Raises:
      UserError: if a field has another value.
    """
    read_choices(spec)
    for field in dataclasses.fields(spec):
        allowed, value = field.metadata.get("range"), getattr(spec, field.name)
        expect(allowed is None or allowed.allows(value), f"{field.name} {allowed}", **{field.name: value})


def read_choices(spec: Any) -> None:
    """Replaces the plain strings in a frozen dataclass's fields by the choices that their defaults belong to.

    Raises:
      UserError: if a field holds an unknown word; it names the field.
    """
    for field in dataclasses.fields(spec):
        if isinstance(field.default, Choice):
            value = getattr(spec, field.name)
            try:
                object.__setattr__(spec, field.name, type(field.default)(value))
            except UserError as error:
                received = f"Received: {field.name}={value!r}"
                raise UserError(f"{str(error).rpartition('Received: ')[0]}{received}") from None
