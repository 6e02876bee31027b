"""What a training tells its caller, and how the caller stops it. Does not load TensorFlow."""

from __future__ import annotations

import dataclasses


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


class Listener:
    """Receives how a training goes, and may stop it. This base class ignores everything and never stops it."""

    def report(self, progress: TrainProgress) -> None:
        """Receives the progress after each call of steps."""

    def warn(self, text: str) -> None:
        """Receives a sentence that the user should know but need not stop for."""

    def should_stop(self) -> bool:
        """Tells whether to save a checkpoint and stop; asked after each call of steps.

        Of several workers one is enough: all stop after the same step.
        """
        return False
