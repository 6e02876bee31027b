"""The numbers of a comparison's report, computed from the comparison's predictions.

Accuracy is the mean over clips of the fraction of seeds that are right; its 95% interval is from a bootstrap
over independent units, which are recording groups, or videos without a group. An estimate is None if no clip
was tested by all seeds. Most scores are computed by scikit-learn.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from sklearn import metrics as sklearn_metrics

from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.evaluation import interventions, measures, metrics, statistics, verdicts
from ucf50_tfrecord.evaluation.interventions import INTERVENTIONS, PLAIN, SHUFFLED, SHUFFLES
from ucf50_tfrecord.evaluation.results import Condition, Results, TrainingCost, video_of
from ucf50_tfrecord.evaluation.statistics import Estimate, Trainings

TOP = 5  # the k of top-k accuracy


@dataclasses.dataclass(frozen=True)
class Quality:
    """Scores of one model's class probabilities, averaged over its seeds.

    top5: fraction of clips whose class is among the five most probable; None with five classes or fewer.
    log_loss: mean over clips of -ln(probability of the true class); see measures.log_losses.
    brier: mean Brier score; see measures.brier_scores.
    risk_coverage_area: see measures.risk_coverage_area; a clip's confidence is its highest probability.
    calibration_error: expected calibration error; see statistics.expected_calibration_error.
    """

    top5: float | None
    log_loss: Estimate
    brier: Estimate
    risk_coverage_area: Estimate
    calibration_error: float


@dataclasses.dataclass(frozen=True)
class OrderCheck:
    """How much a model's predictions change when a clip's frames are reordered.

    model: name of the model.
    intervention: name of the intervention that reorders the frames, such as reverse.
    largest_change: largest absolute change of any logit.
    largest_logit: largest absolute value of the logits for the unchanged clips.
    num_changed: number of predictions whose class changes.
    num_tested: number of all compared predictions.
    """

    model: str
    intervention: str
    largest_change: float
    largest_logit: float
    num_changed: int
    num_tested: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A pair of classes that models confuse: clips of one are predicted as the other.

    true: index of the clips' class.
    taken_for: index of the class that is wrongly predicted.
    fractions: dictionary from each model to the fraction of its predictions for clips of class `true` that
      are `taken_for`.
    """

    true: int
    taken_for: int
    fractions: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean of the models' fractions."""
        return float(np.mean(list(self.fractions.values())))


class Scores:
    """The numbers of a comparison that its report's sections share.

    results: the comparison's predictions.
    models: names of the models, except those without any clip that was tested with all seeds.
    """

    def __init__(self, results: Results):
        self.results = results
        # A model of an interrupted comparison may have no clip that all its seeds were tested on.
        self.models = tuple(m for m in results.models if self.tested(Condition(m)).any())

    @property
    def order_blind(self) -> tuple[str, ...]:
        """Names of the models whose logits do not depend on the order of frames."""
        return tuple(model for model in self.models if model in self.results.order_blind)

    @property
    def sequence_models(self) -> tuple[str, ...]:
        """Names of the models that see the order of frames."""
        return tuple(model for model in self.models if model not in self.results.order_blind)

    def control_of(self, model: str) -> str | None:
        """Returns the control of a model: an order-blind model, if possible one that encodes frames alike.

        None if the comparison has no order-blind model.
        """
        alike = [control for control in self.order_blind if self.read_alike(model, control)]
        return next(iter((*alike, *self.order_blind)), None)

    def read_alike(self, *models: str) -> bool:
        """Returns whether `models` encode frames alike: they share an order-blind control, or one is it."""
        kinds = [self.results.architectures[model] for model in models]
        return len({model_traits(kind).control or kind for kind in kinds}) == 1

    def tested(self, condition: Condition) -> np.ndarray:
        """Returns whether all seeds were tested on each clip under `condition`, bool [N]."""
        return ~np.isnan(self.results.correct(condition))

    def accuracy(self, condition: Condition) -> Estimate | None:
        """Computes the accuracy under `condition` and its interval; None if no clip was tested."""
        return self.results.mean(self.results.correct(condition))

    def change(self, condition: Condition, base: Condition) -> Estimate | None:
        """Computes the accuracy under `condition` minus the accuracy under `base`, on the same clips."""
        return self.results.mean(self._differences(condition, base))

    def changes_by_class(self, condition: Condition, base: Condition) -> list[Estimate | None]:
        """Lists each class's accuracy under `condition` minus that under `base`; None where not tested."""
        difference, labels = self._differences(condition, base), self.results.labels
        every = range(len(self.results.classes))
        return [self.results.mean(np.where(labels == label, difference, np.nan)) for label in every]

    def mean_changes_by_class(self, condition: Condition, base: Condition) -> np.ndarray:
        """Computes the values of `changes_by_class` without intervals, float [C]; NaN where not tested."""
        difference, num_classes = self._differences(condition, base), len(self.results.classes)
        kept = ~np.isnan(difference)
        labels = self.results.labels[kept]
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.bincount(labels, difference[kept], minlength=num_classes)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def macro_f1(self, condition: Condition) -> Estimate | None:
        """Computes macro F1 under `condition`, the mean over seeds, and its interval; None without tests."""
        predictions, tested = self.results.predictions(condition)
        if not tested.any():
            return None
        labels, units = self.results.labels[tested], self.results.units[tested]
        return statistics.macro_f1_interval(labels, predictions[:, tested], units, len(self.results.classes))

    def macro_f1_lead(self, model: str, other: str) -> Estimate | None:
        """Computes how far `model` is ahead of `other` in macro F1, on the clips that both were tested on.

        The interval allows for other recordings and other seeds; see statistics.macro_f1_scores. None if there are no
        such clips.
        """
        results = self.results
        both = self.tested(Condition(model)) & self.tested(Condition(other))
        if not both.any():
            return None

        def trainings(condition: Condition) -> Trainings:
            predictions, _ = results.predictions(condition)
            values = statistics.macro_f1_scores(results.labels[both], predictions[:, both])
            return Trainings(values, results.trainings(condition).blocks[both])

        one, two = trainings(Condition(model)), trainings(Condition(other))
        return statistics.recipe_interval(one, two, results.units[both])

    def costs(self, model: str) -> list[TrainingCost]:
        """Lists the known costs of a model's usual trainings."""
        return [result.cost for result in self.results.cells_of(Condition(model)) if result.cost]

    def by_seed(self, condition: Condition) -> np.ndarray:
        """Computes each seed's accuracy (row 0) and macro F1 (row 1) under `condition`: float [2, S]."""
        predictions, tested = self.results.predictions(condition)
        labels = self.results.labels[tested]
        rows = predictions[:, tested] if tested.any() else predictions[:0]
        pairs = [(metrics.accuracy(labels, row), metrics.macro_f1(labels, row)) for row in rows]
        return np.array(pairs).reshape(-1, 2).T

    def class_scores(self, condition: Condition) -> np.ndarray:
        """Computes each class's precision, recall and F1 under a condition, as means over seeds.

        Returns:
          An array with these three as rows, float [3, C]; NaN for classes without tested clips.
        """
        predictions, tested = self.results.predictions(condition)
        labels, every = self.results.labels[tested], np.arange(len(self.results.classes))
        rows = [
            sklearn_metrics.precision_recall_fscore_support(labels, row, labels=every, zero_division=0)[:3]
            for row in predictions[:, tested]
        ]
        return np.where(np.isin(every, labels), np.mean(rows, axis=0), np.nan)

    def chance(self, condition: Condition) -> tuple[float, float]:
        """Returns a tuple of the accuracy and macro F1 of always predicting the most frequent class."""
        labels = self.results.labels[self.tested(condition)]
        always = np.full(len(labels), np.bincount(labels).argmax())
        return verdicts.chance(self.results, condition), metrics.macro_f1(labels, always)

    def probabilities(self, condition: Condition) -> np.ndarray:
        """Returns the mean of the seeds' probabilities, float64 [N, C]; NaN where not all were tested."""
        return verdicts.ensemble(self.results.logits(condition).astype(np.float64))

    def quality(self, condition: Condition) -> Quality:
        """Scores the mean of the seeds' class probabilities for the tested clips under `condition`."""
        tested = self.tested(condition)
        labels, units = self.results.labels[tested], self.results.units[tested]
        probabilities = self.probabilities(condition)[tested]
        every = np.arange(probabilities.shape[1])
        top5 = None
        if len(every) > TOP:
            top5 = float(sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=every))
        confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
        area = functools.partial(measures.risk_coverage_area, confidence, wrong)
        return Quality(
            top5,
            log_loss=statistics.mean_interval(measures.log_losses(probabilities, labels), units),
            brier=statistics.mean_interval(measures.brier_scores(probabilities, labels), units),
            risk_coverage_area=statistics.weighted_interval(units, area),
            calibration_error=statistics.expected_calibration_error(probabilities, labels),
        )

    def by_video(self, condition: Condition) -> tuple[int, Estimate, Estimate] | None:
        """Scores predictions of whole videos, by the mean of the probabilities of a video's clips.

        Returns:
          A tuple of the number of videos, their accuracy and their macro F1; None if no video has several
          tested clips.
        """
        tested = np.flatnonzero(self.tested(condition))
        names = [video_of(self.results.ids[i]) for i in tested]
        _, first, video = np.unique(names, return_index=True, return_inverse=True)
        if len(first) == len(tested):
            return None
        sums = np.zeros((len(first), len(self.results.classes)))
        np.add.at(sums, video, self.probabilities(condition)[tested])
        labels, units = self.results.labels[tested[first]], self.results.units[tested[first]]
        predictions = sums.argmax(axis=1)
        accuracy = statistics.mean_interval((predictions == labels).astype(float), units)
        f1 = statistics.macro_f1_interval(labels, predictions[np.newaxis], units, sums.shape[1])
        return len(first), accuracy, f1

    def confusion(self, model: str, intervention: str = PLAIN) -> np.ndarray:
        """Counts a model's predictions, of all seeds, by true class (row) and prediction: int64 [C, C]."""
        predictions, tested = self.results.predictions(Condition(model, intervention=intervention))
        labels = np.tile(self.results.labels[tested], len(predictions))
        return metrics.confusion(labels, predictions[:, tested].ravel(), len(self.results.classes))

    def most_confused(self, limit: int) -> list[Confusion]:
        """Lists at most `limit` pairs of confused classes, those with the highest mean over models first."""
        counts = {model: self.confusion(model) for model in self.models}
        if not counts:
            return []
        fractions = {m: c / np.maximum(c.sum(axis=1, keepdims=True), 1) for m, c in counts.items()}
        mean = np.mean(list(fractions.values()), axis=0)
        np.fill_diagonal(mean, 0)
        order = np.argsort(-mean, axis=None, kind="stable")[:limit]
        return [
            Confusion(int(i), int(j), {model: float(table[i, j]) for model, table in fractions.items()})
            for i, j in zip(*np.unravel_index(order, mean.shape))
            if mean[i, j] > 0
        ]

    def only_right(self, model: str, other: str) -> np.ndarray:
        """Returns the indices of clips that all seeds of `model` get right and all of `other` wrong."""
        right, wrong = (
            self.results.correct(Condition(model)) == 1,
            self.results.correct(Condition(other)) == 0,
        )
        return np.flatnonzero(right & wrong)

    def interventions(self) -> tuple[str, ...]:
        """Lists the names of the interventions that any model was tested under, without PLAIN.

        They are in the order of interventions.names, with SHUFFLED for all of SHUFFLES.
        """
        found = {name for model in self.models for name in self.results.interventions(model)}
        known = interventions.names(self.results.num_frames)
        ordered = [name for name in known if name in found] + sorted(found - set(known))
        joined = (SHUFFLED if name in SHUFFLES else name for name in ordered)
        return tuple(name for name in dict.fromkeys(joined) if name != PLAIN)

    def order_checks(self) -> Iterator[OrderCheck]:
        """Yields, for each model and intervention that reorders frames, how much the predictions change."""
        for model in self.models:
            for entry in filter(lambda entry: entry.permutes, INTERVENTIONS.values()):
                changes = [
                    _order_check(model, entry.name, cell.logits[PLAIN], cell.logits[name])
                    for cell in self.results.cells_of(Condition(model))
                    for name in entry.names(self.results.num_frames)
                    if name in cell.logits
                ]
                if changes:
                    yield functools.reduce(_join_checks, changes)

    def _differences(self, condition: Condition, base: Condition) -> np.ndarray:
        """Computes each clip's fraction of right seeds under `condition` minus that under `base`, [N]."""
        return self.results.correct(condition) - self.results.correct(base)


def excludes_zero(estimate: Estimate | None) -> bool:
    """Returns whether an estimate's interval excludes 0; False if the estimate or its interval is unknown."""
    return estimate is not None and (estimate.low > 0 or estimate.high < 0)


def _order_check(model: str, name: str, plain: np.ndarray, other: np.ndarray) -> OrderCheck:
    return OrderCheck(
        model,
        name,
        largest_change=float(np.abs(plain - other).max(initial=0)),
        largest_logit=float(np.abs(plain).max(initial=0)),
        num_changed=int((plain.argmax(axis=1) != other.argmax(axis=1)).sum()),
        num_tested=len(plain),
    )


def _join_checks(one: OrderCheck, other: OrderCheck) -> OrderCheck:
    """Returns the check of the predictions of two checks together."""
    return dataclasses.replace(
        one,
        largest_change=max(one.largest_change, other.largest_change),
        largest_logit=max(one.largest_logit, other.largest_logit),
        num_changed=one.num_changed + other.num_changed,
        num_tested=one.num_tested + other.num_tested,
    )


def format_estimate(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Formats an estimate as its value and interval, for a table.

    Args:
      estimate: the estimate; None is formatted as a dash, and so is an unknown interval.
      sign: whether to write a plus before positive numbers, as for changes.
    """
    if estimate is None:
        return "–"
    value, low, high = (f"{x:+z.3f}" if sign else f"{x:.3f}" for x in dataclasses.astuple(estimate))
    return f"{value} [–]" if np.isnan(estimate.low) else f"{value} [{low}, {high}]"
