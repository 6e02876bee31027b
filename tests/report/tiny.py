"""Results of comparisons so small that their numbers can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ucf50_tfrecord.evaluation.results import Cell, CellResult, Results
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.evaluation.verdicts import Answer, Verdict

CLASSES = ("a", "b", "c")
NUM_FRAMES = 8
SURE = 4.0


def tiny_cell(
    model: str,
    says: str,
    *,
    classes: Sequence[str] = CLASSES,
    sure: float | Sequence[float] = SURE,
    recurrence: dict | None = None,
    part: int = 0,
    seed: int = 0,
    training: str = "kept",
    split: str = "group",
    **interventions: str,
) -> CellResult:
    """Returns a training whose model predicts a class for each clip: its logit is `sure`, the others are 0.

    Args:
      model: also the architecture.
      says: the predicted classes, one letter per clip.
      interventions: the same under each intervention.
    """
    logits = {"none": says} | interventions
    return CellResult(
        cell=Cell(model=model, training=training, split=split, part=part, seed=seed),
        architecture=model,
        clips=np.arange(len(says)),
        logits={name: _logits(letters, classes, sure) for name, letters in logits.items()},
        recurrence=recurrence,
        run_dir="",
        precision="float32",
    )


def tiny_results(
    cells: Sequence[CellResult],
    *,
    labels: str = "aabbcc",
    classes: Sequence[str] = CLASSES,
    ids: Sequence[str] | None = None,
    audit: dict | None = None,
    names: Sequence[str] | None = None,
) -> Results:
    """Returns results of clips with the given labels, one letter per clip, in groups of two adjacent clips.

    names: of the classes; by default their letters.
    """
    numbers = np.array([classes.index(letter) for letter in labels])
    groups = np.arange(len(labels)) // 2 + 1
    return Results(
        name="tiny",
        classes=tuple(names or classes),
        num_frames=NUM_FRAMES,
        ids=tuple(ids or (f"{letter}/v{i}" for i, letter in enumerate(labels))),
        labels=numbers,
        groups=groups,
        folds=groups,
        cells=tuple(cells),
        audit=audit,
    )


def tiny_verdict(
    kind: str,
    *models: str,
    answer: Answer = Answer.YES,
    effect: float = 0.2,
    low: float = 0.1,
    high: float = 0.3,
) -> Verdict:
    """Returns a verdict with made-up p values."""
    return Verdict(
        kind=kind,
        models=models,
        answer=answer,
        effect=Estimate(effect, low, high),
        p=0.01,
        adjusted_p=0.02,
        mcnemar_p=0.03,
        more_groups=7 if answer == Answer.UNKNOWN else 0,
    )


def _logits(letters: str, classes: Sequence[str], sure: float | Sequence[float]) -> np.ndarray:
    said = np.array([list(classes).index(letter) for letter in letters])
    return (np.eye(len(classes))[said] * np.broadcast_to(sure, len(letters))[:, np.newaxis]).astype(
        np.float32
    )
