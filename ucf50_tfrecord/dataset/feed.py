"""Feeds batches of clips to the replicas of a strategy (copies of the model, one per device).

The frames come from the shards, from host memory or from device memory. The clips and their order are the
same in all three cases.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record
from ucf50_tfrecord.choices import Cache, ClassWeight, Encoding, FetchMethod, Sampler
from ucf50_tfrecord.dataset import memory, pipeline, shared_table
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.reader import Buffers, ClipReader
from ucf50_tfrecord.errors import Action, Advice, Remedy, UserError, expect
from ucf50_tfrecord.specs import format_bytes
from ucf50_tfrecord.texts import tensorflow_reason

_LOADED_AT_ONCE_BYTES = 16 << 20
_NUM_REASONS = 3  # a message gives the reasons of at most this many skipped clips
# Exceptions that TensorFlow raises when an object store fails, or at a damaged record.
_STORE_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.DataLossError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)

CACHE_MEANINGS = {
    Cache.NONE: "read from the shards as they are needed",
    Cache.HOST: "kept in host memory",
    Cache.DEVICE: "kept on each device",
}


@dataclasses.dataclass(frozen=True)
class CacheChoice:
    """The place where clips' frames are kept, and the reason for this choice.

    cache: the place; never AUTO.
    reason: the reason, as the end of a sentence, such as "as asked".
    """

    cache: Cache
    reason: str


def choose_cache(
    cache: Cache | str,
    num_bytes: int,
    *,
    num_processes: int = 1,
    shares_host: bool = False,
    steps_are_short: bool = False,
) -> CacheChoice:
    """Chooses where frames are kept: resolves AUTO by the free memory, or checks that a given choice fits.

    AUTO tries the GPUs first, then host memory. It takes the first place where the frames fill at most half
    of the free memory; if there is none, it keeps no frames. Without GPUs, device memory and host memory are
    the same. AUTO then chooses HOST, because frames are gathered from host memory in parallel to the training
    step. If steps are short, as on features, threads for this cost more than they save, and AUTO chooses
    DEVICE. If the free memory is unknown, any given choice is accepted.

    Args:
      cache: where to keep frames.
      num_bytes: size of the frames of all clips. Each device that keeps frames keeps all of them.
      num_processes: number of processes on this host; each one that keeps frames keeps all of them.
      shares_host: whether the processes share the frames that are kept in host memory.
      steps_are_short: whether a training step takes about a millisecond.

    Raises:
      UserError: if the frames do not fit into the memory that `cache` names.
    """
    cache = Cache(cache)
    if cache == Cache.NONE:
        return CacheChoice(cache, "as asked")
    needed = format_bytes(num_bytes)
    host, gpu = memory.available_host_bytes(), memory.available_device_bytes()
    own = host
    if host is not None:
        own = host // num_processes
        host = host if shares_host else own
    free_bytes = {Cache.HOST: host, Cache.DEVICE: own if gpu is None else gpu}
    names = {Cache.HOST: "free host memory", Cache.DEVICE: "free memory of each device"}
    if num_processes > 1 and not shares_host:
        names[Cache.HOST] += f" for each of {num_processes} workers"
    if cache != Cache.AUTO:
        free = free_bytes[cache]
        if free is not None and num_bytes > free:
            raise UserError(
                f"The cache {cache} needs {needed}, but there are only {format_bytes(free)} of {names[cache]}",
                Remedy(Action.SET, "to read clips from the shards each time", cache=Cache.NONE),
            )
        return CacheChoice(cache, "as asked")
    for place in (Cache.DEVICE, Cache.HOST) if gpu is not None or steps_are_short else (Cache.HOST,):
        free = free_bytes[place]
        if free is not None and num_bytes <= memory.AUTO_FRACTION * free:
            reason = f"the clips take {needed}, at most half of the {format_bytes(free)} of {names[place]}"
            return CacheChoice(place, reason)
    if host is None:
        return CacheChoice(Cache.NONE, "the free host memory is unknown")
    reason = f"the clips take {needed}, more than half of the {format_bytes(host)} of {names[Cache.HOST]}"
    return CacheChoice(Cache.NONE, reason)


class Feed:
    """A source of batches of clips for the replicas of a strategy.

    clips: the index of the clips.
    cache: where the clips' frames are kept.
    skipped: a dictionary from a skipped clip's position in `clips` to the reason why it was skipped.
    """

    def __init__(
        self,
        clips: ClipIndex,
        *,
        strategy: tf.distribute.Strategy,
        cache: Cache | str = Cache.NONE,
        skip_bad_records: bool = False,
        shared_dir: str | None = None,
        on_loaded: Callable[[int], object] = lambda count: None,
    ):
        """Creates a feed, and loads the clips' frames if they are to be kept in memory.

        Args:
          clips: the index of the clips, as load_clips returns it.
          strategy: the devices that receive the batches.
          cache: where to keep frames; not AUTO.
          skip_bad_records: whether clips with unreadable records are skipped; otherwise they are an error.
          shared_dir: folder through which the processes of this host share the frames that they keep in host
            memory, see shared_table.open_table; None if they do not share.
          on_loaded: called with the number of clips in each batch that was loaded into memory.

        Raises:
          UserError: if a record cannot be read and is not skipped, or an object store cannot be reached.
        """
        expect(Cache(cache) != Cache.AUTO, "a cache other than auto", cache=cache)
        self.clips, self.cache = clips, cache
        self._strategy, self._skips_bad_records = strategy, skip_bad_records
        self._reader = ClipReader(
            clips if cache == Cache.NONE else _in_order(clips), skip_bad_records=skip_bad_records
        )
        expect(
            not (skip_bad_records and self._reader.streams),
            "that training stops at unreadable records: streamed records cannot be skipped",
            Remedy(Action.SET, on_bad_record="stop"),
            Remedy(Action.SET, method=FetchMethod.COPY),
            on_bad_record="skip",
        )
        self.skipped = self._reader.skipped
        self._buffers = Buffers()
        stored = clips.manifest.stored
        shape = (len(clips), *stored.shape)
        devices = strategy.extended.worker_devices if cache == Cache.DEVICE else ()
        self._residents = _Residents(devices, shape, stored.dtype)
        self._rows = np.arange(len(clips))
        if cache == Cache.HOST and shared_dir:
            load = functools.partial(self._load, on_loaded=on_loaded)
            self._table, self.skipped = shared_table.open_table(shared_dir, shape, stored.dtype, load)
        elif cache != Cache.NONE:
            self._table = np.empty(shape if cache == Cache.HOST else 0, stored.dtype)
            self._load(self._table, on_loaded)

    def select(self, chosen: np.ndarray, *, shuffle_shards: int = 0) -> Feed:
        """Returns a feed of some of these clips. Clips that are kept in memory are shared, not loaded again.

        Args:
          chosen: positions of the clips in this feed, int64 [M], or a mask of the clips, bool [N].
          shuffle_shards: number of shards whose clips are shuffled together, or 0 for all shards.
        """
        clips = dataclasses.replace(self.clips.select(chosen), shuffle_shards=shuffle_shards)
        if self.cache == Cache.NONE:
            return Feed(clips, strategy=self._strategy, skip_bad_records=self._skips_bad_records)
        feed = copy.copy(self)
        positions = np.arange(len(self.clips))[chosen]
        feed.clips, feed._rows = clips, self._rows[chosen]
        feed.skipped = {
            place: self.skipped[position]
            for place, position in enumerate(positions.tolist())
            if position in self.skipped
        }
        return feed

    def with_soft_targets(self, soft_targets: np.ndarray) -> Feed:
        """Returns a feed of the same clips, whose batches also hold teachers' probabilities.

        Args:
          soft_targets: the probabilities of the classes for each clip, float32 [N, C].
        """
        feed = copy.copy(self)
        feed.clips = dataclasses.replace(self.clips, soft_targets=soft_targets)
        return feed

    def iterator(
        self,
        *,
        batch_size: int,
        seed: int | None = None,
        start_step: int = 0,
        view: int = 0,
        sampler: str = Sampler.ALL,
        class_weight: str = ClassWeight.NONE,
        in_pairs: bool = False,
    ) -> Iterator[Any]:
        """Returns an iterator over batches of clips, which may be distributed.

        Each replica receives its part of a batch as a dictionary. The dictionary holds the tensors that
        pipeline.index_batches lists, and those from which `frames` takes the frames. A tf.function may use
        the iterator. Call such a function inside the context `explained`, which turns TensorFlow's errors at
        unreadable records into a UserError.

        Args:
          batch_size: clips per global batch, over all workers and replicas.
          seed: seed of the shuffling. With a seed the batches never end; None gives every clip once, in order.
          start_step: index of the first global batch, counted from the start of epoch 0.
          view: index of the view (an augmented version of a clip) to read, if the records hold features of
            several views. With a seed it is ignored: views are drawn at random.
          sampler, class_weight, in_pairs: as in pipeline.index_batches.
        """
        make = functools.partial(
            self._worker_dataset,
            batch_size=batch_size,
            seed=seed,
            start_step=start_step,
            view=view,
            sampler=sampler,
            class_weight=class_weight,
            in_pairs=in_pairs,
        )
        strategy = self._strategy
        if (
            isinstance(strategy, tf.distribute.OneDeviceStrategy)
            and "CPU" in strategy.extended.worker_devices[0]
        ):
            # A distributed iterator would copy each batch, and take seconds to delete: the deletion waits for a
            # sleeping thread that tunes the copies.
            return iter(make(tf.distribute.InputContext()))
        return iter(strategy.distribute_datasets_from_function(make))

    def batches(
        self, *, batch_size: int, seed: int | None = None, start_step: int = 0, view: int = 0
    ) -> Generator[dict[str, Any]]:
        """Yields the same batches as `iterator`, but raises a UserError at an unreadable record.

        Args:
          batch_size, seed, start_step, view: as in `iterator`.

        Raises:
          UserError: if a record cannot be read and is not skipped.
        """
        iterator = self.iterator(batch_size=batch_size, seed=seed, start_step=start_step, view=view)
        while True:
            with self.explained():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    @property
    def frames(self) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
        """The function that returns the frames of a replica's batch, wherever they are kept.

        Its argument is the replica's batch, a dictionary of tensors from `iterator`. It returns the frames,
        uint8 [B, T, H, W, 3]. If the shards hold features in place of frames, it returns the features, float16
        [B, T, ...]. If they hold several views of each clip, it returns the features of the view that the batch
        names.

        Call it inside a training or evaluation step, in the replica's context. Feeds that share their kept
        clips, or keep none on a device, have equal functions; so a step that is compiled for one serves all.
        """
        return self._residents.gather if self.cache == Cache.DEVICE else pipeline.take_view

    @property
    def resident_devices(self) -> list[str]:
        """The devices in whose memory the clips are kept, by TensorFlow's names; empty for other caches."""
        return [resident.device for resident in self._residents.copies]

    def describe_skipped(self) -> Advice:
        """Returns a warning that states why clips were skipped, and how to repair their shards."""
        reasons = [self.skipped[clip] for clip in sorted(self.skipped)]
        more = "; …" if len(reasons) > _NUM_REASONS else ""
        return Advice(
            f"{len(reasons)} of {len(self.clips)} clips were skipped: {'; '.join(reasons[:_NUM_REASONS])}{more}",
            manifest_lib.repair_remedy(self.clips.manifest),
        )

    def advice(self) -> Advice:
        """Returns advice for the user on how to feed these clips faster."""
        if self.cache == Cache.DEVICE:
            return Advice("The clips are on the device already: check what else uses this machine")
        size = format_bytes(self.clips.num_bytes)
        if self.cache == Cache.HOST:
            return Advice(
                "The clips are in host memory",
                Remedy(Action.SET, f"to keep their {size} on each device", cache=Cache.DEVICE),
            )
        remedies = [
            Remedy(Action.SET, f"to keep the clips' {size} in memory", cache=(Cache.HOST, Cache.DEVICE))
        ]
        if self._reader.streams:
            remedies.append(Remedy(Action.SET, "to read from local copies", method=FetchMethod.COPY))
        if not record.stores_raw(self.clips.manifest.stored):
            remedies.append(
                Remedy(Action.SET, "to store frames that need no decoding", encoding=Encoding.RAW)
            )
        return Advice("Faster storage or more CPU cores help", *remedies)

    def _worker_dataset(
        self,
        context: tf.distribute.InputContext,
        *,
        batch_size: int,
        seed: int | None,
        start_step: int,
        view: int,
        sampler: str,
        class_weight: str,
        in_pairs: bool,
    ) -> tf.data.Dataset:
        usable = np.ones(len(self.clips), bool)
        if self.cache != Cache.NONE:
            usable[list(self.skipped)] = False
        batches = pipeline.index_batches(
            self.clips,
            batch_size=batch_size,
            seed=seed,
            start_step=start_step,
            worker_slice=pipeline.WorkerSlice(
                num_workers=context.num_input_pipelines,
                worker=context.input_pipeline_id,
                num_replicas=self._strategy.num_replicas_in_sync // context.num_input_pipelines,
            ),
            usable=usable,
            rows=None if self.cache == Cache.NONE else self._rows,
            view=view,
            sampler=sampler,
            class_weight=class_weight,
            in_pairs=in_pairs,
        )
        if self.cache == Cache.NONE:
            return pipeline.read_frames(batches, self._reader)
        if self.cache == Cache.HOST:
            return pipeline.gather_frames(batches, self._table, self._buffers)
        return batches

    def _load(self, table: np.ndarray, on_loaded: Callable[[int], object]) -> dict[int, str]:
        """Reads all clips into `table` or onto the devices, a few megabytes at a time; returns the skipped ones."""
        batch_size = min(_at_once(self.clips), len(self.clips))
        batches = pipeline.index_batches(self.clips, batch_size=batch_size)
        num_loaded = 0
        with self.explained():
            for batch in pipeline.read_frames(batches, self._reader):
                index, video = batch["index"], batch["video"]  # for padding, a clip is written a second time
                if self.cache == Cache.HOST:
                    table[index.numpy()] = video.numpy()
                self._residents.write(video, index)
                num_new = min(len(video), len(self.clips) - num_loaded)
                num_loaded += num_new
                on_loaded(num_new)
        self._reader.release_buffers()
        return self.skipped

    def explained(self) -> contextlib.AbstractContextManager:
        """Returns a context that turns TensorFlow's error at an unreadable record into a UserError."""
        return _explained(self._reader)


def read_clips(clips: ClipIndex) -> np.ndarray:
    """Reads a few clips from their shards.

    Args:
      clips: the index of the clips.

    Returns:
      The clips' frames in the order of the index, uint8 [N, T, H, W, 3]. If the shards hold features: the
      features, float16 [N, T, ...], of view 0 (the plain clip) if there are several views. All values of a
      clip with an unreadable record are 0.

    Raises:
      UserError: if a frame cannot be decoded although its record is sound.
    """
    if not len(clips):
        shape = clips.manifest.stored.shape
        return np.zeros((0, *shape[clips.manifest.num_views > 1 :]), clips.manifest.stored.dtype)
    reader = ClipReader(_in_order(clips), skip_bad_records=True)
    dataset = pipeline.read_frames(pipeline.index_batches(clips, batch_size=len(clips)), reader)
    with _explained(reader):
        return pipeline.take_view(next(iter(dataset))).numpy()


def read_in_batches(clips: ClipIndex) -> Iterator[np.ndarray]:
    """Reads clips like read_clips, but yields a few megabytes at a time, as uint8 [B, T, H, W, 3]."""
    size = _at_once(clips)
    for first in range(0, len(clips), size):
        yield read_clips(clips.select(np.arange(first, min(first + size, len(clips)))))


def _in_order(clips: ClipIndex) -> ClipIndex:
    """Returns the same index for reading shard by shard, so that only a few shards are open at once."""
    return dataclasses.replace(clips, shuffle_shards=1)


def _at_once(clips: ClipIndex) -> int:
    """Returns the number of clips per batch when many clips are loaded."""
    return max(1, _LOADED_AT_ONCE_BYTES // clips.manifest.stored.num_bytes)


@contextlib.contextmanager
def _explained(reader: ClipReader) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        if reader.error is not None:
            raise reader.error from None
        if reader.streams and isinstance(error, _STORE_ERRORS):
            raise UserError(
                f"Cannot read {reader.clips.manifest.data_dir}: {tensorflow_reason(error)}"
            ) from error
        stores_raw = record.stores_raw(reader.clips.manifest.stored)
        if stores_raw or not isinstance(error, tf.errors.InvalidArgumentError):
            raise
        # The records are undamaged, so the frames were already bad when they were written.
        raise UserError(
            f"A frame in {reader.clips.manifest.data_dir} cannot be decoded, although its record's checksum "
            f"is right: {tensorflow_reason(error)} Convert the videos again, into another folder."
        ) from error


class _Residents:
    """Clips that are kept on devices: each device has a copy of all of them.

    copies: a variable for each device, in the order of replicas. Variables, because on GPUs TensorFlow gathers
      uint8 from variables but not from tensors.
    """

    def __init__(self, devices: Sequence[str], shape: tuple[int, ...], dtype: str):
        """Makes copies of `shape` and `dtype` on `devices`, filled with zeros."""
        self.copies: list[tf.Variable] = []
        for device in devices:
            with tf.device(device):
                self.copies.append(tf.Variable(tf.zeros(shape, dtype), trainable=False))

    def write(self, video: tf.Tensor, rows: tf.Tensor) -> None:
        """Writes clips, [B, ...], into the given rows, int64 [B], on all devices."""
        for resident in self.copies:
            resident.scatter_update(tf.IndexedSlices(video, rows))

    def gather(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the clips of a replica's batch from the replica's device; see Feed.frames."""
        replica = tf.get_static_value(
            tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
        )
        resident = self.copies[replica % len(self.copies)]
        if "view" in batch:
            return tf.gather_nd(resident, tf.stack([batch["row"], batch["view"]], axis=1))
        return tf.gather(resident, batch["row"])
