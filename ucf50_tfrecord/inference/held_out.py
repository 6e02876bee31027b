"""Reads a run's stored predictions for its held-out clips, on which probabilities, abstention and thresholds rest."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from ucf50_tfrecord.evaluation import multi_label, runner
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import Condition, Results, units_of
from ucf50_tfrecord.inference.selection import HeldOut
from ucf50_tfrecord.labels import to_array
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import PREDICTIONS_FILENAME, RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The probabilities from which on the classes of clips with several labels are predicted.

    values: a threshold for each class.
    num_clips, num_groups: held-out clips, and recording groups (or videos that have none), that they were chosen on; 0
      if all of them are 0.5.
    reason: the reason if they are; otherwise, empty.
    macro_f1: macro F1 on these clips with 0.5 for all classes.
    tuned_macro_f1: the same with thresholds that are chosen on other recordings, see multi_label.cross_fitted. None if
      there is one group.
    """

    values: tuple[float, ...]
    num_clips: int = 0
    num_groups: int = 0
    reason: str = ""
    macro_f1: float | None = None
    tuned_macro_f1: float | None = None


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
    plain, why = _load_plain(run_dir, config, weights)
    if plain is None:
        return None, why
    logits = np.array([p.logits for p in plain], np.float64)
    return HeldOut(logits, np.array([p.label for p in plain], np.int64), _units(plain)), ""


def load_thresholds(run_dir: str, config: RunConfig, weights: str) -> Thresholds:
    """Chooses the thresholds of a run's classes, for clips with several labels, on its held-out clips.

    Args:
      run_dir, config, weights: as in load; the run must be on clips with several labels.

    Raises:
      UserError: if the file of predictions is damaged.
    """
    plain, why = _load_plain(run_dir, config, weights)
    if plain is None:
        return Thresholds(values=(multi_label.THRESHOLD,) * len(config.classes), reason=why)
    labels = to_array([p.label for p in plain], len(config.classes), multi_label=True)
    found = multi_label.probabilities(np.array([p.logits for p in plain]))
    units = _units(plain)
    fixed, tuned = (
        None if decided is None else multi_label.macro_f1(labels == 1, decided)
        for decided in (
            found >= multi_label.THRESHOLD,
            multi_label.cross_fitted(labels == 1, found, units),
        )
    )
    return Thresholds(
        values=tuple(multi_label.choose_thresholds(labels == 1, found).tolist()),
        num_clips=len(plain),
        num_groups=len(np.unique(units)),
        macro_f1=fixed,
        tuned_macro_f1=tuned,
    )


def _load_plain(
    run_dir: str, config: RunConfig, weights: str
) -> tuple[list[runner.SavedPrediction] | None, str]:
    """Reads the stored predictions for unchanged clips; arguments, result and errors as those of load."""
    path = pathlib.Path(run_dir, PREDICTIONS_FILENAME)
    scored = trained.scored_weights(config)
    if weights != scored:
        return None, f"the run's predictions on held-out clips are of its {scored} weights"
    if not path.is_file():
        return None, f"the run holds no {PREDICTIONS_FILENAME}"
    found = runner.load_predictions(path, len(config.classes), several_labels=config.multi_label)
    return [p for p in found if p.intervention == PLAIN], ""


def _units(predictions: Sequence[runner.SavedPrediction]) -> np.ndarray:
    """Numbers the independent units of predicted clips, int64 [N]; see results.units_of."""
    groups = np.array([p.group for p in predictions], np.int64)
    return units_of([p.clip_id for p in predictions], groups)


def of_results(results: Results, model: str) -> HeldOut:
    """Returns the predictions of the only training of a model for unchanged clips, from a run's results."""
    [logits] = results.logits(Condition(model)).astype(np.float64)
    return HeldOut(logits, results.labels, results.units)
