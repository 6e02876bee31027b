"""A dataset's table of contents: the manifest of a folder of shards, and each shard's sidecar.

On disk, beside the shards:
  manifest.json             written last: a folder without it is not a finished dataset
  <shard>.json              one sidecar per shard, a ShardReport
  features.json,
  dataset_info.json         for readers that use TensorFlow Datasets
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from ucf50_tfrecord import parsing, record, storage, tfrecord
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.jobs import ConversionPlan
from ucf50_tfrecord.parsing import Count, Name, Sha256
from ucf50_tfrecord.shards import (
    DATASET_NAME,
    ManifestShard,
    Quarantined,
    ShardReport,
    repeated,
    shard_pattern,
)
from ucf50_tfrecord.specs import DEFAULT_SHARD_BYTES, MAX_CLASSES, ClipFormat, FoldRule, to_json

MANIFEST_FILENAME = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a dataset.

    data_dir: the folder it was loaded from; not stored.
    videos_dir: the folder of the videos when they were converted.
    shard_bytes: see ConversionPlan.
    clips_per_class: numbers of clips by fold, then by label.
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

    @property
    def num_clips(self) -> int:
        return sum(shard.num_clips for shard in self.shards)

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that hold clips, ascending."""
        return tuple(sorted(self.clips_per_class))

    def missing_classes(self, folds: Iterable[int]) -> list[str]:
        """Returns the classes without a clip in these folds."""
        counts = [self.clips_per_class[fold] for fold in folds]
        return [name for label, name in enumerate(self.classes) if not any(c[label] for c in counts)]

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the shards' contents: equal on every machine for equal contents."""
        contents = {
            "schema_version": record.SCHEMA_VERSION,
            "format": to_json(self.format),
            "classes": self.classes,
            "shards": sorted((shard.filename, shard.sha256) for shard in self.shards),
        }
        return fingerprint(contents)

    def save(self) -> None:
        """Writes manifest.json, which declares the dataset finished."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in _FILE_FIELDS}
        folds = {
            fold: _Fold(num_clips=sum(counts), clips_per_class=counts)
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
    """Contents of manifest.json, checked for consistency."""

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

    def __post_init__(self):
        expect(
            len(set(self.classes)) == len(self.classes), "distinct classes", repeated=repeated(self.classes)
        )
        names = [shard.filename for shard in self.shards]
        expect(len(set(names)) == len(names), "each shard once", repeated=repeated(names))
        own = shard_pattern(self.name)
        foreign = next((name for name in names if not own.fullmatch(name)), None)
        expect(foreign is None, f"shards of the dataset {self.name!r}", filename=foreign)
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
            expect(
                len(counts) == len(self.classes) and sum(counts) == item.num_clips,
                f"clips_per_class of fold {fold} for {len(self.classes)} classes, together {item.num_clips}",
                clips_per_class=counts,
            )
        num_clips = sum(listed.values())
        expect(self.num_clips in (None, num_clips), f"num_clips of {num_clips}", num_clips=self.num_clips)
        most = self.num_videos * self.format.clips_per_video
        expect(
            num_clips <= most, f"at most {most} clips of num_videos={self.num_videos}", num_clips=num_clips
        )


_FILE_FIELDS = {field.name for field in dataclasses.fields(_ManifestFile)} - {"num_clips", "fingerprint"}


def fingerprint(contents: Any) -> str:
    """Hex sha256 of a JSON value in canonical form."""
    text = json.dumps(to_json(contents), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sidecar_path(data_dir: str, filename: str) -> str:
    return storage.join(data_dir, f"{filename}.json")


def save_report(data_dir: str, report: ShardReport) -> None:
    """Writes a shard's sidecar, with a checksum of itself."""
    value = to_json(report)
    storage.write_json(sidecar_path(data_dir, report.filename), value | {"checksum": fingerprint(value)})


def load_report(data_dir: str, filename: str) -> ShardReport:
    """Reads a shard's sidecar.

    Raises:
      UserError: if it is missing, damaged, or not a sidecar.
    """
    path = sidecar_path(data_dir, filename)
    value, problem = storage.read_json(path), f"{path} is not a shard's sidecar"
    if not isinstance(value, dict) or "checksum" not in value:
        raise UserError(f"{problem}: Expected a field checksum. Received: none")
    if value.pop("checksum") != fingerprint(value):
        raise UserError(f"{path} is damaged: it has another checksum than it says")
    return parsing.convert(value, ShardReport, problem)


def check_report(manifest: Manifest, shard: ManifestShard, report: ShardReport) -> None:
    """Checks that a sidecar belongs to a shard that a manifest lists, and fits the dataset.

    Raises:
      UserError: if it does not.
    """
    path = sidecar_path(manifest.data_dir, shard.filename)
    for field in dataclasses.fields(ManifestShard):
        listed, found = getattr(shard, field.name), getattr(report, field.name)
        if listed != found:
            raise UserError(
                f"{path} is not the one {MANIFEST_FILENAME} lists: Expected {field.name} {listed!r}. "
                f"Received: {found!r}"
            )
    for clip_id, label in zip(report.clip_ids, report.labels):
        if label >= len(manifest.classes) or not clip_id.startswith(f"{manifest.classes[label]}/"):
            raise UserError(
                f"{path} does not fit {MANIFEST_FILENAME}: Expected the label of the clip's class. "
                f"Received: {label} for {clip_id!r}"
            )
    least, most = record.size_bounds(manifest.format)
    for start, end in itertools.pairwise((*report.offsets, report.num_bytes)):
        if not least <= end - start <= most:
            raise UserError(
                f"{path} does not fit {MANIFEST_FILENAME}: Expected records of {least} to {most} bytes. "
                f"Received: {end - start} at offset {start}"
            )


def exists(data_dir: str) -> bool:
    return storage.file_size(storage.join(data_dir, MANIFEST_FILENAME)) is not None


_ANEW = "To write it again, remove it and repeat the conversion: up-to-date shards are kept"


class NotFinishedError(UserError):
    """A folder holds no manifest."""


def load(data_dir: str) -> Manifest:
    """Loads the manifest of a finished dataset, whose folder may be a URL.

    Raises:
      NotFinishedError: if the folder holds no manifest.
      UserError: if the manifest has another schema or cannot be read.
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
    """Loads the manifest as `load` does; returns None if there is none."""
    try:
        return load(data_dir)
    except NotFinishedError:
        return None


def default_name(videos_dir: str) -> str:
    """Returns a dataset's default name, from its videos' folder: "/data/UCF-50/" gives "ucf_50"."""
    base = re.sub(r"\W+", "_", pathlib.Path(videos_dir).resolve().name.lower(), flags=re.ASCII).strip("_")
    return base if base[:1].isalpha() else f"videos_{base}".rstrip("_")


def repair_remedy(manifest: Manifest) -> Remedy:
    """Returns the remedy that converts a dataset's damaged shards again, as they were made."""
    options = {
        field.name: getattr(spec, field.name)
        for spec in (manifest.format, manifest.fold_rule)
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) != field.default
    }
    if {"height", "width"} & options.keys():
        options |= {"height": manifest.format.height, "width": manifest.format.width}
    if manifest.name != default_name(manifest.videos_dir):
        options = {"name": manifest.name} | options
    if manifest.shard_bytes != DEFAULT_SHARD_BYTES:
        options["shard_bytes"] = manifest.shard_bytes
    folders = {"videos_dir": manifest.videos_dir, "data_dir": manifest.data_dir}
    return Remedy(Action.REPAIR, **folders, **options)


def default_val_folds(manifest: Manifest, without: Iterable[int] = ()) -> tuple[int, ...]:
    """Chooses the validation folds: a fifth of the folds present, except those in `without`.

    The first folds are chosen. Folds with classes that are not covered yet go first (most new classes, then the
    lowest number), so that every class is validated if possible. The last fold that holds a class stays in
    training. UCF50, whose folds hold every class, gets folds 1 to 5.

    Raises:
      UserError: if no fold can be held out.
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


def assemble(data_dir: str, plan: ConversionPlan, reports: Iterable[ShardReport]) -> Manifest:
    """Builds the manifest of a complete set of shards, in the order of their names."""
    reports = sorted(reports, key=lambda report: report.filename)
    clips_per_class: dict[int, list[int]] = {}
    for report in reports:
        for label in report.labels:
            clips_per_class.setdefault(report.fold, [0] * len(plan.classes))[label] += 1
    return Manifest(
        data_dir=str(data_dir),
        name=plan.name,
        videos_dir=plan.videos_dir,
        format=plan.format,
        fold_rule=plan.fold_rule,
        decoder=plan.decoder,
        shard_bytes=plan.shard_bytes,
        classes=plan.classes,
        num_videos=sum(len(job.videos) for job in plan.jobs),
        clips_per_class={fold: tuple(counts) for fold, counts in clips_per_class.items()},
        shards=tuple(
            ManifestShard(**{f.name: getattr(report, f.name) for f in dataclasses.fields(ManifestShard)})
            for report in reports
        ),
        quarantined=tuple(item for report in reports for item in report.quarantined),
    )


def size_problem(manifest: Manifest, shard: ManifestShard) -> str | None:
    """Returns a sentence if a shard is missing or has another size than the manifest says, else None.

    Raises:
      UserError: if the folder is a URL that cannot be read.
    """
    path = storage.join(manifest.data_dir, shard.filename)
    num_bytes = storage.file_size(path)
    if num_bytes is None:
        return f"{path} is missing"
    return (
        None if num_bytes == shard.num_bytes else f"{path} has {num_bytes} bytes, expected {shard.num_bytes}"
    )


def verify_shard(manifest: Manifest, shard: ManifestShard) -> list[str]:
    """Reads a shard and its sidecar and compares them with each other and the manifest.

    Returns:
      Problems: sentences that name the file and, if known, the record's offset and id. Empty if the shard is sound.

    Raises:
      UserError: if the folder is a URL that cannot be read or copied.
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
    """Compares a shard's records with its sidecar; returns problems that continue the file's name."""
    held = [*zip(report.offsets, zip(report.clip_ids, report.labels))]
    found: list[tuple[int, tuple[str, int]]] = []
    try:
        for offset, payload in tfrecord.read_file(path):
            found.append((offset, record.clip_id_and_label(payload, tfrecord.Place(str(path), offset))))
    except UserError as error:
        offset = found[-1][0] if found else -1
        damaged = next((f" ({clip_id})" for start, (clip_id, _) in held if start > offset), "")
        return [f": {str(error).removeprefix(f'{path}: ')}{damaged}"]
    if [(start, clip_id) for start, (clip_id, _) in found] != [
        (start, clip_id) for start, (clip_id, _) in held
    ]:
        return [" holds other clips than its sidecar says"]
    return [] if found == held else [" holds clips of other labels than its sidecar says"]
