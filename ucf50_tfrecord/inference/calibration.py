"""Calibration of a run's probabilities by temperature scaling.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from scipy import optimize, special
from sklearn.model_selection import GroupKFold

from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import units_of
from ucf50_tfrecord.evaluation.statistics import expected_calibration_error
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import PREDICTIONS_FILENAME, RunConfig

MIN_CLIPS = 30  # a temperature fitted on fewer says little
_TEMPERATURES = (0.05, 20.0)
_NUM_PARTS = 5  # of the cross-validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature that logits are divided by before they become probabilities.

    temperature: 1 changes nothing.
    num_clips: held-out clips that it was fitted on; 0 where it was not fitted, for the reason in `reason`.
    ece_before, ece_after: expected calibration error of those clips, 0 to 1. After: each clip is scaled by
      a temperature fitted without its recording group; None with a single group.
    """

    temperature: float = 1.0
    num_clips: int = 0
    ece_before: float | None = None
    ece_after: float | None = None
    reason: str = ""


def calibrate(run_dir: str, config: RunConfig, weights: str) -> Calibration:
    """Fits a temperature on a run's predictions for its held-out clips, their frames in order.

    Args:
      run_dir: the run's folder.
      config: its configuration.
      weights: the checkpoint that the temperature is for.

    Raises:
      UserError: if the file of predictions is damaged.
    """
    path = pathlib.Path(run_dir, PREDICTIONS_FILENAME)
    scored = trained.scored_weights(config)
    if weights != scored:
        return Calibration(reason=f"the run's predictions on held-out clips are of its {scored} weights")
    if not path.is_file():
        return Calibration(reason=f"the run holds no {PREDICTIONS_FILENAME}")
    logits, labels, units = _load(path, len(config.classes))
    if len(labels) < MIN_CLIPS:
        return Calibration(reason=f"there are {len(labels)} held-out clips, and {MIN_CLIPS} are needed")
    if (logits.argmax(axis=1) == labels).all():
        return Calibration(
            reason="the run is right about all held-out clips, so nothing bounds its confidence"
        )
    return Calibration(
        temperature=fit_temperature(logits, labels),
        num_clips=len(labels),
        ece_before=expected_calibration_error(special.softmax(logits, axis=1), labels),
        ece_after=cross_validated_error(logits, labels, units),
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature, from 0.05 to 20, with the smallest mean negative log-likelihood.

    Args:
      logits: float [N, C].
      labels: int [N].
    """

    def loss(log_temperature: float) -> float:
        scores = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scores[np.arange(len(labels)), labels].mean()

    found = optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def cross_validated_error(logits: np.ndarray, labels: np.ndarray, units: np.ndarray) -> float | None:
    """Computes the expected calibration error with temperatures fitted on other units.

    Args:
      logits: float [N, C].
      labels: int [N].
      units: int [N], the independent unit of each clip.

    Returns:
      The error, 0 to 1; None if there is a single unit.
    """
    num_parts = min(_NUM_PARTS, len(np.unique(units)))
    if num_parts < 2:
        return None
    probabilities = np.empty(logits.shape)
    for others, part in GroupKFold(num_parts).split(logits, groups=units):
        temperature = fit_temperature(logits[others], labels[others])
        probabilities[part] = special.softmax(logits[part] / temperature, axis=1)
    return expected_calibration_error(probabilities, labels)


def _load(path: pathlib.Path, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads logits float64 [N, C], labels int64 [N] and units int64 [N] of clips with their frames in order."""
    try:
        plain = [p for p in runner.load_predictions(path, num_classes) if p.intervention == PLAIN]
    except UserError as error:
        without = Remedy(Action.SET, "to predict without calibration", calibrate=False)
        raise UserError(str(error), *error.remedies, without) from error
    logits = np.array([p.logits for p in plain], np.float64).reshape(len(plain), num_classes)
    labels = np.array([p.label for p in plain], np.int64)
    groups = np.array([p.group for p in plain], np.int64)
    return logits, labels, units_of([p.clip_id for p in plain], groups)
