"""The interface between a training and its caller: progress, warnings, stopping. Does not load TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """A training's position. Steps and epochs count from 1.

    scores: at an epoch's end its validation scores; between, the latest point of the training curves, if there
      is a new one.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    epoch_done: bool = False
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listener:
    """Functions that a training calls; by default they ignore everything and never stop it.

    report: receives the progress after each call of steps.
    warn: receives a sentence that the user should know but need not stop for.
    should_stop: tells whether to save a checkpoint and stop; called after each call of steps. Of several workers
      one is enough: all stop after the same step.
    """

    report: Callable[[TrainProgress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
