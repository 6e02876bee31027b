"""Facts about a data set: read from the file beside the videos, carried into the manifest, and checked."""

import dataclasses
import json

import pytest

from tests.conftest import make_videos
from ucf50_tfrecord import about, manifest
from ucf50_tfrecord.about import About
from ucf50_tfrecord.convert import lists
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.fetching.sources import SOURCES

FACTS = About(title='A "set"', license="CC-BY-4.0", citation="ünï\n2026", published="2026-11", people="None.")


def test_facts_are_read_as_they_were_written(tmp_path):
    about.save(tmp_path, FACTS)
    assert about.load(tmp_path) == FACTS
    assert "description" not in json.loads((tmp_path / about.FILENAME).read_text())


def test_nothing_is_known_without_the_file(tmp_path):
    assert about.load(tmp_path) == about.load(tmp_path / "missing") == About()


@pytest.mark.parametrize("published", ["", "2012", "2012-11", "2012-11-30", "2024-02-29"])
def test_a_date_may_be_a_year_a_month_or_a_day(published):
    assert About(published=published).published == published


@pytest.mark.parametrize(
    "published", ["soon", "12", "2012-13", "2012-02-30", "2012-1", "2012-11-30T12", "2012\n"]
)
def test_other_dates_are_refused(published):
    with pytest.raises(UserError, match='a date such as "2012"'):
        About(published=published)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"licence": "MIT"}', "Expected known fields. Received: 'licence'"),
        ('{"license": 5}', "license: Expected str. Received: 5"),
        ('{"url": "javascript:alert(1)"}', "a URL https://"),
        ('{"title": "%s"}' % ("x" * 20_001), "title: Expected str of length <= 20000"),
        ("[]", "Expected object"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_wrong_file_is_named_with_its_mistake(tmp_path, content, message):
    path = tmp_path / about.FILENAME
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        about.load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_catalogue_has_the_facts_and_does_not_report_their_file(tmp_path):
    videos = make_videos(tmp_path / "videos", clips=1)
    about.save(videos, FACTS)
    found = lists.find_videos(videos)
    assert found.about == FACTS and found.warnings == ()
    (videos / "list.csv").write_text("path,label\nLeft/v_Left_g01_c01.avi,a\nMiddle/v_Middle_g01_c01.avi,b\n")
    assert lists.find_videos(videos / "list.csv").about == FACTS


def test_a_manifest_keeps_the_facts_but_not_in_its_fingerprint(copy):
    before = manifest.load(str(copy))
    assert "about" not in json.loads((copy / "manifest.json").read_text())
    dataclasses.replace(before, about=FACTS).save()
    loaded = manifest.load(str(copy))
    assert loaded.about == FACTS and loaded.fingerprint == before.fingerprint


def test_published_sets_state_their_terms_and_what_to_cite():
    for source in SOURCES.values():
        found = source.about
        assert source.page in found.license and found.url == source.page
        assert found.citation.startswith("@") and found.citation.count("{") == found.citation.count("}")
