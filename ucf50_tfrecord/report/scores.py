"""The numbers of a comparison's report, computed from its predictions.

Accuracy and its changes are means over clips of the fraction of seeds that are right, with intervals
over groups. None means not tested. Scores come from scikit-learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from sklearn import metrics as sklearn_metrics

from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.evaluation import interventions, metrics, statistics, verdicts
from ucf50_tfrecord.evaluation.interventions import INTERVENTIONS, PLAIN, SHUFFLED, SHUFFLES
from ucf50_tfrecord.evaluation.results import Condition, Results, video_of
from ucf50_tfrecord.evaluation.statistics import Estimate

TOP = 5


@dataclasses.dataclass(frozen=True)
class Quality:
    """Measures of the mean of the seeds' probabilities.

    top5: the fraction of clips whose class is among the five most probable; None with five classes or fewer.
    log_loss: mean of -ln(probability of the true class).
    calibration_error: see statistics.expected_calibration_error.
    """

    top5: float | None
    log_loss: float
    calibration_error: float


@dataclasses.dataclass(frozen=True)
class OrderCheck:
    """The effect of another order of frames on a model's predictions.

    largest_change: of any logit. largest_logit: by absolute value.
    num_changed: predictions that become another class, out of num_tested.
    """

    model: str
    intervention: str
    largest_change: float
    largest_logit: float
    num_changed: int
    num_tested: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A class that is predicted for another. fractions: of the true class's predictions, by model."""

    true: int
    taken_for: int
    fractions: dict[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.fractions.values())))


class Scores:
    """The numbers that the report's sections share."""

    def __init__(self, results: Results):
        self.results = results
        # The models whose seeds were all tested on the clips of some part.
        self.models = tuple(m for m in results.models if self.tested(Condition(m)).any())

    @property
    def order_blind(self) -> tuple[str, ...]:
        return tuple(model for model in self.models if model in self.results.order_blind)

    @property
    def sequence_models(self) -> tuple[str, ...]:
        return tuple(model for model in self.models if model not in self.results.order_blind)

    def control_of(self, model: str) -> str | None:
        """Returns the order-blind model to compare a model with, if possible one that reads frames alike."""
        alike = [control for control in self.order_blind if self.read_alike(model, control)]
        return next(iter((*alike, *self.order_blind)), None)

    def read_alike(self, *models: str) -> bool:
        """Tells whether models encode frames alike, and so have the same order-blind control."""
        kinds = [self.results.architectures[model] for model in models]
        return len({model_traits(kind).control or kind for kind in kinds}) == 1

    def tested(self, condition: Condition) -> np.ndarray:
        """Tells which clips were tested: bool [N]."""
        return ~np.isnan(self.results.correct(condition))

    def accuracy(self, condition: Condition) -> Estimate | None:
        return self._mean(self.results.correct(condition))

    def change(self, condition: Condition, base: Condition) -> Estimate | None:
        """Computes the accuracy under a condition minus that under another, on the same clips."""
        return self._mean(self._differences(condition, base))

    def changes_by_class(self, condition: Condition, base: Condition) -> list[Estimate | None]:
        """Computes the change of each of the C classes."""
        difference, labels = self._differences(condition, base), self.results.labels
        every = range(len(self.results.classes))
        return [self._mean(np.where(labels == label, difference, np.nan)) for label in every]

    def mean_changes_by_class(self, condition: Condition, base: Condition) -> np.ndarray:
        """Computes the change of each class without an interval: float [C], NaN for classes without clips."""
        difference, num_classes = self._differences(condition, base), len(self.results.classes)
        kept = ~np.isnan(difference)
        labels = self.results.labels[kept]
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.bincount(labels, difference[kept], minlength=num_classes)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def macro_f1(self, condition: Condition) -> Estimate | None:
        predictions, tested = self.results.predictions(condition)
        if not tested.any():
            return None
        labels, units = self.results.labels[tested], self.results.units[tested]
        return statistics.macro_f1_interval(labels, predictions[:, tested], units, len(self.results.classes))

    def by_seed(self, condition: Condition) -> np.ndarray:
        """Computes accuracy and macro F1 of each seed: float [2, S]."""
        predictions, tested = self.results.predictions(condition)
        labels = self.results.labels[tested]
        rows = predictions[:, tested] if tested.any() else predictions[:0]
        pairs = [(metrics.accuracy(labels, row), metrics.macro_f1(labels, row)) for row in rows]
        return np.array(pairs).reshape(-1, 2).T

    def class_scores(self, condition: Condition) -> np.ndarray:
        """Computes precision, recall and F1 of each class, means over seeds: float [3, C], NaN without clips."""
        predictions, tested = self.results.predictions(condition)
        labels, every = self.results.labels[tested], np.arange(len(self.results.classes))
        rows = [
            sklearn_metrics.precision_recall_fscore_support(labels, row, labels=every, zero_division=0)[:3]
            for row in predictions[:, tested]
        ]
        return np.where(np.isin(every, labels), np.mean(rows, axis=0), np.nan)

    def chance(self, condition: Condition) -> tuple[float, float]:
        """Computes accuracy and macro F1 of always predicting the most frequent class."""
        labels = self.results.labels[self.tested(condition)]
        always = np.full(len(labels), np.bincount(labels).argmax())
        return verdicts.chance(self.results, condition), metrics.macro_f1(labels, always)

    def probabilities(self, condition: Condition) -> np.ndarray:
        """Averages the seeds' probabilities: float64 [N, C], NaN where not all seeds were tested."""
        return verdicts.ensemble(self.results.logits(condition).astype(np.float64))

    def quality(self, condition: Condition) -> Quality:
        tested = self.tested(condition)
        labels, probabilities = self.results.labels[tested], self.probabilities(condition)[tested]
        every = np.arange(probabilities.shape[1])
        top5 = None
        if len(every) > TOP:
            top5 = float(sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=TOP, labels=every))
        loss = float(sklearn_metrics.log_loss(labels, probabilities, labels=every))
        return Quality(top5, loss, statistics.expected_calibration_error(probabilities, labels))

    def by_video(self, condition: Condition) -> tuple[int, Estimate, Estimate] | None:
        """Scores videos by the mean of their clips' probabilities: their number, accuracy and macro F1.

        None if no video has several tested clips.
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

    def confusion(self, model: str) -> np.ndarray:
        """Counts predictions of all seeds: int64 [C, C], rows are true classes."""
        predictions, tested = self.results.predictions(Condition(model))
        labels = np.tile(self.results.labels[tested], len(predictions))
        return metrics.confusion(labels, predictions[:, tested].ravel(), len(self.results.classes))

    def most_confused(self, limit: int) -> list[Confusion]:
        """Finds the pairs of classes that are confused most, by the mean of the models' fractions."""
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
        """Finds clips that all seeds of a model get right and all of another wrong: indices int64 [M]."""
        right, wrong = (
            self.results.correct(Condition(model)) == 1,
            self.results.correct(Condition(other)) == 0,
        )
        return np.flatnonzero(right & wrong)

    def interventions(self) -> tuple[str, ...]:
        """Lists the tested interventions in the order of interventions.names, all permutations as one."""
        found = {name for model in self.models for name in self.results.interventions(model)}
        known = interventions.names(self.results.num_frames)
        ordered = [name for name in known if name in found] + sorted(found - set(known))
        joined = (SHUFFLED if name in SHUFFLES else name for name in ordered)
        return tuple(name for name in dict.fromkeys(joined) if name != PLAIN)

    def order_checks(self) -> Iterator[OrderCheck]:
        """Compares each model's logits for frames in another order with those for the unchanged clip."""
        for model in self.models:
            for entry in filter(lambda entry: entry.permutes, INTERVENTIONS.values()):
                pairs = [
                    (cell.logits[PLAIN], cell.logits[name])
                    for cell in self.results.cells_of(Condition(model))
                    for name in entry.names(self.results.num_frames)
                    if name in cell.logits
                ]
                if pairs:
                    yield _order_check(model, entry.name, pairs)

    def _differences(self, condition: Condition, base: Condition) -> np.ndarray:
        """Subtracts clip by clip the fraction of seeds that are right: float [N]."""
        return self.results.correct(condition) - self.results.correct(base)

    def _mean(self, values: np.ndarray) -> Estimate | None:
        kept = ~np.isnan(values)
        return statistics.mean_interval(values[kept], self.results.units[kept]) if kept.any() else None


def excludes_zero(estimate: Estimate | None) -> bool:
    """Tells whether an estimate's interval lies on one side of 0; an unknown one does not."""
    return estimate is not None and (estimate.low > 0 or estimate.high < 0)


def _order_check(model: str, name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> OrderCheck:
    return OrderCheck(
        model,
        name,
        largest_change=max(float(np.abs(plain - other).max(initial=0)) for plain, other in pairs),
        largest_logit=max(float(np.abs(plain).max(initial=0)) for plain, _ in pairs),
        num_changed=sum(int((plain.argmax(axis=1) != other.argmax(axis=1)).sum()) for plain, other in pairs),
        num_tested=sum(len(plain) for plain, _ in pairs),
    )


def format_estimate(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Formats an estimate for a table; a dash stands for a missing one or its interval. sign: of changes."""
    if estimate is None:
        return "–"
    value, low, high = (f"{x:+z.3f}" if sign else f"{x:.3f}" for x in dataclasses.astuple(estimate))
    return f"{value} [–]" if np.isnan(estimate.low) else f"{value} [{low}, {high}]"
