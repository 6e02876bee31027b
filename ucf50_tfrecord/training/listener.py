"""The interface between a training and its caller: progress, warnings, requests to stop.

Does not load TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A training's position and its newest scores. Steps and epochs count from 1.

    step: the last finished step.
    num_steps: steps of the whole training.
    epoch: the epoch of the last finished step.
    num_epochs: epochs of the whole training.
    epoch_done: whether `step` is the last one of its epoch, and the epoch has been evaluated.
    scores: if `epoch_done`, the epoch's training loss and validation scores. Else the newest point of each
      training curve, or an empty dictionary if no point is new.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    epoch_done: bool = False
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listener:
    """Functions that a training calls. The defaults ignore all reports and never stop the training.

    report: called with the progress after each group of steps that run in one call on the device.
    warn: called with one sentence about a problem that does not stop the training.
    should_stop: called after each such group of steps. If it returns True, the training saves a checkpoint
      and stops. If several workers train together, True in one worker stops all workers after the same step.
    """

    report: Callable[[TrainProgress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
