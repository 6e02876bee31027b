"""Runs a model over clips, each exactly once, and scores what it says."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import storage
from ucf50_tfrecord.dataset import augment, perturb
from ucf50_tfrecord.dataset.clips import Clips
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.evaluation import metrics
from ucf50_tfrecord.specs import UserError, expect

PERTURBATIONS = ("none", "shuffle")
_SHUFFLE_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model says of some clips.

    logits: float32 [N, C], in the order of `clips`.
    """

    clips: Clips
    logits: np.ndarray
    perturbation: str = "none"

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
        warn: Callable[[str], None] = lambda text: None,
    ):
        """`warn` is told, after each evaluation, of clips that were skipped."""
        self._feed, self._warn = feed, warn
        self._batch_size = batch_size
        num_frames = feed.clips.manifest.format.num_frames
        orders = tf.constant(perturb.frame_orders(feed.clips.ids, num_frames, seed=_SHUFFLE_SEED))  # [N, T]

        def replica_forward(batch: dict[str, tf.Tensor], perturbation: str) -> tf.Tensor:
            video = feed.frames(batch)  # [B, T, H, W, 3]
            if perturbation == "shuffle":
                video = augment.take_frames(video, tf.gather(orders, batch["index"]))
            return model(video, training=False)

        @tf.function
        def forward(batch: Any, perturbation: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """Returns, for the global batch: logits float32 [B, C], index int64 [B], mask int64 [B]."""
            logits = strategy.run(replica_forward, args=(batch, perturbation))
            mask = strategy.run(lambda mask: tf.cast(mask, tf.int64), args=(batch["mask"],))
            # Over the replicas of all workers: each of them scores all clips.
            return tuple(strategy.gather(value, axis=0) for value in (logits, batch["index"], mask))

        self._forward = forward

    def __call__(self, perturbation: str = "none") -> Evaluation:
        """Evaluates all clips; those that the feed skips are left out.

        Args:
          perturbation: "none", or "shuffle": each clip's frames in a random order.

        Raises:
          UserError: if a clip cannot be read, or the model gives NaN.
        """
        expect(
            perturbation in PERTURBATIONS, f"a perturbation out of {PERTURBATIONS}", perturbation=perturbation
        )
        clips = self._feed.clips
        logits = np.full((len(clips), len(clips.manifest.classes)), np.nan, np.float32)
        seen = np.zeros(len(clips), bool)
        for batch in self._feed.batches(batch_size=self._batch_size):
            outputs, index, mask = (value.numpy() for value in self._forward(batch, perturbation))
            counts = mask.astype(bool)
            logits[index[counts]] = outputs[counts]
            seen[index[counts]] = True
        if self._feed.skipped:
            self._warn(self._feed.describe_skipped())
        expect(seen.any(), "at least 1 clip that can be read", skipped=len(self._feed.skipped))
        if np.isnan(logits[seen]).any():
            raise UserError(f"The model gives NaN for {np.isnan(logits[seen]).any(axis=1).sum()} clips")
        return Evaluation(clips=clips.select(seen), logits=logits[seen], perturbation=perturbation)

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


def save_predictions(path: pathlib.Path, evaluations: list[Evaluation]) -> None:
    """Writes one JSON line for each clip and perturbation, so that every score can be made again."""
    with storage.atomic_write(path) as file:
        for evaluation in evaluations:
            clips, classes = evaluation.clips, evaluation.clips.manifest.classes
            for i, clip_id in enumerate(clips.ids):
                line = {
                    "clip_id": clip_id,
                    "perturbation": evaluation.perturbation,
                    "fold": int(clips.folds[i]),
                    "group": int(clips.groups[i]),
                    "label": int(clips.labels[i]),
                    "predicted": int(evaluation.predictions[i]),
                    "class": classes[clips.labels[i]],
                    "predicted_class": classes[evaluation.predictions[i]],
                    "logits": [round(float(x), 6) for x in evaluation.logits[i]],
                }
                file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
