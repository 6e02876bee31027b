"""A dataset's table of contents: the manifest of a folder of shards, and the sidecar of each shard.

Files beside the shards (TFRecord files):
  manifest.json             the manifest; written last, so a folder without it is not a finished dataset
  <shard>.json              the sidecar of one shard: a ShardReport as JSON
  features.json,
  dataset_info.json         descriptions for readers that use TensorFlow Datasets
  croissant.json,
  DATASET_CARD.md           descriptions for catalogues of data sets, and for people
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from ucf50_tfrecord import labels, parsing, record, storage, tfrecord
from ucf50_tfrecord.about import About
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Plan
from ucf50_tfrecord.parsing import Count, Name, Sha256
from ucf50_tfrecord.shards import (
    DATASET_NAME,
    ManifestShard,
    Named,
    Quarantined,
    ShardReport,
    repeated,
    shard_pattern,
)
from ucf50_tfrecord.specs import (
    DEFAULT_SHARD_BYTES,
    MAX_CLASSES,
    ClipFormat,
    FeatureFormat,
    FoldRule,
    StoredFormat,
    to_json,
)

MANIFEST_FILENAME = "manifest.json"
# The formats of lists of videos.
LIST_SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a dataset.

    data_dir: the dataset's folder or URL, where the manifest was loaded from; not stored in manifest.json.
    videos_dir: the folder that the videos were in when they were converted.
    decoder: names and versions of the libraries that decoded and scaled the frames.
    shard_bytes: largest size of the pixels in one shard, in bytes (approximate).
    num_videos: number of videos, including those that gave no clip.
    clips_per_class: a dictionary from fold to its numbers of clips, one number per label. A clip with several labels
      counts once in each of its classes.
    quarantined: the videos that gave no clip.
    multi_label: whether clips have several labels. Then each clip has a tuple of them, even of one.
    features: the format of the features that the records hold in place of frames, or None.
    frames_dir: the folder of the frames that the features were made from; "" if the records hold frames.
    videos_list: the list that named the videos; "" if they were in class folders.
    fold_names, group_names: the names of folds and of groups that have names.
    about: what is known about the data set, such as its license.
    """

    data_dir: str
    name: str
    videos_dir: str
    format: ClipFormat
    fold_rule: FoldRule
    decoder: str
    shard_bytes: int
    classes: tuple[str, ...]
    num_videos: int
    clips_per_class: dict[int, tuple[int, ...]]
    shards: tuple[ManifestShard, ...]
    quarantined: tuple[Quarantined, ...]
    multi_label: bool = False
    features: FeatureFormat | None = None
    frames_dir: str = ""
    videos_list: str = ""
    fold_names: tuple[Named, ...] = ()
    group_names: tuple[Named, ...] = ()
    about: About = About()

    @property
    def stored(self) -> StoredFormat:
        """The format of what the records hold: features if there are any, else frames."""
        return self.features or self.format

    @property
    def num_views(self) -> int:
        """Number of views of each clip in its record; 1 unless features of several views are stored."""
        return self.features.num_views if self.features else 1

    @property
    def origin(self) -> str:
        """The folder of the files that the shards were made from, or the list that named them."""
        return self.frames_dir or self.videos_list or self.videos_dir

    @property
    def num_clips(self) -> int:
        return sum(shard.num_clips for shard in self.shards)

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that hold clips, in ascending order."""
        return tuple(sorted(self.clips_per_class))

    @property
    def fold_numbers(self) -> dict[str, int]:
        """The numbers of the folds that have names, by name."""
        return {named.name: named.number for named in self.fold_names}

    @functools.cached_property
    def clips_per_fold(self) -> dict[int, int]:
        """The number of clips in each fold that holds some."""
        counts = dict.fromkeys(self.clips_per_class, 0)
        for shard in self.shards:
            if shard.num_clips:
                counts[shard.fold] += shard.num_clips
        return counts

    def expect_one_label(self, purpose: str) -> None:
        """Raises UserError if clips have several labels; `purpose` is what needs one, such as "a comparison"."""
        labels.expect_one(self.multi_label, purpose, self.data_dir)

    def missing_classes(self, folds: Iterable[int]) -> list[str]:
        """Returns the names of the classes that have no clip in the given folds."""
        counts = [self.clips_per_class[fold] for fold in folds]
        return [name for label, name in enumerate(self.classes) if not any(c[label] for c in counts)]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the dataset's contents: equal contents give equal fingerprints on every machine."""
        contents = {
            "schema_version": record.SCHEMA_VERSION,
            "format": to_json(self.format),
            "classes": self.classes,
            "shards": sorted((shard.filename, shard.sha256) for shard in self.shards),
        }
        if self.features:
            contents["features"] = to_json(self.features)
        if self.multi_label:
            contents["multi_label"] = True
        return fingerprint(contents)

    def save(self) -> None:
        """Writes the manifest to manifest.json, which declares the dataset finished."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in _FILE_FIELDS}
        folds = {
            fold: _Fold(num_clips=self.clips_per_fold[fold], clips_per_class=counts)
            for fold, counts in self.clips_per_class.items()
        }
        value = _ManifestFile(
            **shared,
            schema_version=record.SCHEMA_VERSION,
            num_clips=self.num_clips,
            fingerprint=self.fingerprint,
            folds=folds,
        )
        storage.write_json(pathlib.Path(self.data_dir, MANIFEST_FILENAME), to_json(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fold:
    num_clips: Count
    clips_per_class: tuple[Count, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ManifestFile:
    """The contents of manifest.json, checked for consistency when built."""

    schema_version: Count
    name: Annotated[str, msgspec.Meta(pattern=rf"^{DATASET_NAME}\Z")]
    videos_dir: str
    format: ClipFormat
    fold_rule: FoldRule
    decoder: str
    shard_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**62)] = DEFAULT_SHARD_BYTES
    classes: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_CLASSES)]
    num_videos: Count
    num_clips: Count | None = None
    fingerprint: Sha256 | None = None
    folds: dict[Count, _Fold]
    shards: tuple[ManifestShard, ...]
    quarantined: tuple[Quarantined, ...]
    features: FeatureFormat | None = None
    frames_dir: str = ""
    # Written only where there are such facts, so that the manifests of other datasets stay as they were.
    multi_label: bool = parsing.optional(False)
    videos_list: str = parsing.optional("")
    fold_names: tuple[Named, ...] = parsing.optional(())
    group_names: tuple[Named, ...] = parsing.optional(())
    about: About = parsing.optional(About())

    def __post_init__(self):
        expect(
            len(set(self.classes)) == len(self.classes), "distinct classes", repeated=repeated(self.classes)
        )
        names = [shard.filename for shard in self.shards]
        expect(len(set(names)) == len(names), "each shard once", repeated=repeated(names))
        own = shard_pattern(self.name)
        foreign = next((name for name in names if not own.fullmatch(name)), None)
        expect(foreign is None, f"shards of the dataset {self.name!r}", filename=foreign)
        for field in ("fold_names", "group_names"):
            named = [item.name for item in getattr(self, field)]
            expect(len(set(named)) == len(named), f"each name once in {field}", repeated=repeated(named))
        self._check_counts()

    def _check_counts(self) -> None:
        held: collections.Counter[int] = collections.Counter()
        for shard in self.shards:
            held[shard.fold] += shard.num_clips
        listed = {fold: item.num_clips for fold, item in self.folds.items()}
        for fold in sorted(held.keys() | listed):
            expect(
                listed.get(fold, 0) == held[fold],
                f"{held[fold]} clips in fold {fold}, as its shards have",
                num_clips=listed.get(fold, 0),
            )
        for fold, item in self.folds.items():
            counts = item.clips_per_class
            fits, together = sum(counts) == item.num_clips, "together"
            if self.multi_label:
                fits = max(counts, default=0) <= item.num_clips <= sum(counts)
                together = "each at most and together at least"
            expect(
                len(counts) == len(self.classes) and fits,
                f"clips_per_class of fold {fold} for {len(self.classes)} classes, {together} {item.num_clips}",
                clips_per_class=counts,
            )
        num_clips = sum(listed.values())
        expect(
            self.num_clips in (None, num_clips),
            f"{num_clips} clips, the sum over all folds",
            num_clips=self.num_clips,
        )
        most = self.num_videos * self.format.clips_per_video
        expect(
            num_clips <= most, f"at most {most} clips of num_videos={self.num_videos}", num_clips=num_clips
        )


_FILE_FIELDS = {field.name for field in dataclasses.fields(_ManifestFile)} - {"num_clips", "fingerprint"}


def fingerprint(contents: Any) -> str:
    """Returns the hex sha256 of a JSON value, or of specs as JSON, in canonical form."""
    text = json.dumps(to_json(contents), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sidecar_path(data_dir: str, filename: str) -> str:
    return storage.join(data_dir, f"{filename}.json")


def save_report(data_dir: str, report: ShardReport) -> None:
    """Writes a shard's sidecar, which includes a checksum of its own contents."""
    value = to_json(report)
    storage.write_json(sidecar_path(data_dir, report.filename), value | {"checksum": fingerprint(value)})


def load_report(data_dir: str, filename: str) -> ShardReport:
    """Reads a shard's sidecar.

    Args:
      data_dir: the dataset's folder or URL.
      filename: the shard's file name.

    Raises:
      UserError: if the sidecar is missing or damaged, or the file is not a sidecar.
    """
    path = sidecar_path(data_dir, filename)
    value, problem = storage.read_json(path), f"{path} is not a shard's sidecar"
    if not isinstance(value, dict) or "checksum" not in value:
        raise UserError(f"{problem}: Expected a field checksum. Received: none")
    if value.pop("checksum") != fingerprint(value):
        raise UserError(f"{path} is damaged: it has another checksum than it says")
    return parsing.convert(value, ShardReport, problem)


def check_report(manifest: Manifest, shard: ManifestShard, report: ShardReport) -> None:
    """Checks that a shard's sidecar agrees with the manifest's entry for the shard and fits the dataset.

    Args:
      manifest: the dataset's manifest.
      shard: the manifest's entry for the shard.
      report: the contents of the shard's sidecar.

    Raises:
      UserError: if the sidecar is of another shard, or a label or the size of a record is impossible.
    """
    path = sidecar_path(manifest.data_dir, shard.filename)
    for field in dataclasses.fields(ManifestShard):
        listed, found = getattr(shard, field.name), getattr(report, field.name)
        if listed != found:
            raise UserError(
                f"{path} is not the one {MANIFEST_FILENAME} lists: Expected {field.name} {listed!r}. "
                f"Received: {found!r}"
            )
    _check_labels(manifest, report, path)
    least, most = record.size_bounds(manifest.stored)
    for start, end in itertools.pairwise((*report.offsets, report.num_bytes)):
        if not least <= end - start <= most:
            raise UserError(
                f"{path} does not fit {MANIFEST_FILENAME}: Expected records of {least} to {most} bytes. "
                f"Received: {end - start} at offset {start}"
            )


def _check_labels(manifest: Manifest, report: ShardReport, path: str) -> None:
    """Checks that the labels in a sidecar are of the dataset's classes; one label is also in the clip's id."""
    for clip_id, label in zip(report.clip_ids, report.labels):
        if isinstance(label, tuple):
            expected, fits = "labels of the dataset's classes", label[-1] < len(manifest.classes)
        else:
            expected = "the label of the clip's class"
            fits = label < len(manifest.classes) and clip_id.startswith(f"{manifest.classes[label]}/")
        if isinstance(label, tuple) != manifest.multi_label:
            expected = "several labels per clip" if manifest.multi_label else "one label per clip"
            fits = False
        if not fits:
            raise UserError(
                f"{path} does not fit {MANIFEST_FILENAME}: Expected {expected}. Received: {label} for {clip_id!r}"
            )


def exists(data_dir: str) -> bool:
    return storage.file_size(storage.join(data_dir, MANIFEST_FILENAME)) is not None


_ANEW = "To write it again, remove it and repeat the conversion: up-to-date shards are kept"


class NotFinishedError(UserError):
    """Error: a folder holds no manifest, so it is not a finished dataset."""


def load(data_dir: str) -> Manifest:
    """Loads the manifest of a finished dataset.

    Args:
      data_dir: the dataset's folder or URL.

    Raises:
      NotFinishedError: if the folder holds no manifest.
      UserError: if the manifest was written with another schema version, or cannot be read.
    """
    path = storage.join(data_dir, MANIFEST_FILENAME)
    try:
        value = storage.read_json(path)
    except storage.MissingError:
        raise NotFinishedError(
            f"{data_dir} holds no {MANIFEST_FILENAME}, so it is not a finished set of shards",
            Remedy(Action.CONVERT, data_dir=str(data_dir)),
        ) from None
    except storage.NotJsonError as error:
        raise UserError(f"{error}. {_ANEW}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != record.SCHEMA_VERSION:
        raise UserError(
            f"{path} was written with record schema {version}; this version "
            f"reads schema {record.SCHEMA_VERSION}. Convert the videos again into another folder."
        )
    try:
        file = parsing.convert(value, _ManifestFile, f"{path} is not a dataset's manifest")
    except UserError as error:
        raise UserError(f"{error}. {_ANEW}") from error
    return Manifest(
        **{f.name: getattr(file, f.name) for f in dataclasses.fields(Manifest) if f.name in _FILE_FIELDS},
        data_dir=str(data_dir),
        clips_per_class={fold: item.clips_per_class for fold, item in file.folds.items()},
    )


def load_if_finished(data_dir: str) -> Manifest | None:
    """Loads the manifest of a dataset as `load` does, but returns None if the folder holds no manifest."""
    try:
        return load(data_dir)
    except NotFinishedError:
        return None


def is_list(videos: str | os.PathLike) -> bool:
    """Tells whether a path is that of a list of videos, by its suffix, and not of a folder."""
    path = pathlib.Path(videos)
    return path.suffix.lower() in LIST_SUFFIXES and not path.is_dir()


def default_name(videos_dir: str) -> str:
    """Returns the default name of a dataset made from a folder or a list of videos.

    "/data/UCF-50/" gives "ucf_50", and so does "/data/UCF-50.csv".
    """
    path = pathlib.Path(videos_dir).resolve()
    last = path.stem if is_list(path) else path.name
    base = re.sub(r"\W+", "_", last.lower(), flags=re.ASCII).strip("_")
    return base if base[:1].isalpha() else f"videos_{base}".rstrip("_")


def repair_remedy(manifest: Manifest) -> Remedy:
    """Returns the remedy for damaged shards: to make them again, with the dataset's own options."""
    if manifest.features:
        stored = manifest.features
        return Remedy(
            Action.ENCODE,
            frames_dir=manifest.frames_dir,
            data_dir=manifest.data_dir,
            encoder=stored.encoder,
            size=f"{stored.height}x{stored.width}",
            grid=stored.grid,
            precision=str(stored.precision),
            num_views=stored.num_views,
        )
    options = {
        field.name: getattr(spec, field.name)
        for spec in (manifest.format, manifest.fold_rule)
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) != field.default
    }
    if {"height", "width"} & options.keys():
        options |= {"height": manifest.format.height, "width": manifest.format.width}
    videos = manifest.videos_list or manifest.videos_dir
    if manifest.name != default_name(videos):
        options = {"name": manifest.name} | options
    if manifest.shard_bytes != DEFAULT_SHARD_BYTES:
        options["shard_bytes"] = manifest.shard_bytes
    folders = {"videos_dir": videos, "data_dir": manifest.data_dir}
    return Remedy(Action.REPAIR, **folders, **options)


def default_val_folds(manifest: Manifest, without: Iterable[int] = ()) -> tuple[int, ...]:
    """Chooses the validation folds: a fifth of the dataset's folds, none of them in `without`.

    Folds are chosen one by one, so that every class is validated if possible. Each choice is the fold with
    the most classes that no chosen fold has; of several such folds, the one with the lowest number. If only
    one of the remaining folds has some class, that fold stays in training. For UCF50, whose folds hold every
    class, folds 1 to 5 are chosen.

    Args:
      manifest: the dataset's manifest.
      without: folds that must not be chosen, such as the test folds.

    Returns:
      The chosen folds, in ascending order.

    Raises:
      UserError: if no fold can be held out of training.
    """
    held = {
        fold: {label for label, count in enumerate(counts) if count}
        for fold, counts in manifest.clips_per_class.items()
        if fold not in set(without)
    }
    chosen: list[int] = []
    for _ in range(max(1, len(held) // 5)):
        rest = [fold for fold in sorted(held) if fold not in chosen]
        covered = set().union(*(held[fold] for fold in chosen))
        spare = [fold for fold in rest if held[fold] <= set().union(*(held[f] for f in rest if f != fold))]
        if spare:
            chosen.append(min(spare, key=lambda fold: (-len(held[fold] - covered), fold)))
    if not chosen:
        raise UserError(
            f"No fold of {manifest.data_dir} can be held out: each is the only one with some class",
            Remedy(Action.SET, val_folds=..., train_folds=...),
        )
    return tuple(sorted(chosen))


def assemble(data_dir: str, plan: Plan, reports: Iterable[ShardReport]) -> Manifest:
    """Builds the manifest of a dataset whose shards are complete.

    Args:
      data_dir: the dataset's folder.
      plan: the plan that the shards were converted by.
      reports: the sidecars of all shards, in any order.
    """
    reports = sorted(reports, key=lambda report: report.filename)
    num_classes = len(plan.classes)
    labels_of: dict[int, list[labels.Label]] = {}
    for report in reports:
        if report.labels:
            labels_of.setdefault(report.fold, []).extend(report.labels)
    return Manifest(
        data_dir=str(data_dir),
        name=plan.name,
        videos_dir=plan.videos_dir,
        format=plan.format,
        fold_rule=plan.fold_rule,
        decoder=plan.decoder,
        shard_bytes=plan.shard_bytes,
        classes=plan.classes,
        num_videos=sum(len(job.sources) for job in plan.jobs),
        clips_per_class={
            fold: tuple(labels.count_clips(found, num_classes).tolist()) for fold, found in labels_of.items()
        },
        shards=tuple(
            ManifestShard(**{f.name: getattr(report, f.name) for f in dataclasses.fields(ManifestShard)})
            for report in reports
        ),
        quarantined=tuple(item for report in reports for item in report.quarantined),
        multi_label=plan.multi_label,
        features=plan.features,
        frames_dir=plan.frames_dir,
        videos_list=plan.videos_list,
        fold_names=plan.fold_names,
        group_names=plan.group_names,
        about=plan.about,
    )


def size_problem(manifest: Manifest, shard: ManifestShard) -> str | None:
    """Describes a shard that is missing or has another size than its manifest states.

    Returns:
      A sentence that begins with the shard's path, or None if the size is right.

    Raises:
      UserError: if the dataset's folder is a URL that cannot be read.
    """
    path = storage.join(manifest.data_dir, shard.filename)
    num_bytes = storage.file_size(path)
    if num_bytes is None:
        return f"{path} is missing"
    return (
        None if num_bytes == shard.num_bytes else f"{path} has {num_bytes} bytes, expected {shard.num_bytes}"
    )


def verify_shard(manifest: Manifest, shard: ManifestShard) -> list[str]:
    """Reads a shard and its sidecar and compares them with each other and with the manifest.

    Returns:
      A list of problems; it is empty if the shard is undamaged. Each problem is a sentence that names the
      file and, if known, the offset and the clip id of the damaged record.

    Raises:
      UserError: if the dataset's folder is a URL that cannot be read or copied.
    """
    path = storage.join(manifest.data_dir, shard.filename)
    try:
        report = load_report(manifest.data_dir, shard.filename)
    except UserError as error:
        return [str(error)]
    if storage.file_size(path) is None:
        return [f"{path} is missing"]
    problems = []
    try:
        check_report(manifest, shard, report)
    except UserError as error:
        problems.append(str(error))
    try:
        with storage.local_copy(path) as copy:
            problems += [f"{path}{problem}" for problem in _find_damage(copy, report)]
            if not problems and storage.sha256(copy) != shard.sha256:
                problems.append(f"{path} has another sha256 than {MANIFEST_FILENAME} says")
    except OSError as error:  # such as a bad sector
        problems.append(f"{path} cannot be read: {error.strerror or error}")
    return problems


def _find_damage(path: pathlib.Path, report: ShardReport) -> list[str]:
    """Compares a shard's records with the shard's sidecar.

    Returns:
      A list with at most one problem: the end of a sentence that begins with the file's name.
    """
    held = [*zip(report.offsets, zip(report.clip_ids, map(labels.as_tuple, report.labels)))]
    found: list[tuple[int, tuple[str, tuple[int, ...]]]] = []
    try:
        for offset, payload in tfrecord.read_file(path):
            found.append((offset, record.clip_id_and_labels(payload, tfrecord.Place(str(path), offset))))
    except UserError as error:
        offset = found[-1][0] if found else -1
        damaged = next((f" ({clip_id})" for start, (clip_id, _) in held if start > offset), "")
        return [f": {str(error).removeprefix(f'{path}: ')}{damaged}"]
    if [(start, clip_id) for start, (clip_id, _) in found] != [
        (start, clip_id) for start, (clip_id, _) in held
    ]:
        return [" holds other clips than its sidecar says"]
    return [] if found == held else [" holds clips of other labels than its sidecar says"]
