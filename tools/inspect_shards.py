"""Shows what is in a folder of shards: counts by class and fold, and one record's keys.

python -m tools.inspect_shards --data=data/demo_videos-15x64x64
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from pipelines import console
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record
from ucf50_tfrecord.specs import UserError, format_folds

_DATA = flags.DEFINE_string("data", None, "The folder of shards. Default: each one under data/.")


def main() -> None:
    folders = (
        [_DATA.value]
        if _DATA.value
        else sorted(str(path.parent) for path in pathlib.Path("data").glob("*/manifest.json"))
    )
    if not folders:
        raise UserError("Pass --data=<folder of shards>; there is none under data/.")
    for folder in folders:
        manifest = manifest_lib.load(folder)
        print_counts(manifest)
        print_first_record(manifest)


def print_counts(manifest: manifest_lib.Manifest) -> None:
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    print(
        f"{manifest.data_dir}: {manifest.num_clips} clips of {manifest.format} (frames x height x width) from "
        f"{manifest.num_videos} videos, {len(manifest.shards)} shards, {num_bytes / 1e6:.1f} MB\n"
        f"decoded with {manifest.decoder}; fingerprint {manifest.fingerprint[:16]}\n"
    )
    for item in manifest.quarantined:
        print(f"quarantined: {item.relative_path}: {item.reason}")
    counts = np.array([manifest.clips_per_class[fold] for fold in manifest.folds])  # [folds, classes]
    width = max(len(name) for name in manifest.classes)
    print(f"{'class':<{width}}  clips  in folds")
    for name, column in zip(manifest.classes, counts.T):
        held = format_folds(fold for fold, count in zip(manifest.folds, column) if count)
        print(f"{name:<{width}} {column.sum():>6}  {held}")


def print_first_record(manifest: manifest_lib.Manifest) -> None:
    shard = next(shard for shard in manifest.shards if shard.num_clips)
    _, serialized = next(record.read_records(pathlib.Path(manifest.data_dir, shard.filename)))
    print(f"\nFirst record of {shard.filename}, {len(serialized)} bytes:")
    for key, value in sorted(record.decode(serialized).items()):
        print(f"  {key:<22} {_describe(value)}")
    print()


def _describe(value) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}, mean {value.mean():.1f}"
    items = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in value]
    return " ".join(items)


if __name__ == "__main__":
    console.run(main)
