"""Checks that work runs where it should: LSTM and GRU in cuDNN's kernel, kept clips on the GPU."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from ucf50_tfrecord.choices import Cache, Precision, Strategy
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.device_checks import operations
from ucf50_tfrecord.device_checks.operations import Executed
from ucf50_tfrecord.device_checks.outcomes import Options, Result, judge, not_checked
from ucf50_tfrecord.device_checks.trial import Trial
from ucf50_tfrecord.training import strategy as strategy_lib

# Keras puts the first of these ops into the graph in place of its loop over time, where its function cudnn_ok (in
# keras/src/backend/tensorflow/rnn.py) allows it. Both have kernels for GPUs alone.
_FORWARD, _BACKWARD = "CudnnRNNV3", "CudnnRNNBackpropV3"
# The recurrent layers of each model that cuDNN should run.
_RECURRENT = {"lstm": 1, "gru": 1, "bilstm": 2, "seed_lstm": 1}
_GATHER = "ResourceGather"
_NUM_COMPARED = 16


def cudnn(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Executes a training step of each model with LSTM or GRU, and looks for cuDNN's ops among those executed."""
    strategy = strategy_lib.make_strategy(Strategy.ONE, environment={})
    fastest = strategy_lib.choose_precision(Precision.AUTO)
    for model, count in _RECURRENT.items():
        for precision in dict.fromkeys((fastest, Precision.FLOAT32)):
            doing(f"looking for cuDNN's kernel in {model}, {precision}")
            trial = Trial(options, model, precision=precision, strategy=strategy)
            executed = operations.executed(functools.partial(trial.take_steps, 1))
            yield judge_cudnn(f"{model} in {precision}", executed, count)


def judge_cudnn(name: str, executed: Counter[Executed], count: int) -> Result:
    """Judges whether a training step's recurrent layers ran in cuDNN's kernel.

    Args:
      name: the result's name.
      executed: the ops of the step, as operations.executed counts them.
      count: number of the model's recurrent layers, of both directions.
    """
    found = {op: executed[Executed(op, "GPU")] for op in (_FORWARD, _BACKWARD)}
    return judge(
        f"cuDNN's kernel in {name}",
        all(number == count for number in found.values()),
        found=f"{found[_FORWARD]} forward, {found[_BACKWARD]} backward",
        expected=f"{count} and {count}",
        reason="a loop over time runs in its place",
        figures={"executed": found},
    )


def resident(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Keeps the clips on the device, and checks where they lie, that a step gathers them there, and their pixels."""
    strategy, device_type = (
        strategy_lib.make_strategy(Strategy.ONE, environment={}),
        strategy_lib.device_type(),
    )
    model = options.models[0]
    doing(f"training {model} on clips kept on the {device_type}")
    trial = Trial(options, model, precision=Precision.FLOAT32, strategy=strategy, cache=Cache.DEVICE)
    feed = trial.feed
    executed = operations.executed(functools.partial(trial.take_steps, 1))
    yield judge_resident(feed.resident_devices, executed, device_type)

    doing("comparing kept clips with those in the shards")
    index = np.linspace(0, len(feed.clips) - 1, min(_NUM_COMPARED, len(feed.clips))).astype(np.int64)
    gather = tf.function(lambda rows: strategy.run(feed.frames, args=({"row": rows},)))
    kept = gather(tf.constant(index)).numpy()
    num_different = int(np.sum(kept != read_clips(feed.clips.select(index))))
    yield judge(
        "pixels of kept clips",
        num_different == 0,
        found=f"{num_different} differ, of {len(index)} clips",
        expected="none",
        reason="the device holds other pixels than the shards",
        figures={"num_different": num_different, "num_clips": len(index)},
    )


def judge_resident(devices: list[str], executed: Counter[Executed], device_type: str) -> Result:
    """Judges where clips are kept, and where a training step gathers them.

    Args:
      devices: the devices that hold the clips, by TensorFlow's names.
      executed: the ops of the step, as operations.executed counts them.
      device_type: the kind of device that trains.
    """
    gathers = {op.device: count for op, count in executed.items() if op.type == _GATHER}
    places = [device.rpartition("device:")[2] for device in devices]  # such as GPU:0
    found = f"on {', '.join(places) or 'no device'}, gathered on {', '.join(sorted(gathers)) or 'none'}"
    figures = {"devices": devices, "gathers": gathers}
    if device_type == "CPU":
        return not_checked("place of kept clips", "there is no GPU", found=found, figures=figures)
    return judge(
        "place of kept clips",
        bool(devices) and all(device_type in device for device in devices) and set(gathers) == {device_type},
        found=found,
        expected=f"both on a {device_type}",
        reason="TensorFlow has put the clips or the gathering elsewhere",
        figures=figures,
    )
