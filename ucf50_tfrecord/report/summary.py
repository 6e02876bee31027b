"""The first screen of a comparison's report: which model is best, by how much, and whether it uses time.

If trainings failed, it begins with these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.drawing import diagrams
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Bullets, Figure, Paragraph
from ucf50_tfrecord.evaluation.interventions import SHUFFLED
from ucf50_tfrecord.evaluation.results import Cell, Condition, Results
from ucf50_tfrecord.evaluation.verdicts import Answer, Doubt, Verdict
from ucf50_tfrecord.report.answers import find
from ucf50_tfrecord.report.scores import Scores, format_estimate


def first_screen(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    """Yields a paragraph and a figure; nothing if no model was tested."""
    accuracy = {model: scores.accuracy(Condition(model)) for model in scores.models}
    ranked = sorted(
        (model for model in scores.models if accuracy[model]),
        key=lambda model: -accuracy[model].value,
    )
    if not ranked:
        return
    best = ranked[0]
    chance, _ = scores.chance(Condition(best))
    first = f"{best} is the most accurate of {len(ranked)} models, with" if len(ranked) > 1 else f"{best} has"
    words = [
        f"{first} an accuracy of {format_estimate(accuracy[best])}; always predicting the most frequent class gives "
        f"{chance:.3f}."
    ]
    words += [_lead(verdicts, best, other) for other in ranked[1:2]]
    words += [_use_of_time(scores, verdicts, model) for model in _asked_about_time(scores, ranked)]
    yield Paragraph(" ".join(words))
    shuffled = [
        scores.accuracy(Condition(model, training=FrameOrder.SHUFFLED, intervention=SHUFFLED))
        for model in ranked
    ]
    series = {"frames in order": [accuracy[model] for model in ranked]}
    if any(shuffled):
        series["trained and tested on shuffled frames"] = shuffled
    panel = diagrams.Panel("", "accuracy (0 to 1)", series, reference=(chance, "most frequent class"))
    caption = (
        "Accuracy of each model, with 95% intervals over groups. If order matters to a recipe, its accuracy is lower "
        "after training on shuffled frames."
    )
    yield Figure("summary", diagrams.draw_forest(ranked, [panel]), caption, " ".join(words), PRINT_DPI)


def failures(results: Results) -> Iterator[Block]:
    """Yields a paragraph and a list of the failed trainings with their reasons; nothing if none failed."""
    failed, left_out = results.failed, results.left_out
    if not failed:
        return
    total = len(results.cells) + len(failed) + len(left_out)
    seeds = "; ".join(dict.fromkeys(map(_seed, failed)))
    words = [
        f"This comparison is not complete: {len(failed)} of its {total} trainings failed twice, for the reasons below. "
        f"Starting it again tries them again. Until then, these seeds are left out: {seeds}."
    ]
    if left_out:
        words.append(
            f"With them, {len(left_out)} finished trainings of the same seeds are left out, because a score needs the "
            "clips of all parts."
        )
    words.append(
        "All numbers are about the seeds that remain. A model with fewer seeds has wider intervals, and the mean of "
        "its seeds' probabilities gains less from averaging."
    )
    lost = {cell.model: None for cell in failed if not results.cells_of(Condition(cell.model))}
    if lost:
        words.append(f"No seed with the usual training remains of {', '.join(lost)}.")
    yield Paragraph(" ".join(words))
    reasons: dict[str, list[str]] = {}
    for cell, reason in failed.items():
        reasons.setdefault(reason, []).append(str(cell))
    yield Bullets([f"{', '.join(names)}: {reason}" for reason, names in reasons.items()])


def _seed(cell: Cell) -> str:
    """Describes the seed that a cell is a part of."""
    order = f", trained on {cell.training} frames" if cell.training != FrameOrder.KEPT else ""
    split = ", split by video" if cell.split == FoldBy.VIDEO else ""
    held_out = f", without classes {cell.held_out_text}" if cell.held_out else ""
    return f"{cell.model}, seed {cell.seed}{order}{split}{held_out}"


def _asked_about_time(scores: Scores, ranked: Sequence[str]) -> list[str]:
    """Lists the best model, and the best model that sees frame order if that is another one."""
    sequence = [model for model in ranked if model in scores.sequence_models]
    return list(dict.fromkeys([ranked[0], *sequence[:1]]))


def _lead(verdicts: Sequence[Verdict], best: str, other: str) -> str:
    verdict = find(verdicts, "models_differ", best, other) or find(verdicts, "models_differ", other, best)
    if verdict is None:
        return f"It was not compared with {other} on the same clips."
    effect = format_estimate(verdict.effect, sign=True)
    if verdict.answer == Answer.YES:
        return f"On the clips of both, {verdict.models[0]} is ahead of {verdict.models[1]}, the next best, by {effect}."
    if verdict.answer == Answer.NO:
        return f"It does not differ from {other}, the next best: the difference is {effect}."
    return f"Whether it is better than {other}, the next best, cannot be told: the difference is {effect}{_why(verdict)}."


def _use_of_time(scores: Scores, verdicts: Sequence[Verdict], model: str) -> str:
    if model in scores.order_blind:
        return f"{model} cannot see the order of frames."
    verdict = find(verdicts, "needs_order", model)
    if verdict is None:
        return f"Whether {model} uses the order of frames was not tested."
    loss = f"trained and tested on shuffled frames, its accuracy changes by {format_estimate(-verdict.effect, sign=True)}"
    if verdict.answer == Answer.YES:
        return f"{model} uses the order of frames: {loss}."
    if verdict.answer == Answer.NO:
        return f"{model} does not use the order of frames: {loss}."
    return f"Whether {model} uses the order of frames cannot be told: {loss}{_why(verdict)}."


def _why(verdict: Verdict) -> str:
    reasons = {
        Doubt.ONE_TRAINING: ", with one training of each recipe",
        Doubt.CHANCE: ", but the model is too close to chance to lose more",
    }
    return reasons.get(verdict.doubt, "")
