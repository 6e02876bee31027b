"""Assigns videos to folds and shards. The result depends only on the catalogue and the settings."""

from __future__ import annotations

import hashlib
import os

from ucf50_tfrecord import manifest, record
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.jobs import Catalog, Plan, ShardJob, Video
from ucf50_tfrecord.specs import DEFAULT_SHARD_BYTES, ClipFormat, FoldRule


def fold_of(video: Video, rule: FoldRule) -> int:
    """Returns the fold of a video: the number of its recording group, or a hash of its id in 1..num_folds."""
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
) -> Plan:
    """Plans a conversion: assigns every video to a fold and to a shard of that fold.

    The videos of a fold are ordered by a hash of their id, so that each shard mixes the classes. Then they
    are cut into runs of about equal length, one per shard. Shard i of the n shards of a fold is named
    {name}-fold{fold:02d}.tfrecord-{i:05d}-of-{n:05d}.

    Args:
      catalog: the videos.
      name: the dataset's name.
      clip_format: the format of the clips.
      fold_rule: the rule that assigns a video to a fold.
      decoder: names and versions of the libraries that decode the pixels, as decode.decoder_version returns
        them.
      shard_bytes: largest size of the pixels in one shard, in bytes (approximate).
    """
    # An absolute path, because workers on other hosts have other working folders.
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
    return Plan(
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
    # A sha256, because Python's hash() differs between processes.
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
