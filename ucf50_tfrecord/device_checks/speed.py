"""Measures the speed of training, the fraction of the card's peak, the waiting for input, and the memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.choices import Cache, Precision, Strategy
from ucf50_tfrecord.dataset import feed as feed_lib
from ucf50_tfrecord.device_checks import operations, peaks
from ucf50_tfrecord.device_checks.outcomes import Clock, Options, Result, judge, not_checked
from ucf50_tfrecord.device_checks.trial import Speed, Trial
from ucf50_tfrecord.evaluation.workbench import forget_models
from ucf50_tfrecord.specs import format_bytes
from ucf50_tfrecord.training import strategy as strategy_lib

MAX_WAIT_FRACTION = 0.01
_MIN_SECS, _MAX_SECS = 0.5, 5.0  # of one measurement
_NUM_CPU_MODELS = 1
# A training that keeps something of each step grows by more. Batches on their way to the device come and go.
_MAX_GROWTH_BATCHES = 4
_MAX_GROWTH_BYTES = 1 << 20


def speed(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Measures each model in each precision, with the clips where a training keeps them by default.

    Models take turns, the default precision first. If time gets short, measurements get shorter; if it is over,
    the remaining ones are left out.
    """
    clock, has_gpu = Clock(options.secs), strategy_lib.device_type() == "GPU"
    fastest = strategy_lib.choose_precision(Precision.AUTO)
    all_of_them = (Precision.BFLOAT16, Precision.FLOAT32, Precision.FLOAT16)
    precisions = list(dict.fromkeys((fastest, *all_of_them)))
    models = options.models if has_gpu else options.models[:_NUM_CPU_MODELS]
    if not has_gpu:
        precisions.remove(Precision.FLOAT16)  # CPUs only emulate it
    wanted: list[tuple[str, Precision, Cache | None]] = [
        (model, precision, None) for precision, model in itertools.product(precisions, models)
    ]
    wanted.insert(len(models), (models[0], fastest, Cache.NONE))
    setup_secs = 0.0  # the longest so far
    counts: dict[str, float] = {}  # operations per clip, which do not depend on the precision
    for number, (model, precision, cache) in enumerate(wanted):
        count = len(wanted) - number
        streamed = ", streamed" if cache == Cache.NONE else ""
        name = f"{model} in {precision}{streamed}"
        if number and clock.left() < setup_secs:
            yield not_checked(f"speed of {name}", "the time for this check is over")
            continue
        doing(f"measuring {name} ({number + 1} of {len(wanted)})")
        started = time.monotonic()
        measured = _Measured(options, model, precision, cache, counts)
        setup_secs = max(setup_secs, time.monotonic() - started)
        secs = Clock(clock.left() - (count - 1) * setup_secs).part(count, least=_MIN_SECS, most=_MAX_SECS)
        yield measured.result(name, secs)
        del measured
        forget_models()


class _Measured:
    """A training that is ready to be measured."""

    def __init__(
        self,
        options: Options,
        model: str,
        precision: Precision,
        cache: Cache | None,
        counts: dict[str, float],
    ):
        """Builds the training and takes its first steps.

        Args:
          options: the check's options.
          model: the model, a recipe's name.
          precision: the precision of the computation.
          cache: where clips are kept; None chooses as a training does by default.
          counts: the operations per clip of models that were counted before; receives those of this model.
        """
        strategy = strategy_lib.make_strategy(Strategy.ONE, environment={})
        self._precision, self._device = precision, strategy.extended.worker_devices[0]
        self._before = _reset_memory(self._device)
        self._is_default = cache is None
        if cache is None:
            cache = feed_lib.choose_cache(Cache.AUTO, _num_bytes(options)).cache
        self._cache = cache
        with strategy_lib.explain_exhausted_memory():
            self._trial = Trial(options, model, precision=precision, strategy=strategy, cache=cache)
            if model not in counts:
                counts[model] = operations.count(self._trial.model)
            self._operations = counts[model]
            self._trial.warm_up()

    def result(self, name: str, secs: float) -> Result:
        """Measures for about `secs` seconds, and judges."""
        first = _memory(self._device)
        found = self._trial.measure(secs)
        last = _memory(self._device)
        card = _card_name()
        peak_rate = peaks.rate(
            card,
            self._precision,
            tensor_float32=tf.config.experimental.tensor_float_32_execution_enabled(),
        )
        used = None if peak_rate is None else peaks.fraction(self._operations, found.clips_per_sec, peak_rate)
        figures: dict[str, Any] = found._asdict() | {
            "batch_size": self._trial.spec.batch_size,
            "cache": str(self._cache),
            "operations_per_clip": self._operations,
            "card": card,
            "peak_operations_per_sec": peak_rate,
            "fraction_of_peak": used,
        }
        if not last:
            shown = [f"{found.clips_per_sec:,.0f} clips/s", f"waits {found.wait_fraction:.1%}"]
            return not_checked(
                f"speed of {name}",
                "there is no GPU: input and steps share the cores, and the peak is unknown",
                found=", ".join(shown),
                figures=figures,
            )
        figures |= {
            "peak_bytes": last["peak"] - self._before,
            "grown_bytes": last["current"] - first["current"],
        }
        batch_bytes = self._trial.spec.batch_size * self._trial.feed.clips.manifest.format.num_bytes
        return judge_speed(name, found, figures, batch_bytes=batch_bytes, judges_wait=self._is_default)


def judge_speed(
    name: str, found: Speed, figures: dict[str, Any], *, batch_bytes: int, judges_wait: bool
) -> Result:
    """Judges the waiting and the growth of memory of a measured training on a GPU.

    Args:
      name: the training, for the result's name.
      found: its speed.
      figures: the figures that _Measured.result collects.
      batch_bytes: size of a batch's pixels.
      judges_wait: whether the goal for waiting holds. It does not where clips are read from the shards although they
        fit into memory.
    """
    used = figures["fraction_of_peak"]
    most = _MAX_GROWTH_BATCHES * batch_bytes + _MAX_GROWTH_BYTES
    waits = judges_wait and found.wait_fraction > MAX_WAIT_FRACTION
    grows = figures["grown_bytes"] > most
    goals = [f"waits at most {MAX_WAIT_FRACTION:.0%}"] * judges_wait + ["memory does not grow"]
    reasons = ["it waits for input"] * waits + ["its memory grows"] * grows
    peak = (
        f"the peak of {figures['card'] or 'this card'} is unknown"
        if used is None
        else f"{used:.1%} of the peak"
    )
    growth = f", grown by {format_bytes(figures['grown_bytes'])}" if grows else ""
    return judge(
        f"speed of {name}",
        not reasons,
        found=f"{found.clips_per_sec:,.0f} clips/s, {peak}, waits {found.wait_fraction:.1%}, "
        f"{format_bytes(figures['peak_bytes'])}{growth}",
        expected=", ".join(goals),
        reason=" and ".join(reasons),
        figures=figures,
    )


def _num_bytes(options: Options) -> int:
    """Returns the size of the pixels of all made-up clips, in bytes."""
    manifest = manifest_lib.load(options.data_dir)
    return manifest.num_clips * manifest.format.num_bytes


def _card_name() -> str:
    """Returns the name that the driver gives the first GPU; "" without GPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "") if gpus else ""


def _memory(device: str) -> dict[str, int]:
    """Returns the bytes in use on a GPU by "current" and "peak"; nothing for a CPU, which does not count them."""
    return tf.config.experimental.get_memory_info(device) if "GPU" in device else {}


def _reset_memory(device: str) -> int:
    """Makes a GPU's peak count from now on; returns the bytes in use, 0 on a CPU."""
    if "GPU" in device:
        tf.config.experimental.reset_memory_stats(device)
    return _memory(device).get("current", 0)
