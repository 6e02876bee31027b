"""Converts shards on the nodes of a Ray cluster: the engine run_ray, which building.build_dataset calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence

import ray

from ucf50_tfrecord import manifest, workers
from ucf50_tfrecord.convert.shard import convert_shard
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.jobs import ShardJob
from ucf50_tfrecord.ray_cluster import Resources, first_sentence, slots
from ucf50_tfrecord.shards import ShardReport
from ucf50_tfrecord.specs import DecodeLimits

_MAX_RETRIES = 1


def run_ray(
    jobs: Sequence[ShardJob],
    data_dir: str,
    on_videos: Callable[[int], None],
    *,
    resources: Resources = Resources(),
    limits: DecodeLimits = DecodeLimits(),
) -> Generator[ShardReport]:
    """Converts shards as tasks of the Ray cluster that this process is connected to; see ray_cluster.connected.

    Yields the report of each shard when it is done. If a node or a worker of Ray dies, its shards are tried
    once more elsewhere.

    Args:
      jobs: the jobs of the shards to convert. All nodes must share the videos' folder.
      data_dir: the absolute path of the dataset's folder, which all nodes must share.
      on_videos: called with the number of videos in each shard, once the shard is done.
      resources: the resources of each task.
      limits: limits on decoding each video.

    Raises:
      UserError: if no node has the resources, or a shard cannot be written. Also if a shard's worker died
        twice; this error is raised after all other shards are done.
    """
    slots(resources)  # raises an error where Ray would wait forever
    convert = ray.remote(_convert).options(max_retries=_MAX_RETRIES, **resources.options())
    # Largest shards first, so that no worker still has a large shard at the end.
    ordered = sorted(jobs, key=lambda job: -sum(video.num_bytes for video in job.videos))
    running = {convert.remote(job, data_dir, limits): job for job in ordered}
    failed: dict[str, str] = {}
    try:
        while running:
            (done,), _ = ray.wait(list(running))
            job = running.pop(done)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error
            except ray.exceptions.RayError as error:
                failed[job.filename] = first_sentence(error)
                continue
            on_videos(len(job.videos))
            yield manifest.load_report(data_dir, job.filename)
    finally:
        for task in running:
            ray.cancel(task, force=True)
    if failed:
        reasons = "; ".join(f"{filename}: {reason}" for filename, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {len(jobs)} shards failed twice: {reasons}. The other shards are kept; the same "
            "command tries the failed ones again"
        )


def _convert(job: ShardJob, data_dir: str, limits: DecodeLimits) -> None:
    convert_shard(job, data_dir, _pool(limits), limits)


@functools.cache
def _pool(limits: DecodeLimits) -> workers.IsolatedPool:
    """Returns the pool of this process, a Ray worker; its processes exit when the worker does."""
    return workers.IsolatedPool.within(limits)
