"""YAML headers are read back by PyYAML as they were given; tables keep their cells."""

import math

import pytest
import yaml

from ucf50_tfrecord import markdown


def read_header(text):
    start, header, rest = text.split("---\n", 2)
    assert start == "" and rest.startswith("\n")
    return yaml.safe_load(header)


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        "no",
        "null",
        "1e-05",
        "2026-11-27",
        "- a: b # c",
        "'single' \"double\" \\ back",
        "{flow: [1, 2]} & *anchor !tag %x @y `z`",
        "---",
        "ünï 😀 漢",
        True,
        3,
        -0.125,
        [],
        {},
        [{"a b": ["x: y", {"deep": 0.5}]}],
    ],
)
def test_a_value_is_read_back_as_it_was_given(value):
    assert read_header(markdown.yaml_header({"key": value, "model-index": [value]})) == {
        "key": value,
        "model-index": [value],
    }


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r---\nb", "\x00\x07\x1b", "\x7f\x85\u2028\ufeff", "\udcff", "\u202e"]
)
def test_unprintable_characters_are_escaped_on_one_line(text):
    header = markdown.yaml_header({"key": text})
    assert len(header.splitlines()) == 4
    found = read_header(header)["key"]
    assert found.isprintable() and found.encode().decode("unicode_escape") == text


@pytest.mark.parametrize("value, rounded", [(1e-05, 0.0), (0.00016, 0.0002), (2 / 3, 0.6667), (1.0, 1.0)])
def test_small_numbers_stay_numbers(value, rounded):
    found = read_header(markdown.yaml_header({"key": value}))["key"]
    assert found == rounded and isinstance(found, float)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError):
        markdown.yaml_header({"key": value})


def test_a_table_keeps_its_cells():
    text = markdown.table([("a|b", "n"), ("x\ny", "1")], (False, True))
    assert text == "| a\\|b | n |\n| --- | ---: |\n| x\\\\ny | 1 |"
