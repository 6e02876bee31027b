"""Measures several trainings side by side on one GPU, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ucf50_tfrecord.device_checks import isolated
from ucf50_tfrecord.device_checks.outcomes import Clock, Options, Result, Status, judge, not_checked
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import format_bytes

_MIN_SECS, _MAX_SECS = 1.0, 8.0  # of one measurement
# What a process takes of a GPU beside its tensors: CUDA's context and cuDNN's libraries.
_CONTEXT_BYTES = 1 << 30
# Together they must not be slower than one alone; the rest is left to noise.
_MIN_RATIO = 0.9


def sharing(options: Options, doing: Callable[[str], None]) -> Iterator[Result]:
    """Measures one training, and several at once, on the first GPU, or on the CPU if there is none."""
    clock, model = Clock(options.secs), options.models[0]
    alone: dict[str, Any] | None = None
    for number, environments in enumerate(options.sharing):
        count = len(environments)
        name = f"{count} {'training' if count == 1 else 'trainings'} of {model}"
        if alone is not None and (reason := _obstacle(count, alone, clock)):
            yield not_checked(name, reason)
            continue
        doing(f"measuring {name} side by side")
        # A half of the time is left to starting the processes.
        secs = clock.part(2 * (len(options.sharing) - number), least=_MIN_SECS, most=_MAX_SECS)
        found = _measure(environments, options, secs)
        total = sum(each["clips_per_sec"] for each in found)
        alone = found[0] | {"total": total} if alone is None else alone
        yield _judge(name, total, found, alone)


def _obstacle(count: int, alone: Mapping[str, Any], clock: Clock) -> str:
    """Returns the reason why `count` trainings cannot be measured, "" if there is none."""
    needed = count * (alone["peak_bytes"] + _CONTEXT_BYTES)
    if alone["on_gpu"] and needed > alone["free_bytes"]:
        return f"they would take {format_bytes(needed)} of {format_bytes(alone['free_bytes'])}"
    return "" if clock.left() else "the time for this check is over"


def _judge(name: str, total: float, found: Sequence[Mapping[str, Any]], alone: Mapping[str, Any]) -> Result:
    ratio = total / alone["total"]
    figures = {"clips_per_sec": total, "ratio": ratio, "trainings": list(found)}
    shown = f"{total:,.0f} clips/s together, {ratio:.2f} times one"
    if len(found) == 1:
        return Result(name=name, found=f"{total:,.0f} clips/s", status=Status.OK, figures=figures)
    if not alone["on_gpu"]:
        return not_checked(name, "there is no GPU to share", found=shown, figures=figures)
    return judge(
        name,
        ratio >= _MIN_RATIO,
        found=shown,
        expected=f"at least {_MIN_RATIO:g} times one",
        reason="trainings side by side slow each other down",
        figures=figures,
    )


def _measure(
    environments: Sequence[Mapping[str, str]], options: Options, secs: float
) -> list[dict[str, Any]]:
    """Measures trainings side by side; returns what each of them measured.

    Raises:
      UserError: if one of them fails.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        connections = []
        for environment in environments:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, dict(environment), options, secs))
            process.start()
            theirs.close()
            stack.callback(_end, process)
            connections.append(ours)
        for connection in connections:
            _receive(connection)  # until it has taken its first steps
        for connection in connections:
            connection.send("measure")
        return [_receive(connection) for connection in connections]


def _receive(connection: Connection) -> Any:
    """Returns a training's next message.

    Raises:
      UserError: if the training has failed, or its process has crashed.
    """
    try:
        kind, content = connection.recv()
    except EOFError:
        kind, content = "error", "its process crashed"
    if kind == "error":
        raise UserError(f"A training side by side with others failed: {content}")
    return content


def _end(process: Any) -> None:
    process.kill()
    process.join()


def _serve(connection: Connection, environment: dict[str, str], options: Options, secs: float) -> None:
    """Trains, says so, measures once the parent has answered, and sends the figures."""
    with isolated.serving(connection):
        os.environ.update(environment)  # before TensorFlow is loaded, which reads them
        if options.prepare is not None:
            options.prepare()
        connection.send(("figures", _train(connection, options, secs)))


def _train(connection: Connection, options: Options, secs: float) -> dict[str, Any]:
    import tensorflow as tf

    from ucf50_tfrecord.choices import Cache, Precision, Strategy
    from ucf50_tfrecord.dataset import memory
    from ucf50_tfrecord.device_checks.trial import Trial
    from ucf50_tfrecord.training import strategy as strategy_lib

    strategy = strategy_lib.make_strategy(Strategy.ONE, environment={})
    on_gpu = strategy_lib.device_type() == "GPU"
    free_bytes = memory.available_device_bytes() if on_gpu else 0
    with strategy_lib.explain_exhausted_memory():
        trial = Trial(
            options,
            options.models[0],
            precision=strategy_lib.choose_precision(Precision.AUTO),
            strategy=strategy,
            cache=Cache.HOST,
        )
        trial.warm_up()
        connection.send(("ready", None))
        connection.recv()  # until all others are ready
        speed = trial.measure(secs)
    device = strategy.extended.worker_devices[0]
    used = tf.config.experimental.get_memory_info(device)["peak"] if on_gpu else 0
    return speed._asdict() | {"on_gpu": on_gpu, "peak_bytes": used, "free_bytes": free_bytes}
