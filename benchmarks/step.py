"""Measures training steps of the published CNN + LSTM, implemented several ways.

  python -m benchmarks.step --torch_python=/envs/torch/bin/python

A step consists of the forward pass, the backward pass and an update by Adam, on
clips in memory. Trust the ratios: the implementations take turns, each in a
process of its own, so other work slows all alike. PyTorch runs in its own
environment; without --torch_python its rows are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks import measuring
from benchmarks import rates as rates_lib
from pipelines import console, terminal
from tools import processes
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json

_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["4", "16"], "Clips per batch, a table for each.")
_PRECISIONS = flags.DEFINE_list("precisions", ["float32", "bfloat16"], "Precisions of TensorFlow.")
_TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "Python of an environment with PyTorch.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements per method.", lower_bound=1)
_SECS = flags.DEFINE_float("secs", 6.0, "Seconds per measurement.", lower_bound=0.1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/step.json", "File for the figures.")

_SPEC = ModelSpec(name="seed_lstm", num_classes=50, num_frames=15, height=64, width=64)
TORCH = "PyTorch, float32"


def ours(spec: ModelSpec, policy: Any) -> Any:
    """Builds this project's implementation of a model."""
    from ucf50_tfrecord import models

    return models.build_model(spec, dtype=policy)


def time_distributed(spec: ModelSpec, policy: Any) -> Any:
    """Builds the same model (seed_lstm) from Keras's own layers, with the frame encoder in TimeDistributed."""
    import keras
    from keras import layers

    shape = (spec.num_frames, spec.height, spec.width, 3)
    encoder = [keras.Input(shape[1:]), layers.Rescaling(1 / 255, dtype=policy)]
    for filters in (32, 64, 128):
        encoder.append(layers.Conv2D(filters, 3, padding="same", activation="relu", dtype=policy))
        encoder.append(layers.MaxPooling2D(2, dtype=policy))
    encoder += [layers.Flatten(dtype=policy), layers.Dense(256, activation="relu", dtype=policy)]
    video = keras.Input(shape, dtype="uint8")
    features = layers.TimeDistributed(keras.Sequential(encoder), dtype=policy)(video)  # [B, T, 256]
    outputs = layers.LSTM(256, dtype=policy)(features)  # [B, 256]
    return keras.Model(video, layers.Dense(spec.num_classes, dtype="float32")(outputs))


BUILDERS: dict[str, Callable[[ModelSpec, Any], Any]] = {
    "ours": ours,
    "Keras TimeDistributed": time_distributed,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one implementation at one batch size: medians over the rounds."""

    name: str  # with its precision
    batch_size: int
    clips_per_sec: float
    torch_ratio: float | None  # to PyTorch's rate at the first batch size; None if PyTorch is not measured


def measure_tensorflow(name: str, precision: str, batch_size: int, secs: float) -> float:
    """Returns the clips/s at which an implementation of BUILDERS trains. Runs in a fresh process."""
    console.load_tensorflow()
    import keras

    from ucf50_tfrecord.training import optimizer as optimizer_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    strategy, policy = strategy_lib.make_strategy("one"), strategy_lib.keras_policy(precision)
    spec = TrainSpec(epochs=1, batch_size=batch_size, precision=precision, learning_rate=1e-3)
    with strategy.scope():
        model = BUILDERS[name](_SPEC, keras.dtype_policies.get(policy))
        optimizer = optimizer_lib.make_optimizer(spec, 1, policy)
        optimizer.build(model.trainable_variables)
    return rates_lib.of_steps(model, optimizer, spec, strategy=strategy, secs=secs)


def measure_torch(python: str, batch_size: int, secs: float) -> float:
    """Returns the clips/s at which PyTorch trains the model, with one thread per core of this process."""
    script = pathlib.Path(__file__).with_name("step_torch.py")
    arguments = [python, str(script), str(batch_size), str(secs), str(len(os.sched_getaffinity(0)))]
    return float(processes.run(arguments))


def measure_all(batch_sizes: list[int], precisions: list[str], torch_python: str | None) -> list[Row]:
    """Measures each implementation at each batch size and precision, in turn."""
    secs = _SECS.value
    methods: dict[tuple[str, int], Callable[[], float]] = {}
    for size in batch_sizes:
        if torch_python:
            methods[TORCH, size] = functools.partial(measure_torch, torch_python, size, secs)
        for name, precision in itertools.product(BUILDERS, precisions):
            arguments = (measure_tensorflow, name, precision, size, secs)
            method = functools.partial(measuring.in_fresh_process, *arguments)
            methods[f"{name}, {precision}", size] = method
    rates = measuring.in_turn(methods, rounds=_ROUNDS.value, description="measuring steps")
    torch = rates.get((TORCH, batch_sizes[0]))
    return [
        Row(
            name=name,
            batch_size=size,
            clips_per_sec=statistics.median(found),
            torch_ratio=measuring.median_ratio(found, torch) if torch else None,
        )
        for (name, size), found in rates.items()
    ]


def print_rows(rows: list[Row], batch_sizes: list[int]) -> None:
    for size in batch_sizes:
        terminal.say(f"{f'batches of {size}':<36}{'clips/s':>9}{f'PyTorch at {batch_sizes[0]}':>15}")
        for row in rows:
            if row.batch_size == size:
                ratio = "" if row.torch_ratio is None else f"{row.torch_ratio:.2f}x"
                terminal.say(f"{row.name:<36}{row.clips_per_sec:>9.1f}{ratio:>15}")


def main() -> None:
    batch_sizes = measuring.whole_numbers(_BATCH_SIZES.value)
    if not _TORCH_PYTHON.value:
        terminal.say("Without --torch_python=<a Python with PyTorch> there are no rows of PyTorch.")
    rows = measure_all(batch_sizes, _PRECISIONS.value, _TORCH_PYTHON.value)
    print_rows(rows, batch_sizes)
    measuring.write_figures(_OUTPUT.value, {"rows": to_json(rows)})


if __name__ == "__main__":
    console.run(main)
