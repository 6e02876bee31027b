"""The numbers of a comparison's report, each made once from the predictions.

Accuracy and its changes are means over clips of the share of seeds that are right, with intervals
over groups; None stands where nothing was tested. Scores by scikit-learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from sklearn import metrics as sklearn_metrics

from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.evaluation import metrics, statistics, verdicts
from ucf50_tfrecord.evaluation.results import SHUFFLED, Condition, Results, common, video_of
from ucf50_tfrecord.evaluation.statistics import Estimate

TOP = 5


@dataclasses.dataclass(frozen=True)
class Quality:
    """What the mean of the seeds' probabilities is worth.

    top5: share of clips whose class is among the five likeliest; None with five classes or fewer.
    log_loss: mean of -ln(probability of the true class).
    calibration_error: see statistics.expected_calibration_error.
    """

    top5: float | None
    log_loss: float
    calibration_error: float


@dataclasses.dataclass(frozen=True)
class OrderCheck:
    """How far a model's answers move when frames change their order.

    change: the largest change of any logit. scale: the largest logit's size.
    moved: how many predictions are another class. tested: of how many.
    """

    model: str
    perturbation: str
    change: float
    scale: float
    moved: int
    tested: int


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A class that is taken for another. shares: of the true class's predictions, by model."""

    true: int
    taken_for: int
    shares: dict[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.shares.values())))


class Scores:
    """The numbers that the sections share."""

    def __init__(self, results: Results):
        self.results = results
        # Those whose clips were all tested by all of their seeds, in some part.
        self.models = tuple(m for m in results.models if self.tested(Condition(m)).any())

    @property
    def order_blind(self) -> tuple[str, ...]:
        return tuple(model for model in self.models if model in self.results.order_blind)

    @property
    def sequence_models(self) -> tuple[str, ...]:
        return tuple(model for model in self.models if model not in self.results.order_blind)

    def control_of(self, model: str) -> str | None:
        """The order-blind model to hold a model against: one that reads frames alike, where there is one."""
        alike = [control for control in self.order_blind if self.read_alike(model, control)]
        return next(iter((*alike, *self.order_blind)), None)

    def read_alike(self, *models: str) -> bool:
        """Whether models have the same part that reads frames, or at least both the published one or neither."""
        kinds = {result.cell.model: result.architecture for result in self.results.cells}
        return len({kinds[model].startswith("seed_") for model in models}) == 1

    def tested(self, condition: Condition) -> np.ndarray:
        """Returns bool [N]."""
        return ~np.isnan(self.results.correct(condition))

    def accuracy(self, condition: Condition) -> Estimate | None:
        return self._mean(self.results.correct(condition))

    def change(self, condition: Condition, base: Condition) -> Estimate | None:
        """Paired: what the accuracy is higher under a condition than under another, on the same clips."""
        return self._mean(self.results.correct(condition) - self.results.correct(base))

    def changes_by_class(self, condition: Condition, base: Condition) -> list[Estimate | None]:
        """The same for each class: C."""
        difference = self.results.correct(condition) - self.results.correct(base)
        labels, every = self.results.labels, range(len(self.results.classes))
        return [self._mean(np.where(labels == label, difference, np.nan)) for label in every]

    def mean_changes_by_class(self, condition: Condition, base: Condition) -> np.ndarray:
        """The same without intervals: float [C], NaN where nothing was tested."""
        difference = self.results.correct(condition) - self.results.correct(base)
        kept, num_classes = common(difference), len(self.results.classes)
        labels = self.results.labels[kept]
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.bincount(labels, difference[kept], minlength=num_classes)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def macro_f1(self, condition: Condition) -> Estimate | None:
        predictions, tested = self.results.predictions(condition)
        if not tested.any():
            return None
        return statistics.macro_f1_interval(
            self.results.labels[tested],
            predictions[:, tested],
            self.results.units[tested],
            len(self.results.classes),
        )

    def by_seed(self, condition: Condition) -> np.ndarray:
        """Returns accuracy and macro F1 of each seed: float [2, S]."""
        predictions, tested = self.results.predictions(condition)
        labels = self.results.labels[tested]
        rows = predictions[:, tested] if tested.any() else []
        pairs = [(metrics.accuracy(labels, row), metrics.macro_f1(labels, row)) for row in rows]
        return np.array(pairs).reshape(-1, 2).T

    def class_scores(self, condition: Condition) -> np.ndarray:
        """Returns precision, recall and F1 of each class, means over seeds: float [3, C], NaN without clips."""
        predictions, tested = self.results.predictions(condition)
        labels, every = self.results.labels[tested], np.arange(len(self.results.classes))
        rows = [
            sklearn_metrics.precision_recall_fscore_support(labels, row, labels=every, zero_division=0)[:3]
            for row in predictions[:, tested]
        ]
        return np.where(np.isin(every, labels), np.mean(rows, axis=0), np.nan)

    def chance(self, condition: Condition) -> tuple[float, float]:
        """Accuracy and macro F1 of always naming the most frequent class."""
        labels = self.results.labels[self.tested(condition)]
        always = np.full(len(labels), np.bincount(labels).argmax())
        return verdicts.chance(self.results, condition), metrics.macro_f1(labels, always)

    def probabilities(self, condition: Condition) -> np.ndarray:
        """Returns the mean over seeds, float64 [N, C]; NaN where not all seeds were tested."""
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
        """Accuracy and macro F1 of videos, by the mean of their clips' probabilities, and how many there are.

        None where no video has several tested clips.
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
        """The pairs of classes that are confused most, by the mean of the models' shares."""
        counts = {model: self.confusion(model) for model in self.models}
        if not counts:
            return []
        shares = {m: table / np.maximum(table.sum(axis=1, keepdims=True), 1) for m, table in counts.items()}
        mean = np.mean(list(shares.values()), axis=0)
        np.fill_diagonal(mean, 0)
        pairs = np.stack(
            np.unravel_index(np.argsort(-mean, axis=None, kind="stable")[:limit], mean.shape), axis=1
        )
        return [
            Confusion(int(i), int(j), {model: float(table[i, j]) for model, table in shares.items()})
            for i, j in pairs
            if mean[i, j] > 0
        ]

    def only_right(self, model: str, other: str) -> np.ndarray:
        """Clips about which all seeds of a model are right and all of the other wrong: indices int64 [M]."""
        return np.flatnonzero(
            (self.results.correct(Condition(model)) == 1) & (self.results.correct(Condition(other)) == 0)
        )

    def interventions(self) -> tuple[str, ...]:
        """Those that any model was tested with, all permutations as one, in the order of perturb.names."""
        found = {name for model in self.models for name in self.results.perturbations(model)}
        known = perturb.names(self.results.num_frames)
        ordered = [name for name in known if name in found] + sorted(found - set(known))
        joined = (SHUFFLED if name in perturb.SHUFFLES else name for name in ordered)
        return tuple(name for name in dict.fromkeys(joined) if name != perturb.PLAIN)

    def order_checks(self) -> Iterator[OrderCheck]:
        """Holds what models say of frames in another order against what they say of the clip."""
        for model in self.models:
            for name, parts in ((SHUFFLED, perturb.SHUFFLES), ("reverse", ("reverse",))):
                pairs = [
                    (cell.logits[perturb.PLAIN], cell.logits[part])
                    for cell in self.results.cells
                    if (cell.cell.model, cell.cell.training, cell.cell.split) == Condition(model)[:3]
                    for part in parts
                    if part in cell.logits
                ]
                if pairs:
                    yield _order_check(model, name, pairs)

    def _mean(self, values: np.ndarray) -> Estimate | None:
        kept = common(values)
        return statistics.mean_interval(values[kept], self.results.units[kept]) if kept.any() else None


def excludes_zero(estimate: Estimate | None) -> bool:
    """Whether an estimate's interval lies on one side of 0; an unknown one does not."""
    return estimate is not None and (estimate.low > 0 or estimate.high < 0)


def _order_check(model: str, name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> OrderCheck:
    return OrderCheck(
        model,
        name,
        change=max(float(np.abs(plain - changed).max(initial=0)) for plain, changed in pairs),
        scale=max(float(np.abs(plain).max(initial=0)) for plain, _ in pairs),
        moved=sum(int((plain.argmax(axis=1) != changed.argmax(axis=1)).sum()) for plain, changed in pairs),
        tested=sum(len(plain) for plain, _ in pairs),
    )


def shown(estimate: Estimate | None, *, sign: bool = False) -> str:
    """An estimate in a table; a dash where there is none, or no interval. sign: of changes."""
    if estimate is None:
        return "–"
    value, low, high = (f"{x:+z.3f}" if sign else f"{x:.3f}" for x in dataclasses.astuple(estimate))
    return f"{value} [–]" if np.isnan(estimate.low) else f"{value} [{low}, {high}]"
