"""Runs a plan: which shards are missing, who converts them, and when the set is finished."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool

from ucf50_tfrecord import manifest, storage
from ucf50_tfrecord.convert.shard import convert_shard
from ucf50_tfrecord.manifest import Manifest, ShardReport
from ucf50_tfrecord.specs import Plan, ShardJob, UserError


def build_dataset(
    plan: Plan,
    data_dir: str,
    *,
    num_workers: int,
    verify: bool = False,
    on_start: Callable[[int], None] = lambda num_videos: None,
    on_shard: Callable[[ShardReport], None] = lambda report: None,
) -> Manifest:
    """Converts what is missing of a plan, then declares the dataset finished.

    Shards that stand as the plan wants them are kept, those of earlier plans are removed.
    While anything is missing there is no manifest, so nobody trains on half a dataset.

    Args:
      plan: what to build.
      data_dir: the dataset's folder.
      num_workers: processes.
      verify: whether to read the standing shards and compare their sha256.
      on_start: is told how many videos are to be converted.
      on_shard: is told each shard's report as it is converted.

    Raises:
      UserError: if the folder holds other videos' shards or is being written by another
        process, if a shard cannot be written, a worker dies, or no video gives a clip.
    """
    before = manifest.load(data_dir) if manifest.exists(data_dir) else None
    reports = finished_reports(plan, data_dir, verify=verify)
    if before is not None and before == manifest.assemble(data_dir, plan, reports.values()):
        on_start(0)
        return before  # also where the folder may only be read
    if before is not None and before.videos_dir != plan.videos_dir and not reports:
        raise UserError(
            f"{data_dir} holds shards of the videos in {before.videos_dir}, not of those in "
            f"{plan.videos_dir}. Choose another --data, or remove the folder."
        )
    storage.make_folder(data_dir)
    with storage.exclusive_lock(data_dir):
        missing = [job for job in plan.jobs if job.filename not in reports]
        on_start(sum(len(job.videos) for job in missing))
        pathlib.Path(data_dir, manifest.MANIFEST_FILENAME).unlink(missing_ok=True)
        for report in run_local(missing, data_dir, num_workers=num_workers):
            reports[report.filename] = report
            on_shard(report)
        built = manifest.assemble(data_dir, plan, reports.values())
        _remove_shards(plan, data_dir, keep=set(reports) if built.num_clips else set())
        if not built.num_clips:
            first = built.quarantined[0]
            raise UserError(
                f"None of the {built.num_videos} videos gave a clip; "
                f"the first, {first.relative_path}: {first.reason}"
            )
        manifest.save_tfds_metadata(built)
        built.save()
        return built


def finished_reports(plan: Plan, data_dir: str, *, verify: bool = False) -> dict[str, ShardReport]:
    """Returns, by file name, the reports of shards that already stand as their jobs want them.

    A shard stands when its sidecar carries the job's fingerprint, the file has the size
    (and with `verify` the sha256) that the sidecar states, and no video of it was unreadable.
    """
    reports = {}
    for job in plan.jobs:
        path = pathlib.Path(data_dir, job.filename)
        if not path.is_file() or not manifest.sidecar_path(data_dir, job.filename).is_file():
            continue
        try:
            report = manifest.load_report(data_dir, job.filename)
        except UserError:
            continue  # a damaged sidecar: the shard is converted again
        stands = (
            report.fingerprint == job.fingerprint
            and report.num_bytes == path.stat().st_size
            and not any(item.unreadable for item in report.quarantined)
            and (not verify or report.sha256 == storage.sha256(path))
        )
        if stands:
            reports[job.filename] = report
    return reports


def run_local(jobs: list[ShardJob], data_dir: str, *, num_workers: int) -> Iterator[ShardReport]:
    """Converts shards in a pool of processes, yielding each report as it is done.

    Raises:
      UserError: if a shard cannot be written or a worker dies.
    """
    # spawn: the caller's threads and signal handlers do not leak into the workers.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        max_workers=max(1, min(num_workers, len(jobs))), mp_context=context, initializer=_init_worker
    )
    # Largest first, so that no worker is left with a big shard at the end.
    ordered = sorted(jobs, key=lambda job: -sum(video.num_bytes for video in job.videos))
    try:
        futures = [pool.submit(convert_shard, job, data_dir) for job in ordered]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker process died while decoding (out of memory, or a video that crashes the "
            "decoder). Finished shards are kept; the same command goes on from there."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_shards(plan: Plan, data_dir: str, *, keep: set[str]) -> None:
    """Deletes this dataset's shards, but for those to keep, and what dead runs left of them."""
    shard = re.compile(rf"(\.tmp-\d+-)?({re.escape(plan.name)}-fold\d+\.tfrecord-\d+-of-\d+)(\.json)?")
    for path in pathlib.Path(data_dir).iterdir():
        match = shard.fullmatch(path.name)
        if match and (match[1] or match[2] not in keep):
            path.unlink()


def _init_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed cannot end its workers.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
