"""Measures one method of reading clips from an object store, for benchmarks.fetch.

  python -m benchmarks.fetch_rate --data=s3://bucket/set --method=copy \\
    --fetch_cache=/tmp/copies

Prints a JSON object: the number of clips per epoch, the seconds until the first
batch, and the seconds of each epoch. The time includes reading the manifest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from benchmarks import rival_inputs
from pipelines import console, terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import remote
from ucf50_tfrecord.specs import FetchSpec

_DATA = flags.DEFINE_string("data", None, "Folder or URL of the shards.", required=True)
METHODS = ("copy", "stream", "plain")
_METHOD = flags.DEFINE_enum("method", "copy", METHODS, "A --fetch method, or plain TFRecordDataset.")
_FETCH_CACHE = flags.DEFINE_string("fetch_cache", None, "Folder for the copies.", required=True)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips per batch.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over all clips.", lower_bound=1)


def _batches() -> Iterator[Any]:
    if _METHOD.value == "plain":
        if remote.is_remote(_DATA.value):
            remote.load_tf_filesystem(_DATA.value)
        return rival_inputs.plain(_DATA.value, _BATCH_SIZE.value)
    from ucf50_tfrecord.dataset import clips, feed
    from ucf50_tfrecord.training import strategy

    manifest = manifest_lib.load(_DATA.value)
    fetch = FetchSpec(method=_METHOD.value, cache_dir=_FETCH_CACHE.value, cache_bytes=20 << 30)
    found = clips.load_clips(manifest, manifest.folds, fetch=fetch)
    return feed.Feed(found, strategy=strategy.make_strategy("one")).batches(
        batch_size=_BATCH_SIZE.value, seed=0
    )


def main() -> None:
    console.load_tensorflow()
    started = time.perf_counter()
    batches, num_clips = _batches(), manifest_lib.load(_DATA.value).num_clips
    first_batch_secs: float | None = None
    epoch_secs: list[float] = []
    for _ in range(_EPOCHS.value):
        for _ in range(-(-num_clips // _BATCH_SIZE.value)):
            next(batches)
            first_batch_secs = first_batch_secs or time.perf_counter() - started
        epoch_secs.append(time.perf_counter() - started - sum(epoch_secs))
    figures = {"num_clips": num_clips, "first_batch_secs": first_batch_secs, "epoch_secs": epoch_secs}
    terminal.say(json.dumps(figures))


if __name__ == "__main__":
    console.run(main)
