"""Reads a run's stored predictions for its held-out clips, on which probabilities and abstention are adjusted."""

from __future__ import annotations

import pathlib

import numpy as np

from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import Condition, Results, units_of
from ucf50_tfrecord.inference.selection import HeldOut
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import PREDICTIONS_FILENAME, RunConfig


def load(run_dir: str, config: RunConfig, weights: str) -> tuple[HeldOut | None, str]:
    """Reads the predictions that a run has stored for its unchanged held-out clips.

    Args:
      run_dir: the run's folder.
      config: the run's configuration.
      weights: the checkpoint whose predictions are wanted, "last" or "best".

    Returns:
      A tuple of the predictions and ""; or of None and the reason, if the run has none of these weights.

    Raises:
      UserError: if the file of predictions is damaged.
    """
    path = pathlib.Path(run_dir, PREDICTIONS_FILENAME)
    scored = trained.scored_weights(config)
    if weights != scored:
        return None, f"the run's predictions on held-out clips are of its {scored} weights"
    if not path.is_file():
        return None, f"the run holds no {PREDICTIONS_FILENAME}"
    num_classes = len(config.classes)
    plain = [p for p in runner.load_predictions(path, num_classes) if p.intervention == PLAIN]
    logits = np.array([p.logits for p in plain], np.float64)
    labels = np.array([p.label for p in plain], np.int64)
    groups = np.array([p.group for p in plain], np.int64)
    return HeldOut(logits, labels, units_of([p.clip_id for p in plain], groups)), ""


def of_results(results: Results, model: str) -> HeldOut:
    """Returns the predictions of the only training of a model for unchanged clips, from a run's results."""
    [logits] = results.logits(Condition(model)).astype(np.float64)
    return HeldOut(logits, results.labels, results.units)
