"""Shards to batches, in an order that is derived and never stored.

Every clip has an index. An epoch's order is a permutation of the indices drawn from
(seed, epoch); a batch is a run of that order; a clip is read at its own offset in its
shard. So there is no shuffle buffer, the shuffle is complete, a run that starts at any
step reads nothing that it does not use, and the input's whole state is (seed, step).
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record
from ucf50_tfrecord.manifest import Manifest, ManifestShard, ShardReport
from ucf50_tfrecord.specs import UserError, expect, format_folds


@dataclasses.dataclass(frozen=True)
class Clips:
    """The clips of some folds, in the order of their shards' names and offsets.

    `ids` and the arrays have one entry a clip:
    shards: int64, which of `shard_paths` holds it; offsets: int64, at which byte;
    labels: int32; groups: int64, record.UNKNOWN_GROUP where there is none; folds: int64.
    """

    manifest: Manifest
    shard_paths: tuple[str, ...]
    ids: tuple[str, ...]
    shards: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)


def load_clips(manifest: Manifest, folds: Iterable[int]) -> Clips:
    """Indexes the clips of the given folds from the shards' sidecars.

    Raises:
      UserError: if a fold does not exist or is empty, or if a shard is missing or is
        not the one that the manifest lists.
    """
    folds = sorted(set(folds))
    unknown = [fold for fold in folds if fold not in manifest.folds]
    expect(
        bool(folds) and not unknown,
        f"folds out of {format_folds(manifest.folds)} in {manifest.data_dir}",
        folds=unknown or folds,
    )
    shards = [shard for shard in manifest.shards if shard.fold in folds]
    reports = [_checked_report(manifest, shard) for shard in shards]
    clips = [(number, report) for number, report in enumerate(reports) for _ in report.clip_ids]

    def column(name: str) -> list:
        return [value for report in reports for value in getattr(report, name)]

    return Clips(
        manifest=manifest,
        shard_paths=tuple(str(pathlib.Path(manifest.data_dir, shard.filename)) for shard in shards),
        ids=tuple(column("clip_ids")),
        shards=np.array([number for number, _ in clips], np.int64),
        offsets=np.array(column("offsets"), np.int64),
        labels=np.array(column("labels"), np.int32),
        groups=np.array([record.UNKNOWN_GROUP if g is None else g for g in column("groups")], np.int64),
        folds=np.array([report.fold for _, report in clips], np.int64),
    )


def num_steps(num_clips: int, batch_size: int) -> int:
    """Batches in an epoch; the last one may be short."""
    return -(-num_clips // batch_size)


def epoch_order(num_clips: int, batch_size: int, *, seed: int | None, epoch: int) -> np.ndarray:
    """Orders an epoch's clips, as batches: int64 [steps, batch_size] of clip indices.

    With a seed the order is a permutation drawn from (seed, epoch), without one it is
    ascending. The last batch is filled up with clips from the epoch's head, which
    `make_dataset` marks as filler: they are real clips, so that statistics over a batch
    see nothing unusual.
    """
    if seed is None:
        order = np.arange(num_clips)
    else:
        order = np.random.default_rng([seed, epoch]).permutation(num_clips)
    steps = num_steps(num_clips, batch_size)
    return np.resize(order, steps * batch_size).reshape(steps, batch_size)


def make_dataset(
    clips: Clips,
    *,
    batch_size: int,
    seed: int | None = None,
    start_step: int = 0,
    num_workers: int = 1,
    worker: int = 0,
    replicas_per_worker: int = 1,
) -> tf.data.Dataset:
    """Builds the stream of batches that one input worker feeds to its replicas.

    With a seed (training) the clips are shuffled anew each epoch and the stream never
    ends. Without one (evaluation) every clip comes once, in ascending order.

    Args:
      clips: what load_clips returns.
      batch_size: the global batch, over all workers and replicas.
      seed: of the order, or None for evaluation.
      start_step: the first global batch to yield, counted from the start of epoch 0.
      num_workers: input workers that share each global batch.
      worker: this worker's number; it feeds the slice [worker/num_workers, …) of each batch.
      replicas_per_worker: a worker's slice is dealt out in this many consecutive batches.

    Returns:
      A dataset of dictionaries, B = batch_size / num_workers / replicas_per_worker:
        video: uint8 [B, T, H, W, 3]
        label: int32 [B]
        index: int64 [B], the clip's index in `clips`
        mask: bool [B], False for a filler that must not count

    Raises:
      UserError: if the batch cannot be dealt out evenly.
    """
    num_parts = num_workers * replicas_per_worker
    expect(
        batch_size > 0 and batch_size % num_parts == 0,
        f"a batch size that {num_parts} replicas can share evenly",
        batch_size=batch_size,
    )
    size = batch_size // num_parts
    steps = num_steps(len(clips), batch_size)

    def epoch_slice(epoch: np.ndarray) -> np.ndarray:
        """Returns int64 [clips of this worker, 2]: indices and whether they count."""
        order = epoch_order(len(clips), batch_size, seed=seed, epoch=int(epoch))
        counts = np.arange(order.size).reshape(order.shape) < len(clips)
        first = start_step - int(epoch) * steps if epoch == start_step // steps else 0
        part = slice(worker * batch_size // num_workers, (worker + 1) * batch_size // num_workers)
        return np.stack([order[first:, part].ravel(), counts[first:, part].ravel()], axis=1)

    def epoch_dataset(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = tf.numpy_function(epoch_slice, [epoch], tf.int64, stateful=False)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(rows, [None, 2]))

    first_epoch, last_epoch = start_step // steps, tf.int64.max if seed is not None else 1
    dataset = tf.data.Dataset.range(first_epoch, last_epoch).flat_map(epoch_dataset)
    dataset = dataset.map(_clip_reader(clips), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(size, drop_remainder=True)
    options = tf.data.Options()
    # Batches are dealt out above, to the clip; TensorFlow must not split them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(2 * replicas_per_worker).with_options(options)


@contextlib.contextmanager
def explain_damage(clips: Clips) -> Iterator[None]:
    """Turns what TensorFlow raises for a damaged or vanished record into a UserError."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        # Without TensorFlow's names of graph nodes, before and after what it found.
        found = re.sub(r"\{\{.*?\}\}", "", error.message).split("[[")[0].strip()
        flags = shlex.join([f"--videos={clips.manifest.videos_dir}", f"--data={clips.manifest.data_dir}"])
        raise UserError(
            f"A shard in {clips.manifest.data_dir} is damaged ({found}). To find it and convert it again: "
            f"python -m pipelines.convert --verify {flags}, with the flags that made it."
        ) from error


def _clip_reader(clips: Clips) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns a graph function: (index, counts) int64 [2] to one example."""
    paths = tf.constant(clips.shard_paths)
    shards, offsets = tf.constant(clips.shards), tf.constant(clips.offsets)

    def read_clip(row: tf.Tensor) -> dict[str, tf.Tensor]:
        index, counts = row[0], row[1]
        serialized = _read_record(paths[shards[index]], offsets[index])
        example = record.parse(serialized, clips.manifest.format)
        return example | {"index": index, "mask": tf.cast(counts, tf.bool)}

    return read_clip


def _read_record(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Reads the record at a byte offset of a TFRecord file, checking its CRCs: string []."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[tf.newaxis],
        compression_type="",
        buffer_size=tf.constant(0, tf.int64),  # no read-ahead: the next clip lies elsewhere
        byte_offsets=offset[tf.newaxis],
    )
    dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return dataset.take(1).get_single_element()


def _checked_report(manifest: Manifest, shard: ManifestShard) -> ShardReport:
    """Loads a shard's sidecar, if the shard is there and is the one that the manifest lists."""
    path = pathlib.Path(manifest.data_dir, shard.filename)
    mend = "Run the conversion again (make shards) to rebuild it."
    if not path.is_file():
        raise UserError(f"The shard {path} is missing. {mend}")
    report = manifest_lib.load_report(manifest.data_dir, shard.filename)
    if report.sha256 != shard.sha256:
        raise UserError(f"The shard {path} is not the one that manifest.json lists. {mend}")
    num_bytes = path.stat().st_size
    if num_bytes != shard.num_bytes:
        raise UserError(f"The shard {path} has {num_bytes} bytes, expected {shard.num_bytes}. {mend}")
    return report
