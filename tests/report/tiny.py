"""Makes results of model comparisons that are so small that their numbers can be computed by hand."""

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
    """Makes the result of one training (cell) of a comparison, with the given predictions.

    In each clip's logits, the predicted class has the value `sure` and the other classes have 0.

    Args:
      model: name of the model, and of its architecture.
      says: predicted class of each clip, one letter per clip.
      classes: letters of the classes.
      sure: logit of the predicted class, one number for all clips or one per clip.
      recurrence: evaluation.recurrence.Recurrence as JSON; None for models without one.
      part: number of the part of the clips that the training is tested on.
      seed: seed of the training.
      training: order of frames in training clips.
      split: whether parts consist of whole groups or of single videos.
      interventions: by name of an intervention (a change of the test clips, such as "reverse"), the
        predicted class of each clip under it, like `says`.
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
    """Makes results of a comparison on clips in groups of two adjacent clips.

    Args:
      cells: results of the trainings, from tiny_cell.
      labels: class of each clip, one letter per clip.
      classes: letters of the classes.
      ids: ids of the clips; None makes ids.
      audit: nearest clips by split, as in Results.
      names: names of the classes; None uses their letters.
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
        of_features=False,
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
    """Makes a verdict, the answer to one question of a comparison, with made-up p values.

    Args:
      kind: kind of the verdict, a key of evaluation.verdicts.KINDS.
      *models: the models of the question.
      answer: the answer.
      effect: estimated difference of the accuracy.
      low: lower end of its confidence interval.
      high: upper end of its confidence interval.
    """
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
