"""Runs a model over clips, each exactly once, and scores what it says."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import msgspec
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import metrics
from ucf50_tfrecord.parsing import Count, Finite, Int64, Name

# What a training run is scored on.
PERTURBATIONS = (perturb.PLAIN, perturb.FIRST_SHUFFLE)
# Of a file of predictions: a million lines with the logits of 50 classes take half of it.
_MAX_PREDICTIONS_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model says of some clips.

    logits: float32 [N, C], in the order of `clips`.
    """

    clips: ClipIndex
    logits: np.ndarray
    perturbation: str = perturb.PLAIN

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The predicted classes, int64 [N]."""
        return self.logits.argmax(axis=1)

    @functools.cached_property
    def scores(self) -> dict[str, float]:
        return {
            "accuracy": metrics.accuracy(self.clips.labels, self.predictions),
            "macro_f1": metrics.macro_f1(self.clips.labels, self.predictions),
        }

    @functools.cached_property
    def class_f1(self) -> np.ndarray:
        """F1 of each class, float64 [C]; NaN for a class without clips."""
        return metrics.class_f1(self.clips.labels, self.predictions, self.logits.shape[1])

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Counts int64 [C, C]: rows are true classes."""
        return metrics.confusion(self.clips.labels, self.predictions, self.logits.shape[1])


class Evaluator:
    """Evaluates one model on one feed of clips, as often as wanted, compiled once."""

    def __init__(
        self,
        model: keras.Model,
        feed: Feed,
        *,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        perturbations: Sequence[str] = PERTURBATIONS,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """`perturbations` are those that it will be asked for, of perturb.names.

        `warn` is told, after each evaluation, of clips that were skipped.
        """
        known = perturb.names(feed.clips.manifest.format.num_frames)
        for name in perturbations:
            expect(name in known, f"perturbations out of {known}", perturbations=name)
        self._feed, self._warn, self._strategy = feed, warn, strategy
        self._batch_size, self._perturbations = batch_size, tuple(perturbations)

        def replica_forward(
            batch: dict[str, tf.Tensor], which: tf.Tensor, changes: list[perturb.Intervention]
        ) -> tf.Tensor:
            video = feed.frames(batch)  # [B, T, H, W, 3]
            changed = [functools.partial(change, video, batch["index"]) for change in changes]
            return model(tf.switch_case(which, changed), training=False)

        @tf.function
        def forward(
            batch: Any, which: tf.Tensor, changes: list[perturb.Intervention]
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """Returns, for the global batch: logits float32 [B, C], index int64 [B], mask int64 [B]."""
            logits = strategy.run(functools.partial(replica_forward, changes=changes), args=(batch, which))
            return self._gather(batch, logits)

        self._forward = forward

    def __call__(self, perturbation: str = perturb.PLAIN) -> Evaluation:
        """Evaluates all clips; those that the feed skips are left out.

        Raises:
          UserError: as evaluate_each does.
        """
        return self.evaluate_each([perturbation])[perturbation]

    def evaluate_each(
        self, perturbations: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Evaluation] | None:
        """Evaluates all clips with each of some perturbations, in one pass over the clips.

        Returns None if `should_stop`, which is asked after each batch, tells to.

        Raises:
          UserError: if a clip cannot be read, or the model gives NaN.
        """
        known = self._perturbations
        for name in perturbations:
            expect(name in known, f"a perturbation out of {known}", perturbation=name)
        numbers = [known.index(name) for name in perturbations]
        with tf.device("CPU:0"):  # where a branch is chosen
            chosen = [tf.constant(number, tf.int32) for number in numbers]
        clips, changes = self._feed.clips, self._changes
        logits = np.full(
            (len(clips), len(numbers), len(clips.manifest.classes)), np.nan, np.float32
        )  # [N, P, C]
        seen = np.zeros(len(clips), bool)
        for batch in self._feed.batches(batch_size=self._batch_size):
            for place, which in enumerate(chosen):
                outputs, index, mask = (value.numpy() for value in self._forward(batch, which, changes))
                counts = mask.astype(bool)
                logits[index[counts], place] = outputs[counts]
                seen[index[counts]] = True
            if should_stop():
                return None
        if self._feed.skipped:
            self._warn(self._feed.describe_skipped())
        expect(bool(seen.any()), "at least 1 clip that can be read", skipped=len(self._feed.skipped))
        bad = (~np.isfinite(logits[seen])).any(axis=(1, 2)).sum()
        if bad:
            raise UserError(f"The model gives NaN or infinity for {bad} clips")
        return {
            name: Evaluation(clips=clips.select(seen), logits=logits[seen, place], perturbation=name)
            for place, name in enumerate(perturbations)
        }

    @functools.cached_property
    def _changes(self) -> list[perturb.Intervention]:
        swaps = "background_swap" in self._perturbations
        backgrounds = perturb.find_backgrounds(self._feed.clips) if swaps else None
        return [perturb.make(name, self._feed.clips, backgrounds) for name in self._perturbations]

    def _gather(self, batch: Any, values: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Joins what the replicas of all workers found, so that each of them has all: values, index and mask."""
        mask = self._strategy.run(lambda mask: tf.cast(mask, tf.int64), args=(batch["mask"],))
        return tuple(self._strategy.gather(value, axis=0) for value in (values, batch["index"], mask))

    def mistakes(self, evaluation: Evaluation, count: int = 8) -> tuple[np.ndarray, list[str]]:
        """Returns the clips that the model was surest of and wrong about, the worst first.

        Args:
          evaluation: what this evaluator returned.
          count: of clips, at most.

        Returns:
          uint8 [N, T, H, W, 3], and N captions, each with the clip's id, its class, the predicted
          class and that one's probability.
        """
        clips, classes = evaluation.clips, evaluation.clips.manifest.classes
        shifted = evaluation.logits - evaluation.logits.max(axis=1, keepdims=True)
        surest = 1 / np.exp(shifted).sum(axis=1)  # the predicted class's probability
        wrong = np.flatnonzero(evaluation.predictions != clips.labels)
        worst = wrong[np.argsort(-surest[wrong], kind="stable")][:count]
        captions = [
            f"{clips.ids[i]}: true {classes[clips.labels[i]]}, predicted "
            f"{classes[evaluation.predictions[i]]} ({surest[i]:.2f})"
            for i in worst
        ]
        return read_clips(clips.select(worst)), captions


class SavedPrediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of predictions.jsonl: what a model said of a clip. A Struct, as it has a field `class`.

    group: record.UNKNOWN_GROUP where there is none. The names are those of the classes.
    """

    clip_id: Name
    perturbation: Name
    fold: Count
    group: Int64
    label: Count
    predicted: Count | None = None
    class_name: str | None = msgspec.field(name="class", default=None)
    predicted_class: str | None = None
    logits: tuple[Finite, ...]


def save_predictions(path: pathlib.Path, evaluations: list[Evaluation]) -> None:
    """Writes one JSON line for each clip and perturbation, so that every score can be made again."""
    with storage.atomic_write(path) as file:
        for evaluation in evaluations:
            clips, classes = evaluation.clips, evaluation.clips.manifest.classes
            for i, clip_id in enumerate(clips.ids):
                line = SavedPrediction(
                    clip_id=clip_id,
                    perturbation=evaluation.perturbation,
                    fold=int(clips.folds[i]),
                    group=int(clips.groups[i]),
                    label=int(clips.labels[i]),
                    predicted=int(evaluation.predictions[i]),
                    class_name=classes[clips.labels[i]],
                    predicted_class=classes[evaluation.predictions[i]],
                    logits=tuple(round(float(x), 6) for x in evaluation.logits[i]),
                )
                text = json.dumps(msgspec.to_builtins(line), ensure_ascii=False)
                file.write(text.encode("utf-8", "surrogateescape") + b"\n")


def load_predictions(path: pathlib.Path, num_classes: int) -> list[SavedPrediction]:
    """Reads what save_predictions wrote, one for each clip and perturbation.

    Raises:
      UserError: if the file cannot be read, or does not hold predictions of so many classes.
    """
    try:  # in bytes, as a class's name may hold what Unicode takes for the end of a line
        lines = storage.read_bytes(path, max_bytes=_MAX_PREDICTIONS_BYTES).splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    if not lines:
        raise UserError(f"{path} does not hold predictions: it is empty")
    clips: dict[str, tuple[int, int, int]] = {}
    predictions: dict[tuple[str, str], SavedPrediction] = {}
    for number, line in enumerate(lines, 1):
        problem = f"{path} does not hold predictions of {num_classes} classes: line {number}"
        try:
            value = storage.parse_json(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise UserError(f"{problem}: {error}") from error
        found = parsing.convert(value, SavedPrediction, problem)
        try:
            expect(found.label < num_classes, f"a label below {num_classes}", label=found.label)
            expect(len(found.logits) == num_classes, f"{num_classes} logits", logits=len(found.logits))
            place = found.label, found.group, found.fold
            expect(
                clips.setdefault(found.clip_id, place) == place,
                "one label, group and fold of a clip",
                found=place,
            )
            key = found.perturbation, found.clip_id
            expect(
                predictions.setdefault(key, found) is found, "one line of a clip and perturbation", found=key
            )
        except UserError as error:
            raise UserError(f"{problem}: {error}") from error
    expect_plain = any(prediction.perturbation == perturb.PLAIN for prediction in predictions.values())
    if not expect_plain:
        raise UserError(
            f"{path} does not hold predictions of clips as they are (perturbation {perturb.PLAIN!r})"
        )
    return [*predictions.values()]
