"""Rules by which a model says that it is not confident of a prediction, or that a video's class may be unknown.

The rules rest on a run's predictions for single held-out clips; see inference.selection for their statistics.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ucf50_tfrecord.evaluation import unknown
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.inference import calibration as calibration_lib
from ucf50_tfrecord.inference import selection as selection_lib
from ucf50_tfrecord.inference.calibration import Calibration
from ucf50_tfrecord.inference.selection import HeldOut, KnownRule, Selection

SELECTED = (
    "the same clips have selected the weights, so the error on new videos is probably higher than stated here"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a model's prediction for a video can be relied on.

    confident: whether the confidence reaches the threshold for the wanted error; None if no error was requested.
    confident_reason: the reason, in words.
    known: whether the video seems to show one of the model's classes; None if this cannot be judged.
    known_reason: the reason, in words.
    unknown_score: the energy that `known` follows from; higher means less known.
    """

    confident: bool | None
    confident_reason: str
    known: bool | None
    known_reason: str
    unknown_score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a run's model.

    num_clips, num_groups: held-out clips, and recording groups (or videos that have none), that the rules rest on.
    reason: the reason if there are none; otherwise, empty.
    is_selected: whether the weights were selected by their score on these clips.
    max_error: the wanted largest fraction of wrong answers; None if none was requested.
    selection: the threshold of the confidence; None without held-out clips or `max_error`.
    known: the threshold of the energy; None without held-out clips.
    aurc, augrc: areas under the curves of risk, see selection.risk_areas; None without `selection`, and if there is
      one group.
    """

    num_clips: int = 0
    num_groups: int = 0
    reason: str = ""
    is_selected: bool = False
    max_error: float | None = None
    selection: Selection | None = None
    known: KnownRule | None = None
    aurc: Estimate | None = None
    augrc: Estimate | None = None

    def judge(self, confidence: float, logits: np.ndarray) -> Judgement:
        """Judges the prediction for a video.

        Args:
          confidence: its highest class probability, a mean over all clips of the video.
          logits: the logits of these clips, float [N, C].
        """
        energy = float(unknown.energy_scores(logits).mean())
        confident, confident_reason = self._judge_confidence(confidence)
        known, known_reason = self._judge_energy(energy)
        if len(logits) > 1:
            note = (
                f"; a mean over {len(logits)} clips of the video, while the threshold rests on single clips"
            )
            confident_reason += note if self.has_threshold else ""
            known_reason += note if self.known else ""
        return Judgement(
            confident=confident,
            confident_reason=confident_reason,
            known=known,
            known_reason=known_reason,
            unknown_score=energy,
        )

    @property
    def has_threshold(self) -> bool:
        """Whether any prediction can be confident."""
        return self.selection is not None and self.selection.threshold is not None

    @property
    def why_never(self) -> str:
        """The reason why no prediction is confident, although an error was requested; else, empty."""
        if self.max_error is None or self.has_threshold:
            return ""
        reason = self.selection.reason if self.selection else self.reason
        return f"no threshold is known to keep errors at or below {_percent(self.max_error)}: {reason}"

    def _judge_confidence(self, confidence: float) -> tuple[bool | None, str]:
        if self.max_error is None:
            return None, "no limit on errors was requested"
        if self.selection is None or self.selection.threshold is None:
            return False, self.why_never
        threshold, confident = self.selection.threshold, self.selection.answers(confidence)
        own, limit = _apart(confidence, threshold)
        return confident, (
            f"confidence {own} {'reaches' if confident else 'is below'} {limit}, the threshold for at most "
            f"{_percent(self.max_error)} errors"
        )

    def _judge_energy(self, energy: float) -> tuple[bool | None, str]:
        if self.known is None:
            return None, self.reason
        known = energy <= self.known.threshold
        own, limit = _apart(energy, self.known.threshold)
        return known, (
            f"{self.known.score} {own} is {'at most' if known else 'above'} {limit}, the threshold that accepts "
            f"{_percent(self.known.wanted)} of the held-out clips"
        )


def make_rules(
    held_out: HeldOut | None,
    reason: str,
    *,
    calibration: Calibration,
    max_error: float | None,
    is_selected: bool,
) -> Rules:
    """Makes the rules of a run's model.

    Args:
      held_out: the run's predictions for held-out clips; None if there are none.
      reason: the reason if there are none.
      calibration: the temperature of the model's probabilities.
      max_error: the wanted largest fraction of wrong answers; None for rules without a threshold of confidence.
      is_selected: whether the weights were selected by their score on these clips.

    Raises:
      UserError: unless max_error is None, or above 0 and below 1.
    """
    if max_error is not None:
        selection_lib.check_max_error(max_error)
    rules = Rules(reason=reason, is_selected=is_selected, max_error=max_error)
    if held_out is None:
        return rules
    rules = dataclasses.replace(
        rules,
        num_clips=len(held_out.labels),
        num_groups=held_out.num_units,
        known=selection_lib.known_rule(held_out),
    )
    if max_error is None:
        return rules
    temperature = calibration.temperature
    aurc = augrc = None
    if held_out.num_units > 1:
        aurc, augrc = selection_lib.risk_areas(held_out, temperature)
    fit = calibration_lib.fit_temperature if calibration.num_clips else None
    return dataclasses.replace(
        rules,
        selection=selection_lib.select(held_out, max_error, temperature, fit),
        aurc=aurc,
        augrc=augrc,
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g}%"


def _apart(one: float, other: float) -> tuple[str, str]:
    """Formats two numbers with as many decimals, 2 at least, as show which is the larger one."""
    digits = next((n for n in range(2, 9) if f"{one:.{n}f}" != f"{other:.{n}f}"), 2)
    return f"{one:.{digits}f}", f"{other:.{digits}f}"
