"""Measures trainings of heads on stored features, beside their matrix products.

  python -m benchmarks.heads --data=data/ucf50-15x224x224-efficientnet_lite0

Trains each head on all clips, as `make train` does but without evaluations and
checkpoints, and multiplies matrices of an LSTM's sizes in the same precision.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from benchmarks import measuring
from pipelines import console, terminal
from ucf50_tfrecord import manifest, recipes
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import ModelSpec, to_json

if TYPE_CHECKING:
    import keras

_DATA = flags.DEFINE_string("data", None, "Folder of features.", required=True)
_ROWS = flags.DEFINE_list("rows", ["features_lstm", "features_frame_pool"], "Recipes to measure.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs to measure, after one that compiles.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/heads.json", "File for the figures.")


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one head."""

    recipe: str
    precision: str
    start_secs: float  # from building the model to the end of the first epoch, which compiles
    clips_per_sec: float
    product_clips_per_sec: float  # rate if training consisted only of its matrix products
    product_gflops: float  # speed of these products, measured in the same process


def measure(data: str, recipe: str, epochs: int) -> Row:
    """Measures one head. Runs in a fresh process."""
    console.load_tensorflow()
    import tensorflow as tf

    from ucf50_tfrecord.dataset.feed import Feed
    from ucf50_tfrecord.dataset.inputs import InputSpec
    from ucf50_tfrecord.dataset.pipeline import num_steps
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training import strategy as strategy_lib

    stored = manifest.load(data)
    expect(stored.features is not None, "a folder of features", data=data)
    settings = recipes.load(recipe)
    spec = recipes.train_spec(settings)
    spec = dataclasses.replace(spec, precision=strategy_lib.choose_precision(spec.precision))
    strategy = strategy_lib.make_strategy("one", environment={})
    feed = Feed(InputSpec().load_clips(stored, stored.folds), strategy=strategy, cache="device")
    started = time.perf_counter()
    model = recipes.model_spec(settings, stored)
    state = loop.build_state(model, spec, num_clips=len(feed.clips), strategy=strategy)
    train_steps = state.train_steps(feed.frames, frozen=False)
    count = num_steps(len(feed.clips), spec.batch_size)
    batches = feed.iterator(batch_size=spec.batch_size, seed=spec.seed)

    def train(epoch: int) -> None:
        with tf.device("CPU:0"):
            arguments = tf.constant(epoch * count, tf.int64), tf.constant(count), tf.constant(0.0)
            seed = tf.constant(spec.seed, tf.int64)
        train_steps(batches, *arguments, seed)[0].numpy()

    train(0)
    ready = time.perf_counter()
    for epoch in range(1, epochs + 1):
        train(epoch)
    rate = epochs * len(feed.clips) / (time.perf_counter() - ready)
    gflops = product_rate(spec.batch_size, model, str(spec.precision))
    return Row(
        recipe=recipe,
        precision=str(spec.precision),
        start_secs=ready - started,
        clips_per_sec=rate,
        product_clips_per_sec=gflops * 1e9 / clip_flops(state.model, model.num_frames),
        product_gflops=gflops,
    )


def clip_flops(model: keras.Model, num_frames: int) -> float:
    """Returns the floating-point operations of a head's matrix products, per clip of a training step.

    A product with a matrix of N weights takes 2 N operations, and its gradients twice as many. A recurrent
    layer has one product per frame, any other layer one per clip.
    """
    flops = 0.0
    for layer in model.layers:
        times = num_frames if hasattr(layer, "return_sequences") or hasattr(layer, "forward_layer") else 1
        flops += sum(
            6.0 * times * weight.shape[0] * weight.shape[1]
            for weight in layer.weights
            if len(weight.shape) == 2
        )
    return flops


def product_rate(batch_size: int, model: ModelSpec, precision: str, secs: float = 1.0) -> float:
    """Returns the GFLOP/s at which the frames of a batch are multiplied by the matrix of an LSTM's gates."""
    import tensorflow as tf

    from ucf50_tfrecord.models.recurrent import NUM_UNITS

    width = model.feature_shape[-1]
    rows: Any = tf.cast(tf.random.normal([batch_size * model.num_frames, width]), precision)
    matrix = tf.cast(tf.random.normal([width, 4 * NUM_UNITS]), precision)

    @tf.function
    def multiply(times: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([], precision)
        for _ in tf.range(times):
            total += tf.matmul(rows + total * 0, matrix)[0, 0]
        return total

    multiply(tf.constant(2)).numpy()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < secs:
        multiply(tf.constant(20)).numpy()
        done += 20
    flops = 2.0 * batch_size * model.num_frames * width * 4 * NUM_UNITS
    return done * flops / (time.perf_counter() - started) / 1e9


def main() -> None:
    terminal.say(f"{'':<24}{'clips/s':>10}{'its products':>14}{'ratio':>8}{'GFLOP/s':>10}{'start, s':>10}")
    rows = []
    for recipe in _ROWS.value:
        row = measuring.in_fresh_process(measure, _DATA.value, recipe, _EPOCHS.value)
        rows.append(row)
        ratio = row.product_clips_per_sec / row.clips_per_sec
        terminal.say(
            f"{recipe:<24}{row.clips_per_sec:>10.0f}{row.product_clips_per_sec:>14.0f}{ratio:>8.2f}"
            f"{row.product_gflops:>10.0f}{row.start_secs:>10.1f}",
            flush=True,
        )
    measuring.write_figures(_OUTPUT.value, {"rows": to_json(rows)})


if __name__ == "__main__":
    console.run(main)
