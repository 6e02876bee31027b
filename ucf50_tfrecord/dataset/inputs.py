"""Settings for reading clips: where to keep clips, how to read object stores, how to handle bad records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from ucf50_tfrecord.choices import Cache, OnBadRecord
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.settings import Range, check_settings, setting
from ucf50_tfrecord.specs import FetchSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Settings for reading the clips of a dataset.

    Raises:
      UserError: if the value of an option is unknown, or `fetch_cache_gib` is out of its range.
    """

    cache: str = setting(
        Cache.AUTO,
        "Where clips are kept: none (read from the shards each time), host (host memory) or device (each device's "
        "memory). auto decides by the free memory.",
    )
    on_bad_record: str = setting(
        OnBadRecord.STOP, "Whether to stop at a record that cannot be read, or to skip it."
    )
    fetch: str = setting(
        FetchSpec.method,
        "How shards behind a URL are read: copy (whole shards are copied into a local folder before their use) "
        "or stream (TensorFlow's file systems read each clip: gs://, and with tensorflow-io s3://, az://, …).",
    )
    fetch_cache: str | None = setting(
        None, "Folder for copies of shards; processes may share it. Default: ~/.cache/ucf50_tfrecord."
    )
    fetch_cache_gib: float = setting(
        20.0, "Largest total size of the copies of shards, in GiB.", Range(0, 10**6)
    )

    def __post_init__(self):
        check_settings(self)

    @property
    def skips_bad_records(self) -> bool:
        return self.on_bad_record == OnBadRecord.SKIP

    def load_clips(self, manifest: Manifest, folds: Iterable[int], *, shuffle_shards: int = 0) -> ClipIndex:
        """Indexes the clips in some folds of a dataset, without reading any record.

        Args:
          manifest: the dataset's manifest.
          folds: the folds.
          shuffle_shards: number of shards whose clips are shuffled together, or 0 for all shards.

        Raises:
          UserError: if a fold does not exist or is empty, or a sidecar is missing or damaged. Unless bad
            records are skipped, also if a shard is missing or has another size than the manifest states.
        """
        return load_clips(
            manifest,
            folds,
            check_shards=not self.skips_bad_records,
            fetch=self._fetch_spec(),
            shuffle_shards=shuffle_shards,
        )

    def _fetch_spec(self) -> FetchSpec:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return FetchSpec(
            method=self.fetch,
            cache_dir=os.path.abspath(self.fetch_cache or os.path.join(caches, "ucf50_tfrecord")),
            cache_bytes=int(self.fetch_cache_gib * 2**30),
        )
