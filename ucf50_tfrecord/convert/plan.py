"""Assigns videos to folds and shards: a pure function of the catalogue and the format."""

from __future__ import annotations

import hashlib
import os

from ucf50_tfrecord import manifest, record
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.jobs import Catalog, ConversionPlan, ShardJob, Video
from ucf50_tfrecord.specs import DEFAULT_SHARD_BYTES, ClipFormat, FoldRule


def fold_of(video: Video, rule: FoldRule) -> int:
    """Returns a video's fold: its group's number, or its id hashed into 1..num_folds."""
    if rule.fold_by == FoldBy.GROUP and video.group is not None:
        return video.group
    return 1 + _hash(video.video_id) % rule.num_folds


def plan_shards(
    catalog: Catalog,
    *,
    name: str,
    clip_format: ClipFormat,
    fold_rule: FoldRule,
    decoder: str,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> ConversionPlan:
    """Assigns every video to a shard of its fold.

    The videos of a fold are ordered by the hash of their id, so that each shard mixes the classes, and cut into
    equal runs of about `shard_bytes` of pixels at most. A shard's name is
    {name}-fold{FF}.tfrecord-{i:05d}-of-{n:05d}. `decoder` names the libraries that decide the pixels.
    """
    # Absolute: workers on other hosts have other working folders.
    videos_dir = os.path.abspath(catalog.videos_dir)
    encoder = record.encoder_version(clip_format)
    decoder = f"{decoder}, {encoder}" if encoder else decoder
    folds: dict[int, list[Video]] = {}
    for video in catalog.videos:
        folds.setdefault(fold_of(video, fold_rule), []).append(video)
    shared = {
        "schema_version": record.SCHEMA_VERSION,
        "format": clip_format,
        "decoder": decoder,
    }
    video_bytes = clip_format.num_bytes * clip_format.clips_per_video
    jobs = []
    for fold, videos in sorted(folds.items()):
        videos.sort(key=lambda video: (_hash(video.video_id), video.video_id))
        num_shards = max(1, -(-len(videos) * video_bytes // shard_bytes))
        num_shards = min(num_shards, len(videos))
        for index in range(num_shards):
            start, stop = (len(videos) * i // num_shards for i in (index, index + 1))
            members = tuple(videos[start:stop])
            described = [(v.relative_path, v.class_name, v.label, v.group) for v in members]
            filename = f"{name}-fold{fold:02d}.tfrecord-{index:05d}-of-{num_shards:05d}"
            jobs.append(
                ShardJob(
                    videos_dir=videos_dir,
                    filename=filename,
                    fold=fold,
                    format=clip_format,
                    videos=members,
                    fingerprint=manifest.fingerprint({**shared, "fold": fold, "videos": described}),
                )
            )
    return ConversionPlan(
        name=name,
        videos_dir=videos_dir,
        classes=catalog.classes,
        format=clip_format,
        fold_rule=fold_rule,
        decoder=decoder,
        shard_bytes=shard_bytes,
        jobs=tuple(jobs),
    )


def _hash(text: str) -> int:
    # Python's hash() differs between processes.
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
