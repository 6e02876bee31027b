"""Makes flags from the fields of a dataclass, which hold the flags' defaults, types and help."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from absl import flags

from pipelines import remedies
from ucf50_tfrecord.choices import Choice

_Spec = TypeVar("_Spec")
_DEFINE: dict[type, Callable[..., flags.FlagHolder]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}

# The flags belong to the module that makes them with SpecFlags: its --helpshort lists them.
flags.disclaim_key_flags()


class SpecFlags(Generic[_Spec]):
    """Flags for those fields of a dataclass that have a help text, see settings.setting."""

    def __init__(
        self,
        spec: type[_Spec],
        *,
        names: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        """Defines the flags.

        Args:
          spec: the dataclass.
          names: dictionary from field name to flag name. Other flags are named by remedies.FLAGS, or like
            their fields.
          defaults: dictionary from field name to the flag's default. Other flags have the default of their
            field.
        """
        self._spec, hints = spec, typing.get_type_hints(spec)
        self._holders = {
            field.name: _define(
                (names or {}).get(field.name) or remedies.FLAGS.get(field.name, field.name),
                _required(hints[field.name]),
                (defaults or {}).get(field.name, field.default),
                field.metadata["help"],
            )
            for field in dataclasses.fields(spec)  # type: ignore[arg-type]
            if "help" in field.metadata
        }

    def set_defaults(self, spec: _Spec) -> None:
        """Makes the values of a dataclass's instance the defaults of the flags."""
        for name, holder in self._holders.items():
            flags.set_default(holder, getattr(spec, name))

    def values(self) -> dict[str, Any]:
        """Returns the values of the flags, by the names of the fields."""
        return {name: holder.value for name, holder in self._holders.items()}

    def build(self, **others: Any) -> _Spec:
        """Builds an instance of the dataclass from the values of the flags.

        Args:
          others: the values of fields that have no flag.

        Raises:
          UserError: if the dataclass refuses a value.
        """
        return self._spec(**self.values(), **others)


def _define(name: str, kind: type, default: Any, text: str) -> flags.FlagHolder:
    if isinstance(default, Choice):
        return flags.DEFINE_enum(name, default, list(type(default)), text)
    return _DEFINE[kind](name, default, text)


def _required(hint: Any) -> type:
    """Returns the type T for the type hint `T | None`, and any other type hint unchanged."""
    if isinstance(hint, types.UnionType):
        [hint] = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return hint
