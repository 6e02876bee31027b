import dataclasses
import json
import re
from typing import Annotated

import msgspec
import pytest

from tests.warm import run_code
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.parsing import Count, Finite, Name, Sha256
from ucf50_tfrecord.specs import ClipFormat

# Converts into a type in two threads; the second starts while the first reads the annotations of the type's field.
TWO_THREADS = """
import concurrent.futures, dataclasses, threading
from ucf50_tfrecord import parsing

begun = threading.Event()

def number():
    begun.set()
    second_is_done.wait(0.5)
    return int

@dataclasses.dataclass
class Part:
    number: "number()"

@dataclasses.dataclass
class Whole:
    part: Part

def convert():
    return parsing.convert({"part": {"number": 1}}, Whole, "a whole")

second_is_done = threading.Event()
with concurrent.futures.ThreadPoolExecutor(2) as threads:
    first = threads.submit(convert)
    assert begun.wait(30)
    second = threads.submit(convert)
    second.add_done_callback(lambda _: second_is_done.set())
    assert first.result() == second.result() == Whole(Part(1))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    count: Count
    name: Name = "x"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]
    number: Finite = 0.0
    sha256: Sha256 = "0" * 64
    by_name: dict[str, Part] = dataclasses.field(default_factory=dict)
    by_fold: dict[Count, Annotated[int, msgspec.Meta(le=9)]] = dataclasses.field(default_factory=dict)
    format: ClipFormat = ClipFormat()


def read(tmp_path, value, **options):
    path = tmp_path / "file.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return parsing.read(path, Whole, "a whole", **options)


def test_a_value_becomes_the_dataclass(tmp_path):
    value = {"parts": [{"count": 3}], "number": 2, "by_fold": {"7": 1}, "format": {"height": 32}}
    assert read(tmp_path, value) == Whole(
        parts=(Part(count=3),), number=2.0, by_fold={7: 1}, format=ClipFormat(height=32)
    )


@pytest.mark.parametrize(
    "value, message",
    [
        ([], "Expected object. Received: a list of 0"),
        ({}, "Expected a field parts. Received: none"),
        ({"parts": [{"count": 1}, {"count": "1"}]}, "parts[1].count: Expected int. Received: '1'"),
        ({"parts": [{"count": True}]}, "parts[0].count: Expected int. Received: True"),
        ({"parts": [{"count": -1}]}, "parts[0].count: Expected int >= 0. Received: -1"),
        ({"parts": [{"count": 2**63}]}, "parts[0].count: Expected int <= 9223372036854775807. Received: 9"),
        ({"parts": [{"count": 1, "name": ""}]}, "parts[0].name: Expected str of length >= 1. Received: ''"),
        ({"parts": [], "sha256": "../../victim"}, "sha256: Expected str matching regex"),
        ({"parts": [], "sha256": "0" * 64 + "\n"}, "sha256: Expected str matching regex"),
        ({"parts": [], "number": 10**400}, "number: Number out of range. Received: 1000"),
        ('{"parts": [], "number": 1e999}', "number: Expected float <= 3.4"),
        (
            {"parts": [], "format": {"height": 9999}},
            "format: Expected a height of 8 to 4096 pixels. Received: height",
        ),
        ({"parts": [], "by_fold": {"one": 1}}, "by_fold: Expected int"),
        (
            {"parts": [], "by_name": {"a": {"count": None}}},
            "by_name[...].count: Expected int. Received: an object",
        ),
        ({"parts": [], "zz": 1}, "Expected known fields. Received: 'zz'; perhaps a later version wrote it"),
        ({"parts": [{"count": 1, "zz": 1}]}, "Expected known fields. Received: 'parts[0].zz'"),
        (
            {"parts": [], "by_name": {"a": {"count": 1, "zz": 1}}},
            "Expected known fields. Received: 'by_name.a.zz'",
        ),
        ({"parts": [], "\udc80": 1}, "Expected known fields. Received: a name that is not UTF-8"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_found(tmp_path, value, message):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'file.json'} is not a whole: {message}")):
        read(tmp_path, value)


@pytest.mark.parametrize(
    "text", ['{"parts": NaN}', '{"parts": [], "number": Infinity}', "[" * 200_000, '{"a": ', "\0"]
)
def test_invalid_json_is_named(tmp_path, text):
    with pytest.raises(storage.NotJsonError, match="file.json is not valid JSON"):
        read(tmp_path, text)


def test_unknown_fields_are_dropped_on_request(tmp_path):
    assert read(tmp_path, {"parts": [{"count": 1, "zz": 1}], "yy": []}, extra=True).parts == (Part(count=1),)


def test_names_that_are_not_utf8_are_read(tmp_path):
    name = b"caf\xe9.avi".decode("utf-8", "surrogateescape")
    assert read(tmp_path, {"parts": [{"count": 1, "name": name}]}).parts[0].name == name


def test_threads_may_convert_into_a_type_that_another_reads_for_the_first_time():
    """Without a lock, msgspec crashes Python."""
    done = run_code(TWO_THREADS)
    assert done.returncode == 0, done.stderr
