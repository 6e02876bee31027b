"""Converts a folder of videos to shards, for tools and benchmarks that need a dataset."""

from __future__ import annotations

import functools
import os

from ucf50_tfrecord import building
from ucf50_tfrecord.convert import catalog, decode, engines, plan
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import ClipFormat, FoldRule


def convert(
    videos_dir: str | os.PathLike, data_dir: str, clip_format: ClipFormat, *, num_workers: int, name: str
) -> Manifest:
    """Converts a folder of videos to shards, unless its shards are up to date; returns their manifest."""
    planned = plan.plan_shards(
        catalog.find_videos(videos_dir),
        name=name,
        clip_format=clip_format,
        fold_rule=FoldRule(),
        decoder=decode.decoder_version(),
    )
    return building.build_dataset(
        planned, data_dir, run=functools.partial(engines.run_local, num_workers=num_workers)
    )
