"""Measures how fast clips are read from an object store, copied or streamed.

  python -m benchmarks.fetch --videos=/data/UCF50 \\
    --remote_python=.venv/bin/python

Needs the extras `io` and `stores`, as tensorflow-io streams the shards.
--remote_python adds a row for shards copied by fsspec. All methods read the
same shards from one S3 server on this machine, in turn, in fresh processes
without copies of shards. Trust the ratios, not the rates: the server is moto's,
written in Python and without network latency, and limits all methods.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile

from absl import flags

from benchmarks import measuring
from benchmarks.s3_endpoint import BUCKET, Endpoint
from pipelines import console, terminal
from tools import processes
from ucf50_tfrecord.specs import to_json

_VIDEOS = flags.DEFINE_string("videos", None, "Folder of class folders.", required=True)
_REMOTE_PYTHON = flags.DEFINE_string(
    "remote_python", None, "Python of an environment with the extra `remote`."
)
_SIZE = flags.DEFINE_string("size", "64", "Frame size in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips per batch.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over all clips.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements per method.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/fetch.json", "File for the figures.")

LOCAL = "local folder"
STREAM = "--fetch=stream (tensorflow-io)"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of reading clips, one row of this benchmark's table."""

    python: str  # that runs benchmarks.fetch_rate
    method: str  # its flag --method
    is_local: bool = False  # whether it reads from a local folder instead of the object store


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one method of reading clips: medians over the rounds. Ratios are to the method STREAM."""

    name: str
    first_batch_secs: float
    first_epoch_clips_per_sec: float  # the first epoch copies the shards if the method does
    later_clips_per_sec: float
    first_epoch_stream_ratio: float
    later_stream_ratio: float


def methods() -> dict[str, Method]:
    """Returns the methods that can run here, by name. Copying by fsspec needs --remote_python."""
    here, other = sys.executable, _REMOTE_PYTHON.value
    copies = {"--fetch=copy (fsspec)": Method(other, "copy")} if other else {}
    return copies | {
        "--fetch=copy (tensorflow-io)": Method(here, "copy"),
        STREAM: Method(here, "stream"),
        "TFRecordDataset on s3://": Method(here, "plain"),
        LOCAL: Method(here, "copy", is_local=True),
    }


def measure(method: Method, local: str, url: str) -> dict:
    """Runs benchmarks.fetch_rate for a method, on equal shards in a folder and at a URL; returns its figures.

    There are no copies of shards from earlier runs.
    """
    with tempfile.TemporaryDirectory() as cache:
        arguments = (
            f"--data={local if method.is_local else url}",
            f"--method={method.method}",
            f"--fetch_cache={cache}",
            f"--batch_size={_BATCH_SIZE.value}",
            f"--epochs={_EPOCHS.value}",
        )
        return json.loads(processes.run([method.python, "-m", "benchmarks.fetch_rate", *arguments]))


def measure_all(local: str, url: str) -> list[Row]:
    """Measures each method that can run here, in turn."""
    runs = {name: functools.partial(measure, method, local, url) for name, method in methods().items()}
    found = measuring.in_turn(runs, rounds=_ROUNDS.value, description="measuring fetches")
    first = {
        name: [each["num_clips"] / each["epoch_secs"][0] for each in runs] for name, runs in found.items()
    }
    later = {name: [_later_rate(each) for each in runs] for name, runs in found.items()}
    return [
        Row(
            name=name,
            first_batch_secs=statistics.median(each["first_batch_secs"] for each in found[name]),
            first_epoch_clips_per_sec=statistics.median(first[name]),
            later_clips_per_sec=statistics.median(later[name]),
            first_epoch_stream_ratio=measuring.median_ratio(first[name], first[STREAM]),
            later_stream_ratio=measuring.median_ratio(later[name], later[STREAM]),
        )
        for name in found
    ]


def _later_rate(figures: dict) -> float:
    return figures["num_clips"] / statistics.mean(figures["epoch_secs"][1:])


def print_rows(rows: list[Row]) -> None:
    terminal.say(f"{'':<32}{'first batch':>12}{'first epoch':>20}{'later epochs':>20}")
    for row in rows:
        first = f"{row.first_epoch_clips_per_sec:.0f} ({row.first_epoch_stream_ratio:.2f}x)"
        later = f"{row.later_clips_per_sec:.0f} ({row.later_stream_ratio:.2f}x)"
        terminal.say(f"{row.name:<32}{row.first_batch_secs:>10.2f} s{first:>20}{later:>20}")
    terminal.say("In clips/s, with the ratio to streaming.")


def main() -> None:
    if not _REMOTE_PYTHON.value:
        terminal.say("Without --remote_python=<a Python with the extra remote> there is no row of fsspec.")
    endpoint = Endpoint()
    endpoint.start()
    try:
        os.environ |= endpoint.environment
        with tempfile.TemporaryDirectory() as folder:
            local, url = f"{folder}/set", f"s3://{BUCKET}/set"
            flags_of_set = (f"--videos={_VIDEOS.value}", f"--size={_SIZE.value}", f"--staging={local}")
            processes.run([sys.executable, "-m", "pipelines.convert", f"--data={url}", *flags_of_set])
            rows = measure_all(local, url)
    finally:
        endpoint.kill()
    print_rows(rows)
    measuring.write_figures(_OUTPUT.value, {"rows": to_json(rows)})


if __name__ == "__main__":
    console.run(main)
