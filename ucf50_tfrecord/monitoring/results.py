"""The results of checking a stream for drift: a check of each of its batches, as JSON and as sentences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ucf50_tfrecord.choices import Finding, Measure
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.monitoring.drift import MIN_RECORDINGS, Check, Checker
from ucf50_tfrecord.monitoring.reference import Reference
from ucf50_tfrecord.monitoring.stream import Batch
from ucf50_tfrecord.monitoring.videos import NUMBERS, Videos

_DECIMALS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """The results of checking a stream.

    run: name of the run.
    model: name of its model.
    weights: checkpoint, "last" or "best".
    classes: names of the C classes.
    level: probability of an alarm in any batch if nothing has drifted.
    reference: the run's held-out videos.
    design_effect: how many of these count as one, see Checker.design_effect.
    batches: the batches of the stream.
    checks: the check of each batch.
    """

    run: str
    model: str
    weights: str
    classes: tuple[str, ...]
    level: float
    reference: Reference
    design_effect: float
    batches: tuple[Batch, ...]
    checks: tuple[Check, ...]

    @property
    def has_drifted(self) -> bool:
        return any(check.finding == Finding.DRIFT for check in self.checks)

    @property
    def num_failed(self) -> int:
        return sum(batch.num_failed for batch in self.batches)

    @property
    def num_recordings(self) -> int:
        return len(np.unique(self.reference.recordings))

    def notes(self) -> list[str]:
        """Returns sentences on what was left out, and how far the reference reaches."""
        found = []
        if self.reference.missing:
            found.append(
                "Brightness, motion energy and frame rate are left out, because those of the run's clips are unknown: "
                f"{self.reference.missing}."
            )
        lost = [
            measure
            for measure in NUMBERS
            if self.reference.videos.numbers(measure) is not None
            and any(len(batch.videos) and batch.videos.numbers(measure) is None for batch in self.batches)
        ]
        if lost:
            found.append(
                f"{', '.join(map(str, lost))}: left out where the predictions do not hold them; those of earlier "
                "versions do not."
            )
        if self.num_recordings < MIN_RECORDINGS:
            found.append(
                f"The reference has {self.num_recordings} recordings, and {MIN_RECORDINGS} are needed: nothing is tested."
            )
        if self.num_failed:
            total = self.num_failed + sum(len(batch.videos) for batch in self.batches)
            found.append(f"Not predicted, and so in no test: {self.num_failed} of {total} videos.")
        return found

    def scalars(self) -> list[dict[str, float]]:
        """Returns the points of TensorBoard's curves, a dictionary per batch from a curve's tag to its value."""
        return [
            {"videos": len(batch.videos), "failed": batch.num_failed, "drift": check.finding == Finding.DRIFT}
            | {f"mean/{name}": value for name, value in _means(batch.videos).items()}
            | {f"statistic/{test.measure}": test.statistic for test in check.tests}
            | {f"threshold/{test.measure}": test.threshold for test in check.tests}
            | {f"p/{test.measure}": test.p for test in check.tests}
            for batch, check in zip(self.batches, self.checks)
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns all numbers as a JSON value; None stands for infinity."""
        return {
            "run": self.run,
            "model": self.model,
            "weights": self.weights,
            "level": self.level,
            "drift": self.has_drifted,
            "reference": describe(self.reference.videos, self.classes)
            | {"recordings": self.num_recordings, "design_effect": round(self.design_effect, 4)},
            "notes": self.notes(),
            "batches": [
                {"name": batch.name, "failed": batch.num_failed}
                | describe(batch.videos, self.classes)
                | _check_to_json(check)
                for batch, check in zip(self.batches, self.checks)
            ],
        }


def check_stream(
    reference: Reference,
    batches: Sequence[Batch],
    *,
    run: str,
    model: str,
    weights: str,
    classes: tuple[str, ...],
    level: float,
) -> Results:
    """Compares each batch of a stream with a run's reference; see Results for the arguments.

    Raises:
      UserError: if no video of the stream is predicted.
    """
    num_checks = sum(len(batch.videos) > 0 for batch in batches)
    expect(num_checks, "at least 1 predicted video", failed=sum(batch.num_failed for batch in batches))
    checker = Checker(reference.videos, reference.recordings, classes, level=level, num_checks=num_checks)
    return Results(
        run=run,
        model=model,
        weights=weights,
        classes=classes,
        level=level,
        reference=reference,
        design_effect=checker.design_effect,
        batches=tuple(batches),
        checks=tuple(checker.check(batch.videos) for batch in batches),
    )


def describe(videos: Videos, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the number of videos, the fraction predicted as each class, and the mean of each known measure."""
    found: dict[str, Any] = {"videos": len(videos)}
    if not len(videos):
        return found
    fractions = np.bincount(videos.predicted, minlength=len(classes)) / len(videos)
    found["classes"] = dict(zip(classes, fractions.round(_DECIMALS).tolist()))
    return found | {name: round(value, _DECIMALS) for name, value in _means(videos).items()}


def _means(videos: Videos) -> dict[str, float]:
    """Returns the mean of each known measure of NUMBERS, by its name; none if there is no video."""
    known = {str(measure): videos.numbers(measure) for measure in NUMBERS}
    return {
        name: float(values.mean()) for name, values in known.items() if values is not None and len(values)
    }


def _check_to_json(check: Check) -> dict[str, Any]:
    tests: dict[str, dict[str, Any]] = {}
    for test in check.tests:
        tests[str(test.measure)] = {
            "statistic": round(test.statistic, _DECIMALS),
            "threshold": round(test.threshold, _DECIMALS),
            "p": test.p,
            "level": test.level,
            "alarm": test.is_alarm,
        }
        if test.measure == Measure.SOFTMAX:
            tests[str(test.measure)]["class"] = test.where
    return {
        "finding": str(check.finding),
        "findable": None if math.isinf(check.findable) else round(check.findable, _DECIMALS),
        "videos_needed": check.videos_needed,
        "tests": tests,
    }
