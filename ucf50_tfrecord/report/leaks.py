"""The comparison report's sections on leaks: the gain from recognising recordings, and published baselines.

A split leaks if clips of one recording are in both training and test: a model may then score by recognising
the recording. Published baselines used such a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord import record
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.drawing.document import Block, Bullets, Entry, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation import audit
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.verdicts import Answer, Verdict
from ucf50_tfrecord.report.answers import find, tone
from ucf50_tfrecord.report.causes import ReadClips, strips
from ucf50_tfrecord.report.scores import Scores, format_estimate

_NUM_PAIR_STRIPS = 3
# Published scores of the models that reproduce a public notebook, by model: the LSTM, then the RNN.
_PUBLISHED = {name: traits.published for name, traits in reversed(MODELS.items()) if traits.published}
_UCF50_CLASSES = 50


def leak_audit(scores: Scores, verdicts: Sequence[Verdict], read_clips: ReadClips | None) -> Iterator[Block]:
    """Yields the blocks of the section on how much of a model's score is recognition of recordings.

    Args:
      scores: the numbers of the comparison.
      verdicts: all verdicts of the comparison.
      read_clips: function that reads clips' frames for pictures; None for a section without these.
    """
    results = scores.results
    leaks = {model: find(verdicts, "recognises_recording", model) for model in results.models}
    leaks = {model: verdict for model, verdict in leaks.items() if verdict}
    yield Heading("Leak audit")
    if not leaks and not results.audit:
        yield Paragraph(
            "Not requested. An audit tests the same models on clips whose recordings they have seen in training, and "
            "compares every test clip with its nearest training clip."
        )
        return
    if leaks:
        yield from _leak_of_models(scores, leaks)
    if results.audit:
        yield from _leak_of_clips(results, read_clips)


def _leak_of_models(scores: Scores, leaks: dict[str, Verdict]) -> Iterator[Block]:
    rows: list[list[str | Entry]] = []
    sentences: list[str] = []
    for model, verdict in leaks.items():
        by_group, by_video = (scores.accuracy(Condition(model, split=split)) for split in FoldBy)
        accuracies = [format_estimate(by_group), format_estimate(by_video)]
        answer = Entry(verdict.answer, tone(verdict.answer))
        rows.append([model, *accuracies, format_estimate(verdict.effect, sign=True), answer])
        if verdict.answer == Answer.YES:
            fraction = verdict.effect.value / by_video.value  # above 0, as the effect is
            sentences.append(
                f"Of the {by_video.value:.3f} that {model} scores by video, {verdict.effect} is gone once whole "
                f"recordings are held out: {fraction:.0%} of that score is recognising the recording."
            )
    columns = ("Model", "By group", "By video", "Difference", "Recognises recordings?")
    caption = (
        "Accuracy with whole recording groups held out, and with only videos held out: then a test clip's "
        "neighbours from the same recording are in training."
    )
    yield Table(caption, columns, rows)
    yield Bullets(sentences or ["No model is shown to score higher on recordings that it has seen."])


def _leak_of_clips(results: Results, read_clips: ReadClips | None) -> Iterator[Block]:
    splits = [split for split in FoldBy if split in results.audit]
    rows = []
    for split in splits:
        nearest = results.audit[split]
        same = nearest["same_recording"]
        fractions = (nearest["accuracy"], same, nearest["near_duplicates"])
        rows.append([f"by {split}", *("–" if value is None else f"{value:.3f}" for value in fractions)])
    columns = ("Split", "Nearest clip has the class", "… is of the same recording", "… is a near-duplicate")
    caption = (
        "Fractions of test clips, 0 to 1, by their nearest training clip: small pictures of three frames, without any "
        f"training. Near-duplicate: cosine similarity above {audit.NEAR_DUPLICATE}."
    )
    yield Table(caption, columns, rows)
    for split in splits:
        yield from _pairs(results, split, read_clips)


def _pairs(results: Results, split: str, read_clips: ReadClips | None) -> Iterator[Block]:
    pairs, ids = results.audit[split]["pairs"], results.ids
    if not pairs:
        return

    def relation(one: int, other: int) -> str:
        same_class = results.labels[one] == results.labels[other]
        known = results.groups[one] != record.UNKNOWN_GROUP
        if same_class and known and results.groups[one] == results.groups[other]:
            return "same recording"
        return "same class" if same_class else "other class"

    rows = [
        [ids[one], ids[other], f"{similarity:.3f}", relation(one, other)] for one, other, similarity in pairs
    ]
    columns = ("Test clip", "Nearest training clip", "Similarity", "Relation")
    caption = f"The most similar pairs across the split by {split}"
    yield Table(f"{caption}.", columns, rows)
    if read_clips is not None:
        chosen, captions = [], []
        for one, other, similarity in pairs[:_NUM_PAIR_STRIPS]:
            chosen += [one, other]
            captions += [f"test: {ids[one]}", f"training, similarity {similarity:.3f}: {ids[other]}"]
        caption += ": a test clip, and its nearest training clip."
        yield strips(f"nearest_by_{split}", read_clips, np.array(chosen), captions, caption)


def published(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    """Yields the blocks of the section on published baselines.

    Beside their scores, it shows the scores of the same models in this comparison, on splits by video and by
    group.
    """
    results = scores.results
    yield Heading("Published baseline")
    rows = [
        [found.title, "published", "random clips", f"{found.accuracy:.4f}", f"{found.macro_f1:.4f}"]
        for found in _PUBLISHED.values()
    ]
    whole = len(results.classes) == _UCF50_CLASSES
    ours = [m for m in _PUBLISHED if scores.tested(Condition(m, split=FoldBy.VIDEO)).any()]
    for model in ours:
        for split in reversed(FoldBy):
            condition = Condition(model, split=split)
            numbers = map(format_estimate, (scores.accuracy(condition), scores.macro_f1(condition)))
            rows.append([model, "this comparison", f"by {split}", *numbers])
    caption = (
        "CNN + LSTM and CNN + RNN as published: UCF50, a random split of its clips, 5 epochs, one run. Rows of this "
        "comparison have the training that was requested, which need not be 5 epochs."
    )
    yield Table(caption, ("Model", "Source", "Split", "Accuracy", "Macro F1"), rows)
    if not whole:
        yield Paragraph(
            f"This data set has {len(results.classes)} classes, not UCF50's {_UCF50_CLASSES}: nothing here reproduces "
            "or contradicts the published numbers."
        )
    if not ours:
        yield Paragraph(
            "seed_lstm and seed_rnn were not trained on a split by video, as an audit does: nothing here reproduces "
            "these numbers."
        )
    yield Paragraph(_protocol(results, verdicts))


def _protocol(results: Results, verdicts: Sequence[Verdict]) -> str:
    """Describes how the split of the published baselines leaks, with what this comparison measured of it."""
    words = ["A random split of clips leaves clips of one recording on both sides."]
    found = [find(verdicts, "recognises_recording", model) for model in _PUBLISHED]
    words += [verdict.text for verdict in found if verdict]
    nearest = (results.audit or {}).get(FoldBy.VIDEO)
    if nearest:
        same = nearest["same_recording"]
        words.append(
            f"Here, by video, the nearest training clip alone has the class of {nearest['accuracy']:.0%} of the clips"
            + ("." if same is None else f", and for {same:.0%} it is of the same recording.")
        )
    if len(words) == 1:
        words.append("This comparison does not measure how much that raises the score; an audit does.")
    return " ".join(words)
