"""The comparison report's section on verdicts, with conclusions and a check of the comparison itself.

A verdict is the answer to a question about one or two models, such as whether a model needs frame order; see
evaluation.verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.drawing.document import Block, Bullets, Entry, Heading, Paragraph, Table
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import cells
from ucf50_tfrecord.evaluation import verdicts as judging
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.verdicts import KINDS, MARGIN, Answer, Verdict
from ucf50_tfrecord.report.scores import Scores

_ABOVE_CHANCE = ("above_chance", "appearance_suffices")


def find(verdicts: Sequence[Verdict], kind: str, *models: str) -> Verdict | None:
    """Finds the verdict on question `kind` (of KINDS) about `models`, in this order; None if not asked."""
    return next((v for v in verdicts if v.kind == kind and v.models == models), None)


def says(answer: Answer, verdicts: Sequence[Verdict], kind: str, *models: str) -> Verdict | None:
    """Finds the verdict on question `kind` about `models` if its answer is `answer`; otherwise, None."""
    verdict = find(verdicts, kind, *models)
    return verdict if verdict and verdict.answer == answer else None


def tone(answer: Answer) -> str:
    """Returns the tone, see document.Entry, that colours an answer in a table or list."""
    return answer.name.lower()


def section(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    """Yields the blocks of the section on verdicts."""
    yield Heading("Verdicts")
    if not verdicts:
        yield Paragraph("There are no predictions yet: there is nothing to judge.")
        return
    yield from _at_a_glance(scores, verdicts)
    together = list(conclusions(scores, verdicts))
    if together:
        yield Heading("Taken together", 3)
        yield Bullets(together)
    for answer in Answer:
        texts = [verdict.text for verdict in verdicts if verdict.answer == answer]
        if texts:
            yield Heading(f"{answer.capitalize()} ({len(texts)})", 3)
            yield Bullets(texts, tone(answer))
    horizons = list(_horizons(scores, verdicts))
    if horizons:
        yield Heading("How much of the clip is needed", 3)
        yield Bullets(horizons)
        yield Paragraph(f"“Like the whole clip” means a loss whose 95% interval ends below {MARGIN}.")
    yield from _order_check(scores)


def conclusions(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yields conclusions about models as sentences; each follows from several verdicts together."""
    for model in scores.sequence_models:
        yield from _against_control(scores, verdicts, model)
        order = says(Answer.NO, verdicts, "needs_order", model)
        disturbed = says(Answer.YES, verdicts, "disturbed_by_shuffling", model)
        if order and disturbed:
            yield (
                f"{model} has learnt to expect frame order but does not need it: shuffled frames cost "
                f"{disturbed.effect} at test time alone, and {order.effect} after training on shuffled frames."
            )


def _against_control(scores: Scores, verdicts: Sequence[Verdict], model: str) -> Iterator[str]:
    """Yields conclusions from comparing a model with its control, a model that cannot see frame order."""
    control = scores.control_of(model)
    if control is None:
        return
    alike = scores.read_alike(model, control)
    order, no_order = (says(a, verdicts, "needs_order", model) for a in (Answer.YES, Answer.NO))
    recognises = says(Answer.YES, verdicts, "above_chance", model)
    appearance = says(Answer.YES, verdicts, "appearance_suffices", control)
    if no_order and recognises and appearance:
        moves = model_traits(scores.results.architectures[model]).has_motion_path
        source = "appearance or local motion" if moves else "appearance"
        yield (
            f"The score of {model} comes from {source}, not order: {control}, which cannot see order, is above "
            f"chance by {appearance.effect}; trained and tested on shuffled frames, {model} loses "
            f"{no_order.effect}."
        )
    ahead = says(Answer.YES, verdicts, "models_differ", model, control)
    if ahead and order:
        # Order explains all of the lead if the intervals allow a loss without order of the lead's size.
        part = "" if alike and order.effect.high >= ahead.effect.low else "part of "
        but = "" if alike else ", which also reads frames in another way"
        yield (
            f"Frame order explains {part}the lead of {model} over {control}{but}: {model} is ahead by "
            f"{ahead.effect}, and loses {order.effect} when trained and tested on shuffled frames."
        )
    if behind := says(Answer.YES, verdicts, "models_differ", control, model):
        yield (
            f"{control}, which cannot see order, is ahead of {model} by {behind.effect}: what {model} does beyond "
            f"averaging over frames does not help here{'' if alike else ', or its way of reading frames costs more'}."
        )


def _at_a_glance(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    def entry(kind: str, model: str) -> Entry:
        verdict = find(verdicts, kind, model)
        if verdict is None:
            return Entry("")
        word = "?" if verdict.answer == Answer.UNKNOWN else verdict.answer
        return Entry(f"{word} {verdict.effect.value:+z.2f}", tone(verdict.answer))

    kinds = [kind for kind in KINDS if any(v.kind == kind and len(v.models) == 1 for v in verdicts)]
    if kinds:
        rows: list[list[str | Entry]] = [
            [KINDS[kind].question, *(entry(kind, model) for model in scores.models)] for kind in kinds
        ]
        caption = (
            "Answers at a glance: the effect on accuracy, from 0 to 1, in the direction of the question. ?: cannot "
            "tell at this size. Empty: not asked, because it was not tested or the model cannot see order."
        )
        yield Table(caption, ("Question", *scores.models), rows)


def _horizons(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[str]:
    total = scores.results.num_frames
    for model in scores.models:
        if not any(says(Answer.YES, verdicts, kind, model) for kind in _ABOVE_CHANCE):
            continue  # for a model that recognises nothing, one frame scores like the whole clip
        for end in ("first", "last"):
            if not scores.tested(Condition(model, intervention=f"{end}1")).any():
                continue
            count, loss = judging.horizon(scores.results, model, end) or (0, None)
            if loss is None:
                yield f"No tested number of {end} frames is shown to score like the whole clip for {model}."
            elif count == 1:
                yield f"The {end} frame of {total} scores like the whole clip for {model}: it costs {loss}."
            else:
                yield (
                    f"The {end} {count} frames of {total} score like the whole clip for {model}: they cost {loss}."
                )


def _order_check(scores: Scores) -> Iterator[Block]:
    checks = list(scores.order_checks())
    blind = [check for check in checks if check.model in scores.order_blind]
    if not checks:
        return
    yield Heading("Built-in check", 3)
    if blind:
        changed, tested = sum(check.num_changed for check in blind), sum(check.num_tested for check in blind)
        yield Paragraph(
            "A model that cannot see order must predict the same for shuffled and reversed frames, up to the rounding "
            f"of sums. The largest change of any logit of {' and '.join(scores.order_blind)} is "
            f"{max(check.largest_change for check in blind):.1g}, and {changed} of {tested} predictions change class."
        )
        failures = list(_failures(scores))
        if failures:
            yield Paragraph("This check fails; do not trust any result of this report:")
            yield Bullets(failures)
    else:
        yield Paragraph(
            "No model here is order-blind. With one, such as frame_pool, the comparison would check itself: "
            "shuffled frames must not change its predictions."
        )
    rows = [
        [c.model, c.intervention, "no" if c.model in scores.order_blind else "yes"]
        + [f"{c.largest_change:.2g}", f"{c.largest_logit:.2g}", f"{c.num_changed} of {c.num_tested}"]
        for c in checks
    ]
    sizes = ("Largest change of a logit", "Largest logit", "Predictions changed")
    caption = "The effect of another order of frames on the models' logits."
    yield Table(caption, ("Model", "Frames", "Sees order", *sizes), rows)


def _failures(scores: Scores) -> Iterator[str]:
    for result in scores.results.cells:
        if model_traits(result.architecture).is_order_blind and PLAIN in result.logits:
            try:
                cells.check_order_blind(str(result.cell), result.logits, result.precision)
            except UserError as error:
                yield str(error)
