"""Builds and writes the report of a comparison: its findings, their evidence, and how to read them.

The report is one HTML file that needs no network, and the same content as Markdown with its pictures in a
folder beside it. Claims in words come only from verdicts (the answers of evaluation.verdicts). Every number
can be computed again from results.json, costs.json and predictions.parquet.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.drawing.document import Block, Bullets, Document, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation.interventions import INTERVENTIONS, SHUFFLED
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.verdicts import MARGIN, MARGIN_FRACTION, Verdict
from ucf50_tfrecord.report import answers, causes, leaks, performance, summary, unknown_classes
from ucf50_tfrecord.report.causes import ReadClips
from ucf50_tfrecord.report.scores import Scores

NAME = "report"
_HOW_TO_READ = (
    "Accuracy is the fraction of clips whose class is predicted. Macro F1 is the mean of the classes' F1; a class "
    "that is never predicted counts 0. Both are means over seeds, from 0 to 1, on clips of recording groups that the "
    "model was not trained on, unless marked “by video”.",
    "An interval [low, high] contains the true value in about 95 of 100 comparisons like this one. It comes from "
    "resampling whole groups with replacement (a bootstrap over groups, percentiles): clips of one recording look "
    "alike, and counting them as independent would make intervals too narrow.",
    "A change is paired: each clip under two conditions. A claim about “the trained” model compares two tests of the "
    "same weights. Its p is that of a sign-flip test: how often a change at least as large, in either direction, "
    "appears if each group's change could equally have had the other sign.",
    "A claim about “the recipe” compares different trainings, so it must also hold for other seeds. Its interval and p "
    "add the variance over trainings to that over groups (two-way clustering, Cameron, Gelbach and Miller 2011; "
    "Student's t with Satterthwaite's degrees of freedom), and its p is at least that of the sign-flip test. With one "
    "training of each recipe, the answer is “cannot tell”.",
    "The p in verdicts is corrected for all questions of this report together (false discovery rate, Benjamini and "
    "Hochberg): of the answers “yes”, about one in twenty may be wrong.",
    "“Yes” requires a corrected p below 0.05. “No” requires an interval that excludes a change of "
    f"{MARGIN} of accuracy or more, and of {MARGIN_FRACTION:.0%} of the model's accuracy above chance; a smaller change "
    f"may exist. It also requires a model above chance by more than {MARGIN}: a model that has learnt nothing can lose "
    "nothing. Otherwise the answer is “cannot tell”, with the number of groups or seeds that would probably settle it, "
    "given their spread and a power of 80%.",
    "McNemar's test treats clips as independent: its p is too small where groups are large. It is given because it "
    "is usually published.",
    "Intervals in tables of classes and interventions are not corrected for their number: of 20 changes that are "
    "none, one lies outside its interval.",
)
_LIMITS = (
    "A model that an intervention disturbs at test time need not depend on what was removed: frames in another order "
    "are also unlike the frames of its training. Only training without it tells.",
    "The background is the median over a clip's frames. Where the camera moves, it is a blurred mean of places; "
    "whatever does not move counts as background, persons included.",
    "With few groups (below about 20) bootstrap intervals are too narrow. The sign-flip test keeps its level, but "
    "with fewer than 6 groups it cannot fall below 0.05.",
    "In intervals of scores, and of changes outside the verdicts about recipes, seeds are averaged: they show how a "
    "score varies with the recordings. The spread over seeds, shown beside it, shows how it varies with the randomness "
    "of training.",
    "All results are about these clips, this resolution and these settings: no verdict holds for a model in general.",
)


def write(
    folder: pathlib.Path,
    results: Results,
    verdicts: Sequence[Verdict],
    *,
    read_clips: ReadClips | None = None,
    notes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Writes a comparison's report as report.html, and as report.md with its pictures in figures/*.png.

    Each file is written atomically. Equal results give equal bytes.

    Args:
      folder: folder of the report; it is created if it is missing.
      results: the comparison's results.
      verdicts: the comparison's verdicts, from verdicts.judge.
      read_clips: function that reads clips' frames for pictures; None for a report without pictures of clips,
        which then says so.
      notes: sentences above the table of data, models and trainings, such as how the report was made.

    Returns:
      A dictionary from the name of each figure to its pixels, uint8 [h, w, 3].

    Raises:
      UserError: if a file cannot be written.
    """
    content = build(results, verdicts, read_clips=read_clips, notes=notes)
    for path, data in document.to_files(content, NAME).items():
        with storage.atomic_write(folder / path) as file:
            file.write(data)
    return {figure.name: figure.pixels for figure in content.figures}


def build(
    results: Results,
    verdicts: Sequence[Verdict],
    *,
    read_clips: ReadClips | None = None,
    notes: Sequence[str] = (),
) -> Document:
    """Builds a comparison's report as a document; see `write` for the arguments."""
    scores = Scores(results)
    blocks = [
        *summary.failures(results),
        *summary.first_screen(scores, verdicts),
        *answers.section(scores, verdicts),
        *_overview(scores, notes),
    ]
    if scores.models:
        blocks += performance.sections(scores, verdicts)
        blocks += causes.recurrence(scores)
        blocks += causes.attributions(scores, read_clips)
        blocks += causes.errors(scores, read_clips)
    blocks += unknown_classes.section(results)
    blocks += leaks.leak_audit(scores, verdicts, read_clips)
    blocks += leaks.published(scores, verdicts)
    return Document(f"Comparison of models on {results.name}", [*blocks, *_how_to_read(scores)])


def _overview(scores: Scores, notes: Sequence[str]) -> Iterator[Block]:
    results = scores.results
    yield Heading("Data, models and trainings")
    for note in notes:
        yield Paragraph(note)
    yield Table("What was compared.", ("", ""), list(_facts(scores).items()))
    lacking = [model for model in results.models if model not in scores.models]
    if lacking:
        yield Paragraph(
            f"No clip was tested by all seeds of {', '.join(lacking)} with the usual training and test: the report "
            "leaves them out."
        )
    tested = {model: int(scores.tested(Condition(model)).sum()) for model in scores.models}
    part = [f"{model} ({count})" for model, count in tested.items() if count < len(results.ids)]
    if part:
        yield Paragraph(
            f"Not all of the {len(results.ids)} clips were tested by all seeds of: {', '.join(part)}. A score is "
            "over a model's own clips; models are compared on the clips that both were tested on."
        )


def _facts(scores: Scores) -> dict[str, str]:
    results = scores.results
    cells = [result.cell for result in results.cells]
    known = results.groups != record.UNKNOWN_GROUP
    units = str(len(np.unique(results.units)))
    kinds = results.architectures
    parts = {split: len({cell.part for cell in cells if cell.split == split}) for split in FoldBy}
    some = f"{known.sum()} clips have one; for each other clip it is the video"
    return {
        "Data set": results.name,
        "Classes": str(len(results.classes)),
        "Clips": f"{len(results.ids)}, of {results.num_frames} frames each",
        "Recording groups": units if known.all() else some,
        "Held out in turn": ", ".join(f"{n} parts by {split}" for split, n in parts.items() if n)
        or "nothing",
        "Seeds": ", ".join(map(str, sorted({cell.seed for cell in cells}))) or "none",
        "Models": ", ".join(m if kinds[m] == m else f"{m} ({kinds[m]})" for m in results.models) or "none",
        "Order-blind models": ", ".join(results.order_blind) or "none",
        "Trained on frames": ", ".join(o for o in FrameOrder if any(c.training == o for c in cells))
        or "none",
        "Computed in": ", ".join(sorted({result.precision for result in results.cells})) or "nothing",
        "Trainings": str(len(cells)),
    }


def _how_to_read(scores: Scores) -> Iterator[Block]:
    yield Heading("How to read this")
    yield Bullets(_HOW_TO_READ)
    tested, num_frames = set(scores.interventions()), scores.results.num_frames
    rows = [
        [f"{e.name}<k>" if e.numbers and e.name != SHUFFLED else e.name, e.meaning, e.question]
        for e in INTERVENTIONS.values()
        if tested & {e.name, *e.names(num_frames)}
    ]
    if rows:
        yield Table(
            "The interventions at test time.", ("Intervention", "Input of the model", "Question"), rows
        )
    yield Heading("Limits", 3)
    yield Bullets(_LIMITS)
