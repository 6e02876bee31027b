"""Verdicts of a comparison: answers to fixed questions about its models, each from a statistical test.

Each question is judged by a paired contrast. For each clip, a value is computed: the fraction of seeds that
are right under one condition, minus that under another condition, or minus chance. The effect is the mean of
these values over clips.

There are two kinds of claims:

- about the trained models, if both conditions test the same weights. The independent observations are the
  recording groups, or the videos of clips without a group. The test flips the signs of whole groups.
- about recipes, if the conditions test different trainings. Groups and trainings are independent observations,
  because another seed would change the effect, too; see statistics.compare_recipes. With one training of each
  recipe, the answer is "cannot tell".

The answer is

- "yes" if the effect is positive and significant at 5%, corrected for all contrasts of the comparison,
- else "no" if the effect is shown to be negligible (for two models: in either direction), and the model could
  have lost something: its accuracy is above chance by more than MARGIN. Negligible means that the effect's 95%
  interval excludes MARGIN and also MARGIN_FRACTION of the model's accuracy above chance,
- else "cannot tell".
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special

from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.evaluation import interventions, statistics
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.statistics import Estimate

MARGIN = 0.05  # effects on accuracy below this may exist, but hardly matter
# For a model near chance, MARGIN may be all that it has. Effects below this fraction of its accuracy above
# chance hardly matter.
MARGIN_FRACTION = 0.2
_LEVEL = 0.05


class Answer(enum.StrEnum):
    """The answer of a verdict to its question: yes, no, or undecided by the data."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "cannot tell"


class Doubt(enum.StrEnum):
    """The reason why a verdict's answer is UNKNOWN."""

    NONE = ""
    SIZE = "too few groups or trainings"
    ONE_TRAINING = "one training of each recipe"
    CHANCE = "too close to chance"


# Maps a comparison's results and the name of one of its models to the two conditions whose accuracies are
# compared, as (one, other). None in place of the other condition stands for chance.
Conditions = Callable[[Results, str], tuple[Condition, Condition | None]]


def _loss(**condition: str) -> Conditions:
    """Returns a function for the loss of a model's usual accuracy under `condition`."""

    def conditions(results: Results, model: str) -> tuple[Condition, Condition]:
        return Condition(model), Condition(model, **condition)

    return conditions


def _above_chance(results: Results, model: str) -> tuple[Condition, None]:
    return Condition(model), None


def _gain_by_video(results: Results, model: str) -> tuple[Condition, Condition]:
    return Condition(model, split=FoldBy.VIDEO), Condition(model)


def _start_over_end(results: Results, model: str) -> tuple[Condition, Condition]:
    count = interventions.quarter(results.num_frames)
    start, end = (Condition(model, intervention=f"{side}{count}") for side in ("first", "last"))
    return start, end


def _end_over_start(results: Results, model: str) -> tuple[Condition, Condition]:
    start, end = _start_over_end(results, model)
    return end, start


@dataclasses.dataclass(frozen=True)
class Kind:
    """A question that a verdict answers about one model or about two models.

    question: the question.
    yes, no: beginnings of the sentences for these answers; {0} and {1} stand for the names of the models.
    conditions: function that returns the two conditions that are compared, so that a positive difference speaks
      for "yes"; None for a question about two models.
    order_blind: True if the question is asked only about models that cannot see frame order, False if only
      about models that can see it, None if about all models.
    is_reverse: whether this question is the reverse of the previous one in KINDS. If so, both share one test.
    """

    question: str
    yes: str
    no: str
    conditions: Conditions | None = None
    order_blind: bool | None = None
    is_reverse: bool = False


# The questions by name. Reports keep this order. A new question needs only an entry here. Sentences about the
# weights of this comparison say "the trained …"; sentences about any training say "the recipe …".
KINDS: dict[str, Kind] = {
    "above_chance": Kind(
        "Does it recognise classes in groups it has not seen?",
        "The trained {0} recognises classes in unseen groups: its accuracy is above chance by",
        "The trained {0} does not recognise classes in unseen groups: its accuracy is above chance by",
        _above_chance,
        order_blind=False,
    ),
    "appearance_suffices": Kind(
        "Is appearance alone enough to tell classes apart?",
        "Appearance alone tells classes apart: the trained {0}, which is order-blind, is above chance by",
        "Appearance alone does not tell classes apart: the trained {0}, which is order-blind, is above chance by",
        _above_chance,
        order_blind=True,
    ),
    "needs_order": Kind(
        "Does it need frame order, even when trained without it?",
        "The recipe {0} uses frame order: trained and tested on shuffled frames, it loses",
        "The recipe {0} does not use frame order: trained and tested on shuffled frames, it loses",
        _loss(training=FrameOrder.SHUFFLED, intervention=SHUFFLED),
        order_blind=False,
    ),
    "needs_several_frames": Kind(
        "Does it need more than one frame, even when trained on single frames?",
        "The recipe {0} uses several frames: trained and tested on a single frame, it loses",
        "The recipe {0} does not use more than one frame: trained and tested on a single frame, it loses",
        _loss(training=FrameOrder.SINGLE, intervention="middle1"),
        order_blind=False,
    ),
    "disturbed_by_shuffling": Kind(
        "Do shuffled frames disturb it at test time?",
        "Shuffled frames disturb the trained {0}: at test time alone, they cost",
        "Shuffled frames do not disturb the trained {0}: at test time alone, they cost",
        _loss(intervention=SHUFFLED),
        order_blind=False,
    ),
    "uses_direction": Kind(
        "Does it notice that time runs backwards?",
        "The trained {0} sees the direction of time: reversed frames cost",
        "The trained {0} does not see the direction of time: reversed frames cost",
        _loss(intervention="reverse"),
        order_blind=False,
    ),
    "needs_full_rate": Kind(
        "Does it need the full frame rate?",
        "The trained {0} needs the full frame rate: half of it costs",
        "The trained {0} does not need the full frame rate: half of it costs",
        _loss(intervention="half_rate"),
    ),
    "evidence_at_start": Kind(
        "Do the first frames tell more than the last?",
        "The start of the clip tells the trained {0} more than its end: the first quarter beats the last by",
        "The start of the clip tells the trained {0} no more than its end: the first quarter beats the last by",
        _start_over_end,
    ),
    "evidence_at_end": Kind(
        "Do the last frames tell more than the first?",
        "The end of the clip tells the trained {0} more than its start: the last quarter beats the first by",
        "The end of the clip tells the trained {0} no more than its start: the last quarter beats the first by",
        _end_over_start,
        is_reverse=True,
    ),
    "uses_background": Kind(
        "Does it rely on the background?",
        "The trained {0} relies on the background: that of another clip costs",
        "The trained {0} does not rely on the background: that of another clip costs",
        _loss(intervention="background_swap"),
    ),
    "recognises_recording": Kind(
        "Does it score higher on recordings that it has seen?",
        "The recipe {0} recognises recordings: clips of known groups score higher by",
        "The recipe {0} does not recognise recordings: clips of known groups score higher by",
        _gain_by_video,
    ),
    "models_differ": Kind(
        "Do the two models differ?",
        "The recipes {0} and {1} differ: {0} is ahead by",
        "The recipes {0} and {1} do not differ: {0} is ahead by",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one question about one model or two models, with the numbers that it rests on.

    kind: name of the question in KINDS.
    models: names of the models that the question is about; of two models, the more accurate one comes first.
    answer: the answer.
    effect: difference in accuracy with its 95% interval, positive if it speaks for "yes". The interval is NaN
      for a claim about recipes with one training of each.
    p, adjusted_p: p value of the contrast's test, before and after the correction for all questions of the
      comparison; NaN for a claim about recipes with one training of each.
    mcnemar_p: p value of McNemar's test between the two models; NaN for questions about one model.
    doubt: the reason for the answer UNKNOWN; Doubt.NONE for other answers.
    above_chance: accuracy above chance of the model that could have lost something; None if the question is
      whether a model is above chance.
    more_groups, more_seeds: estimated number of additional recording groups, or of additional trainings of each
      recipe, that would settle an answer that is UNKNOWN because of Doubt.SIZE. One of them is 0: more of the
      other adds little. Both are 0 for other answers.
    """

    kind: str
    models: tuple[str, ...]
    answer: Answer
    effect: Estimate
    p: float
    adjusted_p: float
    mcnemar_p: float
    doubt: Doubt = Doubt.NONE
    above_chance: Estimate | None = None
    more_groups: int = 0
    more_seeds: int = 0

    @property
    def text(self) -> str:
        """The verdict as a sentence, with the effect and, unless the answer is no, the adjusted p value."""
        kind = KINDS[self.kind]
        if self.answer == Answer.UNKNOWN:
            return f"{kind.question} Cannot tell for {' and '.join(self.models)}{self._why()}."
        if self.answer == Answer.NO:  # rests on the interval, not on the test
            return f"{kind.no.format(*self.models)} {self.effect}."
        small = f"; less than {MARGIN} may not matter" if self.effect.value < MARGIN else ""
        return f"{kind.yes.format(*self.models)} {self.effect} (p = {self.adjusted_p:.2g}){small}."

    def _why(self) -> str:
        if self.doubt == Doubt.ONE_TRAINING:
            return (
                f": the effect is {self.effect.value:z.3f} with one training each; three or more seeds would show "
                "how much seeds matter"
            )
        if self.doubt == Doubt.CHANCE:
            return (
                f": the effect is {self.effect}, but {self.models[0]} could hardly have lost more: its accuracy is "
                f"above chance by {self.above_chance}"
            )
        more = f"; about {self.more_groups} more groups needed" if self.more_groups else ""
        more += f"; about {self.more_seeds} more seeds needed" if self.more_seeds else ""
        return f" at this size: {self.effect} (p = {self.adjusted_p:.2g}){more}"


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The data that a verdict is computed from: two conditions, whose accuracies are compared on the same clips.

    kind: name of the question in KINDS.
    models: names of the models that the question is about.
    one, other: the conditions; `other` is None for chance.
    """

    kind: str
    models: tuple[str, ...]
    one: Condition
    other: Condition | None

    @property
    def is_about_recipes(self) -> bool:
        """Whether the conditions test different trainings, not the same weights."""
        return self.other is not None and self.one[:3] != self.other[:3]

    def values(self, results: Results) -> np.ndarray:
        """Returns each clip's difference, float [N]; NaN for clips that were not tested as required."""
        other = chance(results, self.one) if self.other is None else results.correct(self.other)
        return results.correct(self.one) - other


def judge(results: Results) -> list[Verdict]:
    """Answers each question of KINDS for which the results hold predictions; returns the verdicts."""
    tests = [
        _Test(results, contrast)
        for contrast in find_contrasts(results)
        if not np.isnan(contrast.values(results)).all()
    ]
    p_values = np.array([test.p for test in tests])
    is_reverse = np.array([KINDS[test.contrast.kind].is_reverse for test in tests], bool)
    is_first = ~is_reverse & ~np.isnan(p_values)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[is_first] = statistics.adjust(p_values[is_first])
    adjusted[is_reverse] = adjusted[np.flatnonzero(is_reverse) - 1]
    return [test.verdict(float(p)) for test, p in zip(tests, adjusted)]


def find_contrasts(results: Results) -> Iterator[Contrast]:
    """Yields the contrasts (pairs of conditions) about each single model, then each pair of models."""
    for model in results.models:
        order_blind = model in results.order_blind
        for name, kind in KINDS.items():
            if kind.conditions and kind.order_blind in (None, order_blind):
                yield Contrast(name, (model,), *kind.conditions(results, model))
    for one, other in itertools.combinations(results.models, 2):
        difference = results.correct(Condition(one)) - results.correct(Condition(other))
        if not np.isnan(difference).all() and np.nanmean(difference) < 0:  # the model ahead comes first
            one, other = other, one
        yield Contrast("models_differ", (one, other), Condition(one), Condition(other))


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


class _Test:
    """The statistical test of a contrast.

    contrast: the contrast.
    p: the two-sided p value; NaN for a claim about recipes with one training of each.
    effect: the mean difference with its 95% interval.
    """

    def __init__(self, results: Results, contrast: Contrast):
        self._results, self.contrast = results, contrast
        values = contrast.values(results)
        self._tested = ~np.isnan(values)
        self._values, self._units = values[self._tested], results.units[self._tested]
        self._from_trainings = 0.0
        if not contrast.is_about_recipes:
            self.effect = statistics.mean_interval(self._values, self._units)
            self.p = statistics.sign_flip_p(self._values, self._units)
        elif self._has_one_training:
            self.effect, self.p = (
                Estimate(float(self._values.mean()), float("nan"), float("nan")),
                float("nan"),
            )
        else:
            one, other = self._trainings
            self.effect, self.p, self._from_trainings = statistics.compare_recipes(one, other, self._units)

    def verdict(self, adjusted_p: float) -> Verdict:
        """Returns the verdict, given the p value after the correction for all questions."""
        answer, doubt = self._answer(adjusted_p)
        more_groups, more_seeds = self._needed() if doubt == Doubt.SIZE else (0, 0)
        return Verdict(
            kind=self.contrast.kind,
            models=self.contrast.models,
            answer=answer,
            effect=self.effect,
            p=self.p,
            adjusted_p=adjusted_p,
            mcnemar_p=self._mcnemar() if self._is_about_two else float("nan"),
            doubt=doubt,
            above_chance=None if self.contrast.other is None else self._above_chance,
            more_groups=more_groups,
            more_seeds=more_seeds,
        )

    @property
    def _is_about_two(self) -> bool:
        return KINDS[self.contrast.kind].conditions is None

    @property
    def _has_one_training(self) -> bool:
        return min(len(trainings.scores) for trainings in self._trainings) < 2

    @functools.cached_property
    def _trainings(self) -> tuple[statistics.Trainings, statistics.Trainings]:
        one, other = self.contrast.one, self.contrast.other
        assert other is not None
        trainings = self._results.trainings
        return trainings(one).select(self._tested), trainings(other).select(self._tested)

    def _answer(self, adjusted_p: float) -> tuple[Answer, Doubt]:
        if self.contrast.is_about_recipes and self._has_one_training:
            return Answer.UNKNOWN, Doubt.ONE_TRAINING
        if adjusted_p < _LEVEL and self.effect.value > 0:
            return Answer.YES, Doubt.NONE
        largest = max(self.effect.high, -self.effect.low) if self._is_about_two else self.effect.high
        if not largest < MARGIN:  # also if the interval is NaN
            return Answer.UNKNOWN, Doubt.SIZE
        return (Answer.NO, Doubt.NONE) if self._could_show_effects() else (Answer.UNKNOWN, Doubt.CHANCE)

    def _could_show_effects(self) -> bool:
        """Whether the model is so far above chance that an effect of MARGIN_FRACTION of it would have shown."""
        if self.contrast.other is None:  # "no" means that the model is not above chance
            return True
        directions = (1, -1) if self._is_about_two else (1,)
        return self._above_chance.low > MARGIN and all(
            self._difference_from_fraction(direction).high < 0 for direction in directions
        )

    def _difference_from_fraction(self, direction: int) -> Estimate:
        """Estimates the effect, times `direction` (1 or -1), minus MARGIN_FRACTION of the accuracy above chance."""
        if not self.contrast.is_about_recipes:
            return statistics.mean_interval(
                direction * self._values - MARGIN_FRACTION * self._excess, self._units
            )
        one, other = self._trainings
        lost = MARGIN_FRACTION * chance(self._results, self.contrast.one)
        one = one.scale(direction - MARGIN_FRACTION, lost)  # its accuracy above chance is _excess
        return statistics.recipe_interval(one, other.scale(direction, 0.0), self._units)

    @functools.cached_property
    def _excess(self) -> np.ndarray:
        """Returns the accuracy minus chance of the condition that could lose accuracy, float [M]."""
        one, other = self.contrast.one, self.contrast.other
        # If both conditions change the clips, unchanged clips show what the model has.
        base = one if other is None or one.intervention == PLAIN else one._replace(intervention=PLAIN)
        return (self._results.correct(base) - chance(self._results, base))[self._tested]

    @functools.cached_property
    def _above_chance(self) -> Estimate:
        return statistics.mean_interval(self._excess, self._units)

    def _needed(self) -> tuple[int, int]:
        """Estimates the numbers of further groups and further seeds that would settle the answer; one is 0."""
        effect = max(abs(self.effect.value), MARGIN)
        if not self._from_trainings > 0.5:  # also if it is unknown
            needed = statistics.groups_needed(self._values, self._units, effect)
            return max(0, needed - len(np.unique(self._units))), 0
        seeds = min(len(trainings.scores) for trainings in self._trainings)
        spread = (self.effect.high - self.effect.low) / 2  # shrinks with the root of the number of seeds
        return 0, max(1, int(np.ceil(seeds * (spread * statistics.POWER_FACTOR / effect) ** 2)) - seeds)

    def _mcnemar(self) -> float:
        """Returns McNemar's p value for two models, whose predictions are from mean probabilities over seeds."""
        one, other = self.contrast.one, self.contrast.other
        assert other is not None
        right = [
            ensemble(self._results.logits(condition))[self._tested].argmax(axis=1)
            == self._results.labels[self._tested]
            for condition in (one, other)
        ]
        return statistics.mcnemar_p(*right)


def ensemble(logits: np.ndarray) -> np.ndarray:
    """Averages the class probabilities of S seeds: maps logits, float [S, N, C], to float [N, C]."""
    return special.softmax(logits, axis=-1).mean(axis=0)
