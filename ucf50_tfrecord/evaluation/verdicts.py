"""Verdicts of a comparison: answers to fixed questions about its models, each from a statistical test.

Each question is judged by a paired contrast. For each clip, a value is computed: the fraction of seeds that
are right under one condition, minus that under another condition, or minus chance. The effect is the mean of
these values over clips. The independent observations are the recording groups, or the videos of clips without
a group. The answer is

- "yes" if the effect is positive and significant at 5%, corrected for all contrasts of the comparison,
- else "no" if the effect's 95% interval excludes an effect of 0.05 or more (for two models: in either
  direction),
- else "cannot tell".
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

MARGIN = 0.05  # effects on accuracy below this may exist, but hardly matter
_LEVEL = 0.05


class Answer(enum.StrEnum):
    """The answer of a verdict to its question: yes, no, or undecided by the data."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


# Maps a comparison's results and the name of one of its models to each clip's difference in the fraction of
# seeds that are right, float [N]; NaN for clips without that test.
Effect = Callable[[Results, str], np.ndarray]


def _loss(**condition: str) -> Effect:
    """Returns a function that subtracts a model's accuracy under `condition` from its usual accuracy."""

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
    """A question that a verdict answers about one model or about two models.

    question: the question.
    yes, no: beginnings of the sentences for these answers; {0} and {1} stand for the names of the models.
    effect: function that computes the judged difference of each clip, positive if it speaks for "yes"; None
      for a question about two models.
    order_blind: True if the question is asked only about models that cannot see frame order, False if only
      about models that can see it, None if about all models.
    is_reverse: whether this question is the reverse of the previous one in KINDS. If so, both share one test.
    """

    question: str
    yes: str
    no: str
    effect: Effect | None = None
    order_blind: bool | None = None
    is_reverse: bool = False


# The questions by name. Reports keep this order. A new question needs only an entry here.
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
    """The answer to one question about one model or two models, with the numbers that it rests on.

    kind: name of the question in KINDS.
    models: names of the models that the question is about; of two models, the more accurate one comes first.
    answer: the answer.
    effect: difference in accuracy with its 95% interval, positive if it speaks for "yes".
    p, adjusted_p: p value of the sign-flip test over groups, before and after the correction for all
      questions of the comparison.
    mcnemar_p: p value of McNemar's test between the two models; NaN for questions about one model.
    more_groups: estimated number of additional recording groups that would settle an UNKNOWN answer; 0 for
      other answers.
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
        """The verdict as a sentence, with the effect and, unless the answer is no, the adjusted p value."""
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
    """The data that a verdict is computed from: a paired difference for each clip.

    kind: name of the question in KINDS.
    models: names of the models that the question is about.
    values: each clip's difference in the fraction of seeds that are right, float [N]; NaN for clips that were
      not tested as the question requires.
    pair: the two models' conditions; None for a question about one model.
    """

    kind: str
    models: tuple[str, ...]
    values: np.ndarray
    pair: tuple[Condition, Condition] | None = None


def judge(results: Results) -> list[Verdict]:
    """Answers each question of KINDS for which the results hold predictions; returns the verdicts."""
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
    """Yields the contrasts (clips' paired differences) about each single model, then each pair of models."""
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
    """Returns chance: the accuracy of always predicting the most frequent class of the tested clips."""
    tested = ~np.isnan(results.correct(condition))
    return float(np.bincount(results.labels[tested]).max() / tested.sum()) if tested.any() else float("nan")


def horizon(results: Results, model: str, end: str) -> tuple[int, Estimate] | None:
    """Finds how few of a clip's first or last frames give a model about the same accuracy as the whole clip.

    The accuracy counts as about the same if the 95% interval of the accuracy lost ends below MARGIN.

    Args:
      results: the comparison's results.
      model: name of one of the comparison's models.
      end: "first" or "last", the end of the clip that the frames are taken from.

    Returns:
      A tuple of the smallest such number of frames, and the accuracy lost with only these frames. None if no
      tested number of frames suffices.
    """
    whole = results.correct(Condition(model))
    for count in interventions.horizons(results.num_frames):
        estimate = results.mean(whole - results.correct(Condition(model, intervention=f"{end}{count}")))
        if estimate is not None and estimate.high < MARGIN:
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
    return Answer.NO if largest < MARGIN else Answer.UNKNOWN  # UNKNOWN if the interval is NaN


def _mcnemar(results: Results, pair: tuple[Condition, Condition], tested: np.ndarray) -> float:
    """Returns McNemar's p value for two models, whose predictions are from mean probabilities over seeds."""
    right = [
        ensemble(results.logits(condition))[tested].argmax(axis=1) == results.labels[tested]
        for condition in pair
    ]
    return statistics.mcnemar_p(*right)


def ensemble(logits: np.ndarray) -> np.ndarray:
    """Averages the class probabilities of S seeds: maps logits, float [S, N, C], to float [N, C]."""
    return special.softmax(logits, axis=-1).mean(axis=0)
