"""Encodes datasets of frames into datasets of features, shard by shard.

Each shard of features is made from one shard of frames. It has the same file name, and the same clips in the
same order. Its bytes depend only on the shard of frames and on the encoder, not on the device, task or run
that makes it, because every call of the encoder gets the same number of frames of one shard.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, storage, tfrecord
from ucf50_tfrecord.dataset import augment
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import interventions
from ucf50_tfrecord.features.encoders import FrameEncoder
from ucf50_tfrecord.jobs import EncodeJob, Plan
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.shards import ShardReport
from ucf50_tfrecord.specs import AugmentSpec, FeatureFormat

# Frames per call of the encoder: enough to fill a device, and few enough for its memory.
_FRAMES_PER_CALL = 64
# The random changes of all views but the first, as fields of AugmentSpec. Fingerprints of shards cover them. Colors
# are not changed: that needs the mean grey of a clip, which may differ between hosts in the last bits.
_VIEW_CHANGES: dict[str, Any] = {"horizontal_flip": True, "crop_area": 0.5}

# Maps frames, uint8 [64, H, W, 3], to features, float16 [64, ...].
Encode = Callable[[np.ndarray], tf.Tensor]
# Maps clips, uint8 [N, T, H, W, 3], and their ids to changed clips of equal shape.
Change = Callable[[np.ndarray, Sequence[str]], np.ndarray]


def plan_features(source: Manifest, features: FeatureFormat) -> Plan:
    """Plans the encoding of a dataset of frames: one job per shard.

    Args:
      source: the manifest of the frames.
      features: the format of the features, as encoders.load_encoder returns it.

    Raises:
      UserError: if the dataset holds features already, or a sidecar is missing or damaged.
    """
    if source.features:
        raise UserError(
            f"Expected shards of frames. Received: {source.data_dir}, which holds {source.features}"
        )
    with concurrent.futures.ThreadPoolExecutor() as threads:
        reports = list(
            threads.map(
                lambda shard: manifest_lib.load_report(source.data_dir, shard.filename), source.shards
            )
        )
    jobs = tuple(
        EncodeJob(
            frames_dir=source.data_dir,
            shard=shard,
            frames=source.format,
            features=features,
            sources=report.sources,
            fingerprint=manifest_lib.fingerprint(
                {
                    "schema_version": record.SCHEMA_VERSION,
                    "format": source.format,
                    "shard": shard.sha256,
                    "features": features,
                }
                | ({"view_changes": _VIEW_CHANGES} if features.num_views > 1 else {})
            ),
        )
        for shard, report in zip(source.shards, reports)
    )
    return Plan(
        name=source.name,
        videos_dir=source.videos_dir,
        classes=source.classes,
        multi_label=source.multi_label,
        format=dataclasses.replace(source.format, motion_frames=0),  # features are of the frames alone
        fold_rule=source.fold_rule,
        decoder=f"{source.decoder}, TensorFlow {tf.__version__}",
        shard_bytes=source.shard_bytes,
        jobs=jobs,
        features=features,
        frames_dir=storage.absolute(source.data_dir),
        videos_list=source.videos_list,
        fold_names=source.fold_names,
        group_names=source.group_names,
        about=source.about,
    )


def run_encoder(
    jobs: Sequence[EncodeJob],
    data_dir: str,
    on_clips: Callable[[int], None],
    *,
    encoders: Sequence[FrameEncoder],
    change: Change | None = None,
) -> Generator[ShardReport]:
    """Encodes shards, one per device at a time, and yields each shard's report when the shard is done.

    Args:
      jobs: the jobs of the shards to encode.
      data_dir: the folder of the features.
      on_clips: called, from any thread, with the number of clips done since the last call.
      encoders: the same encoder on each of the devices.
      change: function that changes clips before they are encoded; None encodes clips as they are stored.

    Raises:
      UserError: if a shard of frames is missing or damaged, or a shard cannot be written.
    """
    idle: queue.SimpleQueue[Encode] = queue.SimpleQueue()
    for encoder in encoders:
        idle.put(_compiled(encoder))

    def run(job: EncodeJob) -> ShardReport:
        encode = idle.get()
        try:
            return encode_shard(job, data_dir, encode, on_clips, change=change)
        finally:
            idle.put(encode)

    with concurrent.futures.ThreadPoolExecutor(len(encoders)) as threads:
        futures = [threads.submit(run, job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:  # after an error or an interruption no further shard is begun
            for future in futures:
                future.cancel()


def encode_shard(
    job: EncodeJob,
    data_dir: str,
    encode: Encode,
    on_clips: Callable[[int], None] = lambda num_clips: None,
    *,
    change: Change | None = None,
) -> ShardReport:
    """Encodes the clips of a shard of frames and writes them to a shard of features, and its sidecar.

    The shard is renamed into place when it is complete; then the sidecar is written.

    Args:
      job: the shard of frames and the format of the features.
      data_dir: the folder of the features.
      encode: the compiled encoder, see run_encoder.
      on_clips: called with the number of clips in each group of clips that is encoded.
      change: as in run_encoder.

    Returns:
      The contents of the shard, as in its sidecar.

    Raises:
      UserError: if the shard of frames is missing or damaged, or the shard cannot be written.
    """
    source = manifest_lib.load_report(job.frames_dir, job.filename)
    with storage.atomic_write(pathlib.Path(data_dir, job.filename)) as file:
        writer = tfrecord.Writer(file)
        for places, payloads, frames in _read_groups(job):
            num_written = len(writer.offsets)
            clip_ids = source.clip_ids[num_written : num_written + len(places)]
            if change is not None:
                frames = change(frames, clip_ids)
            features = _encode_views(frames, clip_ids, encode, job.features)
            for place, payload, values in zip(places, payloads, features):
                if not np.isfinite(values).all():
                    raise UserError(
                        f"{place}: the features of {job.features.encoder} exceed the range of float16"
                    )
                writer.write(record.encode_features(payload, values, place))
            on_clips(len(places))
        num_bytes = writer.num_bytes
    report = ShardReport(
        filename=job.filename,
        fold=job.shard.fold,
        num_bytes=num_bytes,
        sha256=writer.sha256,
        fingerprint=job.fingerprint,
        clip_ids=source.clip_ids,
        labels=source.labels,
        groups=source.groups,
        offsets=tuple(writer.offsets),
        sources=source.sources,
        quarantined=source.quarantined,
    )
    manifest_lib.save_report(data_dir, report)
    return report


def _read_groups(job: EncodeJob) -> Iterator[tuple[list[tfrecord.Place], list[bytes], np.ndarray]]:
    """Reads a few clips of a shard of frames at a time; yields their places, payloads and frames.

    The frames are uint8 [N, T, H, W, 3], without their neighbours. The shard's sha256 is checked first.
    """
    path = storage.join(job.frames_dir, job.filename)
    size = max(1, 4 * _FRAMES_PER_CALL // job.frames.num_frames)
    try:
        with storage.local_copy(path) as copy:
            if storage.sha256(copy) != job.shard.sha256:
                raise UserError(f"{path} is damaged: it has another sha256 than its manifest states")
            places: list[tfrecord.Place] = []
            payloads: list[bytes] = []
            for offset, payload in tfrecord.read_file(copy):
                places.append(tfrecord.Place(path, offset))
                payloads.append(payload)
                if len(payloads) == size:
                    yield places, payloads, _frames(job, places, payloads)
                    places, payloads = [], []
            if payloads:
                yield places, payloads, _frames(job, places, payloads)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}") from error


def _frames(job: EncodeJob, places: list[tfrecord.Place], payloads: list[bytes]) -> np.ndarray:
    clips = [record.decode(payload, place)[record.VIDEO] for place, payload in zip(places, payloads)]
    for place, clip in zip(places, clips):
        if clip.shape != job.frames.shape:
            raise UserError(f"{place} holds no clip of {job.frames}")
    return np.stack(clips)[..., :3]


def make_view(frames: np.ndarray, clip_ids: Sequence[str], view: int) -> np.ndarray:
    """Returns a view of clips: the clips as they are, or an augmented version of them.

    View 0 is the clip as it is. Every other view is a random crop, which is scaled to the frame's size, and
    mirrored with a probability of one half. The change is the same for all frames of a clip. Its random
    numbers follow from the clip's id and the view's index. Views are not shifted in time:
    AugmentSpec.temporal_shift shifts the stored features in training.

    Args:
      frames: the clips, uint8 [N, T, H, W, 3].
      clip_ids: the ids of the N clips.
      view: index of the view, from 0.

    Returns:
      The view of each clip, uint8 [N, T, H, W, 3].
    """
    if view == 0:
        return frames

    def seed(clip_id: str) -> int:
        digest = hashlib.sha256(clip_id.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:6], "little")

    with tf.device("CPU:0"):  # so that every device gets the same pixels
        changed = [
            augment.augment(
                clip[np.newaxis],
                tf.constant([0], tf.int64),
                spec=AugmentSpec(**_VIEW_CHANGES),
                batch_size=1,
                seed=seed(clip_id),
                step=tf.constant(view, tf.int64),
            )
            for clip, clip_id in zip(tf.constant(frames), clip_ids, strict=True)
        ]
    return tf.concat(changed, axis=0).numpy()


def _encode_views(
    frames: np.ndarray, clip_ids: Sequence[str], encode: Encode, features: FeatureFormat
) -> np.ndarray:
    """Encodes clips, uint8 [N, T, H, W, 3], view by view, and returns float16 [N, *features.shape].

    View 0 is encoded by the same calls as in a dataset with a single view, so its features are the same.
    """
    views = [
        _encode(make_view(frames, clip_ids, view), encode, features) for view in range(features.num_views)
    ]
    return np.stack(views, axis=1).reshape(len(frames), *features.shape)


def _encode(frames: np.ndarray, encode: Encode, features: FeatureFormat) -> np.ndarray:
    """Encodes clips, uint8 [N, T, H, W, 3], by calls of equal size; returns float16 [N, T, ...]."""
    flat = frames.reshape(-1, *frames.shape[2:])
    padded = np.concatenate([flat, np.zeros((-len(flat) % _FRAMES_PER_CALL, *flat.shape[1:]), np.uint8)])
    calls = [
        encode(padded[first : first + _FRAMES_PER_CALL]) for first in range(0, len(padded), _FRAMES_PER_CALL)
    ]
    found = np.concatenate([call.numpy() for call in calls])[: len(flat)]
    return found.reshape(*frames.shape[:2], *features.frame_shape)


def _compiled(encoder: FrameEncoder) -> Encode:
    model = encoder.model
    signature = [tf.TensorSpec([_FRAMES_PER_CALL, *model.input.shape[1:]], tf.uint8)]

    @tf.function(input_signature=signature, autograph=False)
    def encode(frames: tf.Tensor) -> tf.Tensor:
        return model(frames, training=False)

    return encode


def intervene(name: str, clips: ClipIndex) -> Change:
    """Returns the function that changes clips by an intervention before they are encoded.

    Args:
      name: the intervention's name.
      clips: index of all clips that may be changed. Donor clips, whose backgrounds replace others, are chosen
        from it.
    """
    apply = interventions.make(name, clips)
    place = {clip_id: i for i, clip_id in enumerate(clips.ids)}

    def change(frames: np.ndarray, clip_ids: Sequence[str]) -> np.ndarray:
        index = tf.constant([place[clip_id] for clip_id in clip_ids], tf.int64)
        return apply(tf.constant(frames), index).numpy()

    return change


def default_dir(source: Manifest, features: FeatureFormat) -> str:
    """Returns the default folder of features, which is beside the folder of their frames."""
    name = os.path.basename(features.encoder.rstrip("/")).replace(":", ".")
    size = (
        ""
        if (features.height, features.width) == (source.format.height, source.format.width)
        else (
            f"-{features.height}"
            if features.height == features.width
            else f"-{features.height}x{features.width}"
        )
    )
    grid = f"-grid{features.grid}" if features.grid > 1 else ""
    precision = "" if features.precision == "float32" else f"-{features.precision}"
    views = f"-v{features.num_views}" if features.num_views > 1 else ""
    return f"{storage.absolute(source.data_dir).rstrip('/')}-{name}{size}{grid}{precision}{views}"
