"""What training and evaluation share: the flags of the input, and how feeds are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import CACHES, ON_BAD_RECORD, format_folds

if TYPE_CHECKING:
    import tensorflow as tf

    from ucf50_tfrecord.dataset.feed import Feed

_CACHE = flags.DEFINE_enum(
    "cache",
    "auto",
    CACHES,
    "Where clips are kept: none (read from the shards each time), host (in memory), device (on each "
    "device). auto decides by the memory that is free.",
)
_ON_BAD_RECORD = flags.DEFINE_enum(
    "on_bad_record", "stop", ON_BAD_RECORD, "Whether to stop at a record that cannot be read, or to skip it."
)


def make_feeds(
    manifest: Manifest, splits: Sequence[Sequence[int]], strategy: tf.distribute.Strategy
) -> list[Feed]:
    """Makes a feed for each set of folds, and says where their clips are kept and why.

    Raises:
      UserError: if a fold does not exist, a shard is damaged, or --cache does not fit.
    """
    from ucf50_tfrecord.dataset import clips as clips_lib
    from ucf50_tfrecord.dataset import feed

    skip = _ON_BAD_RECORD.value == "skip"
    splits_clips = [clips_lib.load_clips(manifest, folds, check_shards=not skip) for folds in splits]
    choice = feed.choose_cache(_CACHE.value, sum(clips.num_bytes for clips in splits_clips))
    print(f"Clips are {feed.CACHE_MEANINGS[choice.cache]} (--cache={choice.cache}): {choice.reason}")
    feeds = []
    for folds, clips in zip(splits, splits_clips):
        total = len(clips) if choice.cache != "none" else 0
        with console.progress_bar(total, "clip", f"loading folds {format_folds(folds)}") as bar:
            feeds.append(
                feed.Feed(
                    clips, strategy=strategy, cache=choice.cache, skip_bad_records=skip, on_loaded=bar.update
                )
            )
    return feeds
