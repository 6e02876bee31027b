"""Builds a dataset from a plan: makes the missing shards with an engine, then writes the manifest.

An engine is a function (jobs, data_dir, on_items) that makes the jobs' shards and yields their reports. The
items of a job are the videos that it converts, or the clips that it encodes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ucf50_tfrecord import croissant, dataset_card, manifest, storage, tfds
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.jobs import Job, Plan
from ucf50_tfrecord.manifest import Manifest, ShardReport
from ucf50_tfrecord.shards import SourceFile, shard_pattern

# The engine calls its third argument, from any thread, with the number of items done since the last call.
Engine = Callable[[Sequence[Any], str, Callable[[int], None]], Generator[ShardReport]]

# Causes of failure for which a video is tried again. Every conversion retries failures that may be the
# machine's fault. Crashes and exceeded limits may cost minutes each, so only a conversion with `verify`
# retries them.
_RETRIED = frozenset({"unreadable", "killed"})
RETRIED_ONLY_BY_VERIFY = frozenset({"crash", "timeout", "memory"})
_RETRIED_BY_VERIFY = _RETRIED | RETRIED_ONLY_BY_VERIFY

_LAST_TASK_SECS = 60.0
_TASK_LOCK = re.compile(r"\.lock-task-[0-9]+-of-[0-9]+")
# Names of files that a conversion may leave in the folder before its first shard.
_EARLY = re.compile(rf"\.lock|{_TASK_LOCK.pattern}|{storage.TEMPORARY}.*", re.DOTALL)


class BuildListener:
    """Receives the progress of a build; this base class ignores it. Subclasses may show it."""

    def start(self, num_items: int) -> None:
        """Receives the number of items to make. Called once, before the first item."""

    def update(self, num_items: int) -> None:
        """Receives the number of items done since the previous call. Called from any thread."""


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """How a build handles shards that exist already.

    verify: whether to compare existing shards with the sha256 in their sidecars, and to retry videos that
      crashed the decoder or exceeded their limits.
    overwrite: whether existing shards of other videos, or an unreadable manifest, may be replaced.
    """

    verify: bool = False
    overwrite: bool = False


def build_dataset(
    plan: Plan,
    data_dir: str,
    *,
    run: Engine,
    options: BuildOptions = BuildOptions(),
    listener: BuildListener = BuildListener(),
) -> Manifest:
    """Makes a dataset: makes the missing shards of a plan, then writes the manifest.

    Up-to-date shards are kept; shards of earlier builds with other settings are removed. While a shard
    is missing there is no manifest, so that nobody trains on half a dataset.

    Args:
      plan: the plan of the dataset.
      data_dir: the dataset's folder.
      run: the engine that makes the shards.
      options: how existing shards are handled.
      listener: receives the progress.

    Returns:
      The dataset's manifest.

    Raises:
      UserError: if the folder holds shards of other videos, another process writes into it, a shard cannot be
        written, or no video gives a clip.
    """
    if manifest.exists(data_dir):
        before, reports = _look_up(plan, data_dir, options)
        if before == manifest.assemble(data_dir, plan, reports.values()):
            listener.start(0)
            return before  # nothing is written, so this works in a read-only folder, too
    _make_folder(data_dir)
    with storage.folder_lock(data_dir):
        # Again under the lock: another process may have held it since.
        before, reports = _look_up(plan, data_dir, options)
        _discard(before, plan, data_dir, reports)
        _run_missing(plan.jobs, data_dir, reports, run, listener)
        return _finish(plan, data_dir, reports)


def build_part(
    plan: Plan,
    data_dir: str,
    *,
    task: tuple[int, int],
    run: Engine,
    options: BuildOptions = BuildOptions(),
    listener: BuildListener = BuildListener(),
) -> Manifest | None:
    """Makes one task's part of a plan; other tasks (processes, also on other hosts) make the rest.

    Task i of n makes every n-th shard, starting with shard i. The task that finishes last writes the
    manifest; `finalize` can write it, too.

    Args:
      plan: the plan of the whole dataset, the same in every task.
      data_dir: the dataset's folder, on a file system that all tasks share.
      task: tuple (index, count) of the task's index and the number of tasks, with 0 <= index < count.
      run, options, listener: as in build_dataset.

    Returns:
      The dataset's manifest if the dataset is finished, otherwise None.

    Raises:
      UserError: as build_dataset does, or if `task` is invalid.
    """
    index, count = task
    check_task(task)
    _make_folder(data_dir)
    with (
        # Waits for the lock, because another task may hold it to check whether it was the last one.
        storage.folder_lock(data_dir, shared=True, wait_secs=_LAST_TASK_SECS),
        storage.folder_lock(data_dir, f".lock-task-{index}-of-{count}"),
    ):
        part = dataclasses.replace(plan, jobs=plan.jobs[index::count])
        before, reports = _look_up(part, data_dir, options)
        _discard(before, part, data_dir, reports)
        _run_missing(part.jobs, data_dir, reports, run, listener)
    with contextlib.suppress(storage.LockedError):  # then the task that holds the lock writes the manifest
        with storage.folder_lock(data_dir):
            reports = finished_reports(plan, data_dir, retried=frozenset())
            if len(reports) == len(plan.jobs):
                return _finish(plan, data_dir, reports)
    return None


def check_task(task: tuple[int, int]) -> None:
    """Raises UserError unless a task's index is from 0 to the number of tasks minus 1; see build_part."""
    index, count = task
    expect(0 <= index < count, "a task_index from 0 to task_count - 1", task_index=index, task_count=count)


def finalize(plan: Plan, data_dir: str) -> Manifest:
    """Writes the manifest of a dataset whose shards were made by build_part.

    Args:
      plan: the plan of the whole dataset.
      data_dir: the dataset's folder.

    Returns:
      The dataset's manifest.

    Raises:
      UserError: if shards are missing, a task is still running, or no video gave a clip.
    """
    _make_folder(data_dir)
    with storage.folder_lock(data_dir):
        reports = finished_reports(plan, data_dir, retried=frozenset())
        missing = [(i, job.filename) for i, job in enumerate(plan.jobs) if job.filename not in reports]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(plan.jobs)} shards are missing in {data_dir}: shard {missing[0][0]} "
                f"is {missing[0][1]}. Shard i belongs to task i mod task_count; run its task again."
            )
        return _finish(plan, data_dir, reports)


def finished_reports(
    plan: Plan, data_dir: str, *, retried: frozenset[str], verify: bool = False
) -> dict[str, ShardReport]:
    """Finds the shards of a plan that are up to date.

    A shard is up to date if all of these hold:
      - its sidecar has the fingerprint of the shard's job;
      - the files of its videos are unchanged, by sha256 if the plan has it, else by size and time of change;
      - its file has the size that the sidecar states, and with `verify` also the sha256;
      - none of its videos was quarantined (gave no clip) for one of the causes in `retried`.

    Returns:
      A dictionary from the file name of each up-to-date shard to its report, the contents of its sidecar.
    """

    def report_of(job: Job) -> ShardReport | None:
        return _current_report(job, data_dir, verify, retried)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        reports = threads.map(report_of, plan.jobs)
        return {report.filename: report for report in reports if report}


def _make_folder(data_dir: str) -> None:
    """Makes a dataset's folder unless it exists. Shards identify such a folder, so it needs no marker file.

    Raises:
      UserError: if the folder holds files but no shards: they are not a dataset's, and might be replaced.
    """
    names = storage.list_folder(data_dir)
    shard = shard_pattern()
    foreign = sorted(name for name in names if not _EARLY.fullmatch(name))
    if foreign and not any(shard.fullmatch(name.removesuffix(".json")) for name in names):
        raise UserError(
            f"Expected a folder for shards: new, empty or with shards. Received: {data_dir}, which holds other "
            f"files, such as {foreign[0]!r}"
        )
    storage.make_folder(data_dir)


def _look_up(
    plan: Plan, data_dir: str, options: BuildOptions
) -> tuple[Manifest | None, dict[str, ShardReport]]:
    """Examines an existing dataset's folder.

    Returns:
      A tuple of the folder's manifest (None if there is none, or if it is damaged and may be overwritten) and
      a dictionary from the file name of each up-to-date shard to its report.

    Raises:
      UserError: if the folder holds shards of other videos, or a damaged manifest, that must not be
        overwritten.
    """
    retried = _RETRIED_BY_VERIFY if options.verify else _RETRIED
    reports = finished_reports(plan, data_dir, verify=options.verify, retried=retried)
    try:
        before = manifest.load_if_finished(data_dir)
    except UserError:
        if not options.overwrite:
            raise
        before = None
    if before and before.origin != plan.origin and not reports and not options.overwrite:
        raise UserError(
            f"{data_dir} holds shards made from {before.origin}, not from {plan.origin}",
            Remedy(Action.SET, data_dir=Change.OTHER),
            Remedy(Action.SET, "to replace them", overwrite=True),
        )
    return before, reports


def _discard(before: Manifest | None, plan: Plan, data_dir: str, reports: dict[str, ShardReport]) -> None:
    """Deletes the manifest of an earlier dataset if shards of the plan are missing.

    If the earlier dataset has another name, its shards are deleted before its manifest, because only the
    manifest states that name.
    """
    if all(job.filename in reports for job in plan.jobs):
        return
    if before is not None and before.name != plan.name:
        _remove_shards(data_dir, before.name, keep=set())
    pathlib.Path(data_dir, manifest.MANIFEST_FILENAME).unlink(missing_ok=True)


def _run_missing(
    jobs: Sequence[Job],
    data_dir: str,
    reports: dict[str, ShardReport],
    run: Engine,
    listener: BuildListener,
) -> None:
    """Makes the shards of the jobs that have no report in `reports`, and adds their reports to it."""
    missing = [job for job in jobs if job.filename not in reports]
    listener.start(sum(job.num_items for job in missing))
    if missing:
        with contextlib.closing(run(missing, data_dir, listener.update)) as done:
            reports.update((report.filename, report) for report in done)


def _finish(plan: Plan, data_dir: str, reports: dict[str, ShardReport]) -> Manifest:
    """Finishes a dataset whose shards are complete: removes those of other settings, writes the manifest.

    Raises:
      UserError: if no video gave a clip.
    """
    built = manifest.assemble(data_dir, plan, reports.values())
    _remove_shards(data_dir, plan.name, keep=set(reports) if built.num_clips else set())
    storage.remove_unfinished(data_dir)  # temporary files of shards, the manifest and the descriptions
    storage.remove_files(data_dir, lambda name: _TASK_LOCK.fullmatch(name) is not None)
    if not built.num_clips:
        first = built.quarantined[0]
        raise UserError(
            f"None of the {built.num_videos} videos gave a clip; "
            f"the first, {first.relative_path}: {first.reason}"
        )
    for describe in (tfds.save, croissant.save, dataset_card.save):
        describe(built)
    built.save()
    return built


def _current_report(job: Job, data_dir: str, verify: bool, retried: frozenset[str]) -> ShardReport | None:
    """Returns the report of a job's shard, or None if the shard is not up to date; see finished_reports."""
    path = pathlib.Path(data_dir, job.filename)
    if not path.is_file() or not os.path.isfile(manifest.sidecar_path(data_dir, job.filename)):
        return None
    try:
        report = manifest.load_report(data_dir, job.filename)
    except UserError:
        return None  # a damaged sidecar: the shard is converted again
    is_current = (
        report.fingerprint == job.fingerprint
        and report.num_bytes == path.stat().st_size
        and _are_unchanged(job, report)
        and not any(item.cause in retried for item in report.quarantined)
        and (not verify or report.sha256 == storage.sha256(path))
    )
    return report if is_current else None


def _are_unchanged(job: Job, report: ShardReport) -> bool:
    """Tells whether the files of a job's videos are unchanged since the job's shard was made."""

    def is_unchanged(now: SourceFile, then: SourceFile) -> bool:
        if now.sha256 is not None:
            return now.sha256 == then.sha256
        return (now.num_bytes, now.mtime_ns) == (then.num_bytes, then.mtime_ns)

    return len(job.sources) == len(report.sources) and all(
        is_unchanged(now, then) for now, then in zip(job.sources, report.sources)
    )


def _remove_shards(data_dir: str, name: str, *, keep: set[str]) -> None:
    """Deletes the shards and sidecars of a dataset and their temporary files.

    Args:
      data_dir: the dataset's folder.
      name: the dataset's name.
      keep: file names of the shards that are kept, with their sidecars.
    """
    shard = shard_pattern(name)

    def is_left(file: str) -> bool:
        finished = re.sub(f"^{storage.TEMPORARY}", "", file)
        is_shard = shard.fullmatch(finished.removesuffix(".json")) is not None
        return is_shard and (finished != file or file.removesuffix(".json") not in keep)

    storage.remove_files(data_dir, is_left)
