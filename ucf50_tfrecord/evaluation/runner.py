"""Runs a model over clips, each exactly once, and scores what it says."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import storage
from ucf50_tfrecord.dataset import perturb, pipeline
from ucf50_tfrecord.evaluation import metrics
from ucf50_tfrecord.specs import UserError, expect

PERTURBATIONS = ("none", "shuffle")
_SHUFFLE_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model says of some clips.

    logits: float32 [N, C], in the order of `clips`.
    """

    clips: pipeline.Clips
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
    def confusion(self) -> np.ndarray:
        """Counts int64 [C, C]: rows are true classes."""
        return metrics.confusion(self.clips.labels, self.predictions, self.logits.shape[1])


class Evaluator:
    """Evaluates one model on one set of clips, as often as wanted, compiled once."""

    def __init__(
        self,
        model: keras.Model,
        clips: pipeline.Clips,
        *,
        strategy: tf.distribute.Strategy,
        batch_size: int,
    ):
        self._clips = clips
        self._strategy = strategy
        replicas = strategy.num_replicas_in_sync
        self._batch_size = -(-batch_size // replicas) * replicas
        self._forward = tf.function(
            lambda video: strategy.run(model, args=(video,), kwargs={"training": False})
        )

    def __call__(self, perturbation: str = "none") -> Evaluation:
        """Evaluates all clips.

        Args:
          perturbation: "none", or "shuffle": each clip's frames in a random order.
        """
        expect(
            perturbation in PERTURBATIONS, f"a perturbation out of {PERTURBATIONS}", perturbation=perturbation
        )
        logits = np.full((len(self._clips), len(self._clips.manifest.classes)), np.nan, np.float32)
        batches = iter(
            self._strategy.distribute_datasets_from_function(
                functools.partial(self._worker_dataset, perturbation)
            )
        )
        for _ in range(pipeline.num_steps(len(self._clips), self._batch_size)):
            with pipeline.explain_damage(self._clips):
                batch = next(batches)
            outputs = self._local(self._forward(batch["video"]))
            counts, index = self._local(batch["mask"]), self._local(batch["index"])
            logits[index[counts]] = outputs[counts]
        if np.isnan(logits).any():
            raise UserError(f"The model gives NaN for {np.isnan(logits).any(axis=1).sum()} clips")
        return Evaluation(clips=self._clips, logits=logits, perturbation=perturbation)

    def _worker_dataset(self, perturbation: str, context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = pipeline.make_dataset(
            self._clips,
            batch_size=self._batch_size,
            replicas_per_worker=self._strategy.num_replicas_in_sync // context.num_input_pipelines,
            num_workers=context.num_input_pipelines,
            worker=context.input_pipeline_id,
        )
        if perturbation == "shuffle":
            dataset = perturb.shuffle_frames(
                dataset,
                num_clips=len(self._clips),
                num_frames=self._clips.manifest.format.num_frames,
                seed=_SHUFFLE_SEED,
            )
        return dataset

    def _local(self, value) -> np.ndarray:
        """Joins the replicas' values along the batch: PerReplica [B, …] to [replicas * B, …]."""
        parts = self._strategy.experimental_local_results(value)
        return np.concatenate([part.numpy() for part in parts])


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
