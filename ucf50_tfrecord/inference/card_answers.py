"""The part of a model card about clips that the model should not answer."""

from __future__ import annotations

from collections.abc import Iterator

from ucf50_tfrecord.drawing.document import Block, Bullets, Heading, Paragraph, Table
from ucf50_tfrecord.inference import held_out, selection
from ucf50_tfrecord.inference.abstention import SELECTED, Rules
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.inference.selection import Selection
from ucf50_tfrecord.report.scores import format_estimate

MAX_ERRORS = (0.05, 0.1, 0.2)  # the wanted largest fractions of wrong answers in the table


def section(run: FinishedRun) -> Iterator[Block]:
    """Yields the section about the confidence and the energy at which the model should not answer."""
    rules = run.rules(MAX_ERRORS[0])
    clips = held_out.of_results(run.results, run.model)
    yield Heading("When it should not answer")
    yield Paragraph(
        "If the highest probability (the output confidence) is below a threshold, do not rely on the answer. Each "
        f"threshold rests on {rules.num_clips} held-out clips of {rules.num_groups} recording groups (or videos without "
        "one), and is for probabilities as the files return them, which are not calibrated."
    )
    yield from _thresholds([selection.select(clips, max_error, 1.0, None) for max_error in MAX_ERRORS])
    if rules.aurc and rules.augrc:
        yield Paragraph(
            f"Over all thresholds: AURC {format_estimate(rules.aurc)} (fraction of the answers that are wrong, mean over "
            f"thresholds, 0 to 1); AUGRC {format_estimate(rules.augrc)} (fraction of all clips that are answered and "
            "wrong, mean over coverages, 0 to 0.5). Lower is better."
        )
    yield from _unknown(rules)
    if rules.is_selected:
        yield Paragraph(f"Warning: {SELECTED}.")
    if run.leaks:
        yield Paragraph(
            "Warning: other clips of the same recordings may have been trained on, so the error on new recordings is "
            "higher than stated here."
        )


def _thresholds(selections: list[Selection]) -> Iterator[Block]:
    yield Table(
        "Thresholds for a wanted largest fraction of wrong answers. A threshold is the lowest whose upper bound on "
        f"this fraction ({selection.BOUND_LEVEL:.0%} confidence; binomial, with the design effect of groups) is not "
        "higher. Coverage, the fraction of clips that are answered, with its 95% interval, and error, the fraction of "
        "the answers that are wrong, with its upper bound, are on other groups: each clip's threshold is chosen "
        "without its group. – means no answer.",
        ("wanted error", "threshold", "its bound", "coverage", "error", "error at most"),
        [_row(selected) for selected in selections],
    )
    reasons = [f"{selected.max_error:g}: {selected.reason}." for selected in selections if selected.reason]
    if reasons:
        yield Paragraph("Why there is no threshold:")
        yield Bullets(reasons)


def _row(selected: Selection) -> tuple[str, ...]:
    bound = None if selected.threshold is None else selected.bound
    numbers = [
        "–" if number is None else f"{number:.3f}"
        for number in (selected.threshold, bound, selected.error, selected.error_bound)
    ]
    return f"{selected.max_error:g}", *numbers[:2], format_estimate(selected.coverage), *numbers[2:]


def _unknown(rules: Rules) -> Iterator[Block]:
    """Yields what tells clips of unknown classes, and what the held-out groups cannot tell."""
    if known := rules.known:
        others = "" if known.accepted is None else f", and {known.accepted:.3f} with other groups' thresholds"
        yield Paragraph(
            "A clip of none of the classes may be among those whose unknown_score, the energy -log(sum(exp(logits))), is "
            f"above {known.threshold:.3f}. This accepts {known.wanted:.0%} of the held-out clips{others}. It does not "
            "tell how many clips of other classes are above it."
        )
    unseen = 1 - (1 - selection.BOUND_LEVEL) ** (1 / rules.num_groups)
    yield Paragraph(
        f"All of this holds for recordings like the held-out ones. {rules.num_groups} groups do not exclude that the "
        f"model fails on every clip of some other kind of recording, which may be up to {unseen:.0%} of all."
    )
