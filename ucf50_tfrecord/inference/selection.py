"""Selective prediction: the confidence below which a model abstains, so that few of its answers are wrong.

The confidence is the highest class probability. The threshold is chosen on held-out clips, and the unit of its
statistics is the recording group, because clips of one recording are right or wrong together.

Sources: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks" (a threshold with a bound on
the error, for independent clips); Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected
Number of Positive Counts Estimated from Survey Data" (the bound for clusters); Angelopoulos et al. 2021, "Learn then
Test" (thresholds that are tested in a fixed order need no correction for their number).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import special, stats
from sklearn.model_selection import GroupKFold

from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import measures, statistics, unknown
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.settings import Range

BOUND_LEVEL = 0.9  # probability that the error of the answers is not above its bound
NUM_STEPS = 20  # thresholds that are tried: those that answer 1/20, 2/20, … of the clips
MAX_PARTS = 10  # parts of the cross-fitting, if there are as many units
MAX_ERROR = Range(0, 1, excludes_low=True, excludes_high=True)

# Fits a temperature to logits, float64 [N, C], and classes, int64 [N].
FitTemperature = Callable[[np.ndarray, np.ndarray], float]


class HeldOut(NamedTuple):
    """A model's predictions for N held-out clips.

    logits: float64 [N, C].
    labels: the class of each clip, int64 [N].
    units: number of each clip's independent unit, int64 [N]: its recording group, or its video if it has none.
    """

    logits: np.ndarray
    labels: np.ndarray
    units: np.ndarray

    @property
    def num_units(self) -> int:
        """Number of independent units."""
        return len(np.unique(self.units))

    @property
    def wrong(self) -> np.ndarray:
        """Whether the most probable class of each clip is wrong, bool [N]."""
        return self.logits.argmax(axis=1) != self.labels

    def confidence(self, temperature: float) -> np.ndarray:
        """Computes the highest class probability of each clip, float64 [N], from logits / temperature."""
        return special.softmax(self.logits / temperature, axis=1).max(axis=1)

    def select(self, clips: np.ndarray) -> HeldOut:
        """Returns the predictions for some clips, given by their indices or a mask."""
        return HeldOut(*(values[clips] for values in self))

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields pairs of clips' indices, (others, part): each unit is in one part. Yields none for one unit."""
        if self.num_units > 1:
            yield from GroupKFold(min(MAX_PARTS, self.num_units)).split(self.logits, groups=self.units)


class Threshold(NamedTuple):
    """A confidence from which on a model answers.

    value: the lowest answered confidence; None if the model never answers.
    bound: upper bound on the fraction of wrong answers, which holds with the probability BOUND_LEVEL; without a
      threshold, the lowest bound of those that were tried.
    reason: the reason if there is no threshold; otherwise, empty.
    """

    value: float | None
    bound: float
    reason: str

    def answers(self, confidence: np.ndarray | float) -> np.ndarray:
        """Tells which predictions are answered, bool [...], from their confidence, float [...]."""
        return np.asarray(confidence) >= (np.inf if self.value is None else self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The threshold for a wanted error, and how it works on recording groups that it was not chosen on.

    max_error: the wanted largest fraction of wrong answers.
    threshold: lowest confidence that is answered; None if no threshold keeps the error.
    reason: the reason if there is no threshold; otherwise, empty.
    bound: upper bound on the fraction of wrong answers at the threshold; see Threshold.
    level: probability with which the bounds hold.
    coverage: fraction of clips that are answered, where each clip's threshold is chosen without the clip's unit;
      with its interval over units. None if there is one unit.
    error: fraction of these answers that are wrong; None if there are none.
    error_bound: upper bound on it; None if there are none.
    """

    max_error: float
    threshold: float | None
    reason: str
    bound: float
    level: float = BOUND_LEVEL
    coverage: Estimate | None = None
    error: float | None = None
    error_bound: float | None = None

    def answers(self, confidence: float) -> bool:
        """Tells whether a prediction of this confidence is answered."""
        return self.threshold is not None and bool(confidence >= self.threshold)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownRule:
    """The energy up to which a clip counts as one of a known class.

    threshold: the highest accepted energy: that which 95% of the held-out clips do not exceed.
    accepted: fraction of the held-out clips that are accepted, where each clip's threshold is chosen without the
      clip's unit; None if there is one unit.
    score: name of the score.
    wanted: fraction of the held-out clips that the threshold is chosen to accept.
    """

    threshold: float
    accepted: float | None
    score: str = str(unknown.Score.ENERGY)
    wanted: float = unknown.ACCEPTED_FRACTION


def check_max_error(max_error: float) -> None:
    """Raises UserError unless a wanted error is above 0 and below 1."""
    expect(MAX_ERROR.allows(max_error), f"max_error {MAX_ERROR}", max_error=max_error)


def select(held_out: HeldOut, max_error: float, temperature: float, fit: FitTemperature | None) -> Selection:
    """Chooses the threshold for a wanted error, and measures it by cross-fitting over units.

    For the measurement, the units are divided into parts, and each part's threshold (and temperature) is chosen on
    the other parts. These are fewer units, so it rather underestimates the coverage.

    Args:
      held_out: the held-out predictions.
      max_error: the wanted largest fraction of wrong answers.
      temperature: number that the logits are divided by.
      fit: function that the temperature was fitted by; None if it was not fitted.

    Raises:
      UserError: unless max_error is above 0 and below 1.
    """
    check_max_error(max_error)
    chosen = _choose(held_out, max_error, temperature)
    selection = Selection(
        max_error=max_error, threshold=chosen.value, reason=chosen.reason, bound=chosen.bound
    )
    if held_out.num_units == 1:
        return selection
    answered = np.zeros(len(held_out.labels), bool)
    for others, part in held_out.parts():
        rest, own = held_out.select(others), held_out.select(part)
        fitted = fit(rest.logits, rest.labels) if fit else temperature
        answered[part] = _choose(rest, max_error, fitted).answers(own.confidence(fitted))
    selection = dataclasses.replace(
        selection, coverage=statistics.mean_interval(answered.astype(float), held_out.units)
    )
    if not answered.any():
        return selection
    correlation = error_correlation(held_out.wrong, held_out.units)
    [bound] = error_bounds(held_out.wrong, answered[:, np.newaxis], held_out.units, correlation)
    error = float(held_out.wrong[answered].mean())
    return dataclasses.replace(selection, error=error, error_bound=float(bound))


def choose_threshold(
    confidence: np.ndarray, wrong: np.ndarray, units: np.ndarray, max_error: float
) -> Threshold:
    """Chooses the lowest threshold with which few answers are wrong, by a bound whose unit is the recording group.

    Up to NUM_STEPS thresholds are tried from the highest on, and the first whose bound is too high ends the trial.
    So no correction for their number is needed: an error requires the first threshold that is too low to pass its
    own test. The trial starts at the first threshold that would pass if no answer were wrong; those before it
    answer too few clips.

    Args:
      confidence: float [N], the confidence in each clip's prediction.
      wrong: bool [N], whether the prediction is wrong.
      units: int [N], the independent unit of each clip.
      max_error: the wanted largest fraction of wrong answers.
    """
    steps = np.quantile(confidence, 1 - np.arange(1, NUM_STEPS + 1) / NUM_STEPS, method="inverted_cdf")
    steps = np.unique(steps)[::-1]  # K steps, the highest confidence first
    answered = confidence[:, np.newaxis] >= steps  # [N, K]
    correlation = error_correlation(wrong, units)
    bounds = error_bounds(wrong, answered, units, correlation)
    possible = error_bounds(np.zeros_like(wrong), answered, units, correlation) <= max_error
    if not possible.any():
        reason = f"{len(wrong)} held-out clips of {len(np.unique(units))} groups are too few to show it"
        return Threshold(None, float(bounds.min()), reason)
    first = int(possible.argmax())
    num_passed = int(np.logical_and.accumulate(bounds[first:] <= max_error).sum())
    if not num_passed:
        chosen = answered[:, first]
        reason = (
            f"errors among the {chosen.sum()} most confident held-out clips: {wrong[chosen].sum()}, so that up to "
            f"{bounds[first]:.3f} of such answers may be wrong"
        )
        return Threshold(None, float(bounds.min()), reason)
    last = first + num_passed - 1
    return Threshold(float(steps[last]), float(bounds[last]), "")


def error_bounds(
    wrong: np.ndarray, answered: np.ndarray, units: np.ndarray, correlation: float
) -> np.ndarray:
    """Computes upper bounds on the fraction of wrong answers among new units' clips, float64 [K], from 0 to 1.

    Each bound is the exact binomial one (Clopper and Pearson 1934) for the effective number of clips: the number of
    answered clips divided by the design effect, which says how much the correlation within units raises the variance
    of the fraction. The design effect is the largest of 1 and two estimates, each with an allowance for few units:
    that of the answered clips, with the factor of Korn and Graubard (1998) from Student's t; and that which follows
    (Kish 1965, "Survey Sampling") from the correlation of the errors of all clips, answered or not, as the few wrong
    answers alone hardly show it.

    Args:
      wrong: bool [N], whether each clip's prediction is wrong.
      answered: bool [N, K], the clips that are answered at each of K thresholds.
      units: int [N], the independent unit of each clip.
      correlation: upper limit of the correlation of the errors of two clips of one unit.

    Returns:
      The bounds; 1 where fewer than 2 units have answered clips.
    """
    sizes = statistics.sums_by_group(answered.astype(float), units)[0]  # [G, K]
    fails = statistics.sums_by_group((answered & wrong[:, np.newaxis]).astype(float), units)[0]
    total, num_units = sizes.sum(axis=0), (sizes > 0).sum(axis=0)
    enough = num_units > 1
    clips, groups = np.where(enough, total, 2.0), np.where(enough, num_units, 2.0)
    rate = np.minimum(fails.sum(axis=0) / clips, 1.0)
    spread = groups / (groups - 1) * ((fails - rate * sizes) ** 2).sum(axis=0)
    independent = clips * rate * (1 - rate)
    measured = np.divide(spread, independent, out=np.ones_like(spread), where=independent > 0)
    t_quantiles = [stats.t.ppf(BOUND_LEVEL, freedom) for freedom in (groups - 1, np.maximum(clips - 1, 1))]
    measured *= (t_quantiles[0] / t_quantiles[1]) ** 2
    expected = 1 + ((sizes**2).sum(axis=0) / clips - 1) * correlation
    effective = clips / np.maximum(np.maximum(measured, expected), 1)
    bounds = np.ones(len(clips))
    open_ = enough & (rate < 1)
    bounds[open_] = stats.beta.ppf(
        BOUND_LEVEL, (rate * effective + 1)[open_], ((1 - rate) * effective)[open_]
    )
    return bounds


def error_correlation(wrong: np.ndarray, units: np.ndarray) -> float:
    """Computes an upper limit of the correlation of the errors of two clips of one unit, from 0 to 1.

    It is the upper limit, with the probability BOUND_LEVEL, of the intraclass correlation by analysis of variance.
    Source: Donner 1986, "A Review of Inference Procedures for the Intraclass Correlation Coefficient in the One-Way
    Random Effects Model", which gives the limits of Searle 1971.

    Args:
      wrong: bool [N], whether each clip's prediction is wrong.
      units: int [N], the independent unit of each clip.

    Returns:
      The limit; 1, the worst case, if nothing can be estimated, because all clips or none are wrong, no unit has two
      clips, or all clips are of one unit.
    """
    sums, sizes = statistics.sums_by_group(wrong.astype(float)[:, np.newaxis], units)
    num_clips, num_units, mean = len(wrong), len(sizes), wrong.mean()
    if mean in (0, 1) or not 1 < num_units < num_clips:
        return 1.0
    rates = sums[:, 0] / sizes
    between = (sizes * (rates - mean) ** 2).sum() / (num_units - 1)
    within = (sizes * rates * (1 - rates)).sum() / (num_clips - num_units)
    typical = (num_clips - (sizes**2).sum() / num_clips) / (num_units - 1)
    if within == 0 or typical <= 1:
        return 1.0
    ratio = between / within / stats.f.ppf(1 - BOUND_LEVEL, num_units - 1, num_clips - num_units)
    return float(np.clip((ratio - 1) / (ratio + typical - 1), 0, 1))


def risk_areas(held_out: HeldOut, temperature: float) -> tuple[Estimate, Estimate]:
    """Computes AURC and AUGRC of held-out predictions, with intervals over units.

    Returns:
      A tuple: measures.risk_coverage_area, the mean over thresholds of the fraction of answers that are wrong, and
      measures.generalized_risk_area, that of the fraction of all clips that are answered and wrong.
    """
    confidence, wrong = held_out.confidence(temperature), held_out.wrong

    def estimate(area: Callable[..., np.ndarray]) -> Estimate:
        return statistics.weighted_interval(held_out.units, lambda weights: area(confidence, wrong, weights))

    return estimate(measures.risk_coverage_area), estimate(measures.generalized_risk_area)


def known_rule(held_out: HeldOut) -> KnownRule:
    """Chooses the energy that 95% of the held-out clips do not exceed, and measures it by cross-fitting over units.

    The energy is unknown.energy_scores of logits without a temperature, as published.
    """
    energies = unknown.energy_scores(held_out.logits)
    accepted = np.full(len(energies), np.nan)
    for others, part in held_out.parts():
        accepted[part] = energies[part] <= unknown.accepting_threshold(energies[others])
    return KnownRule(
        threshold=unknown.accepting_threshold(energies),
        accepted=None if np.isnan(accepted).any() else float(accepted.mean()),
    )


def _choose(held_out: HeldOut, max_error: float, temperature: float) -> Threshold:
    return choose_threshold(held_out.confidence(temperature), held_out.wrong, held_out.units, max_error)
