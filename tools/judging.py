"""Counts how many verdicts on synthetic corpora are right, and checks the counts against bars.

A bar is a limit on how often verdicts may be wrong. This module does not load TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from pipelines import terminal
from tools.scenarios import Answer
from ucf50_tfrecord.parsing import Count, Name

AUDIT = "near_duplicates"  # the kind of an answer of evaluation.audit, which is no verdict
MAX_FALSE_CLAIMS, MIN_FOUND = 0.05, 0.90  # fractions
# Fewer nulls (answers where "yes" would be wrong) or draws say too little about a fraction of 5%.
MIN_NULLS, MIN_DRAWS = 20, 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict of a comparison on a synthetic corpus, beside the right answer.

    scenario, seed: the corpus.
    kind: a key of evaluation.verdicts.KINDS, or AUDIT.
    expected: "yes" if the cause in question is planted, "no" if it is absent, "cannot tell" if the trainings are
      too short for either answer.
    answer: the verdict's answer; "no" too if it claims the wrong one of two models ahead.
    text: the verdict in words.
    """

    scenario: Name
    seed: Count
    kind: Name
    expected: Answer
    answer: Answer
    text: str

    @property
    def is_planted(self) -> bool:
        return self.expected == "yes"

    @property
    def is_right(self) -> bool:
        return self.answer != "yes" if self.expected == "no" else self.answer == self.expected

    @property
    def is_false_claim(self) -> bool:
        return not self.is_right and self.answer != "cannot tell"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """How often verdicts said that trainings of one recipe differ, over random draws of two sets of trainings.

    scenario, seed: the corpus.
    kind: a key of evaluation.verdicts.KINDS that is about different trainings.
    num_trainings: number of the recipe's trainings that the sets are drawn from.
    set_size: number of trainings in each of the two sets.
    num_draws: number of draws. They share trainings, so they are not independent.
    num_differ: number of draws whose verdict was "yes".
    num_by_groups: number of draws that a test would call different that treats groups alone as random.
    """

    scenario: Name
    seed: Count
    kind: Name
    num_trainings: Count
    set_size: Count
    num_draws: Count
    num_differ: Count
    num_by_groups: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The judged verdicts on a corpus, and the draws if its scenario compares a recipe with itself."""

    judged: tuple[Judged, ...]
    draws: tuple[Draws, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bar:
    """A limit on a fraction.

    name: the things that are counted, as the beginning of a sentence.
    count, total: the counted things, and the number of things that could have been counted.
    limit: the limit on count / total.
    is_minimum: whether the fraction must be at least `limit`; otherwise, it must be at most that.
    """

    name: str
    count: int
    total: int
    limit: float
    is_minimum: bool = False

    @property
    def is_met(self) -> bool:
        fraction = self.count / self.total
        return fraction >= self.limit if self.is_minimum else fraction <= self.limit

    @property
    def text(self) -> str:
        """The counts and the limit as a sentence."""
        required = (
            f"at least {self.limit:.0%} are required" if self.is_minimum else f"{self.limit:.0%} are allowed"
        )
        return f"{self.name}: {self.count} of {self.total} ({self.count / self.total:.1%}); {required}."


def find_bars(judged: Sequence[Judged], draws: Sequence[Draws]) -> list[Bar]:
    """Lists the bars that there are enough verdicts and draws for.

    False claims are counted overall, and for each kind among its nulls: the verdicts for which "yes" is wrong. "cannot
    tell" is never a false claim; but a planted cause counts as found only if the verdict is "yes".
    """
    bars = []
    verdicts = [one for one in judged if one.kind != AUDIT]  # answers of the audit are easier, and many
    planted = [one for one in judged if one.is_planted]
    if verdicts:
        bars.append(
            Bar("False claims", sum(v.is_false_claim for v in verdicts), len(verdicts), MAX_FALSE_CLAIMS)
        )
    for kind, cases in _by_kind(judged).items():
        nulls = [one for one in cases if not one.is_planted]
        if len(nulls) >= MIN_NULLS:
            claims = sum(one.is_false_claim for one in nulls)
            bars.append(
                Bar(f"False claims of {kind} without a planted cause", claims, len(nulls), MAX_FALSE_CLAIMS)
            )
    if planted:
        found = sum(one.is_right for one in planted)
        bars.append(Bar("Planted causes that are found", found, len(planted), MIN_FOUND, is_minimum=True))
    for kind, of_kind in _by_kind(one for one in draws if one.set_size > 1).items():
        num_draws, num_differ = sum(d.num_draws for d in of_kind), sum(d.num_differ for d in of_kind)
        if num_draws >= MIN_DRAWS:
            name = f"Draws of one recipe's trainings that {kind} tells from each other"
            bars.append(Bar(name, num_differ, num_draws, MAX_FALSE_CLAIMS))
    return bars


def print_corpus(corpus: Corpus) -> None:
    """Prints how many verdicts on one corpus are right, the wrong ones, and the draws of a recipe's trainings."""
    judged = corpus.judged
    wrong = [one for one in judged if not one.is_right]
    right = f"{len(judged) - len(wrong)} of {len(judged)} right"
    terminal.say(f"{judged[0].scenario}, seed {judged[0].seed}: {right}")
    lines = [f"  {'FALSE' if one.is_false_claim else 'missed'} {one.kind}: {one.text}" for one in wrong]
    lines += [
        f"  {one.kind}: {one.num_differ} of {one.num_draws} draws of {one.set_size} against {one.set_size} out of "
        f"{one.num_trainings} trainings differ; {one.num_by_groups} by a test with groups alone"
        for one in corpus.draws
    ]
    terminal.say(*lines, flush=True)


def print_table(judged: Iterable[Judged]) -> None:
    """Prints one line per kind of verdict: how often planted causes were found, and absent causes claimed.

    Columns: planted causes, those that are found and denied; the power, the fraction that is found; absent causes, and
    those that are claimed; verdicts about trainings that are too short, and those that are answered nevertheless;
    answers "cannot tell".
    """
    names = (
        "planted",
        "found",
        "denied",
        "power",
        "absent",
        "claimed",
        "too short",
        "answered",
        "cannot tell",
    )
    terminal.say("", f"{'':<24}" + "".join(f"{name:>{len(name) + 2}}" for name in names))
    for kind, cases in _by_kind(judged).items():
        planted, absent, short = (
            [one for one in cases if one.expected == expected] for expected in ("yes", "no", "cannot tell")
        )
        found = sum(one.is_right for one in planted)
        denied, claimed, answered = (
            sum(one.is_false_claim for one in some) for some in (planted, absent, short)
        )
        power = f"{found / len(planted):.0%}" if planted else "–"
        unknown = sum(one.answer == "cannot tell" for one in cases)
        row = (len(planted), found, denied, power, len(absent), claimed, len(short), answered, unknown)
        terminal.say(f"{kind:<24}" + "".join(f"{value:>{len(name) + 2}}" for name, value in zip(names, row)))


def _by_kind(cases: Iterable) -> dict[str, list]:
    """Sorts Judged or Draws by their kinds."""
    kinds = collections.defaultdict(list)
    for one in cases:
        kinds[one.kind].append(one)
    return kinds
