"""An index of a dataset's clips, made from the sidecars of its shards without reading any record."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ucf50_tfrecord import labels as labels_lib
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, remote, storage
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest, ManifestShard, ShardReport
from ucf50_tfrecord.specs import FetchSpec, format_folds

if TYPE_CHECKING:
    import tensorflow as tf

_LOOKUPS_AT_ONCE = 16


def name_hash(name: str) -> int:
    """Returns a hash of a clip's id or another name, which is the same on all machines.

    Names of files that are not UTF-8 hold surrogates, so they are hashed as the bytes that they stand for.
    """
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))


@dataclasses.dataclass(frozen=True)
class ClipIndex:
    """An index of the clips in some folds of a dataset, ordered by shard name, then by offset in the shard.

    `ids` and the arrays have one entry per clip.

    manifest: the dataset's manifest.
    shard_paths: paths or URLs of the shards.
    ids: the ids of the clips.
    shards: int64, the position in `shard_paths` of the shard that holds the clip.
    offsets: int64, the position of the first byte of the clip's record in its shard.
    sizes: int64, the number of bytes of the clip's record, including its length and checksums.
    labels: int32 [N], the label of the clip's class. In a multi-label dataset: uint8 [N, C], 1 for each of the clip's
      classes.
    groups: int64, the number of the clip's recording group; record.UNKNOWN_GROUP if the clip has none.
    folds: int64, the fold of the clip.
    soft_targets: float32 [N, C], probabilities of the classes that a training's teachers predict for the clip; None
      without teachers.
    fetch: how records are read if the dataset's folder is a URL.
    shuffle_shards: number of shards whose clips are shuffled together, or 0 for all shards.
    """

    manifest: Manifest
    shard_paths: tuple[str, ...]
    ids: tuple[str, ...]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray
    fetch: FetchSpec = FetchSpec()
    shuffle_shards: int = 0
    soft_targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def num_bytes(self) -> int:
        """Total size in bytes of the decoded pixels of all clips, or of their features."""
        return len(self) * self.manifest.stored.num_bytes

    def has_class(self, label: int) -> np.ndarray:
        """Returns a mask of the clips of a class, bool [N]; with several labels per clip, of those that have it."""
        return self.labels[:, label] == 1 if self.manifest.multi_label else self.labels == label

    def select(self, chosen: np.ndarray) -> ClipIndex:
        """Returns an index of some of these clips.

        Args:
          chosen: positions of the clips in this index, int64 [M], or a mask of the clips, bool [N].
        """
        arrays = {
            name: getattr(self, name)[chosen]
            for name in ("shards", "offsets", "sizes", "labels", "groups", "folds", "soft_targets")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, ids=tuple(np.array(self.ids, object)[chosen]), **arrays)

    def find(self, ids: Sequence[str], what: str) -> ClipIndex:
        """Returns an index of the clips with some ids, in the order of the ids.

        Args:
          ids: the ids.
          what: a name of these clips for the error message, such as "the frames of all clips".

        Raises:
          UserError: if this index lacks one of the clips.
        """
        place = {clip_id: i for i, clip_id in enumerate(self.ids)}
        missing = next((clip_id for clip_id in ids if clip_id not in place), None)
        expect(missing is None, f"{self.manifest.data_dir} to hold {what}", missing=missing)
        return self.select(np.array([place[clip_id] for clip_id in ids], np.int64))

    def batches(self, batch_size: int, *, seed: int | None = None) -> tf.data.Dataset:
        """Streams these clips as a tf.data.Dataset of (frames, labels); see pipeline.labelled_batches.

        Args:
          batch_size: clips per batch.
          seed: seed of the shuffling. With a seed, epochs follow each other without end, each in a new order.
            None gives one epoch, in the order of the index.
        """
        from ucf50_tfrecord.dataset import pipeline  # imports TensorFlow, which an index does not need

        return pipeline.labelled_batches(self, batch_size=batch_size, seed=seed)

    def spread(self, count: int) -> ClipIndex:
        """Returns an index of at most `count` of these clips, evenly spread over this index."""
        return self.select(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))


def load_clips(
    manifest: Manifest,
    folds: Iterable[int],
    *,
    check_shards: bool = True,
    fetch: FetchSpec = FetchSpec(),
    shuffle_shards: int = 0,
) -> ClipIndex:
    """Indexes the clips in some folds of a dataset from the sidecars of its shards.

    Args:
      manifest: the dataset's manifest.
      folds: the numbers of the folds to index.
      check_shards: whether to check now that each shard exists and has the size that the manifest states. If
        not, a missing or damaged shard is noticed when its clips are read.
      fetch, shuffle_shards: as in ClipIndex.

    Raises:
      UserError: if a fold does not exist or is empty. Also if a shard or its sidecar is missing, is
        unreadable, or differs from the one that the manifest lists.
    """
    folds = sorted(set(folds))
    unknown = [fold for fold in folds if fold not in manifest.folds]
    expect(
        folds and not unknown,
        f"folds out of {format_folds(manifest.folds)} in {manifest.data_dir}",
        folds=unknown or folds,
    )
    shards = [shard for shard in manifest.shards if shard.fold in folds]
    with concurrent.futures.ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as threads:  # each look-up may be a request
        reports = list(threads.map(functools.partial(_load_report, manifest), shards))
        if check_shards:
            list(threads.map(functools.partial(_check_size, manifest), shards))
    _check_together(manifest, folds, reports)
    clips = [(number, report) for number, report in enumerate(reports) for _ in report.clip_ids]

    def column(name: str) -> list:
        return [value for report in reports for value in getattr(report, name)]

    return ClipIndex(
        manifest=manifest,
        shard_paths=tuple(storage.join(manifest.data_dir, shard.filename) for shard in shards),
        ids=tuple(column("clip_ids")),
        shards=np.array([number for number, _ in clips], np.int64),
        offsets=np.array(column("offsets"), np.int64),
        sizes=np.concatenate([np.diff([*report.offsets, report.num_bytes]) for report in reports]),
        labels=labels_lib.to_array(column("labels"), len(manifest.classes), multi_label=manifest.multi_label),
        groups=np.array([record.UNKNOWN_GROUP if g is None else g for g in column("groups")], np.int64),
        folds=np.array([report.fold for _, report in clips], np.int64),
        fetch=fetch,
        shuffle_shards=shuffle_shards,
    )


def load_frames_manifest(features: Manifest) -> Manifest:
    """Loads the manifest of the frames that a dataset of features was made from.

    Raises:
      UserError: if the frames are missing or behind a URL.
    """
    frames_dir = features.frames_dir
    # A manifest may come from a stranger, who must not make this process send requests.
    expect(
        not remote.is_remote(frames_dir),
        "a local folder of the frames that the features were made from",
        frames_dir=frames_dir,
    )
    return manifest_lib.load(frames_dir)


def frames_of(clips: ClipIndex) -> ClipIndex:
    """Returns an index of the frames of the given clips. Returns an index of frames unchanged.

    Raises:
      UserError: if the frames that the features were made from are missing, are behind a URL, or lack one of
        the clips.
    """
    if not clips.manifest.features:
        return clips
    source = load_frames_manifest(clips.manifest)
    if not len(clips):
        return dataclasses.replace(clips, manifest=source)
    frames = load_clips(source, np.unique(clips.folds).tolist(), fetch=clips.fetch)
    return frames.find(clips.ids, "the frames of all clips")


def _load_report(manifest: Manifest, shard: ManifestShard) -> ShardReport:
    """Loads a shard's sidecar. Raises UserError unless it belongs to the shard that the manifest lists."""
    path = storage.join(manifest.data_dir, shard.filename)
    try:
        report = manifest_lib.load_report(manifest.data_dir, shard.filename)
        if report.sha256 != shard.sha256:
            raise UserError(
                f"The shard {path} is not the one that {manifest_lib.MANIFEST_FILENAME} lists: it was "
                "written again later"
            )
        manifest_lib.check_report(manifest, shard, report)
    except UserError as error:
        raise UserError(str(error), manifest_lib.repair_remedy(manifest)) from error
    return report


def _check_together(manifest: Manifest, folds: Iterable[int], reports: list[ShardReport]) -> None:
    """Raises UserError unless the sidecars and the manifest state equal numbers of clips per fold and class.

    Also raises UserError if two shards hold the same clip.
    """
    counts = {fold: np.zeros(len(manifest.classes), np.int64) for fold in folds}
    ids: set[str] = set()
    for report in reports:
        counts[report.fold] += labels_lib.count_clips(report.labels, len(manifest.classes))
        if repeated := ids.intersection(report.clip_ids):
            raise UserError(f"{manifest.data_dir} holds the clip {min(repeated)!r} in two shards")
        ids.update(report.clip_ids)
    for fold, found in counts.items():
        if (listed := manifest.clips_per_class[fold]) != tuple(found.tolist()):
            raise UserError(
                f"{manifest.data_dir}: Expected clips_per_class {listed} in the sidecars of fold {fold}, as "
                f"{manifest_lib.MANIFEST_FILENAME} says. Received: {tuple(found.tolist())}"
            )


def _check_size(manifest: Manifest, shard: ManifestShard) -> None:
    if problem := manifest_lib.size_problem(manifest, shard):
        raise UserError(f"The shard {problem}", manifest_lib.repair_remedy(manifest))
