"""Measures how fast clips come out of an object store, copied or streamed.

  python -m tools.bench_fetch --videos=/data/UCF50 \\
    --remote_python=.venv/bin/python

Runs in the environment of the extras `io` and `stores`, where tensorflow-io
streams; the Python of one with the extra `remote` adds the copies that fsspec
makes. All read the same shards from one S3 server on this machine, each in a
fresh process that starts with no copies, in turn and in several rounds: trust
the ratios. The server is moto's, written in Python and without a network's
latency: it bounds what all reach.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import flags

from pipelines import console, terminal
from tools.s3_endpoint import BUCKET, Endpoint
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.texts import shell_command

_VIDEOS = flags.DEFINE_string("videos", None, "Folder with one folder of videos a class.")
_REMOTE_PYTHON = flags.DEFINE_string(
    "remote_python", None, "The Python of an environment with the extra `remote`."
)
_SIZE = flags.DEFINE_string("size", "64", "Frame size in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips a batch.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "How often all clips are read.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times each method is measured.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/fetch.json", "Where the figures go.")

LOCAL = "local folder"
STREAM = "--fetch=stream (tensorflow-io)"


@dataclasses.dataclass(frozen=True)
class Method:
    """python: the environment's. method: of tools.fetch_rate. is_local: whether the shards lie here."""

    python: str
    method: str
    is_local: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A method's figures, medians over the rounds; stream_ratios are to STREAM's, round by round."""

    name: str
    first_batch_secs: float
    first_epoch_clips_per_sec: float
    later_clips_per_sec: float
    first_epoch_stream_ratio: float
    later_stream_ratio: float


def methods() -> dict[str, Method]:
    here, other = sys.executable, _REMOTE_PYTHON.value
    copies = {"--fetch=copy (fsspec)": Method(other, "copy")} if other else {}
    return copies | {
        "--fetch=copy (tensorflow-io)": Method(here, "copy"),
        STREAM: Method(here, "stream"),
        "TFRecordDataset on s3://": Method(here, "plain"),
        LOCAL: Method(here, "copy", is_local=True),
    }


def run(python: str, module: str, *arguments: str) -> str:
    """Runs a module of ours; returns what it prints.

    Raises:
      UserError: if it fails.
    """
    done = subprocess.run([python, "-m", module, *arguments], text=True, capture_output=True)
    if done.returncode:
        terminal.note(*done.stderr.splitlines())
        raise UserError(
            f"{shell_command([module, *arguments])} ended with status {done.returncode}, see above"
        )
    return done.stdout


def measure(method: Method, local: str, url: str) -> dict:
    """Returns what tools.fetch_rate finds, without copies of earlier runs."""
    with tempfile.TemporaryDirectory() as cache:
        arguments = (
            f"--data={local if method.is_local else url}",
            f"--method={method.method}",
            f"--fetch_cache={cache}",
            f"--batch_size={_BATCH_SIZE.value}",
            f"--epochs={_EPOCHS.value}",
        )
        return json.loads(run(method.python, "tools.fetch_rate", *arguments))


def measure_all(local: str, url: str) -> list[Row]:
    """Measures every method, in turn."""
    found: dict[str, list[dict]] = {name: [] for name in methods()}
    with console.progress_bar(_ROUNDS.value * len(found), "run", "measuring fetches") as bar:
        for _ in range(_ROUNDS.value):
            for name, method in methods().items():
                found[name].append(measure(method, local, url))
                bar.update()

    def rates(name: str) -> tuple[list[float], list[float]]:
        """Clips a second of the first epoch, and of the later ones, by round."""
        first = [each["num_clips"] / each["epoch_secs"][0] for each in found[name]]
        later = [each["num_clips"] / statistics.mean(each["epoch_secs"][1:]) for each in found[name]]
        return first, later

    def ratio(mine: list[float], others: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(mine, others))

    rows = []
    for name, runs in found.items():
        (first, later), (first_streamed, later_streamed) = rates(name), rates(STREAM)
        rows.append(
            Row(
                name=name,
                first_batch_secs=statistics.median(each["first_batch_secs"] for each in runs),
                first_epoch_clips_per_sec=statistics.median(first),
                later_clips_per_sec=statistics.median(later),
                first_epoch_stream_ratio=ratio(first, first_streamed),
                later_stream_ratio=ratio(later, later_streamed),
            )
        )
    return rows


def print_rows(rows: list[Row]) -> None:
    terminal.say(f"{'':<32}{'first batch':>12}{'first epoch':>20}{'later epochs':>20}")
    for row in rows:
        first = f"{row.first_epoch_clips_per_sec:.0f} ({row.first_epoch_stream_ratio:.2f}x)"
        later = f"{row.later_clips_per_sec:.0f} ({row.later_stream_ratio:.2f}x)"
        terminal.say(f"{row.name:<32}{row.first_batch_secs:>10.2f} s{first:>20}{later:>20}")
    terminal.say("Clips a second, and the ratio to streaming.")


def main() -> None:
    if not _VIDEOS.value:
        raise UserError("Pass --videos=<folder of class folders>.")
    if not _REMOTE_PYTHON.value:
        terminal.say("Without --remote_python=<a Python with the extra remote> there is no row of fsspec.")
    endpoint = Endpoint()
    endpoint.start()
    try:
        os.environ |= endpoint.environment
        with tempfile.TemporaryDirectory() as folder:
            local, url = f"{folder}/set", f"s3://{BUCKET}/set"
            flags_of_set = (f"--videos={_VIDEOS.value}", f"--size={_SIZE.value}", f"--staging={local}")
            run(sys.executable, "pipelines.convert", f"--data={url}", *flags_of_set)
            rows = measure_all(local, url)
    finally:
        endpoint.kill()
    print_rows(rows)
    storage.write_json(pathlib.Path(_OUTPUT.value), {"rows": to_json(rows)})
    terminal.say(f"Figures: {_OUTPUT.value}")


if __name__ == "__main__":
    console.run(main)
