"""Converts the shards of a plan on this host: the engine run_local, which building.build_dataset calls.

Another engine is run_beam in beam.py; both call shard.convert_shard for each job.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Generator, Sequence

from ucf50_tfrecord import workers
from ucf50_tfrecord.convert.shard import convert_shard
from ucf50_tfrecord.jobs import ShardJob
from ucf50_tfrecord.shards import ShardReport
from ucf50_tfrecord.specs import DecodeLimits


def run_local(
    jobs: Sequence[ShardJob],
    data_dir: str,
    on_videos: Callable[[int], None],
    *,
    num_workers: int,
    limits: DecodeLimits = DecodeLimits(),
) -> Generator[ShardReport]:
    """Converts shards with worker processes on this host and yields the report of each shard when it is done.

    Args:
      jobs: the jobs of the shards to convert.
      data_dir: the dataset's folder.
      on_videos: called, from any thread, with the number of videos done since the last call.
      num_workers: largest number of worker processes.
      limits: limits on decoding each video.

    Raises:
      UserError: if a shard cannot be written or no worker process can be started.
    """
    # Largest shards first, so that no worker still has a large shard at the end.
    ordered = sorted(jobs, key=lambda job: -sum(video.num_bytes for video in job.videos))
    num_workers = max(1, min(num_workers, len(ordered)))
    with (
        concurrent.futures.ThreadPoolExecutor(num_workers) as threads,
        # The pool is closed before the threads: it kills the workers that the threads are waiting for.
        workers.IsolatedPool.within(limits) as pool,
    ):
        futures = [threads.submit(convert_shard, job, data_dir, pool, limits, on_videos) for job in ordered]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
