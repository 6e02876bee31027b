"""The comparison report's sections on cues: how models use backgrounds, single frames, direction and order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.drawing import diagrams
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Bullets, Figure, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation.interventions import SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.report import cue_scores
from ucf50_tfrecord.report.scores import Scores, excludes_zero, format_estimate

NUM_NAMED = 8  # maximum number of classes in a sentence


def at_test_time(scores: Scores) -> Iterator[Block]:
    """Yields the blocks on backgrounds, single frames and direction, where models were tested on them."""
    yield from _background(scores)
    yield from _single_frames(scores)
    yield from _twins(scores)


def _background(scores: Scores) -> Iterator[Block]:
    results = scores.results
    accuracy = {
        "accuracy on the foreground alone": "foreground_only",
        "accuracy on the background alone": "background_only",
        "accuracy on another clip's background": "background_swap",
    }
    found = {
        words: [scores.accuracy(Condition(model, intervention=name)) for model in scores.models]
        for words, name in accuracy.items()
    }
    swaps = [cue_scores.swap_error(results, model) for model in scores.models]
    found |= {
        "swap error": [swap and swap.error for swap in swaps],
        "predicted as the donor's class without the swap": [swap and swap.before for swap in swaps],
        "contrasted accuracy": [cue_scores.contrasted_accuracy(results, model) for model in scores.models],
    }
    if not any(map(any, found.values())):
        return
    found = {"accuracy on the clip as it is": [scores.accuracy(Condition(m)) for m in scores.models]} | found
    yield Heading("Foreground or background", 3)
    words = [
        "A model that recognises actions needs the foreground, which moves; one that recognises places needs the background."
    ]
    if any(found["swap error"]):
        words.append(
            "The swap error is the fraction of clips that are predicted as the class of the donor, the clip that their "
            "new background is from. The row below it is the same fraction before the swap: only what exceeds it comes "
            "from the background."
        )
    if any(found["contrasted accuracy"]):
        words.append(
            "The contrasted accuracy counts a clip if the model is right on the donor's background, but wrong on the "
            "clip's frozen middle frame. Its motion may explain such a clip, and so may luck: the background and the look "
            "of that frame do not."
        )
    yield Paragraph(" ".join(words))
    caption = (
        "Fractions of clips, 0 to 1, with 95% intervals over groups. Always predicting the most frequent class gives "
        f"an accuracy of {scores.chance(Condition(scores.models[0]))[0]:.3f}."
    )
    yield _table(caption, scores, found)


def _single_frames(scores: Scores) -> Iterator[Block]:
    found = [cue_scores.oracle(scores.results, model) for model in scores.models]
    if not any(found):
        return
    yield Heading("One frame, chosen in hindsight", 3)
    yield Paragraph(
        "How much could be recognised from a single frame, if the best one were known? This oracle is right about a "
        "clip if the model is right about the clip frozen to its first, its middle or its last frame. Only these three "
        "are tested: with all frames, it would score at least as high. It has three guesses, so its chance level is "
        "higher than that of the whole clip. If the whole clip still scores higher, several frames tell the model more "
        "than any of these alone, or frozen clips disturb it."
    )
    rows = {
        "whole clip": [scores.accuracy(Condition(model)) for model in scores.models],
        "middle frame": [scores.accuracy(Condition(m, intervention="middle1")) for m in scores.models],
        "oracle single frame": [oracle and oracle.accuracy for oracle in found],
        "oracle minus whole clip": [oracle and oracle.gain for oracle in found],
    }
    caption = "Accuracy on the whole clip and on single frames, 0 to 1, with 95% intervals over groups."
    yield _table(caption, scores, rows, signed=("oracle minus whole clip",))


def _twins(scores: Scores) -> Iterator[Block]:
    twins, classes = cue_scores.find_twins(scores), scores.results.classes
    found = [cue_scores.pair_accuracy(scores.results, model, twins) for model in scores.models]
    if not any(found):
        return
    pairs = [f"{classes[one]} and {classes[other]}" for one, other in enumerate(twins) if one < other]
    yield Heading("Pairs of a clip and its reverse", 3)
    more = f" and {len(pairs) - NUM_NAMED} more pairs" if len(pairs) > NUM_NAMED else ""
    yield Paragraph(
        "Some classes show the same action in opposite directions: the models that see frame order mostly recognise "
        "both, and predict one for the reversed clips of the other. By these predictions, such pairs are "
        f"{'; '.join(pairs[:NUM_NAMED])}{more}. A pair is a clip and its reverse. Only a model that sees the direction "
        "of time can be right about both."
    )
    rows = {
        "right about the clip": [pair and pair.forward for pair in found],
        "other class for its reverse": [pair and pair.backward for pair in found],
        "pair accuracy: both": [pair and pair.both for pair in found],
    }
    yield _table("Fractions of the clips of these classes, with 95% intervals over groups.", scores, rows)


def order_by_class(scores: Scores) -> Iterator[Block]:
    """Yields the blocks on how much each class owes to frame order, for models also trained without it."""
    found = {model: cue_scores.order_effects(scores, model) for model in scores.sequence_models}
    found = {model: effects for model, effects in found.items() if any(effects)}
    if not found:
        return
    classes = scores.results.classes
    yield Heading("Effect of order by class", 3)
    yield Paragraph(
        "A class is temporal for a recipe if training and testing on frames in order recognises it better than training "
        "and testing on shuffled frames."
    )
    panels = [
        diagrams.Panel(
            model,
            "effect on accuracy",
            {model: effects},
            style=scores.models.index(model),
            reference=(0.0, "no effect"),
        )
        for model, effects in found.items()
    ]
    several = all(_num_seeds(scores, model) > 1 for model in found)
    units = "groups and trainings" if several else "groups, and over trainings where there are several"
    caption = (
        "Each class's accuracy with frames in order minus that with shuffled frames, in both training and test; 95% "
        f"intervals over {units}."
    )
    picture = diagrams.draw_forest(classes, panels, panel_width=2.3)
    alt = "Effects beyond their intervals are named below."
    yield Figure("order_by_class", picture, caption, alt, PRINT_DPI)
    yield Bullets([gain_words(f"{m} with frame order", effects, classes) for m, effects in found.items()])
    yield uncorrected(len(classes))


def _num_seeds(scores: Scores, model: str) -> int:
    """Returns the number of trainings per part, in order or shuffled, whichever is smaller."""
    shuffled = Condition(model, training=FrameOrder.SHUFFLED, intervention=SHUFFLED)
    return min(len(scores.results.trainings(c).scores) for c in (Condition(model), shuffled))


def gain_words(subject: str, gains: Sequence[Estimate | None], classes: Sequence[str]) -> str:
    """Names the classes that gain or lose beyond their intervals, those with the largest changes first.

    Args:
      subject: the words before the colon.
      gains: each class's gain, or None.
      classes: names of the classes.
    """
    sure = [(name, gain) for name, gain in zip(classes, gains) if excludes_zero(gain)]
    words = []
    for verb, sign in (("gains", 1), ("loses", -1)):
        found = sorted((-sign * gain.value, name, gain) for name, gain in sure if gain.value * sign > 0)
        named = [f"{name} ({format_estimate(gain, sign=True)})" for _, name, gain in found[:NUM_NAMED]]
        more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
        words += [f"{verb} in {', '.join(named)}{more}"] if named else []
    return f"{subject}: {'; '.join(words) or 'no class gains or loses beyond its interval'}."


def uncorrected(num_classes: int) -> Paragraph:
    """Returns a paragraph that warns of intervals of many classes."""
    expected = 0.05 * num_classes
    return Paragraph(
        f"These intervals are not corrected for the number of classes: if no class gained or lost, {expected:.1g} of "
        f"{num_classes} would still lie beyond theirs in each model."
    )


def _table(
    caption: str,
    scores: Scores,
    rows: Mapping[str, Sequence[Estimate | None]],
    *,
    signed: Sequence[str] = (),
) -> Table:
    """Makes a table with a column per model; rows without any estimate are left out."""
    texts = [
        [words, *(format_estimate(estimate, sign=words in signed) for estimate in estimates)]
        for words, estimates in rows.items()
        if any(estimates)
    ]
    return Table(caption, ("", *scores.models), texts)
