"""Evaluates a model: predicts each clip exactly once, scores the predictions, and stores them in a file.

Clips can be changed by an intervention, such as shuffled frames; see evaluation.interventions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import msgspec
import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.dataset import pretext, segments, views
from ucf50_tfrecord.dataset.augment import take_frames
from ucf50_tfrecord.dataset.clips import ClipIndex, frames_of
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.dataset.views import PLAIN_VIEW, View
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import interventions, metrics, multi_label
from ucf50_tfrecord.evaluation.interventions import FIRST_SHUFFLE, PLAIN
from ucf50_tfrecord.evaluation.results import units_of
from ucf50_tfrecord.labels import ClassName, Label, as_tuple, class_name, of_row, to_text
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.models.frames import split_at_frames
from ucf50_tfrecord.parsing import Count, Finite, Int64, Name
from ucf50_tfrecord.specs import ModelSpec, TrainSpec

RUN_INTERVENTIONS = (PLAIN, FIRST_SHUFFLE)  # a run is scored under each of these interventions
VIEWS = "views"  # stands for the average over a clip's views, where others name an intervention
_ARRANGE = interventions.Change(function=take_frames)
_MAX_PREDICTIONS_BYTES = 1 << 30  # with 50 classes, a million lines take half of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's predictions for N clips under one intervention.

    clips: index of the clips.
    logits: the model's logits, float32 [N, C], in the order of `clips`.
    intervention: name of the change of the clips. PLAIN means unchanged clips, VIEWS an average over some of their
      views.
    """

    clips: ClipIndex
    logits: np.ndarray
    intervention: str = PLAIN

    @property
    def is_multi_label(self) -> bool:
        """Whether clips have several labels."""
        return self.clips.manifest.multi_label

    @functools.cached_property
    def predictions(self) -> np.ndarray:
        """The predicted classes, int64 [N]; with several labels per clip bool [N, C], those of a probability >= 0.5."""
        return self.logits >= 0 if self.is_multi_label else self.logits.argmax(axis=1)

    @functools.cached_property
    def scores(self) -> dict[str, float]:
        """The "accuracy" and "macro_f1" of the predictions, each from 0 to 1; with several labels see multi_label."""
        if self.is_multi_label:
            units = units_of(self.clips.ids, self.clips.groups)
            return multi_label.scores(self.clips.labels, self.logits, units)
        return {
            "accuracy": metrics.accuracy(self.clips.labels, self.predictions),
            "macro_f1": metrics.macro_f1(self.clips.labels, self.predictions),
        }

    @property
    def selecting_score(self) -> float:
        """The score by which the best epoch is selected: macro F1, or with several labels mean average precision."""
        return self.scores["mean_average_precision" if self.is_multi_label else "macro_f1"]

    @functools.cached_property
    def class_f1(self) -> np.ndarray:
        """F1 of each class, float64 [C]; NaN for a class that none of the clips has."""
        if self.is_multi_label:
            return multi_label.class_f1(self.clips.labels == 1, self.predictions)
        return metrics.class_f1(self.clips.labels, self.predictions, self.logits.shape[1])

    @functools.cached_property
    def confusion(self) -> np.ndarray:
        """Numbers of clips by true class (rows) and predicted class (columns), int64 [C, C].

        Raises:
          UserError: if clips have several labels.
        """
        self.clips.manifest.expect_one_label("a confusion matrix")
        return metrics.confusion(self.clips.labels, self.predictions, self.logits.shape[1])


class Split(NamedTuple):
    """A model's two halves.

    encode: maps a distributed batch's clips to the features of their frames, [B, T, ...].
    head: predicts from these features.
    """

    encode: Callable[[Any], Any]
    head: Predictor


class Predictor:
    """A model's forward pass, compiled once. Any number of evaluators can share it, also after new training.

    model: the model, from clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C]. Of clips that store more frames than
      it takes, it gets the middle ones of segments; see dataset.segments.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        """Compiles nothing yet; `strategy` are the devices that predict."""
        self.model, self._strategy = model, strategy
        self._compiled: dict[Hashable, Callable] = {}

    @property
    def num_classes(self) -> int:
        """The number of the model's classes; clips of another data set may have other classes."""
        return self.model.output_shape[-1]

    @property
    def num_frames(self) -> int:
        """The number of frames per clip that the model takes, T."""
        return self.model.input_shape[1]

    def read(
        self, frames: Callable, batch: Any, view: View = PLAIN_VIEW
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Returns a distributed batch's clips, [B, T, ...], and their indices and mask, both [B], of all replicas.

        Args:
          frames: maps a replica's batch to its frames, see Feed.frames.
          batch: the distributed batch, which holds the stored view of `view` if records hold several.
          view: the view of the clips.
        """

        def seen(batch: dict[str, tf.Tensor]) -> tf.Tensor:
            return view.take(frames(batch), self.num_frames)

        def read(batch: Any) -> tuple[Any, tf.Tensor, tf.Tensor]:
            mask = self._strategy.run(lambda mask: tf.cast(mask, tf.int64), args=(batch["mask"],))
            index, mask = (self._strategy.gather(value, axis=0) for value in (batch["index"], mask))
            return self._strategy.run(seen, args=(batch,)), index, mask

        key = frames, dataclasses.replace(view, stored=0)  # which the batch names
        video, index, mask = self._compile(key, read)(batch)
        return video, index.numpy(), mask.numpy().astype(bool)

    def change(self, video: Any, batch: Any, change: interventions.Change, table: tf.Tensor | None) -> Any:
        """Changes a distributed batch's clips.

        Args:
          video: the clips, as `read` returns them.
          batch: the distributed batch.
          change: the change.
          table: the change's table as a tensor, or None.
        """
        function = change.function

        def run(video: Any, *rows: Any) -> Any:
            return self._strategy.run(
                lambda video, *rows: function(video, *([tf.gather(*rows)] if rows else [])),
                args=(video, *rows),
            )

        rows = () if table is None else (table, batch["index"])
        return self._compile(function, run)(video, *rows)

    def logits(self, video: Any) -> np.ndarray:
        """Returns the logits of a distributed batch's clips, float32 [B, C], of all replicas."""

        def forward(video: Any) -> tf.Tensor:
            logits = self._strategy.run(lambda video: self.model(video, training=False), args=(video,))
            return self._strategy.gather(logits, axis=0)

        return self._compile(self.model, forward)(video).numpy()

    @functools.cached_property
    def split(self) -> Split | None:
        """The model's two halves, if each frame is encoded by itself; see models.split_at_frames."""
        halves = split_at_frames(self.model)
        if halves is None:
            return None
        encoder, head = halves

        def encode(video: Any) -> Any:
            return self._strategy.run(lambda video: encoder(video, training=False), args=(video,))

        return Split(encode=tf.function(encode, reduce_retracing=True), head=Predictor(head, self._strategy))

    def predict(self, clips: np.ndarray, *, batch_size: int) -> np.ndarray:
        """Returns the logits, float32 [N, C], of clips that are in no feed, uint8 [N, T, H, W, 3] or features.

        The clips may have more frames than the model takes, as in `read`.
        """
        clips, found = segments.take_middles(clips, self.num_frames), []
        for first in range(0, len(clips), batch_size):
            batch = clips[first : first + batch_size]
            padded = batch[np.arange(batch_size) % len(batch)]  # all batches of one size: compiled once
            found.append(self.logits(tf.constant(padded))[: len(batch)])
        return np.concatenate(found)

    def _compile(self, key: Hashable, function: Callable) -> Callable:
        if key not in self._compiled:
            self._compiled[key] = tf.function(function, reduce_retracing=True)
        return self._compiled[key]


class Evaluator:
    """Evaluates one model on the clips of one feed. It may be called after every epoch."""

    def __init__(
        self,
        predictor: Predictor,
        feed: Feed,
        *,
        batch_size: int,
        names: Sequence[str] = RUN_INTERVENTIONS,
        test_views: Sequence[View] = (PLAIN_VIEW,),
        has_pretext: bool = False,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """Prepares the evaluation.

        Args:
          predictor: the model's compiled forward pass.
          feed: feed of the clips to the predictor's devices.
          batch_size: clips per step, over all devices.
          names: names of the interventions that the evaluator can be called with; see interventions.names.
          test_views: the views of each clip that average_views evaluates.
          has_pretext: whether the model is scored on the pretext task; see dataset.pretext. Then a clip's frames are
            put in the order that its id decides, before any intervention.
          warn: called after each evaluation that skipped clips, with a sentence about the skipped clips.
        """
        known = interventions.names(
            predictor.num_frames, of_features=feed.clips.manifest.features is not None
        )
        for name in names:
            expect(name in known, f"an intervention that is one of {known}", intervention=name)
        self._predictor, self._feed, self._warn = predictor, feed, warn
        self._batch_size, self._names, self._test_views = batch_size, tuple(names), tuple(test_views)
        self._orders = None  # int64 [N, T] on a device
        if has_pretext:
            self._orders = tf.constant(pretext.fixed_orders(feed.clips.ids, predictor.num_frames))

    @property
    def model(self) -> keras.Model:
        return self._predictor.model

    def __call__(self, name: str = PLAIN) -> Evaluation:
        """Evaluates all clips under the intervention `name`; VIEWS averages predictions over clips' views."""
        return self.average_views() if name == VIEWS else self.evaluate_each([name])[name]

    def average_views(self) -> Evaluation:
        """Evaluates the test views of all clips, and averages the predicted probabilities over them; see dataset.views.

        Returns:
          An evaluation whose logits are the logarithms of the averaged probabilities; with several labels per clip,
          the logarithms of their odds.

        Raises:
          UserError: as evaluate_each does.
        """
        found = [self.evaluate_each([PLAIN], view=view)[PLAIN] for view in self._test_views]
        logits = np.array([part.logits for part in found], np.float64)
        if found[0].is_multi_label:
            sums = [special.logsumexp(special.log_expit(sign * logits), axis=0) for sign in (1, -1)]
            average = sums[0] - sums[1]
        else:
            average = special.logsumexp(special.log_softmax(logits, axis=2), axis=0) - np.log(len(found))
        return dataclasses.replace(found[0], logits=average.astype(np.float32), intervention=VIEWS)

    def evaluate_each(
        self,
        names: Sequence[str],
        should_stop: Callable[[], bool] = lambda: False,
        *,
        view: View = PLAIN_VIEW,
    ) -> dict[str, Evaluation] | None:
        """Evaluates all clips under several interventions, in one pass over the clips.

        Args:
          names: names of interventions; the evaluator must have been made for them.
          should_stop: called after each batch; if it returns True, the evaluation stops.
          view: the view of the clips.

        Returns:
          A dictionary from each intervention's name to the evaluation, which leaves out clips that the feed
          skips. None if `should_stop` stopped the evaluation.

        Raises:
          UserError: if a clip cannot be read, or the model returns NaN or infinity.
        """
        for name in names:
            expect(name in self._names, f"an intervention that is one of {self._names}", intervention=name)
        clips, predictor = self._feed.clips, self._predictor
        logits = np.full((len(clips), len(names), predictor.num_classes), np.nan, np.float32)
        seen = np.zeros(len(clips), bool)
        for batch in self._feed.batches(batch_size=self._batch_size, view=view.stored):
            video, index, mask = predictor.read(self._feed.frames, batch, view)
            seen[index[mask]] = True
            if self._orders is not None:
                video = predictor.change(video, batch, _ARRANGE, self._orders)
            for place, rows in enumerate(self._predict_each(names, video, batch)):
                logits[index[mask], place] = rows[mask]
            if should_stop():
                return None
        if self._feed.skipped and view == PLAIN_VIEW:  # all views of a clip are in one record
            self._warn(self._feed.describe_skipped())
        expect(bool(seen.any()), "at least 1 clip that can be read", skipped=len(self._feed.skipped))
        bad = (~np.isfinite(logits[seen])).any(axis=(1, 2)).sum()
        if bad:
            raise UserError(f"The model returns NaN or infinity for {bad} clips")
        found = clips.select(seen)
        if self._orders is not None:
            found = pretext.relabel(found)
        return {
            name: Evaluation(clips=found, logits=logits[seen, place], intervention=name)
            for place, name in enumerate(names)
        }

    def _predict_each(self, names: Sequence[str], video: Any, batch: Any) -> Iterator[np.ndarray]:
        """Yields the logits of a distributed batch's clips, float32 [B, C], under each intervention in turn.

        Where the model encodes each frame by itself, frames are encoded once for all interventions that only
        choose frames.
        """
        predictor, split = self._predictor, self._predictor.split
        encoded = None
        for name in names:
            change = self._changes[name]
            if split is None or interventions.find(name).needs_pixels:
                yield predictor.logits(predictor.change(video, batch, *change))
                continue
            encoded = split.encode(video) if encoded is None else encoded
            yield split.head.logits(split.head.change(encoded, batch, *change))

    @functools.cached_property
    def _changes(self) -> dict[str, tuple[interventions.Change, tf.Tensor | None]]:
        """Dictionary from an intervention's name to its change, and the change's table on a device."""
        num_frames = self._predictor.num_frames
        changes = {name: interventions.make(name, self._feed.clips, num_frames) for name in self._names}
        return {
            name: (change, None if change.table is None else tf.constant(change.table))
            for name, change in changes.items()
        }

    def mistakes(self, evaluation: Evaluation, count: int = 8) -> tuple[np.ndarray, list[str]] | None:
        """Finds at most `count` wrongly predicted clips. Clips with the most probable predictions come first.

        With several labels per clip, the probability is that of the worst mistake: of a class that the clip does not
        have, or of the absence of one that it has.

        Returns:
          A tuple: the clips' frames, uint8 [N, T, H, W, 3], and a list of N captions. A caption holds the
          clip's id, its true class, the predicted class, and the probability of the predicted class. None if
          features are stored in place of frames, and the frames are missing; also with a pretext task, whose
          clips are not stored in the order that the model saw.
        """
        if self._orders is not None:
            return None
        clips, classes = evaluation.clips, evaluation.clips.manifest.classes
        is_wrong = evaluation.predictions != clips.labels  # [N], or [N, C] with several labels
        if evaluation.is_multi_label:
            probabilities = multi_label.probabilities(evaluation.logits)
            surest = np.abs(probabilities - clips.labels).max(axis=1)
            is_wrong = is_wrong.any(axis=1)
        else:
            surest = special.softmax(evaluation.logits, axis=1).max(axis=1)
        wrong = np.flatnonzero(is_wrong)
        worst = wrong[np.argsort(-surest[wrong], kind="stable")][:count]
        captions = [
            f"{clips.ids[i]}: true {to_text(of_row(clips.labels[i]), classes)}, predicted "
            f"{to_text(of_row(evaluation.predictions[i]), classes) or 'none'} ({surest[i]:.2f})"
            for i in worst
        ]
        try:
            return read_clips(frames_of(clips.select(worst))), captions
        except UserError:
            if not clips.manifest.features:
                raise
            return None  # the features are all that training needs


def choose_views(count: int, manifest: Manifest, model: ModelSpec, train: TrainSpec) -> tuple[View, ...]:
    """Chooses the views of a dataset's clips that a model is tested on; see views.choose.

    Args:
      count: number of views.
      manifest: the dataset's manifest.
      model: the model.
      train: how it was trained.
    """
    return views.choose(
        count,
        num_stored_views=manifest.num_views,
        num_stored_frames=manifest.format.num_frames,
        num_frames=model.num_frames,
        mirrors=train.augment.horizontal_flip,
    )


class SavedPrediction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of predictions.jsonl: a model's prediction for one clip under one intervention.

    It is a msgspec.Struct because the line has a field named class, which is a keyword in Python.

    clip_id: id of the clip.
    intervention: name of the change of the clip, as in Evaluation; the field is called "perturbation" in the
      file.
    fold: fold of the clip.
    group: recording group of the clip; record.UNKNOWN_GROUP if it has none.
    label, class_name: index and name of the clip's class; with several labels per clip, lists of them.
    predicted, predicted_class: index and name of the predicted class; with several labels per clip, lists of those
      with a probability of 0.5 or more.
    logits: the model's logits, one per class.
    """

    clip_id: Name
    intervention: Name = msgspec.field(name="perturbation")
    fold: Count
    group: Int64
    label: Count | tuple[Count, ...]
    predicted: Count | tuple[Count, ...] | None = None
    class_name: ClassName | None = msgspec.field(name="class", default=None)
    predicted_class: ClassName | None = None
    logits: tuple[Finite, ...]


def save_predictions(path: pathlib.Path, evaluations: list[Evaluation]) -> None:
    """Writes one JSON line per clip and intervention; every score can be computed from these lines."""
    with storage.atomic_write(path) as file:
        for evaluation in evaluations:
            clips, classes = evaluation.clips, evaluation.clips.manifest.classes
            for i, clip_id in enumerate(clips.ids):
                label, predicted = of_row(clips.labels[i]), of_row(evaluation.predictions[i])
                line = SavedPrediction(
                    clip_id=clip_id,
                    intervention=evaluation.intervention,
                    fold=int(clips.folds[i]),
                    group=int(clips.groups[i]),
                    label=label,
                    predicted=predicted,
                    class_name=class_name(label, classes),
                    predicted_class=class_name(predicted, classes),
                    logits=tuple(round(float(x), 6) for x in evaluation.logits[i]),
                )
                text = json.dumps(msgspec.to_builtins(line), ensure_ascii=False)
                file.write(text.encode("utf-8", "surrogateescape") + b"\n")


def load_predictions(
    path: pathlib.Path, num_classes: int, *, several_labels: bool = False
) -> list[SavedPrediction]:
    """Reads the file of predictions that `save_predictions` wrote.

    Args:
      path: the file's path.
      num_classes: number of classes.
      several_labels: whether clips have several labels.

    Returns:
      The predictions, one per clip and intervention, in the order of the file.

    Raises:
      UserError: if the file cannot be read, or does not hold predictions of `num_classes` classes.
    """
    try:  # split as bytes, because a class's name may hold a line separator of Unicode
        lines = storage.read_bytes(path, max_bytes=_MAX_PREDICTIONS_BYTES).splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    if not lines:
        raise UserError(f"{path} does not hold predictions: it is empty")
    clips: dict[str, tuple[Label, int, int]] = {}
    predictions: dict[tuple[str, str], SavedPrediction] = {}
    for number, line in enumerate(lines, 1):
        problem = f"{path} does not hold predictions of {num_classes} classes: line {number}"
        try:
            value = storage.parse_json(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise UserError(f"{problem}: {error}") from error
        found = parsing.convert(value, SavedPrediction, problem)
        place, key = (found.label, found.group, found.fold), (found.intervention, found.clip_id)
        is_same_clip = clips.setdefault(found.clip_id, place) == place
        is_first = predictions.setdefault(key, found) is found
        try:
            _check_label(found.label, num_classes, several_labels)
            expect(len(found.logits) == num_classes, f"{num_classes} logits", logits=len(found.logits))
            expect(is_same_clip, "one label, group and fold per clip", found=place)
            expect(is_first, "one line per clip and perturbation", found=key)
        except UserError as error:
            raise UserError(f"{problem}: {error}") from error
    if not any(prediction.intervention == PLAIN for prediction in predictions.values()):
        raise UserError(
            f"{path} does not hold predictions for unchanged clips (lines with perturbation {PLAIN!r})"
        )
    return [*predictions.values()]


def _check_label(label: Label, num_classes: int, several_labels: bool) -> None:
    """Raises UserError unless a stored label is one class, or with several labels per clip a list of classes."""
    wanted = "a list of labels" if several_labels else "one label"
    expect(isinstance(label, tuple) == several_labels, f"{wanted} per clip", label=label)
    numbers = as_tuple(label)
    expect(max(numbers, default=num_classes) < num_classes, f"a label below {num_classes}", label=label)
    expect(numbers == tuple(sorted(set(numbers))), "distinct labels in ascending order", label=label)
