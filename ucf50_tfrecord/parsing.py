"""Parses JSON files into dataclasses and checks each value against its type.

A file may be damaged or come from an untrusted source. Every failure is a UserError that names the file, the
field, the expected value and the value found.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from typing import Annotated, Any, TypeVar

import msgspec

from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError

_MAX_INT64 = 2**63 - 1
_MAX_FLOAT32 = 3.4028234663852886e38
# Limits on the length of a value in an error message, and of the whole message, in characters.
_MAX_SHOWN, _MAX_DESCRIPTION = 60, 500

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
# A number of things, bytes or nanoseconds.
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT64)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=_MAX_INT64)]
# A number that is finite (neither infinite nor NaN), even as float32.
Finite = Annotated[float, msgspec.Meta(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]

T = TypeVar("T")

# msgspec reads a type's annotations when it first converts into the type. A thread that meets a type whose
# annotations another thread has read in part crashes Python (seen in msgspec 0.22.0).
_LOCK = threading.RLock()


def optional(default: Any) -> Any:
    """Returns a dataclass's field that files leave out while it has its default; see specs.to_json."""
    return dataclasses.field(default=default, metadata={"omit_default": True})


def read(
    path: str | os.PathLike,
    kind: type[T],
    what: str,
    *,
    max_bytes: int = storage.MAX_JSON_BYTES,
    extra: bool = False,
) -> T:
    """Reads a JSON file and converts its contents into a value of a given type.

    Args:
      path: the file's path or URL.
      kind: the type of the file's contents: a dataclass, or a list or dict of dataclasses.
      what: a name of the contents for error messages, such as "a dataset's manifest".
      max_bytes: largest size of the file, in bytes.
      extra: whether fields that `kind` does not have are ignored; otherwise they are an error.

    Returns:
      A value of the type `kind`.

    Raises:
      UserError: if the file cannot be read (see storage.read_json), or its contents do not fit the type.
    """
    return convert(storage.read_json(path, max_bytes=max_bytes), kind, f"{path} is not {what}", extra=extra)


def convert(value: Any, kind: type[T], problem: str, *, extra: bool = False, lax: bool = False) -> T:
    """Converts a JSON value into a value of a given type.

    Args:
      value: the JSON value, as json.loads returns it.
      kind: the type: a dataclass, or a list or dict of dataclasses.
      problem: the beginning of error messages.
      extra: whether fields that `kind` does not have are ignored; otherwise they are an error.
      lax: whether texts such as "1.5" are accepted as numbers, as in files that hold only texts.

    Raises:
      UserError: if the value does not fit the type.
    """
    try:
        with _LOCK:
            parsed = msgspec.convert(value, kind, str_keys=True, strict=not lax)
    except msgspec.ValidationError as error:
        description = _describe(str(error), value)
        raise UserError(f"{problem}: {_cut(description, _MAX_DESCRIPTION)}") from None
    except UnicodeEncodeError:  # a field's name is not valid Unicode text; for values this is allowed
        raise UserError(f"{problem}: Expected known fields. Received: a name that is not UTF-8") from None
    unknown = None if extra else _find_unknown(value, parsed, "")
    if unknown is not None:
        raise UserError(
            f"{problem}: Expected known fields. Received: {_format(unknown.lstrip('.'))}; perhaps a later "
            "version wrote it"
        )
    return parsed


def decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """Returns msgspec's decoder of MessagePack into a type. Several threads may call this function at once."""
    with _LOCK:
        return msgspec.msgpack.Decoder(kind)


def _find_unknown(value: Any, parsed: Any, place: str) -> str | None:
    """Finds a field of a JSON value that the dataclass parsed from this value does not have.

    Args:
      value: the JSON value.
      parsed: what msgspec made of it.
      place: the position of `value` in the file, such as ".shards[0]".

    Returns:
      The position of the first unknown field, or None if all fields are known.
    """
    if dataclasses.is_dataclass(parsed):
        known = {field.name for field in dataclasses.fields(parsed)}
        parts = [(f"{place}.{name}", item, getattr(parsed, name, None)) for name, item in value.items()]
        unknown = next((name for name in value if name not in known), None)
        if unknown is not None:
            return f"{place}.{unknown}"
    elif isinstance(parsed, dict):
        parts = [(f"{place}.{key}", item, made) for (key, item), made in zip(value.items(), parsed.values())]
    elif isinstance(parsed, (list, tuple)) and parsed and not isinstance(parsed[0], (str, int, float)):
        parts = [(f"{place}[{number}]", item, made) for number, (item, made) in enumerate(zip(value, parsed))]
    else:
        return None
    return next(
        (found for part in parts if (found := _find_unknown(part[1], part[2], part[0])) is not None), None
    )


def _describe(text: str, value: Any) -> str:
    """Rewrites an error message of msgspec so that it names the field, the expected and the found value.

    Messages that come from our dataclasses' own checks name the found value already.
    """
    match = re.search(r" - at (`key` in )?`\$(?P<place>[^`]*)`\Z", text)
    place = match["place"] if match else ""
    expected = text[: match.start()] if match else text
    name = place.lstrip(".")
    before = f"{name}: " if name else ""
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", expected):
        return f"{before}Expected a field {missing[1]}. Received: none"
    if "Received: " in expected:
        return before + expected
    expected = expected.partition(", got ")[0].replace("`", "")
    found = _look_up(value, place) if not (match and match[1]) else value
    return f"{before}{expected}. Received: {_format(found)}"


def _look_up(value: Any, place: str) -> Any:
    """Returns the part of a JSON value at a position such as .shards[0].fold.

    msgspec writes "..." for a key of a dict; the dict itself is then returned.
    """
    for name, number in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place):
        if number == "...":
            return value
        value = value[int(number)] if number else value[name]
    return value


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return _cut(repr(value), _MAX_SHOWN)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
