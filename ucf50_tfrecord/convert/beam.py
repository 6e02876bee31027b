"""Converts shards with Apache Beam: on a cluster, or in several processes of one host."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ucf50_tfrecord import manifest, workers
from ucf50_tfrecord.convert.shard import convert_shard
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.jobs import ShardJob
from ucf50_tfrecord.manifest import ShardReport
from ucf50_tfrecord.specs import DecodeLimits


class _ConvertShards(beam.DoFn):
    """Beam transform that converts each ShardJob into a shard and its sidecar; outputs the file name."""

    def __init__(self, data_dir: str, limits: DecodeLimits):
        self._data_dir, self._limits = data_dir, limits

    def setup(self) -> None:
        self._pool = workers.IsolatedPool.within(self._limits)

    def process(self, job: ShardJob) -> Iterator[str]:
        yield convert_shard(job, self._data_dir, self._pool, self._limits).filename

    def teardown(self) -> None:
        self._pool.close()


def run_beam(
    jobs: Sequence[ShardJob],
    data_dir: str,
    on_videos: Callable[[int], None],
    *,
    beam_args: Sequence[str],
    limits: DecodeLimits = DecodeLimits(),
) -> Generator[ShardReport]:
    """Converts shards with a Beam pipeline and yields the report of each shard once all shards are done.

    Args:
      jobs: the jobs of the shards to convert. Beam's workers must share the videos' folder.
      data_dir: the dataset's folder, which Beam's workers must share.
      on_videos: called with the number of videos in each shard, once all shards are done.
      beam_args: Beam's own options, as on a command line.
      limits: limits on decoding each video.

    Raises:
      UserError: if Beam refuses its options, or a shard cannot be written.
    """
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(list(beam_args)))
    except ValueError as error:  # such as an unknown runner
        raise UserError(f"Beam refuses its options {list(beam_args)}: {error}") from error
    try:
        with pipeline:
            _ = (
                pipeline
                | "Jobs" >> beam.Create(jobs)
                | "Spread" >> beam.Reshuffle()
                | "Convert" >> beam.ParDo(_ConvertShards(os.path.abspath(data_dir), limits))
            )
    except RuntimeError as error:
        if str(error).startswith("KeyboardInterrupt"):  # Beam wraps the user's Ctrl-C in a RuntimeError
            raise KeyboardInterrupt from error
        raise
    for job in jobs:
        on_videos(len(job.videos))
        yield manifest.load_report(data_dir, job.filename)
