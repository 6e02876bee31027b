"""Verdicts of a comparison: each is a claim with its effect, interval and test.

A claim is a paired contrast: the difference in the fraction of clips that are right, on the same clips,
with groups as units. "yes": its test is significant after the correction for all contrasts of the
comparison. "no": it is not, and the 95% interval excludes an effect of 0.05. Otherwise: "cannot tell".
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.results import SHUFFLED, Condition, Results, common
from ucf50_tfrecord.evaluation.statistics import Estimate

YES, NO, UNKNOWN = "yes", "no", "cannot tell"
# A smaller effect on accuracy may exist, but hardly matters.
MARGIN = 0.05
_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Kind:
    """A question, and the texts of its answers; {0} and {1} are the models."""

    question: str
    yes: str
    no: str


KINDS: dict[str, Kind] = {
    "above_chance": Kind(
        "Does it recognise classes in groups it has not seen?",
        "{0} recognises classes in unseen groups: its accuracy is above chance by",
        "{0} does not recognise classes in unseen groups: its accuracy is above chance by",
    ),
    "appearance_suffices": Kind(
        "Is appearance alone enough to tell classes apart?",
        "Appearance alone tells classes apart: the order-blind {0} is above chance by",
        "Appearance alone does not tell classes apart: the order-blind {0} is above chance by",
    ),
    "needs_order": Kind(
        "Does it need frame order, even when trained without it?",
        "{0} uses frame order: trained and tested on shuffled frames, it loses",
        "{0} does not use frame order: trained and tested on shuffled frames, it loses",
    ),
    "needs_several_frames": Kind(
        "Does it need more than one frame, even when trained on single frames?",
        "{0} uses several frames: trained and tested on a single frame, it loses",
        "{0} does not use more than one frame: trained and tested on a single frame, it loses",
    ),
    "disturbed_by_shuffling": Kind(
        "Do shuffled frames disturb it at test time?",
        "Shuffled frames disturb {0}: at test time alone, they cost",
        "Shuffled frames do not disturb {0}: at test time alone, they cost",
    ),
    "uses_direction": Kind(
        "Does it notice that time runs backwards?",
        "{0} sees the direction of time: reversed frames cost",
        "{0} does not see the direction of time: reversed frames cost",
    ),
    "needs_full_rate": Kind(
        "Does it need the full frame rate?",
        "{0} needs the full frame rate: half of it costs",
        "{0} does not need the full frame rate: half of it costs",
    ),
    "evidence_at_start": Kind(
        "Do the first frames tell more than the last?",
        "The start of the clip tells {0} more than its end: the first quarter beats the last by",
        "The start of the clip tells {0} no more than its end: the first quarter beats the last by",
    ),
    "evidence_at_end": Kind(
        "Do the last frames tell more than the first?",
        "The end of the clip tells {0} more than its start: the last quarter beats the first by",
        "The end of the clip tells {0} no more than its start: the last quarter beats the first by",
    ),
    "uses_background": Kind(
        "Does it rely on the background?",
        "{0} relies on the background: that of another clip costs",
        "{0} does not rely on the background: that of another clip costs",
    ),
    "recognises_recording": Kind(
        "Does it score higher on recordings that it has seen?",
        "{0} recognises recordings: clips of known groups score higher by",
        "{0} does not recognise recordings: clips of known groups score higher by",
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
    answer: YES, NO or UNKNOWN.
    effect: on accuracy, positive in the direction of the question.
    p, adjusted_p: of the sign-flip test over groups, before and after the correction.
    mcnemar_p: of two models on the same clips; NaN for other kinds.
    more_groups: additional groups that would probably settle an UNKNOWN answer; 0 for others.
    """

    kind: str
    models: tuple[str, ...]
    answer: str
    effect: Estimate
    p: float
    adjusted_p: float
    mcnemar_p: float
    more_groups: int

    @property
    def text(self) -> str:
        kind = KINDS[self.kind]
        if self.answer == UNKNOWN:
            more = f"; about {self.more_groups} more groups needed" if self.more_groups else ""
            models = " and ".join(self.models)
            numbers = f"{self.effect} (p = {self.adjusted_p:.2g})"
            return f"{kind.question} Cannot tell for {models} at this size: {numbers}{more}."
        if self.answer == NO:  # rests on the interval, not on the test
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
    # The two questions about a clip's ends are one test.
    asked = np.array([contrast.kind != "evidence_at_end" for contrast in contrasts], bool)
    adjusted = np.empty(len(p_values))
    adjusted[asked] = statistics.adjust(p_values[asked])
    adjusted[~asked] = adjusted[[i - 1 for i in np.flatnonzero(~asked)]]
    return [
        _verdict(results, contrast, mask, p=float(p), adjusted_p=float(a))
        for contrast, mask, p, a in zip(contrasts, tested, p_values, adjusted)
    ]


def find_contrasts(results: Results) -> Iterator[Contrast]:
    """Yields the contrasts for which there are predictions."""
    for model in results.models:
        yield from _of_model(results, model)
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
    for count in perturb.horizons(results.num_frames):
        loss = whole - results.correct(Condition(model, perturbation=f"{end}{count}"))
        kept = common(loss)
        if kept.any():
            estimate = statistics.mean_interval(loss[kept], results.units[kept])
            if estimate.high < MARGIN:
                return count, estimate
    return None


def _of_model(results: Results, model: str) -> Iterator[Contrast]:
    def correct(**changed: str) -> np.ndarray:
        return results.correct(Condition(model, **changed))

    plain, quarter = correct(), perturb.quarter(results.num_frames)
    blind = model in results.order_blind
    found = {
        "appearance_suffices" if blind else "above_chance": plain - chance(results, Condition(model)),
        "needs_full_rate": plain - correct(perturbation="half_rate"),
        "evidence_at_start": correct(perturbation=f"first{quarter}") - correct(perturbation=f"last{quarter}"),
        "uses_background": plain - correct(perturbation="background_swap"),
        "recognises_recording": correct(split="video") - plain,
    }
    found["evidence_at_end"] = -found["evidence_at_start"]
    if not blind:
        found |= {
            "needs_order": plain - correct(training="shuffled", perturbation=SHUFFLED),
            "needs_several_frames": plain - correct(training="single", perturbation="middle1"),
            "disturbed_by_shuffling": plain - correct(perturbation=SHUFFLED),
            "uses_direction": plain - correct(perturbation="reverse"),
        }
    for kind in KINDS:
        if kind in found:
            yield Contrast(kind, (model,), found[kind])


def _verdict(
    results: Results, contrast: Contrast, tested: np.ndarray, *, p: float, adjusted_p: float
) -> Verdict:
    values, units = contrast.values[tested], results.units[tested]
    effect = statistics.mean_interval(values, units)
    answer = _answer(effect, adjusted_p, both_ways=contrast.kind == "models_differ")
    more_groups = 0
    if answer == UNKNOWN:
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


def _answer(effect: Estimate, adjusted_p: float, *, both_ways: bool) -> str:
    if adjusted_p < _LEVEL and effect.value > 0:
        return YES
    room = max(effect.high, -effect.low) if both_ways else effect.high
    return NO if room < MARGIN else UNKNOWN  # an unknown interval gives no NO


def _mcnemar(results: Results, pair: tuple[Condition, Condition], tested: np.ndarray) -> float:
    """Compares two models by one prediction per clip, from the mean of the seeds' probabilities."""
    right = [
        ensemble(results.logits(condition))[tested].argmax(axis=1) == results.labels[tested]
        for condition in pair
    ]
    return statistics.mcnemar_p(*right)


def ensemble(logits: np.ndarray) -> np.ndarray:
    """Averages the seeds' probabilities: logits float [S, N, C] to float [N, C]."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).mean(axis=0)
