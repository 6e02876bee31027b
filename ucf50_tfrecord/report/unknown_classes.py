"""The comparison report's section on unknown classes: how well models tell them from the classes they know.

The section exists only if classes were held out of trainings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ucf50_tfrecord.drawing.document import Block, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation import statistics, unknown
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import CellResult, Results
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.evaluation.unknown import Detection, Score
from ucf50_tfrecord.report.scores import format_estimate

_NUM_SETS_SHOWN = 12  # rows of the table of sets
# The measures of the table, by the fields of Detection.
MEASURES = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "false_acceptance": "FPR at 95% TPR",
    "macro_f1": "Open-set macro F1",
}
# Detections by the held-out classes (their indices), one per training.
Detections = Mapping[tuple[int, ...], Sequence[Detection]]


def section(results: Results) -> Iterator[Block]:
    """Yields the blocks of the section on unknown classes; none if no classes were held out."""
    cells = [result for result in results.cells if result.cell.held_out]
    if not cells:
        return
    yield Heading("Unknown classes")
    scored = [result for result in cells if _has_both_kinds(results, result)]
    if len(scored) < len(cells):
        yield Paragraph(
            f"{len(cells) - len(scored)} of {len(cells)} trainings are left out, because their test clips are not of "
            "both known and unknown classes."
        )
    if not scored:
        return
    found = {
        model: {score: detections(results, scored, model, score) for score in Score}
        for model in results.models
        if any(result.cell.model == model for result in scored)
    }
    sets = sorted({result.cell.held_out for result in scored})
    yield Paragraph(_describe(results, sets, found))
    rows = [
        [model, score, *(format_estimate(measure(by_set, name)) for name in MEASURES)]
        for model, of_model in found.items()
        for score, by_set in of_model.items()
    ]
    caption = (
        "How well scores tell clips of unknown classes from clips of known ones. Means over sets of held-out classes, "
        "with 95% intervals over these sets (Student's t): other classes would give other values. AUROC and AUPR count "
        "unknown classes as positive. FPR at 95% TPR is the fraction of unknown clips that are accepted if 95% of the "
        "known clips are; lower is better. Open-set macro F1 counts all unknown classes as one more class, at a "
        "threshold that accepts 95% of the known clips of other recordings."
    )
    yield Table(caption, ("Model", "Score", *MEASURES.values()), rows)
    yield _hardest(results, sets, {model: of_model[Score.SOFTMAX] for model, of_model in found.items()})


def detections(results: Results, cells: Sequence[CellResult], model: str, score: Score) -> Detections:
    """Measures how well a score tells unknown classes from known ones, in each of a model's trainings.

    Args:
      results: the comparison's results.
      cells: the trainings without some classes, whose test clips are of both kinds.
      model: name of the model.
      score: the score.
    """
    found: dict[tuple[int, ...], list[Detection]] = {}
    for result in cells:
        if result.cell.model == model:
            logits, held_out = result.logits[PLAIN], result.cell.held_out
            scores = _scores(score, result, unknown.known_logits(logits, held_out))
            labels, units = results.labels[result.clips], results.units[result.clips]
            detection = unknown.detect(scores, logits, labels, held_out, units)
            found.setdefault(held_out, []).append(detection)
    return found


def measure(by_set: Detections, name: str) -> Estimate | None:
    """Computes the mean of a measure over sets of held-out classes, and its interval over these sets.

    Args:
      by_set: the detections by set. A set's value is the mean over its trainings, which differ in their seeds.
      name: name of the measure, a field of Detection.

    Returns:
      The mean with its interval, cut to 0 to 1; None if the measure is unknown for all sets.
    """
    values = np.array([np.mean([getattr(one, name) for one in found]) for found in by_set.values()])
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return Estimate(*np.clip(dataclasses.astuple(statistics.t_interval(values)), 0, 1).tolist())


def _scores(score: Score, result: CellResult, logits: np.ndarray) -> np.ndarray:
    """Computes a score of each test clip of a training, float64 [M], from the logits of the known classes."""
    if score == Score.NEIGHBORS:
        assert result.neighbor_distances is not None  # as classes are held out
        return result.neighbor_distances
    return unknown.softmax_scores(logits) if score == Score.SOFTMAX else unknown.energy_scores(logits)


def _has_both_kinds(results: Results, result: CellResult) -> bool:
    is_unknown = np.isin(results.labels[result.clips], result.cell.held_out)
    return bool(is_unknown.any() and not is_unknown.all())


def _describe(
    results: Results, sets: Sequence[tuple[int, ...]], found: Mapping[str, Mapping[Score, Detections]]
) -> str:
    sizes = sorted({len(one) for one in sets})
    size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} or {sizes[-1]}"
    every = [one for of_model in found.values() for one in of_model[Score.SOFTMAX].values()]
    guessed = np.mean([detection.unknown_fraction for one in every for detection in one])
    alone = " With one set, there are no intervals." if len(sets) == 1 else ""
    return (
        f"Each model was also trained without {size} of the {len(results.classes)} classes at a time, in {len(sets)} "
        "sets, and tested on clips of all classes, of recording groups that it was not trained on. A score of each "
        "clip should be higher for classes that the model does not know. Guessing gives AUROC 0.5, AUPR "
        f"{guessed:.3f} and FPR 0.95.{alone}"
    )


def _hardest(results: Results, sets: Sequence[tuple[int, ...]], by_model: Mapping[str, Detections]) -> Table:
    """Returns the table of the sets of classes, those that the models tell worst first."""
    values = {
        one: {m: np.mean([d.auroc for d in by_set[one]]) for m, by_set in by_model.items() if one in by_set}
        for one in sets
    }
    ranked = sorted(sets, key=lambda one: float(np.mean(list(values[one].values()))))
    rows = [
        [", ".join(results.classes[label] for label in one)]
        + [f"{values[one][model]:.3f}" if model in values[one] else "–" for model in by_model]
        for one in ranked[:_NUM_SETS_SHOWN]
    ]
    more = f" The {_NUM_SETS_SHOWN} hardest of {len(sets)} sets." if len(sets) > _NUM_SETS_SHOWN else ""
    caption = f"AUROC of the {Score.SOFTMAX} by the classes that were held out, the hardest ones first.{more}"
    return Table(caption, ("Unknown classes", *by_model), rows)
