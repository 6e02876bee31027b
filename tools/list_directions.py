"""Lists videos for a task of frame order alone: do clips play forward or back?

  python -m tools.list_directions --videos=/data/UCF50 --list=directions.csv
  python -m pipelines.convert --videos=directions.csv

Each video gives two clips of the same frames, one in order and one in reverse,
in the classes forward and backward (the arrow of time, Wei et al. 2018,
"Learning and using the arrow of time"). Both are in the video's group and fold.
So a model that is blind to frame order has an accuracy of 0.5, whatever it
learns of appearance.
"""

from __future__ import annotations

import csv
import io
import os
import pathlib
from collections.abc import Iterator

from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import Playback
from ucf50_tfrecord.convert import lists
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.jobs import Catalog, Video

_VIDEOS = flags.DEFINE_string(
    "videos", None, "Folder with one folder of videos per class, or a list of videos.", required=True
)
_LIST = flags.DEFINE_string("list", None, "The list to write, a new .csv file.", required=True)


def main() -> None:
    path = pathlib.Path(_LIST.value)
    expect(path.suffix.lower() == ".csv", "a file name that ends in .csv", list=_LIST.value)
    if path.exists():
        raise UserError(f"{path} exists already. Remove it, or name another file")
    found = lists.find_videos(_VIDEOS.value)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, lists.COLUMNS, lineterminator="\n")
    writer.writeheader()
    for video in found.videos:
        writer.writerows(rows_of(video, found, path.parent))
    try:
        with storage.atomic_write(path) as file:
            file.write(text.getvalue().encode())
    except UnicodeEncodeError as error:
        row = error.object[: error.end].rpartition("\n")[2]
        raise UserError(f"Expected paths of valid UTF-8. Received: {row!r}") from error
    terminal.say(f"{2 * len(found.videos)} clips of {len(found.videos)} videos are listed in {path}")


def rows_of(video: Video, found: Catalog, folder: pathlib.Path) -> Iterator[dict[str, object]]:
    """Yields the rows of a video's two clips, for a list in `folder`."""
    names = {
        column: {named.number: named.name for named in given}
        for column, given in (("group", found.group_names), ("fold", found.fold_names))
    }
    path = pathlib.Path(os.path.abspath(found.videos_dir), video.relative_path)
    inside = path.is_relative_to(os.path.abspath(folder))
    row: dict[str, object] = {
        "path": path.relative_to(os.path.abspath(folder)) if inside else path,
        "id": video.video_id,
        "group": names["group"].get(video.group, video.group),
        "fold": names["fold"].get(video.fold, video.fold),
    }
    if video.segment:
        row["start"] = video.segment.start_us / 1e6
        row["end"] = None if video.segment.end_us is None else video.segment.end_us / 1e6
    for playback in Playback:
        yield {**row, "label": playback, "playback": playback}


if __name__ == "__main__":
    console.run(main)
