"""The part of a model card about clips that the model should not answer."""

from __future__ import annotations

from collections.abc import Iterator

from ucf50_tfrecord.drawing.document import Block, Bullets, Heading, Paragraph, Table
from ucf50_tfrecord.inference import selection as selection_lib
from ucf50_tfrecord.inference.abstention import SELECTED, Rules
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.report.scores import format_estimate

MAX_ERRORS = (0.05, 0.1, 0.2)  # the wanted largest fractions of wrong answers in the table


def section(run: FinishedRun) -> Iterator[Block]:
    """Yields the section about the confidence and the energy at which the model should not answer."""
    found = [run.rules(max_error) for max_error in MAX_ERRORS]
    first = found[0]
    yield Heading("When it should not answer")
    yield Paragraph(
        "Where the highest probability (the output confidence) is below a threshold, take the answer for unknown. Each threshold "
        f"here is chosen on {first.num_clips} held-out clips of {first.num_groups} recording groups (or videos without "
        "one), for probabilities as the files return them, which are not calibrated."
    )
    yield Table(
        "Thresholds for a wanted largest fraction of wrong answers. A threshold is the lowest whose upper bound on "
        f"this fraction ({selection_lib.BOUND_LEVEL:.0%} confidence; binomial, with the design effect of groups) is not "
        "higher. Coverage, the fraction of clips that are answered, with its 95% interval, and error, the fraction of "
        "the answers that are wrong, with its upper bound, are on other groups: each clip's threshold is chosen "
        "without its group. – means no answer.",
        ("wanted error", "threshold", "its bound", "coverage", "error", "error at most"),
        [_row(rules) for rules in found],
    )
    reasons = [
        f"{rules.max_error:g}: {rules.selection.reason}."
        for rules in found
        if rules.selection and rules.selection.reason
    ]
    if reasons:
        yield Paragraph("Why there is no threshold:")
        yield Bullets(reasons)
    if first.aurc and first.augrc:
        yield Paragraph(
            f"Over all thresholds: AURC {format_estimate(first.aurc)} (fraction of the answers that are wrong, mean over "
            f"thresholds, 0 to 1); AUGRC {format_estimate(first.augrc)} (fraction of all clips that are answered and "
            "wrong, mean over coverages, 0 to 0.5). Lower is better."
        )
    if first.known:
        others = (
            ""
            if first.known.accepted is None
            else f", and {first.known.accepted:.3f} with other groups' thresholds"
        )
        yield Paragraph(
            f"A clip of none of the classes may be among those whose unknown_score, the energy -log(sum(exp(logits))), "
            f"is above {first.known.threshold:.3f}: it accepts {first.known.wanted:.0%} of the held-out clips{others}. How "
            "many clips of other classes it finds was not tested."
        )
    unseen = 1 - (1 - selection_lib.BOUND_LEVEL) ** (1 / first.num_groups)
    yield Paragraph(
        f"All of this holds for recordings like the held-out ones. {first.num_groups} groups cannot exclude that the "
        f"model is wrong about every clip of some kind of recording that none of them is of, up to {unseen:.0%} of all."
    )
    if first.is_selected:
        yield Paragraph(f"Warning: {SELECTED}.")


def _row(rules: Rules) -> tuple[str, ...]:
    selection = rules.selection
    assert selection is not None
    numbers = (selection.threshold, None if selection.threshold is None else selection.bound)
    own = ["–" if number is None else f"{number:.3f}" for number in numbers]
    errors = [
        "–" if number is None else f"{number:.3f}" for number in (selection.error, selection.error_bound)
    ]
    return f"{selection.max_error:g}", *own, format_estimate(selection.coverage), *errors
