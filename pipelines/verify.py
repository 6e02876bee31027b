"""Checks every shard of a dataset against its sidecar and the manifest.

  python -m pipelines.verify --data=data/ucf50-15x64x64

Checks sizes, sha256, the checksums of every record, counts and ids. Exits with
status 1 if anything is wrong, and prints the command that repairs it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os

from absl import flags

from pipelines import console, remedies, terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import UserError, expect

_DATA = flags.DEFINE_string("data", None, "The dataset's folder.")
_WORKERS = flags.DEFINE_integer("workers", None, "Threads that read. Default: one per core.")


def main() -> int:
    if not _DATA.value:
        raise UserError("Pass --data=<folder of shards>.")
    num_workers = len(os.sched_getaffinity(0)) if _WORKERS.value is None else _WORKERS.value
    expect(num_workers >= 1, "at least 1 worker", workers=num_workers)
    console.load_file_systems(_DATA.value)
    manifest = manifest_lib.load(_DATA.value)
    check = functools.partial(manifest_lib.verify_shard, manifest)
    num_damaged = 0
    with (
        concurrent.futures.ThreadPoolExecutor(num_workers) as threads,
        console.progress_bar(len(manifest.shards), "shard", "verifying") as bar,
    ):
        for problems in threads.map(check, manifest.shards):
            bar.update()
            num_damaged += bool(problems)
            for problem in problems:
                terminal.note(f"damaged: {problem}")
    if num_damaged:
        terminal.say(
            f"{num_damaged} of {len(manifest.shards)} shards of {manifest.data_dir} are damaged. To repair "
            f"them: {remedies.command(manifest_lib.repair_remedy(manifest))}"
        )
        return 1
    terminal.say(f"{manifest.data_dir} is sound: {len(manifest.shards)} shards, {manifest.num_clips} clips")
    return 0


if __name__ == "__main__":
    console.run(main)
