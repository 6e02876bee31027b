"""A dataset's table of contents: what a folder of shards holds, and what each shard holds.

On disk, beside the shards:
  manifest.json             written last: a folder without it is not a finished dataset
  <shard>.json              one sidecar a shard, a ShardReport
  features.json,
  dataset_info.json         for readers that use TensorFlow Datasets
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.specs import DEFAULT_SHARD_BYTES, ClipFormat, FoldRule, Plan, UserError, to_json
from ucf50_tfrecord.texts import make_variable, shell_command

MANIFEST_FILENAME = "manifest.json"
# For readers that use TensorFlow Datasets.
TFDS_FILENAMES = ("features.json", "label.labels.txt", "dataset_info.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A video that gave no clip, and why.

    cause: "contents"; "unreadable" (its file) or "killed" (its process, from outside), which the
    next conversion tries again; "crash", "timeout" or "memory", which `--verify` tries again.
    """

    relative_path: str
    reason: str
    cause: str = "contents"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A video's file as it was when it was converted; sha256 where it was asked for."""

    num_bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What one shard file holds; its sidecar is this as JSON.

    `offsets[i]` (bytes) is where record i starts; clip_ids, labels and groups go with
    it. `sources` are the files of the ShardJob's videos, `fingerprint` is the job's, `sha256`
    that of the shard's bytes.
    """

    filename: str
    fold: int
    num_bytes: int
    sha256: str
    fingerprint: str
    clip_ids: tuple[str, ...]
    labels: tuple[int, ...]
    groups: tuple[int | None, ...]
    offsets: tuple[int, ...]
    sources: tuple[Source, ...]
    quarantined: tuple[Quarantined, ...] = ()

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestShard:
    """A shard's line in the manifest."""

    filename: str
    fold: int
    num_clips: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a dataset.

    `data_dir` is where it was loaded from and is not stored. `videos_dir` is where the
    videos lay. `shard_bytes` is the plan's. `clips_per_class[fold]` counts a fold's clips by label.
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
        """The folds that hold clips, ascending."""
        return tuple(sorted(self.clips_per_class))

    def missing_classes(self, folds: Iterable[int]) -> list[str]:
        """Returns the classes of which these folds hold no clip."""
        counts = [self.clips_per_class[fold] for fold in folds]
        return [name for label, name in enumerate(self.classes) if not any(c[label] for c in counts)]

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of what the shards hold: equal on every machine for equal contents."""
        contents = {
            "schema_version": record.SCHEMA_VERSION,
            "format": to_json(self.format),
            "classes": self.classes,
            "shards": sorted((shard.filename, shard.sha256) for shard in self.shards),
        }
        return fingerprint(contents)

    def save(self) -> None:
        """Writes manifest.json; doing so declares the dataset finished."""
        value = to_json(self)
        del value["data_dir"], value["clips_per_class"]
        value |= {
            "schema_version": record.SCHEMA_VERSION,
            "num_clips": self.num_clips,
            "fingerprint": self.fingerprint,
            "folds": {
                str(fold): {"num_clips": sum(counts), "clips_per_class": list(counts)}
                for fold, counts in self.clips_per_class.items()
            },
        }
        storage.write_json(pathlib.Path(self.data_dir, MANIFEST_FILENAME), value)


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
    value = storage.read_json(path)
    try:
        if value.pop("checksum") != fingerprint(value):
            raise UserError(f"{path} is damaged: its checksum is another than it says")
        value["quarantined"] = tuple(Quarantined(**item) for item in value["quarantined"])
        value["sources"] = tuple(Source(**item) for item in value["sources"])
        for key in ("clip_ids", "labels", "groups", "offsets"):
            value[key] = tuple(value[key])
        return ShardReport(**value)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a shard's sidecar: {error}") from error


def exists(data_dir: str) -> bool:
    return storage.file_size(storage.join(data_dir, MANIFEST_FILENAME)) is not None


_ANEW = (
    "To write it anew remove it and convert again, by the command that made it: shards that stand are kept."
)


class NotFinishedError(UserError):
    """A folder holds no manifest."""


def load(data_dir: str) -> Manifest:
    """Loads the manifest of a finished dataset, whose folder may be a URL.

    Raises:
      NotFinishedError: if the folder holds no manifest.
      UserError: if it holds one of another schema, or cannot be read.
    """
    path = storage.join(data_dir, MANIFEST_FILENAME)
    try:
        value = storage.read_json(path)
    except storage.MissingError:
        raise NotFinishedError(
            f"{data_dir} holds no {MANIFEST_FILENAME}, so it is not a finished set of shards. "
            "Convert videos into it first: python -m pipelines.convert "
            f"--videos=<folder of class folders> --data={data_dir}"
        ) from None
    except storage.NotJsonError as error:
        raise UserError(f"{error}. {_ANEW}") from error
    try:
        if value["schema_version"] != record.SCHEMA_VERSION:
            raise UserError(
                f"{path} was written with record schema {value['schema_version']}; this version "
                f"reads schema {record.SCHEMA_VERSION}. Convert the videos again into another folder."
            )
        return Manifest(
            data_dir=str(data_dir),
            name=value["name"],
            videos_dir=value["videos_dir"],
            format=ClipFormat(**value["format"]),
            fold_rule=FoldRule(**value["fold_rule"]),
            decoder=value["decoder"],
            shard_bytes=value.get("shard_bytes", DEFAULT_SHARD_BYTES),
            classes=tuple(value["classes"]),
            num_videos=value["num_videos"],
            clips_per_class={
                int(fold): tuple(item["clips_per_class"]) for fold, item in value["folds"].items()
            },
            shards=tuple(ManifestShard(**item) for item in value["shards"]),
            quarantined=tuple(Quarantined(**item) for item in value["quarantined"]),
        )
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a dataset's manifest: {error!r}. {_ANEW}") from error


def load_if_finished(data_dir: str) -> Manifest | None:
    """Loads the manifest as load does, or returns None where there is none."""
    try:
        return load(data_dir)
    except NotFinishedError:
        return None


def default_name(videos_dir: str) -> str:
    """Makes a dataset's name out of its videos' folder: "/data/UCF-50/" is "ucf_50"."""
    base = re.sub(r"\W+", "_", pathlib.Path(videos_dir).resolve().name.lower(), flags=re.ASCII).strip("_")
    return base if base[:1].isalpha() else f"videos_{base}".rstrip("_")


def repair_command(manifest: Manifest) -> str:
    """Returns the command that converts a dataset's damaged shards again."""
    differing = {
        f.name: getattr(spec, f.name)
        for spec in (manifest.format, manifest.fold_rule)
        for f in dataclasses.fields(spec)
        if getattr(spec, f.name) != f.default
    }
    variables = {"VIDEOS": manifest.videos_dir, "DATA": manifest.data_dir}
    if {"height", "width"} & differing.keys():
        variables["SIZE"] = f"{manifest.format.height}x{manifest.format.width}"
    if "num_frames" in differing:
        variables["FRAMES"] = str(manifest.format.num_frames)
    if manifest.name != default_name(manifest.videos_dir):
        differing = {"name": manifest.name} | differing
    flags = [
        f"--{name}={value}"
        for name, value in differing.items()
        if name not in ("height", "width", "num_frames")
    ]
    if manifest.shard_bytes != DEFAULT_SHARD_BYTES:
        flags.append(f"--shard_mib={-(-manifest.shard_bytes >> 20)}")
    if flags:
        variables["FLAGS"] = shell_command(flags)  # make gives it to a shell as it is
    return f"make repair {' '.join(make_variable(*item) for item in variables.items())}"


def default_val_folds(manifest: Manifest, without: Iterable[int] = ()) -> tuple[int, ...]:
    """Chooses a fifth of the folds present, those `without` left out, to validate on: the first ones.

    Where those would miss a class, folds that bring missing classes go first (most new
    classes, then the lowest number), so that no class is left unmeasured by chance. A fold
    that is the last to hold some class stays in training. UCF50, where every fold holds
    every class, gets folds 1 to 5.

    Raises:
      UserError: if no fold can be spared.
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
            f"No fold of {manifest.data_dir} can be held out: each is the only one with some class. "
            "Choose --val_folds and --train_folds."
        )
    return tuple(sorted(chosen))


def assemble(data_dir: str, plan: Plan, reports: Iterable[ShardReport]) -> Manifest:
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
    """Returns what is wrong with a shard, as far as its size tells.

    Raises:
      UserError: if the folder is a URL, and cannot be read.
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
      What is wrong, in sentences that name the file and, where it can be told, the record's
      offset and id; empty if the shard is sound.

    Raises:
      UserError: if the folder is a URL, and cannot be read or copied.
    """
    path = storage.join(manifest.data_dir, shard.filename)
    try:
        report = load_report(manifest.data_dir, shard.filename)
    except UserError as error:
        return [str(error)]
    if storage.file_size(path) is None:
        return [f"{path} is missing"]
    problems = []
    if (report.sha256, report.num_bytes, report.num_clips) != (
        shard.sha256,
        shard.num_bytes,
        shard.num_clips,
    ):
        problems.append(
            f"{sidecar_path(manifest.data_dir, shard.filename)} is not the one {MANIFEST_FILENAME} lists"
        )
    try:
        with storage.local_copy(path) as copy:
            problems += [f"{path}{problem}" for problem in _find_damage(copy, report)]
            if not problems and storage.sha256(copy) != shard.sha256:
                problems.append(f"{path} has another sha256 than {MANIFEST_FILENAME} says")
    except OSError as error:  # such as a disk's bad sector
        problems.append(f"{path} cannot be read: {error.strerror or error}")
    return problems


def _find_damage(path: pathlib.Path, report: ShardReport) -> list[str]:
    """Compares a shard's records with its sidecar; returns what is wrong, to go on after the file's name."""
    ids = dict(zip(report.offsets, report.clip_ids))
    found: list[tuple[int, str]] = []
    try:
        for offset, payload in record.read_records(path):
            found.append((offset, record.clip_id(payload)))
    except UserError as error:
        offset = found[-1][0] if found else -1
        damaged = next((f" ({ids[start]})" for start in report.offsets if start > offset), "")
        return [f": {str(error).removeprefix(f'{path}: ')}{damaged}"]
    return [] if found == list(ids.items()) else [" holds other clips than its sidecar says"]


def save_tfds_metadata(manifest: Manifest) -> None:
    """Writes features.json and dataset_info.json: one TFDS split a fold, "fold01", "fold02", …"""
    folder = pathlib.Path(manifest.data_dir)
    storage.write_json(folder / "features.json", record.tfds_features(manifest.format, manifest.classes))
    with storage.atomic_write(folder / "label.labels.txt") as file:
        lines = [name.replace("\n", "\\n") + "\n" for name in manifest.classes]
        file.write("".join(lines).encode("utf-8", "surrogateescape"))
    splits = []
    for fold in manifest.folds:
        shards = [shard for shard in manifest.shards if shard.fold == fold]
        splits.append(
            {
                "name": f"fold{fold:02d}",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(shard.num_clips) for shard in shards],
                "numBytes": str(sum(shard.num_bytes for shard in shards)),
            }
        )
    storage.write_json(
        folder / "dataset_info.json",
        {
            "name": manifest.name,
            "version": "1.0.0",
            "fileFormat": "tfrecord",
            "moduleName": "ucf50_tfrecord.convert",
            "splits": splits,
        },
    )
