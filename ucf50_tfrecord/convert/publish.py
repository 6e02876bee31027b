"""Copies a finished dataset into an object store.

There is no rename there, so nothing is ever half-written, but nothing appears together either: the
manifest is taken away first and written last, and without it a folder is no dataset.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import remote, storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.manifest import MANIFEST_FILENAME, TFDS_FILENAMES, Manifest, ManifestShard
from ucf50_tfrecord.shards import shard_pattern

_UPLOADS_AT_ONCE = 8


def publish(
    built: Manifest, url: str, *, verify: bool = False, on_shard: Callable[[], object] = lambda: None
) -> Manifest:
    """Brings a copy of a dataset at a URL up to date; what stands there already is not sent again.

    Args:
      built: the dataset, in a local folder.
      url: the copy's folder.
      verify: whether to read the shards that stand there, and send those again that are damaged.
      on_shard: is told of each shard that stands there in the end, from any thread.

    Returns:
      The copy's manifest.

    Raises:
      UserError: if something there cannot be read or written.
    """
    copied = dataclasses.replace(built, data_dir=url)
    try:
        before = manifest_lib.load_if_finished(url)
    except UserError:  # damaged, or of another schema: `built` takes its place
        before = None
    if before != copied:
        remote.remove(storage.join(url, MANIFEST_FILENAME))

    _bring_shards(built, copied, verify, on_shard)
    if before != copied:
        for name in TFDS_FILENAMES:
            _upload(built, name, url)
        for name in _find_stale(built, before, url):
            remote.remove(storage.join(url, name))
        _upload(built, MANIFEST_FILENAME, url)
    return copied


def _find_stale(built: Manifest, before: Manifest | None, url: str) -> list[str]:
    """Names the shards and sidecars of earlier datasets; readers that go by the files' names would take them too.

    They are looked for, as a copy that was interrupted has left no manifest that lists them; what an earlier
    manifest lists may have another name. Only shards are named, and only what lies directly in the folder: the
    earlier manifest may be anyone's.
    """
    kept = {name for shard in built.shards for name in _names(shard)}
    listed = {name for shard in (before.shards if before else ()) for name in _names(shard)}
    ours = shard_pattern(built.name)
    return sorted(
        name
        for name in remote.list_names(url)
        if name not in kept and (name in listed or ours.fullmatch(name.removesuffix(".json")))
    )


def _names(shard: ManifestShard) -> tuple[str, str]:
    return shard.filename, f"{shard.filename}.json"


def _bring_shards(built: Manifest, copied: Manifest, verify: bool, on_shard: Callable[[], object]) -> None:
    url = copied.data_dir

    def bring(shard: ManifestShard) -> None:
        if not _stands(shard, built, url) or (verify and manifest_lib.verify_shard(copied, shard)):
            for name in _names(shard):  # the sidecar last: it says that the shard is there
                _upload(built, name, url)
        on_shard()

    with concurrent.futures.ThreadPoolExecutor(_UPLOADS_AT_ONCE) as threads:
        futures = [threads.submit(bring, shard) for shard in built.shards]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _upload(built: Manifest, filename: str, url: str) -> None:
    remote.upload(storage.join(built.data_dir, filename), storage.join(url, filename))


def _stands(shard: ManifestShard, built: Manifest, url: str) -> bool:
    """Tells whether a shard's copy has its size, and its sidecar's copy the same bytes."""
    sidecar = f"{shard.filename}.json"
    try:
        there = storage.read_bytes(storage.join(url, sidecar))
    except FileNotFoundError:
        return False
    here = storage.read_bytes(storage.join(built.data_dir, sidecar))
    return there == here and storage.file_size(storage.join(url, shard.filename)) == shard.num_bytes
