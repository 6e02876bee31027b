"""The vocabulary of the checks: what a check gets, and what it finds. Does not load TensorFlow."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable, Mapping
from typing import Any


class Status(enum.StrEnum):
    """The outcome of a check, as it is shown."""

    OK = "ok"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table of results.

    name: what was checked, such as "speed of lstm in bfloat16".
    found: what was found, for people; "" if nothing was.
    expected: what was expected, for people; "" if nothing was, as for a measurement without a goal.
    status: the outcome.
    reason: the reason why it failed or was not checked; "" if the outcome is OK.
    figures: the measured numbers by name, as JSON values.
    """

    name: str
    found: str = ""
    expected: str = ""
    status: Status
    reason: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


def judge(
    name: str, good: bool, *, found: str, expected: str, reason: str = "", figures: Mapping[str, Any] = {}
) -> Result:
    """Returns a result that is OK if `good` is True, and else has failed for `reason`."""
    return Result(
        name=name,
        found=found,
        expected=expected,
        status=Status.OK if good else Status.FAILED,
        reason="" if good else reason,
        figures=dict(figures),
    )


def not_checked(name: str, reason: str, **known: Any) -> Result:
    """Returns a result that says why something was not checked; `known` are other fields of the result."""
    return Result(name=name, status=Status.NOT_CHECKED, reason=reason, **known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What all checks get.

    data_dir: the folder of the made-up clips, see made_clips.write.
    models: the models whose speed is measured, each also the name of a recipe. The first one is taken where one
      model is enough.
    gpus: the GPUs that the driver lists for this process.
    batch_size: clips per step; 0 stands for the recipe's.
    secs: seconds that the check may take. Measurements get shorter if it is short.
    sharing: for each number of trainings side by side, the environment variables of each of them.
    prepare: called first in each process that loads TensorFlow; None to do nothing. It must be picklable.
    """

    data_dir: str
    models: tuple[str, ...]
    batch_size: int
    secs: float
    gpus: tuple[str, ...] = ()
    sharing: tuple[tuple[dict[str, str], ...], ...] = ()
    prepare: Callable[[], None] | None = None


class Clock:
    """Divides the time of a check among its measurements."""

    def __init__(self, secs: float):
        self._end = time.monotonic() + secs

    def left(self) -> float:
        """Returns the seconds that are left, 0 if the time is over."""
        return max(0.0, self._end - time.monotonic())

    def part(self, count: int, *, least: float, most: float) -> float:
        """Returns the seconds for one of `count` measurements that are left, from `least` to `most`."""
        return min(max(self.left() / count, least), most)


# A check's function. It yields its results one by one, and calls its second argument with what it is doing now.
Function = Callable[[Options, Callable[[str], None]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    function: its function, a Function, as <module>:<function>.
    about: what it checks, for people.
    weight: its part of the time, relative to other checks.
    min_gpus: number of GPUs without which it cannot run.
    loads_tensorflow: whether its own process loads TensorFlow; else only processes that it starts do.
    """

    function: str
    about: str
    weight: float
    min_gpus: int = 0
    loads_tensorflow: bool = True

    def obstacle(self, num_gpus: int) -> str:
        """Returns the reason why this check cannot run with so many GPUs, "" if it can."""
        if num_gpus >= self.min_gpus:
            return ""
        return "there is only one GPU" if num_gpus else "there is no GPU"


_HERE = __package__
# In the order in which they run: those that explain the failures of others come first.
CHECKS = {
    "devices": Check(function=f"{_HERE}.numerics:devices", about="the GPUs that TensorFlow sees", weight=1),
    "replicas_cpu": Check(
        function=f"{_HERE}.numerics:replicas_on_cpu", about="two CPU devices against one", weight=2
    ),
    "replicas": Check(
        function=f"{_HERE}.numerics:replicas", about="all GPUs against one", weight=2, min_gpus=2
    ),
    "precisions": Check(
        function=f"{_HERE}.numerics:precisions", about="float16 and bfloat16 against float32", weight=3
    ),
    "cudnn": Check(
        function=f"{_HERE}.kernels:cudnn", about="cuDNN's kernel in LSTM and GRU", weight=3, min_gpus=1
    ),
    "resident": Check(function=f"{_HERE}.kernels:resident", about="clips kept on the devices", weight=2),
    "speed": Check(function=f"{_HERE}.speed:speed", about="clips/s, waiting for input and memory", weight=16),
    "sharing": Check(
        function=f"{_HERE}.sharing:sharing",
        about="trainings side by side",
        weight=5,
        loads_tensorflow=False,
    ),
}
