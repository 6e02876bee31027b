"""Matching of another data set's classes to those of a run."""

import pytest

from tests.conftest import raises_with_remedies
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation.class_matching import UNMATCHED, load_class_map, match_classes

OURS = ("BaseballPitch", "GolfSwing", "YoYo")


def test_names_match_exactly_or_without_case_spaces_underscores_and_hyphens():
    assert match_classes(["YoYo", "Rowing", "GolfSwing"], OURS) == (2, UNMATCHED, 1)
    assert match_classes(["yo-yo", "baseball_pitch", "GOLF  swing"], OURS) == (2, 0, 1)


def test_an_exact_name_is_preferred_to_one_that_is_written_otherwise():
    assert match_classes(["Yo Yo", "yoyo"], ["yoyo", "Yo Yo"]) == (1, 0)


def test_names_of_nothing_but_signs_match_exactly_only():
    assert match_classes(["_", "YoYo", "--"], ["-", "YoYo", "_"]) == (2, 1, UNMATCHED)


def test_a_name_that_fits_two_classes_of_the_run_is_an_error():
    with raises_with_remedies(r"'yoyo' fits several classes of the run: 'Yo Yo', 'YoYo'. .*--class_map=…"):
        match_classes(["yoyo"], ["Yo Yo", "YoYo"])


def test_two_names_that_fit_one_class_are_an_error_unless_a_map_names_one_of_them():
    theirs = ["GolfSwing", "golf swing"]
    with raises_with_remedies(r"fit the run's class 'GolfSwing': 'GolfSwing', 'golf swing'. .*--class_map=…"):
        match_classes(theirs, OURS)
    assert match_classes(theirs, OURS, {"golf swing": ""}) == (1, UNMATCHED)
    assert match_classes(theirs, OURS, {"golf swing": "GolfSwing"}) == (1, 1)


def test_a_map_comes_before_names():
    assert match_classes(["YoYo", "GolfSwing", "juggling"], OURS, {"YoYo": "", "juggling": "YoYo"}) == (
        UNMATCHED,
        1,
        2,
    )


@pytest.mark.parametrize(
    "class_map, message",
    [
        ({"rowing": "YoYo"}, "no classes of the other data set: 'rowing'. Expected some of: 'swing', 'YoYo'"),
        ({"swing": "Golf"}, "no classes of the run: 'Golf'. Expected some of: 'BaseballPitch', 'GolfSwing'"),
    ],
)
def test_unknown_names_in_a_map_are_refused_with_the_list(class_map, message):
    with pytest.raises(UserError, match=message):
        match_classes(["swing", "YoYo"], OURS, class_map)


def test_no_shared_class_is_refused_with_both_lists():
    with raises_with_remedies("'Rowing', 'Tai Chi'. The run's classes: 'BaseballPitch', 'GolfSwing', 'YoYo'"):
        match_classes(["Rowing", "Tai Chi"], OURS)
    with pytest.raises(UserError, match="No class of the other data set"):
        match_classes(["YoYo"], OURS, {"YoYo": ""})


def test_maps_are_read_from_csv_and_json(tmp_path):
    table, document = tmp_path / "map.csv", tmp_path / "map.JSON"
    table.write_text('\ufeff"swing, golf",GolfSwing\r\nrowing,\r\n\r\nyo , YoYo\n', encoding="utf-8")
    document.write_text('{"swing, golf": "GolfSwing", "rowing": null, "yo": "YoYo"}')
    expected = {"swing, golf": "GolfSwing", "rowing": "", "yo": "YoYo"}
    assert load_class_map(str(table)) == load_class_map(str(document)) == expected


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("map.txt", "", "ends in .json or .csv"),
        ("map.csv", "a,b\na,c\n", "line 2: Expected the name of each class once. Received: 'a'"),
        ("map.csv", "a;b\n", "line 1: Expected a class and the run's class. Received: 1 columns"),
        ("map.csv", ",b\n", "line 1: Expected the name of each class once"),
        ("map.csv", '"a,b\n', "line 1: unexpected end of data"),
        ("map.json", "[1]", "is not a map of classes: Expected object"),
        ("map.json", '{"a": 1}', "is not a map of classes"),
        ("map.json", "{", "is not valid JSON"),
    ],
)
def test_a_damaged_map_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_class_map(str(path))


def test_a_missing_map_is_an_error(tmp_path):
    for name in ("map.csv", "map.json"):
        with pytest.raises(UserError, match="Cannot read .*No such file"):
            load_class_map(str(tmp_path / name))
