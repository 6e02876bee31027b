"""Measures how fast this and other input pipelines feed a training step.

  python -m benchmarks.input --videos=/data/UCF50

The videos are converted at each size. Each method (input pipeline) then reads
the same shards in shuffled batches, in a process of its own. Trust the ratios:
the methods take turns, so other work slows all alike. The floor is
TFRecordDataset reading the shards in sequence, without parsing or batching.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from benchmarks import measuring, rival_inputs
from benchmarks import rates as rates_lib
from benchmarks.measuring import in_fresh_process
from pipelines import console, terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat, ModelSpec, TrainSpec, parse_size, to_json

_VIDEOS = flags.DEFINE_string("videos", None, "Folder of class folders.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["64", "112", "224"], "Frame sizes in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Clips per batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements per method.", lower_bound=1)
_SECS = flags.DEFINE_float("secs", 3.0, "Seconds per measurement.", lower_bound=0.1)
_EPOCHS = flags.DEFINE_integer("epochs", 50, "Epochs of the memory measurement.", lower_bound=2)
_OUTPUT = flags.DEFINE_string("output", "bench_results/input.json", "File for the figures.")

Batches = Iterator[Any]


def ours(data: str, batch_size: int, cache: str = "none") -> Batches:
    """Returns endless batches of clips, read by this project's input with a value of --cache."""
    return _feed(data, cache).batches(batch_size=batch_size, seed=0)


def ours_float(data: str, batch_size: int) -> Batches:
    """Returns batches of clips as this project streams them, but with pixels made float32 on the host."""
    console.load_tensorflow()
    import tensorflow as tf

    from ucf50_tfrecord.dataset import pipeline, reader
    from ucf50_tfrecord.training import strategy

    clips = _load_clips(data)
    batches = pipeline.index_batches(clips, batch_size=batch_size, seed=0)
    batches = pipeline.read_frames(batches, reader.ClipReader(clips))

    def scale(batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"video": tf.cast(batch["video"], tf.float32) / 255}

    batches = batches.map(scale, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    return iter(strategy.make_strategy("one").distribute_datasets_from_function(lambda context: batches))


FLOOR = "floor: records in sequence"
OURS = "ours, --cache=none"
# By name of the row: a function (a dataset's folder, batch size) -> endless batches, and the encoding of the
# shards for it.
METHODS: dict[str, tuple[Callable[[str, int], Batches], str]] = {
    OURS: (ours, "raw"),
    "ours, --cache=host": (functools.partial(ours, cache="host"), "raw"),
    "ours, float32 on the host": (ours_float, "raw"),
    "interleave, shuffle, parse, batch": (rival_inputs.plain, "raw"),
    "ours, JPEG, --cache=none": (ours, "jpeg"),
    "Model Garden style, JPEG": (rival_inputs.model_garden_style, "jpeg"),
}


def _load_clips(data: str) -> Any:
    from ucf50_tfrecord.dataset import clips

    manifest = manifest_lib.load(data)
    return clips.load_clips(manifest, manifest.folds)


def _feed(data: str, cache: str) -> Any:
    console.load_tensorflow()
    from ucf50_tfrecord.dataset import feed
    from ucf50_tfrecord.training import strategy

    return feed.Feed(_load_clips(data), strategy=strategy.make_strategy("one"), cache=cache)


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one method (input pipeline) at one frame size: medians over the rounds."""

    name: str
    size: str  # height x width
    clips_per_sec: float
    bytes_per_sec: float  # of uint8 pixels
    floor_ratio: float  # of its rate to that of FLOOR
    ours_ratio: float  # of the rate of OURS to its rate


def measure_rate(name: str, data: str, batch_size: int, secs: float) -> float:
    """Returns the clips/s of a method of METHODS after a warm-up. Runs in a fresh process."""
    console.load_tensorflow()
    return rates_lib.of_batches(METHODS[name][0](data, batch_size), batch_size, secs=secs)


def measure_floor(data: str, secs: float) -> float:
    """Returns the records/s of TFRecordDataset reading shards in sequence. Runs in a fresh process."""
    console.load_tensorflow()
    import tensorflow as tf

    num_clips = manifest_lib.load(data).num_clips
    records = tf.data.TFRecordDataset(rival_inputs.shard_paths(data)).repeat(max(1, 2000 // num_clips))

    def drain() -> int:
        return int(records.reduce(tf.constant(0, tf.int64), lambda count, record: count + 1).numpy())

    drain()
    return rates_lib.per_second(drain, secs)


def measure_rates(sets: dict[str, str], clip_format: ClipFormat) -> list[Row]:
    """Measures FLOOR and each method of METHODS, on shards by their encoding."""
    runs = {FLOOR: functools.partial(in_fresh_process, measure_floor, sets["raw"], _SECS.value)}
    for name, (_, encoding) in METHODS.items():
        arguments = (name, sets[encoding], _BATCH_SIZE.value, _SECS.value)
        runs[name] = functools.partial(in_fresh_process, measure_rate, *arguments)
    rates = measuring.in_turn(runs, rounds=_ROUNDS.value, description=f"measuring at {clip_format}")
    return [
        Row(
            name=name,
            size=f"{clip_format.height}x{clip_format.width}",
            clips_per_sec=statistics.median(rates[name]),
            bytes_per_sec=statistics.median(rates[name]) * clip_format.num_bytes,
            floor_ratio=measuring.median_ratio(rates[name], rates[FLOOR]),
            ours_ratio=measuring.median_ratio(rates[OURS], rates[name]),
        )
        for name in rates
    ]


def measure_gather(data: str, batch_size: int) -> tuple[float, float]:
    """Returns the median seconds of a training step of seed_lstm with --cache=device, and of its gather.

    The gather picks a batch's clips out of device memory. Steps (each with its gather) and gathers without a
    step are measured in turn, on the first device. Runs in a fresh process.
    """
    console.load_tensorflow()
    import tensorflow as tf

    from ucf50_tfrecord.training import loop, step
    from ucf50_tfrecord.training import strategy as strategy_lib

    feed, strategy = _feed(data, "device"), strategy_lib.make_strategy("one")
    fmt = feed.clips.manifest.format
    spec = TrainSpec(epochs=1, batch_size=batch_size, precision=strategy_lib.choose_precision("auto"))
    classes, size = len(feed.clips.manifest.classes), {"height": fmt.height, "width": fmt.width}
    model_spec = ModelSpec(name="seed_lstm", num_classes=classes, num_frames=fmt.num_frames, **size)
    state = loop.build_state(model_spec, spec, num_clips=len(feed.clips), strategy=strategy)
    train_step = step.make_train_step(
        state.model, state.optimizer, spec, strategy=strategy, frames=feed.frames
    )
    gather = tf.function(lambda batch: strategy.run(feed.frames, args=(batch,)))
    secs: dict[str, list[float]] = {"step": [], "gather": []}
    batches = feed.batches(batch_size=batch_size, seed=0)
    for number in range(8):
        batch = next(batches)
        started = time.perf_counter()
        train_step(batch, *(tf.constant(value, tf.int64) for value in (number, spec.seed))).numpy()
        stepped = time.perf_counter()
        video = gather(batch)
        video[:1, :1, :1, :1].numpy()  # waits for the result without copying all of it
        secs["step"].append(stepped - started)
        secs["gather"].append(time.perf_counter() - stepped)
    return statistics.median(secs["step"][2:]), statistics.median(secs["gather"][2:])


@dataclasses.dataclass(frozen=True)
class Memory:
    """The resident memory of a process that reads a dataset epoch by epoch."""

    num_clips: int
    megabytes: list[float]  # after each epoch


def measure_streaming_memory(data: str, batch_size: int, epochs: int) -> Memory:
    """Measures the memory of this process while it streams a dataset. Runs in a fresh process."""
    feed = _feed(data, "none")
    from ucf50_tfrecord.dataset import pipeline

    batches = feed.batches(batch_size=batch_size, seed=0)
    megabytes = []
    for _ in range(epochs):
        for _ in range(pipeline.num_steps(len(feed.clips), batch_size)):
            next(batches)
        megabytes.append(resident_megabytes(os.getpid()))
    return Memory(len(feed.clips), megabytes)


def measure_training_memory(data: str, epochs: int) -> Memory:
    """Measures the memory of a training that streams clips, evaluates, and saves checkpoints."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, "-m", "pipelines.train", f"--data={data}", f"--run={run_dir}/run"]
        command += [f"--epochs={epochs}", "--model=frame_pool", "--cache=none", "--horizontal_flip"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            megabytes = [
                resident_megabytes(process.pid) for line in process.stdout if line.startswith("epoch ")
            ]
    if process.returncode or len(megabytes) != epochs:
        raise UserError(f"training exited with status {process.returncode} after {len(megabytes)} epochs")
    return Memory(manifest_lib.load(data).num_clips, megabytes)


def resident_megabytes(pid: int) -> float:
    """Returns the resident memory of the process `pid`, in MB."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def convert(videos_dir: str, data: str, clip_format: ClipFormat) -> str:
    """Converts a folder of videos into shards in `data`; returns `data`. Runs in a fresh process."""
    from tools import shards

    shards.convert(videos_dir, data, clip_format, num_workers=len(os.sched_getaffinity(0)), name="bench")
    return data


def print_rates(rows: list[Row]) -> None:
    title = f"{rows[0].size}, batches of {_BATCH_SIZE.value}"
    terminal.say(f"{title:<36}{'clips/s':>9}{'GB/s':>7}{'of floor':>10}{'ours is':>9}")
    for row in rows:
        terminal.say(
            f"{row.name:<36}{row.clips_per_sec:>9.0f}{row.bytes_per_sec / 1e9:>7.2f}"
            f"{row.floor_ratio:>10.2f}{row.ours_ratio:>8.2f}x"
        )


def print_memory(what: str, found: Memory) -> None:
    early = found.megabytes[min(4, len(found.megabytes) // 2)]
    terminal.say(
        f"{what} {found.num_clips} clips: {early:.0f} MB after "
        f"{min(5, len(found.megabytes) // 2 + 1)} epochs, {found.megabytes[-1]:.0f} MB after "
        f"{len(found.megabytes)}, at most {max(found.megabytes):.0f} MB"
    )


def bench_size(size: tuple[int, int]) -> list[Row]:
    """Converts --videos at a frame size, (height, width); measures and prints each input pipeline's rate."""
    clip_format = ClipFormat(height=size[0], width=size[1])
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for encoding in ("raw", "jpeg"):
            encoded = dataclasses.replace(clip_format, encoding=encoding)
            sets[encoding] = in_fresh_process(convert, _VIDEOS.value, f"{folder}/{encoding}", encoded)
        rows = measure_rates(sets, clip_format)
    print_rates(rows)
    return rows


def bench_set() -> dict[str, Any]:
    """Measures and prints the figures that are taken at one frame size only: the gather's time, and memory."""
    with tempfile.TemporaryDirectory() as folder:
        small = in_fresh_process(convert, _VIDEOS.value, f"{folder}/small", ClipFormat())
        large = in_fresh_process(convert, _VIDEOS.value, f"{folder}/large", ClipFormat(clips_per_video=10))
        batch_size = _BATCH_SIZE.value
        step_secs, gather_secs = in_fresh_process(measure_gather, small, batch_size)
        terminal.say(
            f"--cache=device: the gather takes {gather_secs * 1e3:.2f} ms of a seed_lstm step of "
            f"{step_secs * 1e3:.0f} ms, {gather_secs / step_secs:.2%}"
        )
        epochs = _EPOCHS.value
        memory = {
            "streaming": in_fresh_process(measure_streaming_memory, small, batch_size, epochs),
            "streaming ten times as many": in_fresh_process(
                measure_streaming_memory, large, batch_size, epochs
            ),
            "training on": measure_training_memory(small, epochs),
        }
    for what, used in memory.items():
        print_memory(what, used)
    return {"gather": {"step_secs": step_secs, "gather_secs": gather_secs}, "memory": to_json(memory)}


def main() -> None:
    sizes = [parse_size(size) for size in _SIZES.value]
    rows = [row for size in sizes for row in bench_size(size)]
    measuring.write_figures(_OUTPUT.value, {"rows": to_json(rows)} | bench_set())


if __name__ == "__main__":
    console.run(main)
