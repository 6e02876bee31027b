"""Runs a plan: which shards are missing, who converts them, and when the set is finished."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Callable, Iterator

from ucf50_tfrecord import manifest, storage, workers
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
    finished, _ = _look_up(plan, data_dir, verify=verify)
    if finished is not None:
        on_start(0)
        return finished  # also where the folder may only be read
    storage.make_folder(data_dir)
    with storage.exclusive_lock(data_dir):
        # Looked up again: another process may have had the lock since.
        finished, reports = _look_up(plan, data_dir, verify=verify)
        missing = [job for job in plan.jobs if job.filename not in reports]
        on_start(sum(len(job.videos) for job in missing))
        if finished is not None:
            return finished
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


def _look_up(plan: Plan, data_dir: str, *, verify: bool) -> tuple[Manifest | None, dict[str, ShardReport]]:
    """Returns the manifest if the plan is done, and the reports of the shards that stand.

    Raises:
      UserError: if the folder holds other videos' shards.
    """
    before = manifest.load(data_dir) if manifest.exists(data_dir) else None
    reports = finished_reports(plan, data_dir, verify=verify)
    if before is None:
        return None, reports
    if before == manifest.assemble(data_dir, plan, reports.values()):
        return before, reports
    if before.videos_dir != plan.videos_dir and not reports:
        raise UserError(
            f"{data_dir} holds shards of the videos in {before.videos_dir}, not of those in "
            f"{plan.videos_dir}. Choose another --data, or remove the folder."
        )
    return None, reports


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
    # Largest first, so that no worker is left with a big shard at the end.
    ordered = sorted(jobs, key=lambda job: -sum(video.num_bytes for video in job.videos))
    yield from workers.map_unordered(
        functools.partial(convert_shard, data_dir=data_dir), ordered, num_workers
    )


def _remove_shards(plan: Plan, data_dir: str, *, keep: set[str]) -> None:
    """Deletes this dataset's shards, but for those to keep, and what dead runs left of them."""
    shard = re.compile(rf"(\.tmp-\d+-)?({re.escape(plan.name)}-fold\d+\.tfrecord-\d+-of-\d+)(\.json)?")
    for path in pathlib.Path(data_dir).iterdir():
        match = shard.fullmatch(path.name)
        if match and (match[1] or match[2] not in keep):
            path.unlink()
