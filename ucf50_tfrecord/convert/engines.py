"""Runs a plan: which shards are missing, who converts them, and when the set is finished."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pathlib
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool

from ucf50_tfrecord import manifest
from ucf50_tfrecord.convert.shard import convert_shard
from ucf50_tfrecord.manifest import Manifest, ShardReport
from ucf50_tfrecord.specs import Plan, ShardJob, UserError


def build_dataset(
    plan: Plan,
    data_dir: str,
    *,
    num_workers: int,
    on_shard: Callable[[ShardReport], None] = lambda report: None,
) -> Manifest:
    """Converts what is missing of a plan, then declares the dataset finished.

    Shards that stand as the plan wants them are kept, those of earlier plans are removed.
    While anything is missing there is no manifest, so nobody trains on half a dataset.

    Args:
      plan: what to build.
      data_dir: the dataset's folder.
      num_workers: processes.
      on_shard: is told each shard's report as it is converted.

    Raises:
      UserError: if a shard cannot be written, a worker dies, or no video gives a clip.
    """
    reports = finished_reports(plan, data_dir)
    missing = [job for job in plan.jobs if job.filename not in reports]
    if missing:
        pathlib.Path(data_dir, manifest.MANIFEST_FILENAME).unlink(missing_ok=True)
        for report in run_local(missing, data_dir, num_workers=num_workers):
            reports[report.filename] = report
            on_shard(report)
    built = manifest.assemble(data_dir, plan, reports.values())
    if not built.num_clips:
        first = built.quarantined[0]
        raise UserError(
            f"None of the {built.num_videos} videos gave a clip; the first, {first.relative_path}: {first.reason}"
        )
    _remove_leftovers(plan, data_dir)
    manifest.save_tfds_metadata(built)
    built.save()
    return built


def finished_reports(plan: Plan, data_dir: str) -> dict[str, ShardReport]:
    """Returns, by file name, the reports of shards that already stand as their jobs want them.

    A shard counts as standing when its sidecar carries the job's fingerprint and the
    file has the size that the sidecar states.
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
        if report.fingerprint == job.fingerprint and report.num_bytes == path.stat().st_size:
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


def _remove_leftovers(plan: Plan, data_dir: str) -> None:
    """Deletes what earlier plans and dead runs of this dataset left in its folder."""
    wanted = {job.filename for job in plan.jobs}
    shard = re.compile(rf"(\.tmp-\d+-)?({re.escape(plan.name)}-fold\d+\.tfrecord-\d+-of-\d+)(\.json)?")
    for path in pathlib.Path(data_dir).iterdir():
        match = shard.fullmatch(path.name)
        if match and (match[1] or match[2] not in wanted):
            path.unlink()


def _init_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
