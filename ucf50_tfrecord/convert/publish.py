"""Copies a finished dataset into an object store.

An object store writes each file as a whole but cannot rename, so several files cannot appear at the same
moment. Therefore the manifest is removed first and written last: without a manifest, a folder is not a
dataset.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable

from ucf50_tfrecord import croissant, dataset_card, remote, storage, tfds
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.manifest import MANIFEST_FILENAME, Manifest, ManifestShard
from ucf50_tfrecord.shards import shard_pattern

_UPLOADS_AT_ONCE = 8
_DESCRIPTIONS = (*tfds.FILENAMES, croissant.FILENAME, dataset_card.FILENAME)


def publish(
    built: Manifest, url: str, *, verify: bool = False, on_shard: Callable[[], object] = lambda: None
) -> Manifest:
    """Copies a dataset to a URL. Files that are up to date there are not sent again.

    Args:
      built: the manifest of the dataset, which is in a local folder.
      url: URL of the folder for the copy.
      verify: whether to read the copy's shards and to send damaged shards again.
      on_shard: called, from any thread, each time a shard of the copy is up to date.

    Returns:
      The manifest of the copy.

    Raises:
      UserError: if the copy cannot be read or written.
    """
    copied = dataclasses.replace(built, data_dir=url)
    try:
        before = manifest_lib.load_if_finished(url)
    except UserError:  # damaged or of another schema: `built` replaces it
        before = None
    if before != copied:
        remote.remove(storage.join(url, MANIFEST_FILENAME))

    _bring_shards(built, copied, verify, on_shard)
    _bring_descriptions(built, url)
    if before != copied:
        for name in _find_stale(built, before, url):
            remote.remove(storage.join(url, name))
        _upload(built, MANIFEST_FILENAME, url)
    return copied


def _find_stale(built: Manifest, before: Manifest | None, url: str) -> list[str]:
    """Finds shards and sidecars of earlier datasets in the folder of a copy.

    They must be removed, because readers that search for shards by name would read them, too. The folder is
    searched for shards of the dataset's name, because an interrupted copy leaves no manifest that lists them.
    Shards that an earlier manifest lists may have another name. That manifest is not trusted, so only files
    directly in the folder are returned.

    Args:
      built: the manifest of the dataset that is copied.
      before: the manifest that was in the copy's folder before; None if there was none.
      url: URL of the copy's folder.

    Returns:
      The sorted names of the stale files.
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
        if not _is_current(shard, built, url) or (verify and manifest_lib.verify_shard(copied, shard)):
            for name in _names(shard):  # the sidecar comes last: it declares the shard complete
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


def _bring_descriptions(built: Manifest, url: str) -> None:
    """Copies the files that describe a dataset, which may differ where manifests are equal: one holds sidecars' sizes.

    A dataset that an earlier version converted lacks some of them; then an older copy of these is removed.
    """
    for name in _DESCRIPTIONS:
        here, there = storage.join(built.data_dir, name), storage.join(url, name)
        if storage.file_size(here) is None:
            remote.remove(there)
        elif storage.file_size(there) != storage.file_size(here) or not _is_equal(here, there):
            _upload(built, name, url)


def _is_equal(here: str, there: str) -> bool:
    """Tells whether a copy of a small file exists and has the file's bytes."""
    try:
        return storage.read_bytes(there) == storage.read_bytes(here)
    except FileNotFoundError:
        return False


def _upload(built: Manifest, filename: str, url: str) -> None:
    remote.upload(storage.join(built.data_dir, filename), storage.join(url, filename))


def _is_current(shard: ManifestShard, built: Manifest, url: str) -> bool:
    """Tells whether the copy of a shard has the right size and the copy of its sidecar has the same bytes."""
    here, there = (manifest_lib.sidecar_path(folder, shard.filename) for folder in (built.data_dir, url))
    return _is_equal(here, there) and storage.file_size(storage.join(url, shard.filename)) == shard.num_bytes
