"""What training and evaluation share: the flags of the input, and how feeds are made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import CACHES, FETCH_METHODS, ON_BAD_RECORD, FetchSpec, expect, format_folds

if TYPE_CHECKING:
    import tensorflow as tf

    from ucf50_tfrecord.dataset.clips import ClipIndex
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
_FETCH = flags.DEFINE_enum(
    "fetch",
    "copy",
    FETCH_METHODS,
    "How shards whose folder is a URL are read: copy whole shards into --fetch_cache, ahead of their use; or "
    "stream each clip by TensorFlow's own file systems (gs://, and with tensorflow-io s3://, az://, …).",
)
_FETCH_CACHE = flags.DEFINE_string(
    "fetch_cache", None, "Folder of the copies; processes may share it. Default: ~/.cache/ucf50_tfrecord."
)
_FETCH_CACHE_GIB = flags.DEFINE_float("fetch_cache_gib", 20.0, "What the copies may take together.")


def load_clips(manifest: Manifest, folds: Iterable[int], *, shuffle_shards: int = 0) -> ClipIndex:
    """Indexes the clips of some folds; how they are read follows from the flags. See clips.load_clips."""
    from ucf50_tfrecord.dataset import clips

    check = _ON_BAD_RECORD.value == "stop"
    return clips.load_clips(
        manifest, folds, check_shards=check, fetch=fetch_spec(), shuffle_shards=shuffle_shards
    )


def fetch_spec() -> FetchSpec:
    """Returns how shards in an object store are read, by the flags.

    Raises:
      UserError: if they may take no number of bytes.
    """
    gib = _FETCH_CACHE_GIB.value
    expect(0 <= gib <= 1e6, "--fetch_cache_gib from 0 to 1e6", fetch_cache_gib=gib)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return FetchSpec(
        method=_FETCH.value,
        cache_dir=os.path.abspath(_FETCH_CACHE.value or os.path.join(caches, "ucf50_tfrecord")),
        cache_bytes=int(gib * 2**30),
    )


def make_feeds(
    manifest: Manifest,
    splits: Sequence[Sequence[int]],
    strategy: tf.distribute.Strategy,
    *,
    shuffle_shards: int = 0,
) -> list[Feed]:
    """Makes a feed for each set of folds, and says where their clips are kept and why.

    Raises:
      UserError: if a fold does not exist, a shard is damaged, or --cache does not fit.
    """
    from ucf50_tfrecord.dataset import feed
    from ucf50_tfrecord.training import strategy as strategy_lib

    splits_clips = [load_clips(manifest, folds, shuffle_shards=shuffle_shards) for folds in splits]
    num_bytes = sum(clips.num_bytes for clips in splits_clips)
    workers_here = strategy_lib.num_workers_here(strategy)
    choice = feed.choose_cache(_CACHE.value, num_bytes, num_processes=workers_here)
    terminal.say(f"Clips are {feed.CACHE_MEANINGS[choice.cache]} (--cache={choice.cache}): {choice.reason}")
    feeds = []
    for folds, clips in zip(splits, splits_clips):
        total = len(clips) if choice.cache != "none" else 0
        with console.progress_bar(total, "clip", f"loading folds {format_folds(folds)}") as bar:
            feeds.append(
                feed.Feed(
                    clips,
                    strategy=strategy,
                    cache=choice.cache,
                    skip_bad_records=_ON_BAD_RECORD.value == "skip",
                    on_loaded=bar.update,
                )
            )
    return feeds
