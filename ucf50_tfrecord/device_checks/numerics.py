"""Checks that devices compute the same: several against one, and 16 bits against float32."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from ucf50_tfrecord import recipes
from ucf50_tfrecord.choices import Precision, Strategy
from ucf50_tfrecord.device_checks.outcomes import Options, Result, judge, not_checked
from ucf50_tfrecord.device_checks.trial import Trial
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.training import strategy as strategy_lib

# Several devices sum the same numbers as one in another order. Measured on two CPU devices over ten steps of lstm:
# losses differ by up to 4e-5 of their value and gradients' norms by up to 1.4e-3, as ReLU and max-pooling decide ties
# by the last bit. Batch norm that each device computes for itself, a typical mistake, moves the losses by 3e-2.
_MAX_LOSS_DIFFERENCE = 1e-3
_MAX_NORM_DIFFERENCE = 1e-2
# Below the recipes': Adam divides by the gradient's size, so at first it moves weights whose gradient is nothing but
# rounding as far as all others. At 1e-3 this alone moves the losses by 3e-3 within ten steps.
_LEARNING_RATE = 1e-4
# Least and most steps; a slow machine takes as many as its time allows.
_REPLICA_STEPS = 3, 10
_PRECISION_STEPS = 10, 40
_NUM_LAST_STEPS = 10  # whose mean loss is compared
# As a fraction of the first loss. Measured over 40 steps on a CPU: 0.001 for lstm and gru, 0.03 for seed_lstm, whose
# loss just falls steeply then. A training that learns nothing is 0.45 away.
_MAX_PRECISION_DIFFERENCE = 0.1
# Steps that float16 may leave out while its loss scale, which starts at 2**15, falls to a value without overflows.
_MAX_SKIPPED_STEPS = 8


def devices(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Lists the GPUs, and checks that TensorFlow sees as many as the driver."""
    doing("asking TensorFlow for its devices")
    gpus = tf.config.list_physical_devices("GPU")
    build = tf.sysconfig.get_build_info()
    figures = {"tensorflow": tf.__version__, "gpus": len(gpus), "listed_by_driver": len(options.gpus)} | {
        name: str(build[name]) for name in ("cuda_version", "cudnn_version") if name in build
    }
    name = "GPUs that TensorFlow sees"
    if not gpus and not options.gpus:
        cores = len(os.sched_getaffinity(0))
        yield not_checked(name, "there is no GPU", found=f"none; {cores} CPU cores", figures=figures)
        return
    yield judge(
        name,
        len(gpus) == len(options.gpus),
        found=str(len(gpus)),
        expected=f"{len(options.gpus)}, as the driver lists",
        reason="TensorFlow cannot use a GPU: its CUDA libraries are missing, or the driver is too old",
        figures=figures,
    )
    for number, gpu in enumerate(gpus):
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability", (0, 0))
        yield judge(
            f"GPU {number}",
            capability >= (6, 0),
            found=f"{details.get('device_name', 'of unknown name')}, {'.'.join(map(str, capability))}",
            expected="compute capability from 6.0 on",
            reason="TensorFlow has no kernels for older GPUs",
            figures={"card": details.get("device_name", ""), "compute_capability": list(capability)},
        )


def replicas_on_cpu(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Compares a training on two virtual CPU devices with one on a single device."""
    tf.config.set_visible_devices([], "GPU")
    [cpu, *_] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    yield _compare_replicas(2, "two CPU devices against one", options, doing)


def replicas(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Compares a training on all GPUs with one on a single GPU, in plain float32."""
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    expect(num_gpus >= 2, "at least 2 GPUs that TensorFlow sees", gpus=num_gpus)
    # TensorFloat-32 has 10 bits, so other kernels for other batch sizes would differ too much.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield _compare_replicas(num_gpus, f"{num_gpus} GPUs against one", options, doing)


def _compare_replicas(num_devices: int, name: str, options: Options, doing: Callable[[str], None]) -> Result:
    """Trains with the same global batches on one device and on all of them, and compares step by step."""
    recipe, found = options.models[0], {}
    # Batches that the devices can share evenly: batch norm sees the padding clips of others.
    batch_size = options.batch_size or recipes.load(recipe)["batch_size"]
    options = dataclasses.replace(options, batch_size=-(-batch_size // num_devices) * num_devices)
    least, most = _REPLICA_STEPS
    for kind in (Strategy.ONE, Strategy.MIRRORED):
        strategy = strategy_lib.make_strategy(kind, environment={})
        doing(f"training {recipe} on {strategy.num_replicas_in_sync} device(s)")
        trial = Trial(
            options,
            recipe,
            precision=Precision.FLOAT32,
            strategy=strategy,
            learning_rate=_LEARNING_RATE,
        )
        results = trial.take_steps_within(options.secs / 4, least=least, most=most)
        least = most = len(results.loss)
        found[kind] = results.loss / results.clips, results.gradient_norm
    differences = [
        float(np.max(np.abs(all_of_them / one - 1)))
        for one, all_of_them in zip(found[Strategy.ONE], found[Strategy.MIRRORED])
    ]
    limits = _MAX_LOSS_DIFFERENCE, _MAX_NORM_DIFFERENCE
    return judge(
        name,
        strategy.num_replicas_in_sync == num_devices
        and all(difference <= limit for difference, limit in zip(differences, limits)),  # NaN is not
        found=f"losses differ by {differences[0]:.1g}, gradients' norms by {differences[1]:.1g}",
        expected=f"at most {limits[0]:g} and {limits[1]:g}, {most} steps of {recipe}",
        reason="the devices do not train one model together",
        figures={
            "devices": strategy.num_replicas_in_sync,
            "batch_size": trial.spec.batch_size,
            "losses": {str(kind): losses.tolist() for kind, (losses, _) in found.items()},
            "loss_difference": differences[0],
            "norm_difference": differences[1],
        },
    )


def precisions(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Compares trainings in 16 bits with one in float32: none may compute NaN, all must learn alike."""
    strategy, recipe = strategy_lib.make_strategy(Strategy.ONE, environment={}), options.models[0]
    reference, (least, most) = None, _PRECISION_STEPS
    for precision in (Precision.FLOAT32, Precision.BFLOAT16, Precision.FLOAT16):
        name = f"{recipe} in {precision}"
        if precision == Precision.FLOAT16 and strategy_lib.device_type() == "CPU":
            yield not_checked(name, "there is no GPU, and CPUs only emulate it")
            return
        doing(f"training {name}")
        trial = Trial(options, recipe, precision=precision, strategy=strategy)
        results = trial.take_steps_within(options.secs / 4, least=least, most=most)
        least = most = len(results.loss)
        losses = results.loss / results.clips
        if reference is None:
            reference = losses
            yield compare_losses(name, losses, reference, num_skipped=None)
        else:
            num_skipped = int(np.sum(results.finite < 0.5))
            yield compare_losses(name, losses, reference, num_skipped=num_skipped)


def compare_losses(
    name: str, losses: np.ndarray, reference: np.ndarray, *, num_skipped: int | None
) -> Result:
    """Judges the losses of a training by those of the same training in float32.

    Args:
      name: the result's name.
      losses: the loss of each step, float64 [N].
      reference: those in float32.
      num_skipped: number of steps whose gradient was not finite, which loss scaling leaves out; None for float32
        itself, which must learn.
    """
    num_last = min(_NUM_LAST_STEPS, len(losses) // 2)
    last, expected = (float(np.mean(values[-num_last:])) for values in (losses, reference))
    most = _MAX_PRECISION_DIFFERENCE * float(reference[0])
    figures = {"losses": losses.tolist(), "num_skipped": num_skipped}
    if num_skipped is None and len(losses) < _PRECISION_STEPS[1]:
        reason = f"only {len(losses)} steps fit into the time"
        return not_checked(
            name, reason, found=f"loss {losses[0]:.3f}, at the end {last:.3f}", figures=figures
        )
    if num_skipped is None:
        return judge(
            name,
            bool(np.isfinite(losses).all()) and losses[0] - last >= 2 * most,
            found=f"loss {losses[0]:.3f}, at the end {last:.3f}",
            expected=f"finite, falls by {2 * most:.2f}",
            reason="this training does not learn, so others cannot be compared with it",
            figures=figures,
        )
    is_near = abs(last - expected) <= most
    reason = "the losses differ from float32's" if np.isfinite(losses).all() else "a loss is not finite"
    if num_skipped > _MAX_SKIPPED_STEPS:
        reason = "the loss scale skips too many steps"
    return judge(
        name,
        bool(np.isfinite(losses).all()) and is_near and num_skipped <= _MAX_SKIPPED_STEPS,
        found=f"at the end {last:.3f}" + (f", {num_skipped} steps skipped" if num_skipped else ""),
        expected=f"finite, {expected:.3f} ± {most:.2f} as in float32",
        reason=reason,
        figures=figures | {"difference": abs(last - expected)},
    )
