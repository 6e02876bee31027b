"""Makes data sets whose clips have several labels."""

from __future__ import annotations

import functools
import pathlib

from tests.conftest import make_videos
from ucf50_tfrecord import building
from ucf50_tfrecord.convert import decode, engines, lists, plan
from ucf50_tfrecord.specs import ClipFormat, FoldRule

CLASSES = ("Even", "Left", "Middle", "Right")


def write_list(folder: pathlib.Path) -> pathlib.Path:
    """Writes a list of the videos that conftest.make_videos writes; returns its path.

    A video has its class's label, and every second one the label Even, too.
    """
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.avi"))
    labels = [f"{path.parent};Even" if path.stem.endswith("c02") else str(path.parent) for path in paths]
    rows = [f"{path},{label}\n" for path, label in zip(paths, labels)]
    (folder / "list.csv").write_text("".join(["path,label\n", *rows]))
    return folder / "list.csv"


def make_data(folder: pathlib.Path) -> pathlib.Path:
    """Makes a dataset of 30 clips of 5 frames of 16x24 in a folder, with its videos beside it; returns its folder."""
    planned = plan.plan_shards(
        lists.find_videos(write_list(make_videos(folder / "videos"))),
        name="several",
        clip_format=ClipFormat(num_frames=5, height=16, width=24),
        fold_rule=FoldRule(),
        decoder=decode.decoder_version(),
    )
    run = functools.partial(engines.run_local, num_workers=1)
    building.build_dataset(planned, str(folder / "data"), run=run)
    return folder / "data"
