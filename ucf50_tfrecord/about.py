"""Facts about a data set that its videos do not show, such as its license: a JSON file beside the videos.

The fields follow Croissant and its vocabulary for responsible AI, see croissant.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import re
from typing import Annotated

import msgspec

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import to_json

FILENAME = "dataset_about.json"
_MAX_BYTES = 1 << 20

_Text = Annotated[str, msgspec.Meta(max_length=20_000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """Facts about a data set. A fact that is not known is "".

    title: its name, for readers.
    description: what it holds.
    license: the name of a license (best its SPDX identifier, such as "CC-BY-4.0"), its address, or the terms of use.
    citation: what to cite, best as BibTeX.
    creator: the organization that made it.
    url: address of the page that describes it.
    published: date of its publication: "2012", "2012-11" or "2012-11-30".
    collection: how the videos were collected.
    people: the personal and sensitive information in it.
    biases: known biases.
    limits: known limits, and what it should not be used for.
    """

    title: _Text = parsing.optional("")
    description: _Text = parsing.optional("")
    license: _Text = parsing.optional("")
    citation: _Text = parsing.optional("")
    creator: _Text = parsing.optional("")
    url: _Text = parsing.optional("")
    published: _Text = parsing.optional("")
    collection: _Text = parsing.optional("")
    people: _Text = parsing.optional("")
    biases: _Text = parsing.optional("")
    limits: _Text = parsing.optional("")

    def __post_init__(self):
        expect(not self.url or re.fullmatch(r"https?://\S+", self.url), "a URL https://…", url=self.url)
        expect(
            not self.published or _is_date(self.published),
            'a date such as "2012", "2012-11" or "2012-11-30"',
            published=self.published,
        )


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){0,2}", text):
        return False
    try:
        datetime.date.fromisoformat(f"{text}-01-01"[:10])
    except ValueError:
        return False
    return True


def load(videos_dir: str | os.PathLike) -> About:
    """Reads the facts beside some videos; without their file, none is known.

    Args:
      videos_dir: the folder of the videos, or of the list that names them.

    Raises:
      UserError: if the file cannot be read, or holds something else.
    """
    try:
        path = pathlib.Path(videos_dir, FILENAME)
        return parsing.read(path, About, "a file of facts about a data set", max_bytes=_MAX_BYTES)
    except storage.MissingError:
        return About()


def save(videos_dir: str | os.PathLike, about: About) -> None:
    """Writes the facts about a data set beside its videos."""
    storage.write_json(pathlib.Path(videos_dir, FILENAME), to_json(about))
