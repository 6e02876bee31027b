"""Cards of datasets: their header as PyYAML reads it, and numbers that equal the manifest's."""

import dataclasses

import pytest

from tests.test_markdown import read_header
from ucf50_tfrecord import dataset_card, manifest
from ucf50_tfrecord.about import About
from ucf50_tfrecord.shards import Named


def card_of(loaded, **changes):
    dataset_card.save(dataclasses.replace(loaded, **changes))
    with open(f"{loaded.data_dir}/DATASET_CARD.md", encoding="utf-8") as file:
        return file.read()


@pytest.fixture
def loaded(copy):
    return manifest.load(str(copy))


def test_a_conversion_writes_the_card(data_dir, loaded):
    text = (data_dir / "DATASET_CARD.md").read_text()
    assert text == card_of(loaded)
    assert read_header(text) == {
        "license": "unknown",
        "pretty_name": "small",
        "task_categories": ["video-classification"],
        "tags": ["action-recognition", "video", "tfrecord", "frames"],
        "size_categories": ["n<1K"],
    }
    assert (
        "30 clips of 3 kinds of action from 30 videos" in text
        and "License: not known; dataset\\_about" not in text
    )
    assert "- License: not known; dataset_about.json beside the videos can state it\n" in text
    for fold in loaded.folds:
        assert f"| fold{fold:02d} |  | 6 |" in text
    for name in loaded.classes:
        assert f"| {name} | 10 |" in text


@pytest.mark.parametrize(
    "about, expected",
    [
        (About(license="MIT"), {"license": "mit"}),
        (About(license="CC-BY-4.0", url="https://a.b"), {"license": "cc-by-4.0"}),
        (About(license="research"), {"license": "other", "license_name": "research"}),
        (
            About(license="https://a.b/terms", url="https://a.b"),
            {"license": "other", "license_name": "https://a.b/terms", "license_link": "https://a.b/terms"},
        ),
        (
            About(license="ask us", url="https://a.b"),
            {"license": "other", "license_name": "ask us", "license_link": "https://a.b"},
        ),
    ],
)
def test_the_license_is_named_as_the_hub_wants_it(about, expected):
    assert dataset_card.license_fields(about) == expected


@pytest.mark.parametrize(
    "num_clips, size",
    [(999, "n<1K"), (1000, "1K<n<10K"), (6681, "1K<n<10K"), (10**5, "100K<n<1M"), (10**12, "1B<n<10B")],
)
def test_the_size_is_that_of_the_hubs_list(loaded, num_clips, size):
    shards = (dataclasses.replace(loaded.shards[0], num_clips=num_clips),)
    assert dataset_card._header(dataclasses.replace(loaded, shards=shards))["size_categories"] == [size]


def test_names_and_facts_cannot_break_the_card(loaded):
    classes = ("a|b\n# c", "`d` <script>", "\udcff*e*")
    about = About(title="x\n---\n# y", description="<b>bold</b>", citation="@a{b}\n\n# z")
    fold_names = (Named(name="train|1", number=1),)
    text = card_of(loaded, classes=classes, about=about, fold_names=fold_names)
    assert read_header(text)["pretty_name"] == "x\\n---\\n# y"
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == ["## Folds", "## Classes"]
    assert "<script>" not in text and "<b>" not in text and r"| fold01 | train\|1 | 6 |" in text
