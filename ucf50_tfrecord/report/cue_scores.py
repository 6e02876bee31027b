"""The numbers of the comparison report's sections on cues: backgrounds, single frames, direction and order.

They are computed from predictions by the formulas of evaluation.measures. Intervals at test time are from the
bootstrap over groups; those of differences between trainings allow for other seeds, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.evaluation import measures, statistics
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.report.scores import Scores

SINGLE_FRAMES = ("first1", "middle1", "last1")  # the tested interventions that freeze a clip to one frame
_SWAPPED, _REVERSED = "background_swap", "reverse"


class Swap(NamedTuple):
    """How often clips are predicted as the class of the donor, another clip whose background they could have.

    error: fraction of clips with the donor's background that are predicted as the donor's class.
    before: the same fraction for the clips with their own background, which is no effect of the swap.
    """

    error: Estimate
    before: Estimate


class Oracle(NamedTuple):
    """The accuracy on single frames that are chosen in hindsight.

    accuracy: accuracy if each clip is shown frozen to the best of SINGLE_FRAMES.
    gain: this accuracy minus that on whole clips.
    """

    accuracy: Estimate
    gain: Estimate


class Pairs(NamedTuple):
    """Scores on clips of classes that are each other's reverse.

    forward: accuracy on these clips.
    backward: fraction of the reversed clips that are predicted as the twin class.
    both: pair accuracy, see measures.pair_right.
    """

    forward: Estimate
    backward: Estimate
    both: Estimate


def swap_error(results: Results, model: str) -> Swap | None:
    """Computes how often a background leads a model to the class of the clip that the background is from.

    Clips whose donor has their own class are left out. Source: the background error of Chung et al. 2022, "Enabling
    Detailed Action Recognition Evaluation Through Video Dataset Augmentation".

    Returns:
      The fractions; None if the model was not tested on swapped backgrounds, or the donors are unknown.
    """
    swapped, _ = results.predictions(condition := Condition(model, intervention=_SWAPPED))
    plain, _ = results.predictions(Condition(model))
    donors = results.donors(condition)
    if donors is None or not donors.shape == swapped.shape == plain.shape:
        return None
    theirs = np.where(donors < 0, -1, results.labels[donors])  # [S, N]
    counted = ((theirs >= 0) & (theirs != results.labels) & (swapped >= 0) & (plain >= 0)).all(axis=0)
    hits = (np.where(counted, (said == theirs).mean(axis=0), np.nan) for said in (swapped, plain))
    error, before = map(results.mean, hits)
    return Swap(error, before) if len(donors) and error else None


def contrasted_accuracy(results: Results, model: str) -> Estimate | None:
    """Computes the mean of measures.contrasted_right; None if the model was not tested as required."""
    found = _right(results, model, _SWAPPED, "middle1")
    return None if found is None else results.mean(measures.contrasted_right(*found).mean(axis=0))


def oracle(results: Results, model: str) -> Oracle | None:
    """Scores the best of a clip's tested frames; None if a model was not tested on each of SINGLE_FRAMES."""
    found = _right(results, model, *SINGLE_FRAMES, PLAIN)
    if found is None:
        return None
    *frames, whole = found
    best = measures.oracle_right(frames).mean(axis=0)
    accuracy, gain = results.mean(best), results.mean(best - whole.mean(axis=0))
    return Oracle(accuracy, gain) if accuracy and gain else None


def find_twins(scores: Scores) -> np.ndarray:
    """Finds twin classes by the predictions of all models that see frame order; see measures.find_twins."""
    num_classes = len(scores.results.classes)
    forward, backward = np.zeros((2, num_classes, num_classes), int)
    for model in scores.sequence_models:
        if scores.tested(Condition(model, intervention=_REVERSED)).any():
            forward += scores.confusion(model)
            backward += scores.confusion(model, _REVERSED)
    return measures.find_twins(forward, backward)


def pair_accuracy(results: Results, model: str, twins: np.ndarray) -> Pairs | None:
    """Scores a model on clips of twin classes and their reverses.

    Args:
      results: the comparison's results.
      model: name of the model.
      twins: each class's twin, int [C]; -1 for classes without one.

    Returns:
      The scores; None if no clip of a twin class was tested in both directions.
    """
    forward, tested = results.predictions(Condition(model))
    backward, also_tested = results.predictions(Condition(model, intervention=_REVERSED))
    if forward.shape != backward.shape or not len(forward):
        return None
    labels, expected = results.labels, twins[results.labels]
    counted = tested & also_tested & (expected >= 0)
    right = (
        forward == labels,
        backward == expected,
        measures.pair_right(forward, backward, labels, twins),
    )
    found = [results.mean(np.where(counted, values.mean(axis=0), np.nan)) for values in right]
    return Pairs(*found) if all(found) else None


def order_effects(scores: Scores, model: str) -> list[Estimate | None]:
    """Computes what each class's accuracy owes to frame order, in training and test.

    The effect is the accuracy of the recipe trained and tested on frames in order, minus that of the recipe trained
    and tested on shuffled frames. Intervals are those of statistics.recipe_interval; with one training of each
    recipe, they are from groups alone.

    Returns:
      The effect in each of the C classes; None for classes that were not tested in both ways.
    """
    results = scores.results
    kept = Condition(model)
    shuffled = Condition(model, training=FrameOrder.SHUFFLED, intervention=SHUFFLED)
    one, other = results.trainings(kept), results.trainings(shuffled)
    if min(len(one.scores), len(other.scores)) < 2:
        return scores.changes_by_class(kept, shuffled)
    tested = scores.tested(kept) & scores.tested(shuffled)
    found: list[Estimate | None] = []
    for label in range(len(results.classes)):
        chosen = tested & (results.labels == label)
        units = results.units[chosen]
        found.append(
            statistics.recipe_interval(one.select(chosen), other.select(chosen), units)
            if len(units)
            else None
        )
    return found


def _right(results: Results, model: str, *names: str) -> list[np.ndarray] | None:
    """Returns whether a model is right under each of several interventions, float [S, N]; None if untested."""
    found = [results.trainings(Condition(model, intervention=name)).scores for name in names]
    return found if len(found[0]) and len({scores.shape for scores in found}) == 1 else None
