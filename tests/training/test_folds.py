import dataclasses

import pytest

from ucf50_tfrecord import manifest
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.shards import Named
from ucf50_tfrecord.specs import is_fold_name, parse_folds
from ucf50_tfrecord.training.folds import AskedFolds, Folds, choose_folds


@pytest.fixture
def named(data_dir):
    """Returns a function that gives the folds 1 to 3 of a manifest names."""
    loaded = manifest.load(str(data_dir))
    counts = {fold: (1, 1, 1) for fold in (1, 2, 3)}

    def with_names(*names):
        fold_names = tuple(Named(name=name, number=number) for number, name in enumerate(names, start=1))
        return dataclasses.replace(loaded, clips_per_class=counts, fold_names=fold_names)

    return with_names


def test_folds_are_chosen_by_name(named):
    split = named("train", "val", "test")
    assert choose_folds(split, AskedFolds(val="test")) == Folds(train=(1,), val=(3,))
    assert choose_folds(split, AskedFolds(val="val", test="test")) == Folds(train=(1,), val=(2,), test=(3,))
    assert choose_folds(split, AskedFolds(train="train, val", val="3")) == Folds(train=(1, 2), val=(3,))
    cameras = named("left cam", "right cam", "top")
    assert choose_folds(cameras, AskedFolds(val="right cam")) == Folds(train=(1, 3), val=(2,))


def test_named_splits_are_the_default(named):
    assert choose_folds(named("train", "val", "test"), AskedFolds()) == Folds(train=(1,), val=(2,), test=(3,))
    assert choose_folds(named("train", "validation", "x"), AskedFolds()) == Folds(train=(1,), val=(2,))
    assert choose_folds(named("train", "test"), AskedFolds()) == Folds(train=(1,), val=(2,))
    asked = AskedFolds(test="test")
    assert choose_folds(named("train", "val", "test"), asked) == Folds(train=(1,), val=(2,), test=(3,))


def test_an_unknown_name_is_an_error_that_lists_the_names(named):
    with pytest.raises(
        UserError, match="folds such as 1-5,9, or out of train, val, test. Received: folds='dev'"
    ):
        choose_folds(named("train", "val", "test"), AskedFolds(val="dev"))
    with pytest.raises(UserError, match="Folds 1 are in both train_folds and val_folds"):
        choose_folds(named("train", "val", "test"), AskedFolds(train="train", val="1"))


@pytest.mark.parametrize("text", ["3-1", "1,,2", ",", "1-20000"])
def test_a_text_that_is_no_list_of_folds_is_refused_without_a_dataset(text):
    with pytest.raises(UserError, match="Expected folds such as 1-5,9"):
        AskedFolds(val=text)


def test_a_name_is_not_taken_for_a_number():
    assert parse_folds("7, b-2 ,1-3", {"b-2": 9}) == (1, 2, 3, 7, 9)
    assert [text for text in ("7", "1-5", "a,b", " a", "", "a b", "cam1", "3rd") if is_fold_name(text)] == [
        "a b",
        "cam1",
        "3rd",
    ]
