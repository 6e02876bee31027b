"""Assigns videos to folds and shards. The result depends only on the catalogue and the settings."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

from ucf50_tfrecord import manifest, record
from ucf50_tfrecord.choices import FoldBy, Playback
from ucf50_tfrecord.errors import Action, Advice, Remedy
from ucf50_tfrecord.jobs import Catalog, Plan, ShardJob, Video
from ucf50_tfrecord.shards import Named
from ucf50_tfrecord.specs import DEFAULT_SHARD_BYTES, ClipFormat, FoldRule, is_fold_name


def fold_of(video: Video, rule: FoldRule) -> int:
    """Returns the fold of a video.

    It is the fold that a list or a folder gives the video, else the number of its recording group, else a hash of
    its id in 1..num_folds. With folds by video, it is always the hash.
    """
    if rule.fold_by == FoldBy.GROUP:
        given = video.group if video.fold is None else video.fold
        if given is not None:
            return given
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
            described = [_fingerprinted(video) for video in members]
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
        multi_label=catalog.multi_label,
        format=clip_format,
        fold_rule=_with_absolute_path(fold_rule),
        decoder=decoder,
        shard_bytes=shard_bytes,
        jobs=tuple(jobs),
        videos_list=os.path.abspath(catalog.videos_list) if catalog.videos_list else "",
        fold_names=_fold_names(catalog, fold_rule),
        group_names=catalog.group_names,
        about=catalog.about,
    )


def _fingerprinted(video: Video) -> tuple:
    """Returns those fields of a video that decide its records.

    The id, the segment and the playback are left out where the path decides them, so that the fingerprints of folders
    of videos do not depend on what only lists have.
    """
    fields: tuple = (video.relative_path, video.class_name, video.label, video.group)
    if video.playback != Playback.FORWARD:
        fields = (*fields, video.playback)
    if video.segment:
        return *fields, video.video_id, video.segment.start_us, video.segment.end_us
    is_path = video.video_id == pathlib.PurePosixPath(video.relative_path).with_suffix("").as_posix()
    return fields if is_path else (*fields, video.video_id)


def _fold_names(catalog: Catalog, rule: FoldRule) -> tuple[Named, ...]:
    """Returns the names of the folds: those that were given, else those of the groups that become folds."""
    if rule.fold_by != FoldBy.GROUP:
        return ()
    has_folds = any(video.fold is not None for video in catalog.videos)
    names = catalog.fold_names if has_folds else catalog.group_names
    return tuple(named for named in names if is_fold_name(named.name))


def _with_absolute_path(rule: FoldRule) -> FoldRule:
    """Returns the rule as the manifest keeps it: for repairs from other working folders."""
    if not rule.split_files:
        return rule
    return dataclasses.replace(rule, split_files=os.path.abspath(rule.split_files))


def find_leak(catalog: Catalog, rule: FoldRule) -> str | None:
    """Returns a warning if a hash divides videos whose recording group is unknown, else None."""
    if rule.fold_by != FoldBy.GROUP:
        return None
    hashed = sum(video.group is None and video.fold is None for video in catalog.videos)
    if not hashed:
        return None
    return Advice(
        f"{hashed} of {len(catalog.videos)} videos have no known recording group. A hash of their ids gives them "
        "their folds, so clips of one recording may be on both sides of a split, and scores be too high",
        Remedy(Action.SET, "to name the group in the videos' paths", group_pattern=...),
    )


def _hash(text: str) -> int:
    # A sha256, because Python's hash() differs between processes.
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
