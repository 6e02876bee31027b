"""Texts about when a model abstains, for the terminal of pipelines.predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ucf50_tfrecord.inference.abstention import Judgement, Rules
    from ucf50_tfrecord.inference.held_out import Thresholds
    from ucf50_tfrecord.inference.selection import Selection

NO_ANSWER = "NO ANSWER. Most probable:"
BELOW = "below their thresholds:"
_UNKNOWN = "The class may be unknown"


def describe_thresholds(thresholds: Thresholds) -> str:
    """Returns sentences about the thresholds of classes, for clips with several labels, and how they do."""
    if not thresholds.num_clips:
        return f"Thresholds: 0.5 for each class; {thresholds.reason}."
    text = (
        f"Thresholds: from {min(thresholds.values):.3f} to {max(thresholds.values):.3f}, for the highest F1 of each class "
        f"on {thresholds.num_clips} held-out clips of {thresholds.num_groups} recording groups. Macro F1 there: "
        f"{thresholds.macro_f1:.3f} with 0.5 for each class"
    )
    if thresholds.tuned_macro_f1 is None:
        return f"{text}; with these thresholds it is unknown, as all clips are of one group."
    return f"{text}, {thresholds.tuned_macro_f1:.3f} with thresholds of other groups."


def describe_rules(rules: Rules) -> Iterator[str]:
    """Yields sentences about when a model abstains, and how often it is wrong on other recording groups."""
    clips = f"{rules.num_clips} held-out clips of {rules.num_groups} recording groups"
    selected = rules.selection
    if rules.max_error is not None and rules.why_never:
        yield f"Answers: none; {rules.why_never}."
    elif selected and selected.threshold is not None:
        yield (
            f"Answers: at a confidence of {selected.threshold:.3f} or more, for at most {selected.max_error:.4g} wrong. "
            f"From {clips}: up to {selected.bound:.3f} of such answers are wrong, with {selected.level:.0%} confidence."
        )
    if selected:
        yield _on_other_groups(rules)
        if rules.is_selected:
            from ucf50_tfrecord.inference.abstention import SELECTED

            yield f"Warning: {SELECTED}."
    if known := rules.known:
        others = "" if known.accepted is None else f", {known.accepted:.3f} with thresholds of other groups"
        yield (
            f"Unknown classes: suspected where the {known.score} is above {known.threshold:.2f}. This accepts "
            f"{known.wanted:.0%} of {clips}{others}."
        )
    else:
        yield f"Unknown classes: not judged; {rules.reason}."


def _on_other_groups(rules: Rules) -> str:
    assert rules.selection is not None
    selected = rules.selection
    if selected.coverage is None:
        return "All clips are of one group, so coverage and error on other groups are unknown."
    text = f"With thresholds of other groups it answers {selected.coverage} of the clips"
    if selected.error is not None and selected.error_bound is not None:
        text += f", of which {selected.error:.3f} are wrong (up to {selected.error_bound:.3f})"
    return (
        f"{text}. AURC {rules.aurc} (wrong fraction of the answers, mean over thresholds), AUGRC {rules.augrc} "
        "(fraction of all clips that are answered and wrong, mean over coverages)."
    )


def notes(judgement: Judgement, rules: Rules) -> list[str]:
    """Lists sentences about why a prediction should not be relied on; none if it may be.

    The reason why nothing at all is answered is left out, because describe_rules says it once.
    """
    found = []
    if judgement.confident is False and rules.has_threshold:
        found.append(judgement.confident_reason)
    if judgement.known is False:
        found.append(f"{_UNKNOWN}: {judgement.known_reason}")
    return [f"{text[0].upper()}{text[1:]}." for text in found]


def summarize(videos: list[dict[str, Any]], rules: Rules) -> Iterator[str]:
    """Yields sentences about how many videos are answered, and are known.

    Args:
      videos: the entries of the predicted videos in predictions.json; failed ones are left out.
      rules: the rules that they were judged by.
    """
    answered = [video for video in videos if video["confident"]]
    unknown = [video for video in videos if video["known"] is False]
    if rules.max_error is not None:
        text = f"Answered {len(answered)} of {len(videos)} videos"
        if answered and rules.selection:
            text += f"; {_expected_error(rules.selection)}"
        labelled = [video for video in answered if video["folder_class"]]
        if labelled:
            num_right = sum(video["top"][0]["class"] == video["folder_class"] for video in labelled)
            text += f"; right about {num_right} of {len(labelled)} whose folder has a class's name"
        yield f"{text}."
    if unknown:
        both = sum(bool(video["confident"]) for video in unknown)
        also = f" ({both} of them answered)" if rules.max_error is not None else ""
        yield f"{_UNKNOWN} in {len(unknown)} of {len(videos)} videos{also}."


def _expected_error(selection: Selection) -> str:
    if selection.error is None or selection.error_bound is None:
        return f"up to {selection.bound:.3f} of the answers are expected to be wrong"
    return (
        f"expected to be wrong: {selection.error:.3f} of the answers, up to {selection.error_bound:.3f} (on clips of other "
        "groups)"
    )
