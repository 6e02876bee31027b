"""Makes batches of clips, in an order that is computed from a seed and never stored.

Every clip has an index. The order of an epoch is a permutation of the indices drawn from (seed, epoch), a
batch is a slice of that order, and each clip is read at its own offset in its shard. So there is no shuffle
buffer, the shuffle is complete, a run can start at any step without reading earlier clips, and the whole
state of the input is (seed, step).

A global batch is the batch of all workers (processes) and replicas (copies of the model, one per device)
together. They divide the global batch clip by clip. So a global batch holds the same clips for any number of
workers and replicas. Dividing the dataset by files would make batches depend on the number of workers. It
would save nothing, because each worker reads only the clips that it needs.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import record
from ucf50_tfrecord.choices import ClassWeight, Sampler
from ucf50_tfrecord.dataset import balance
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.reader import Buffers, ClipReader
from ucf50_tfrecord.errors import expect

# Limit on the bytes of batches that are read in parallel; two batches are always read in parallel.
_MAX_BYTES_IN_WORK = 256 << 20
_PREFETCHED_BATCHES = 2
_ANNOUNCED_BATCHES = 256
_VIEW_STREAM = 1  # separates the random numbers for views from those for the order
# Number of parallel requests to an object store, where a request takes time but little work.
_PARALLEL_REQUESTS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSlice:
    """The part of each global batch that one worker reads for its replicas.

    num_workers: number of workers.
    worker: index of this worker, counted from 0.
    num_replicas: number of replicas (devices) of each worker; all workers have equally many.
    """

    num_workers: int = 1
    worker: int = 0
    num_replicas: int = 1

    def __post_init__(self):
        expect(
            0 <= self.worker < self.num_workers and self.num_replicas >= 1,
            "a worker from 0 to num_workers - 1 and at least 1 replica",
            **dataclasses.asdict(self),
        )


def num_steps(num_clips: int, batch_size: int) -> int:
    """Returns the number of batches in an epoch; the last batch may be short."""
    return -(-num_clips // batch_size)


def epoch_order(clips: ClipIndex, *, seed: int | None, epoch: int, sampler: str = Sampler.ALL) -> np.ndarray:
    """Returns the order in which an epoch visits the clips: their indices, int64 [N].

    The order is drawn from (seed, epoch); without a seed it is ascending. If clips.shuffle_shards is not 0,
    the shards are shuffled first, and divided into windows of shuffle_shards shards each. Then the clips of
    each window are shuffled. So only the shards of one window are needed at a time.

    With a balanced sampler, shuffle_shards must be 0; see balance.balanced_order.
    """
    if seed is None:
        return np.arange(len(clips))
    if sampler == Sampler.BALANCED:
        expect(
            not clips.shuffle_shards,
            "shuffle_shards=0 with a balanced sampler",
            shuffle_shards=clips.shuffle_shards,
        )
        return balance.balanced_order(clips.labels, seed=seed, epoch=epoch)
    random, window = np.random.default_rng([seed, epoch]), clips.shuffle_shards
    if not window:
        return random.permutation(len(clips))
    shards = random.permutation(len(clips.shard_paths))
    windows = [shards[first : first + window] for first in range(0, len(shards), window)]
    return np.concatenate(
        [random.permutation(np.flatnonzero(np.isin(clips.shards, mixed))) for mixed in windows]
    )


def epoch_views(clips: ClipIndex, *, seed: int | None, epoch: int, view: int = 0) -> np.ndarray:
    """Returns N indices of views to read in an epoch, int64 [N].

    A view is an augmented version of a clip. The views are drawn from (seed, epoch); without a seed, the
    index is `view` for all clips.
    """
    if seed is None:
        return np.full(len(clips), view, np.int64)
    random = np.random.default_rng([seed, epoch, _VIEW_STREAM])
    return random.integers(clips.manifest.num_views, size=len(clips))


def part_size(batch_size: int, num_parts: int, *, in_pairs: bool = False) -> int:
    """Returns the number of slots that each replica has in a batch.

    Args:
      batch_size: number of clips in a global batch.
      num_parts: number of the replicas of all workers together.
      in_pairs: whether the replicas get whole pairs of neighbouring slots, see dataset.mixing. So each of several
        replicas has an even number of slots.
    """
    size = -(-batch_size // num_parts)
    return size + size % 2 if in_pairs and num_parts > 1 else size


def epoch_batches(
    order: np.ndarray, batch_size: int, num_parts: int, *, in_pairs: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the clips of an epoch into batches that can be divided evenly among replicas.

    A batch has part_size slots for each replica, at least batch_size in all. The slots that are left over hold
    padding: clips from the start of the epoch, which the mask marks as not counted. Padding consists of real
    clips, so that statistics over a batch see nothing unusual.

    Args:
      order: the indices of the epoch's clips in their order, int64 [N].
      batch_size: number of clips in a global batch.
      num_parts, in_pairs: as in part_size.

    Returns:
      A tuple of the clips' indices, int64 [steps, slots], and a mask, bool [steps, slots], which is False for
      padding.
    """
    steps = num_steps(len(order), batch_size)
    slots = part_size(batch_size, num_parts, in_pairs=in_pairs) * num_parts
    counts = np.zeros((steps, slots), bool)
    counts[:, :batch_size] = np.arange(steps * batch_size).reshape(steps, batch_size) < len(order)
    batches = np.empty((steps, slots), np.int64)
    batches[counts] = order
    batches[~counts] = np.resize(order, np.count_nonzero(~counts))
    return batches, counts


def batch_clips(
    clips: ClipIndex, *, batch_size: int, seed: int | None, step: int, sampler: str = Sampler.ALL
) -> np.ndarray:
    """Returns the indices of the clips in one global batch, int64 [at most batch_size], without padding.

    Args:
      clips: the index of the clips.
      batch_size: number of clips in a global batch.
      seed: seed of the shuffling; None means ascending order.
      step: index of the batch, counted from the start of epoch 0.
      sampler: as in epoch_order.
    """
    epoch, number = divmod(step, num_steps(len(clips), batch_size))
    order = epoch_order(clips, seed=seed, epoch=epoch, sampler=sampler)
    return order[number * batch_size : (number + 1) * batch_size]


def index_batches(
    clips: ClipIndex,
    *,
    batch_size: int,
    seed: int | None = None,
    start_step: int = 0,
    worker_slice: WorkerSlice = WorkerSlice(),
    usable: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    view: int = 0,
    sampler: str = Sampler.ALL,
    class_weight: str = ClassWeight.NONE,
    in_pairs: bool = False,
) -> tf.data.Dataset:
    """Builds the dataset of one worker's batches, with the clips' indices and labels but without frames.

    With a seed (for training) the clips are shuffled anew each epoch and the dataset is endless. Without a
    seed (for evaluation) every clip comes once, in ascending order.

    Args:
      clips: the index of the clips, as load_clips returns it.
      batch_size: clips per global batch, over all workers and replicas.
      seed: seed of the shuffling; None for evaluation.
      start_step: index of the first global batch to yield, counted from the start of epoch 0.
      worker_slice: the part of each global batch that this worker reads. The dataset yields this part as one
        batch per replica of the worker, in the order of the replicas.
      usable: bool [N], False for clips that must not count; None means that all clips count.
      rows: each clip's row in a table of kept clips, int64 [N]; None if clips are not kept in memory.
      view: index of the view to read from each clip, if the records hold several. With a seed it is ignored,
        because views are drawn anew each epoch.
      sampler: which clips an epoch holds, see choices.Sampler. Without a seed it is ignored.
      class_weight: how much a clip counts in the loss, see choices.ClassWeight.
      in_pairs: as in part_size.

    Returns:
      A tf.data.Dataset of dictionaries. B is a replica's part of batch_size, see part_size.
        index: int64 [B], the clip's index in `clips`.
        label: int32 [B], the label of the clip's class; in a multi-label dataset uint8 [B, C], 1 for each of the
          clip's classes.
        position: int64 [B], the clip's position in the global batch, below batch_size.
        mask: bool [B], False for padding and for clips that are not usable.
        row: int64 [B], the clip's row. Only with `rows`.
        view: int64 [B], index of the clip's view. Only if the records hold several views.
        weight: float32 [B], the clip's weight in the loss, 1 on average. Only with a balanced class_weight.
        soft_target: float32 [B, C], probabilities that teachers predict for the clip. Only if the index holds them.

    Raises:
      UserError: if there is no clip, or the batch size is not positive.
    """
    expect(batch_size > 0, "a batch of at least 1 clip", batch_size=batch_size)
    expect(len(clips) > 0, "at least 1 clip", num_clips=len(clips))
    num_parts = worker_slice.num_workers * worker_slice.num_replicas
    steps, size = num_steps(len(clips), batch_size), part_size(batch_size, num_parts, in_pairs=in_pairs)
    first_slot = worker_slice.worker * worker_slice.num_replicas * size
    mine = slice(first_slot, first_slot + worker_slice.num_replicas * size)
    labels, weights = tf.constant(clips.labels), None
    if class_weight == ClassWeight.BALANCED:
        weights = tf.constant(balance.clip_weights(clips.labels))
    soft_targets = None if clips.soft_targets is None else tf.constant(clips.soft_targets)

    def epoch_slots(epoch: np.ndarray) -> list[np.ndarray]:
        """Returns index, position, mask and view of this worker's slots in an epoch, each [batches, size]."""
        order = epoch_order(clips, seed=seed, epoch=int(epoch), sampler=sampler)
        places, counts = epoch_batches(np.arange(len(order)), batch_size, num_parts, in_pairs=in_pairs)
        index = order[places]
        if usable is not None:
            counts &= usable[index]
        position = np.broadcast_to(np.arange(index.shape[1]) % batch_size, index.shape)
        # A clip that a balanced epoch holds several times has a view of its own each time.
        viewed = places if sampler == Sampler.BALANCED else index
        views = epoch_views(clips, seed=seed, epoch=int(epoch), view=view)[viewed]
        first = start_step % steps if epoch == start_step // steps else 0
        return [slots[first:, mine].reshape(-1, size) for slots in (index, position, counts, views)]

    def epoch_dataset(epoch: tf.Tensor) -> tf.data.Dataset:
        dtypes = [tf.int64, tf.int64, tf.bool, tf.int64]
        slots = tf.numpy_function(epoch_slots, [epoch], dtypes, stateful=False)
        index, position, mask, views = (tf.ensure_shape(part, [None, size]) for part in slots)
        batches = {"index": index, "label": tf.gather(labels, index), "position": position, "mask": mask}
        if rows is not None:
            batches["row"] = tf.gather(tf.constant(rows), index)
        if clips.manifest.num_views > 1:
            batches["view"] = views
        if weights is not None:
            batches["weight"] = tf.gather(weights, index)
        if soft_targets is not None:
            batches["soft_target"] = tf.gather(soft_targets, index)
        return tf.data.Dataset.from_tensor_slices(batches)

    last_epoch = tf.int64.max if seed is not None else 1
    dataset = tf.data.Dataset.range(start_step // steps, last_epoch).flat_map(epoch_dataset)
    options = tf.data.Options()
    # Batches are divided above, clip by clip; TensorFlow must not divide them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # The parallelism is chosen below. The thread that would tune it may sleep for seconds after the last batch,
    # and an iterator's deletion waits for it.
    options.autotune.enabled = False
    return dataset.with_options(options)


def read_frames(batches: tf.data.Dataset, reader: ClipReader) -> tf.data.Dataset:
    """Adds to each batch the clips' frames from the shards, as `video`, uint8 [B, T, H, W, 3].

    If the shards hold features in place of frames, `video` holds the features, float16 [B, T, ...]. If they
    hold K views of each clip, `video` holds the features of all views, [B, K, T, ...], and take_view picks
    one. The mask becomes False for clips that the reader skips. Memory holds the batches that are read in
    parallel (one per core while they fit into 256 MB, but at least two) and two finished batches.

    Args:
      batches: a dataset as index_batches returns it.
      reader: the reader of the clips.
    """
    clip_format, stored = reader.clips.manifest.format, reader.clips.manifest.stored
    size = batches.element_spec["index"].shape[0]
    parallel = _parallel_batches(size * stored.num_bytes)

    def read(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        payloads = [batch.pop("payload")] if reader.streams else []
        video, good = tf.numpy_function(
            reader.read_raw, [batch["index"], *payloads], [stored.dtype, tf.bool], stateful=False
        )
        video, good = tf.ensure_shape(video, (size, *stored.shape)), tf.ensure_shape(good, [size])
        return batch | {"video": video, "mask": batch["mask"] & good}

    def read_encoded(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        payloads = [batch.pop("payload")] if reader.streams else []
        images, good = tf.numpy_function(
            reader.read_images, [batch["index"], *payloads], [tf.string, tf.bool], stateful=False
        )
        images, good = tf.ensure_shape(images, [size, clip_format.num_frames]), tf.ensure_shape(good, [size])
        return batch | {"images": images, "good": good}

    def decode(clip: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        images, good = clip.pop("images"), clip.pop("good")
        video = tf.cond(
            good,
            lambda: record.decode_images(images, clip_format),
            lambda: tf.zeros(clip_format.shape, tf.uint8),
        )
        return clip | {"video": video, "mask": clip["mask"] & good}

    if reader.fetches_ahead:
        batches = _announce(batches, reader)
    if reader.streams:
        batches = _add_payloads(batches, reader.clips, size)
    if record.stores_raw(stored):
        batches = batches.map(read, num_parallel_calls=parallel, deterministic=True)
    else:  # decoding takes most of the time, so it runs in parallel clip by clip
        clips = batches.map(read_encoded, num_parallel_calls=parallel, deterministic=True).unbatch()
        cores = len(os.sched_getaffinity(0))
        clips = clips.map(decode, num_parallel_calls=cores, deterministic=True)
        batches = clips.batch(size, drop_remainder=True)
    return batches.prefetch(_PREFETCHED_BATCHES)


def take_view(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns the `video` of a batch, [B, T, ...]. Of several views, it picks the one that the batch names."""
    if "view" not in batch:
        return batch["video"]
    return tf.gather(batch["video"], batch["view"], axis=1, batch_dims=1)


def labelled_batches(clips: ClipIndex, *, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Returns a dataset of clips and labels for keras.Model.fit, keras.Model.evaluate and custom loops.

    Each epoch holds every clip once, so the last batch of an epoch may be short: B is at most `batch_size`.

    Args:
      clips: an index of clips.
      batch_size: clips per batch.
      seed: seed that shuffles the clips anew each epoch. The dataset is then endless; an epoch has
        num_steps(len(clips), batch_size) batches. With None the dataset yields every clip once, in the
        index's order.

    Returns:
      A tf.data.Dataset of tuples (frames, labels). The frames are uint8 [B, T, H, W, 3], the labels int32
      [B]; in a multi-label dataset uint8 [B, C], 1 for each of a clip's classes. If the shards hold features,
      these take the place of the frames, float16 [B, T, ...]. If they hold several views of each clip, each epoch
      draws one view per clip; without a seed it takes view 0, the plain clip. Iterating over the dataset raises
      tf.errors.OpError at a record that cannot be read.

    Raises:
      UserError: if there is no clip, or the batch size is not positive.
    """
    batches = read_frames(index_batches(clips, batch_size=batch_size, seed=seed), ClipReader(clips))

    def select(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.math.count_nonzero(batch["mask"])  # padding comes last
        return take_view(batch)[:count], batch["label"][:count]

    steps = num_steps(len(clips), batch_size) if seed is None else tf.data.INFINITE_CARDINALITY
    labelled = batches.map(select).prefetch(_PREFETCHED_BATCHES)
    return labelled.apply(tf.data.experimental.assert_cardinality(steps))


def _announce(batches: tf.data.Dataset, reader: ClipReader) -> tf.data.Dataset:
    """Announces each batch's clips to the reader up to 256 batches before these clips are read."""

    def announce(index: np.ndarray) -> np.ndarray:
        reader.expect(index)
        return index

    def pass_on(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = tf.numpy_function(announce, [batch["index"]], tf.int64)
        return batch | {"index": tf.ensure_shape(index, batch["index"].shape)}

    return batches.map(pass_on).prefetch(_ANNOUNCED_BATCHES)


def _add_payloads(batches: tf.data.Dataset, clips: ClipIndex, size: int) -> tf.data.Dataset:
    """Adds to each batch the payloads of the clips' records, as `payload`, string [B].

    TensorFlow's file systems read the records one by one.
    """
    paths = tf.constant(clips.shard_paths)
    shards, offsets = tf.constant(clips.shards), tf.constant(clips.offsets)
    sizes = tf.constant(clips.sizes)

    def fetch(clip: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = clip["index"]
        record_alone = tf.raw_ops.TFRecordDatasetV2(
            filenames=[paths[shards[index]]],
            compression_type="",
            buffer_size=sizes[index],  # so that one request reads the whole record
            byte_offsets=[offsets[index]],
        )
        records = tf.data.experimental.from_variant(record_alone, tf.TensorSpec((), tf.string))
        return clip | {"payload": records.take(1).get_single_element()}

    single = batches.unbatch().map(fetch, num_parallel_calls=_PARALLEL_REQUESTS, deterministic=True)
    return single.batch(size, drop_remainder=True)


def gather_frames(batches: tf.data.Dataset, table: np.ndarray, buffers: Buffers) -> tf.data.Dataset:
    """Adds to each batch the clips' frames or features from a table in memory, as `video`, [B, T, ...].

    As many batches are in memory as for read_frames.

    Args:
      batches: a dataset as index_batches returns it for `rows` of the table.
      table: the frames or features of clips, [M, T, ...].
      buffers: the pool that the batches' memory is taken from.
    """
    size = batches.element_spec["index"].shape[0]
    parallel = _parallel_batches(size * table[0].nbytes)

    def take(rows: np.ndarray) -> np.ndarray:
        # mode="clip" writes straight into `out`; every row is in range.
        out = buffers.take((size, table[0].nbytes)).view(table.dtype).reshape(size, *table.shape[1:])
        return np.take(table, rows, axis=0, out=out, mode="clip")

    def gather(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        video = tf.numpy_function(take, [batch["row"]], tf.as_dtype(table.dtype), stateful=False)
        return batch | {"video": tf.ensure_shape(video, (size, *table.shape[1:]))}

    batches = batches.map(gather, num_parallel_calls=parallel, deterministic=True)
    return batches.prefetch(_PREFETCHED_BATCHES)


def _parallel_batches(num_bytes: int) -> int:
    """Returns the number of batches of num_bytes each to make in parallel."""
    return max(2, min(len(os.sched_getaffinity(0)), _MAX_BYTES_IN_WORK // num_bytes))
