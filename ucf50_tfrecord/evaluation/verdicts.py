"""Verdicts of a comparison: each is a claim with its effect, interval and test.

A claim is a paired contrast: the difference in the fraction of clips that are right, on the same clips,
with groups as units. "yes": its test is significant after the correction for all contrasts of the
comparison. "no": it is not, and the 95% interval excludes an effect of 0.05. Otherwise: "cannot tell".
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special

from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.evaluation import interventions, statistics
from ucf50_tfrecord.evaluation.interventions import SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.statistics import Estimate

MARGIN = 0.05  # smaller effects on accuracy may exist, but hardly matter
_LEVEL = 0.05


class Answer(enum.StrEnum):
    """The answer of a verdict."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


# Maps a comparison and one of its models to each clip's difference, float [N]; NaN where there is none.
Effect = Callable[[Results, str], np.ndarray]


def _loss(**condition: str) -> Effect:
    """Returns the effect: accuracy under the usual condition minus that under another."""

    def effect(results: Results, model: str) -> np.ndarray:
        return results.correct(Condition(model)) - results.correct(Condition(model, **condition))

    return effect


def _above_chance(results: Results, model: str) -> np.ndarray:
    return results.correct(Condition(model)) - chance(results, Condition(model))


def _gain_by_video(results: Results, model: str) -> np.ndarray:
    return results.correct(Condition(model, split=FoldBy.VIDEO)) - results.correct(Condition(model))


def _start_over_end(results: Results, model: str) -> np.ndarray:
    count = interventions.quarter(results.num_frames)
    start, end = (Condition(model, intervention=f"{side}{count}") for side in ("first", "last"))
    return results.correct(start) - results.correct(end)


def _end_over_start(results: Results, model: str) -> np.ndarray:
    return -_start_over_end(results, model)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A question about one model or two, and the texts of its answers; {0} and {1} are the models.

    effect: what is judged, positive in the direction of the question; None for a question about two models.
    order_blind: whether only order-blind models are asked, or only the others; None asks all.
    is_reverse: whether it reverses the kind before it, so that the two questions are one test.
    """

    question: str
    yes: str
    no: str
    effect: Effect | None = None
    order_blind: bool | None = None
    is_reverse: bool = False


# A verdict is an entry here. Reports keep this order.
KINDS: dict[str, Kind] = {
    "above_chance": Kind(
        "Does it recognise classes in groups it has not seen?",
        "{0} recognises classes in unseen groups: its accuracy is above chance by",
        "{0} does not recognise classes in unseen groups: its accuracy is above chance by",
        _above_chance,
        order_blind=False,
    ),
    "appearance_suffices": Kind(
        "Is appearance alone enough to tell classes apart?",
        "Appearance alone tells classes apart: the order-blind {0} is above chance by",
        "Appearance alone does not tell classes apart: the order-blind {0} is above chance by",
        _above_chance,
        order_blind=True,
    ),
    "needs_order": Kind(
        "Does it need frame order, even when trained without it?",
        "{0} uses frame order: trained and tested on shuffled frames, it loses",
        "{0} does not use frame order: trained and tested on shuffled frames, it loses",
        _loss(training=FrameOrder.SHUFFLED, intervention=SHUFFLED),
        order_blind=False,
    ),
    "needs_several_frames": Kind(
        "Does it need more than one frame, even when trained on single frames?",
        "{0} uses several frames: trained and tested on a single frame, it loses",
        "{0} does not use more than one frame: trained and tested on a single frame, it loses",
        _loss(training=FrameOrder.SINGLE, intervention="middle1"),
        order_blind=False,
    ),
    "disturbed_by_shuffling": Kind(
        "Do shuffled frames disturb it at test time?",
        "Shuffled frames disturb {0}: at test time alone, they cost",
        "Shuffled frames do not disturb {0}: at test time alone, they cost",
        _loss(intervention=SHUFFLED),
        order_blind=False,
    ),
    "uses_direction": Kind(
        "Does it notice that time runs backwards?",
        "{0} sees the direction of time: reversed frames cost",
        "{0} does not see the direction of time: reversed frames cost",
        _loss(intervention="reverse"),
        order_blind=False,
    ),
    "needs_full_rate": Kind(
        "Does it need the full frame rate?",
        "{0} needs the full frame rate: half of it costs",
        "{0} does not need the full frame rate: half of it costs",
        _loss(intervention="half_rate"),
    ),
    "evidence_at_start": Kind(
        "Do the first frames tell more than the last?",
        "The start of the clip tells {0} more than its end: the first quarter beats the last by",
        "The start of the clip tells {0} no more than its end: the first quarter beats the last by",
        _start_over_end,
    ),
    "evidence_at_end": Kind(
        "Do the last frames tell more than the first?",
        "The end of the clip tells {0} more than its start: the last quarter beats the first by",
        "The end of the clip tells {0} no more than its start: the last quarter beats the first by",
        _end_over_start,
        is_reverse=True,
    ),
    "uses_background": Kind(
        "Does it rely on the background?",
        "{0} relies on the background: that of another clip costs",
        "{0} does not rely on the background: that of another clip costs",
        _loss(intervention="background_swap"),
    ),
    "recognises_recording": Kind(
        "Does it score higher on recordings that it has seen?",
        "{0} recognises recordings: clips of known groups score higher by",
        "{0} does not recognise recordings: clips of known groups score higher by",
        _gain_by_video,
    ),
    "models_differ": Kind(
        "Do the two models differ?",
        "{0} and {1} differ: {0} is ahead by",
        "{0} and {1} do not differ: {0} is ahead by",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one question.

    kind: of KINDS. models: those of the question; of two, the one ahead comes first.
    effect: on accuracy, positive in the direction of the question.
    p, adjusted_p: of the sign-flip test over groups, before and after the correction.
    mcnemar_p: of two models on the same clips; NaN for other kinds.
    more_groups: additional groups that would probably settle an UNKNOWN answer; 0 for others.
    """

    kind: str
    models: tuple[str, ...]
    answer: Answer
    effect: Estimate
    p: float
    adjusted_p: float
    mcnemar_p: float
    more_groups: int

    @property
    def text(self) -> str:
        kind = KINDS[self.kind]
        if self.answer == Answer.UNKNOWN:
            more = f"; about {self.more_groups} more groups needed" if self.more_groups else ""
            models = " and ".join(self.models)
            numbers = f"{self.effect} (p = {self.adjusted_p:.2g})"
            return f"{kind.question} Cannot tell for {models} at this size: {numbers}{more}."
        if self.answer == Answer.NO:  # rests on the interval, not on the test
            return f"{kind.no.format(*self.models)} {self.effect}."
        small = f"; less than {MARGIN} may not matter" if self.effect.value < MARGIN else ""
        return f"{kind.yes.format(*self.models)} {self.effect} (p = {self.adjusted_p:.2g}){small}."


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The data of a verdict.

    values: each clip's difference, float [N]; NaN where there is none.
    pair: the conditions of the two models, for a contrast of models.
    """

    kind: str
    models: tuple[str, ...]
    values: np.ndarray
    pair: tuple[Condition, Condition] | None = None


def judge(results: Results) -> list[Verdict]:
    """Returns the verdicts of all questions for which the results hold predictions."""
    contrasts = [contrast for contrast in find_contrasts(results) if not np.isnan(contrast.values).all()]
    tested = [~np.isnan(contrast.values) for contrast in contrasts]
    p_values = np.array(
        [
            statistics.sign_flip_p(contrast.values[mask], results.units[mask])
            for contrast, mask in zip(contrasts, tested)
        ]
    )
    is_reverse = np.array([KINDS[contrast.kind].is_reverse for contrast in contrasts], bool)
    adjusted = np.empty(len(p_values))
    adjusted[~is_reverse] = statistics.adjust(p_values[~is_reverse])
    adjusted[is_reverse] = adjusted[np.flatnonzero(is_reverse) - 1]
    return [
        _verdict(results, contrast, mask, p=float(p), adjusted_p=float(a))
        for contrast, mask, p, a in zip(contrasts, tested, p_values, adjusted)
    ]


def find_contrasts(results: Results) -> Iterator[Contrast]:
    """Yields the contrasts of each model, then those of each two models."""
    for model in results.models:
        order_blind = model in results.order_blind
        for name, kind in KINDS.items():
            if kind.effect and kind.order_blind in (None, order_blind):
                yield Contrast(name, (model,), kind.effect(results, model))
    for one, other in itertools.combinations(results.models, 2):
        pair = Condition(one), Condition(other)
        difference = results.correct(pair[0]) - results.correct(pair[1])
        if not np.isnan(difference).all() and np.nanmean(difference) < 0:  # the model ahead comes first
            one, other, difference, pair = other, one, -difference, pair[::-1]
        yield Contrast("models_differ", (one, other), difference, pair)


def chance(results: Results, condition: Condition) -> float:
    """Returns the accuracy of always predicting the most frequent class of the tested clips."""
    tested = ~np.isnan(results.correct(condition))
    return float(np.bincount(results.labels[tested]).max() / tested.sum()) if tested.any() else float("nan")


def horizon(results: Results, model: str, end: str) -> tuple[int, Estimate] | None:
    """Finds the smallest number of first or last frames that scores like the whole clip, within MARGIN.

    Args:
      results: the comparison.
      model: the name of one of its models.
      end: "first" or "last".

    Returns:
      The number of frames and the loss with these frames alone; None if only the whole clip suffices.
    """
    whole = results.correct(Condition(model))
    for count in interventions.horizons(results.num_frames):
        loss = whole - results.correct(Condition(model, intervention=f"{end}{count}"))
        kept = ~np.isnan(loss)
        if kept.any():
            estimate = statistics.mean_interval(loss[kept], results.units[kept])
            if estimate.high < MARGIN:
                return count, estimate
    return None


def _verdict(
    results: Results, contrast: Contrast, tested: np.ndarray, *, p: float, adjusted_p: float
) -> Verdict:
    values, units = contrast.values[tested], results.units[tested]
    effect = statistics.mean_interval(values, units)
    answer = _answer(effect, adjusted_p, both_ways=contrast.pair is not None)
    more_groups = 0
    if answer == Answer.UNKNOWN:
        needed = statistics.groups_needed(values, units, max(abs(effect.value), MARGIN))
        more_groups = max(0, needed - len(np.unique(units)))
    return Verdict(
        kind=contrast.kind,
        models=contrast.models,
        answer=answer,
        effect=effect,
        p=p,
        adjusted_p=adjusted_p,
        mcnemar_p=_mcnemar(results, contrast.pair, tested) if contrast.pair else float("nan"),
        more_groups=more_groups,
    )


def _answer(effect: Estimate, adjusted_p: float, *, both_ways: bool) -> Answer:
    if adjusted_p < _LEVEL and effect.value > 0:
        return Answer.YES
    largest = max(effect.high, -effect.low) if both_ways else effect.high
    return Answer.NO if largest < MARGIN else Answer.UNKNOWN  # so NaN is UNKNOWN


def _mcnemar(results: Results, pair: tuple[Condition, Condition], tested: np.ndarray) -> float:
    """Compares two models by one prediction per clip, from the mean of the seeds' probabilities."""
    right = [
        ensemble(results.logits(condition))[tested].argmax(axis=1) == results.labels[tested]
        for condition in pair
    ]
    return statistics.mcnemar_p(*right)


def ensemble(logits: np.ndarray) -> np.ndarray:
    """Averages the seeds' probabilities: logits float [S, N, C] to float [N, C]."""
    return special.softmax(logits, axis=-1).mean(axis=0)
