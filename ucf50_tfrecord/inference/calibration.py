"""Calibration of a model's probabilities by temperature scaling: the logits are divided by a fitted number.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize, special
from sklearn.model_selection import GroupKFold

from ucf50_tfrecord.evaluation.statistics import expected_calibration_error
from ucf50_tfrecord.inference.selection import HeldOut

MIN_CLIPS = 30  # with fewer clips, a fitted temperature is too uncertain
_TEMPERATURES = (0.05, 20.0)  # lowest and highest fitted temperature
_NUM_PARTS = 5  # parts of the cross-validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature of a run's model, and how much it improves the probabilities.

    temperature: number that logits are divided by before the softmax; 1 changes nothing.
    num_clips: number of held-out clips that the temperature was fitted on; 0 if it was not fitted.
    ece_before: expected calibration error on these clips, from 0 to 1, without a temperature; None if no
      temperature was fitted.
    ece_after: the same error by cross-validation: each clip's temperature is fitted without the clip's
      recording group (or video, if it has no group). None if no temperature was fitted, or there is one
      group.
    reason: the reason why no temperature was fitted; empty if one was.
    """

    temperature: float = 1.0
    num_clips: int = 0
    ece_before: float | None = None
    ece_after: float | None = None
    reason: str = ""


def calibrate(held_out: HeldOut) -> Calibration:
    """Fits a temperature on a run's predictions for its held-out clips.

    Returns:
      The calibration. Its temperature is 1 if none could be fitted, for the reason that it names.
    """
    logits, labels, units = held_out
    if len(labels) < MIN_CLIPS:
        return Calibration(reason=f"there are {len(labels)} held-out clips, and {MIN_CLIPS} are needed")
    if not held_out.wrong.any():
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
    """Returns the temperature, from 0.05 to 20, that minimizes the labels' mean negative log-likelihood.

    Args:
      logits: each clip's logits, float [N, C].
      labels: each clip's class, int [N].
    """

    def loss(log_temperature: float) -> float:
        scores = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scores[np.arange(len(labels)), labels].mean()

    found = optimize.minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def cross_validated_error(logits: np.ndarray, labels: np.ndarray, units: np.ndarray) -> float | None:
    """Computes the expected calibration error by cross-validation over independent units.

    A unit is a recording group, or a video without a group. Each clip's logits are divided by a temperature
    that is fitted without the clip's unit.

    Args:
      logits: each clip's logits, float [N, C].
      labels: each clip's class, int [N].
      units: number of each clip's unit, int [N].

    Returns:
      The error, from 0 to 1; None if all clips are of one unit.
    """
    num_parts = min(_NUM_PARTS, len(np.unique(units)))
    if num_parts < 2:
        return None
    probabilities = np.empty(logits.shape)
    for others, part in GroupKFold(num_parts).split(logits, groups=units):
        temperature = fit_temperature(logits[others], labels[others])
        probabilities[part] = special.softmax(logits[part] / temperature, axis=1)
    return expected_calibration_error(probabilities, labels)
