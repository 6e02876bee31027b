"""The report of a comparison: what it found, on what evidence, and how to read that.

One HTML file that needs no network, and the same as Markdown with its pictures beside it. What is
said in words comes from verdicts alone; every number can be made again from results.json.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.drawing.document import Block, Bullets, Document, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.verdicts import MARGIN, Verdict
from ucf50_tfrecord.report import answers, causes, leaks, performance
from ucf50_tfrecord.report.causes import ReadClips
from ucf50_tfrecord.report.scores import Scores
from ucf50_tfrecord.specs import FRAME_ORDERS

NAME = "report"


def write(
    folder: pathlib.Path,
    results: Results,
    verdicts: Sequence[Verdict],
    *,
    read_clips: ReadClips | None = None,
    notes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Writes report.html, and report.md with figures/*.png beside it; each file atomically.

    Equal results give equal bytes.

    Args:
      folder: where; it is made if it is missing.
      results: the comparison.
      verdicts: what verdicts.judge says of it.
      read_clips: for pictures of clips; without it there are none, and the report says so.
      notes: sentences near the top, such as how it was made.

    Returns:
      The pictures by name, uint8 [h, w, 3].

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
    """Puts the report together; the arguments are those of `write`."""
    scores = Scores(results)
    blocks = [*_overview(scores, notes), *answers.section(scores, verdicts)]
    if scores.models:
        blocks += performance.sections(scores, verdicts)
        blocks += causes.recurrence(scores)
        blocks += causes.errors(scores, read_clips)
    blocks += leaks.leak_audit(scores, verdicts, read_clips)
    blocks += leaks.published(scores, verdicts)
    return Document(f"Comparison of models on {results.name}", [*blocks, *_how_to_read(scores)])


def _overview(scores: Scores, notes: Sequence[str]) -> Iterator[Block]:
    results = scores.results
    for note in notes:
        yield Paragraph(note)
    yield Table("What was compared.", ("", ""), [[name, text] for name, text in _facts(scores).items()])
    lacking = [model for model in results.models if model not in scores.models]
    if lacking:
        yield Paragraph(
            f"No clip was tested by all seeds of {', '.join(lacking)} as trained and tested as usual: "
            "what follows leaves them out."
        )
    tested = {model: int(scores.tested(Condition(model)).sum()) for model in scores.models}
    part = [f"{model} ({count})" for model, count in tested.items() if count < len(results.ids)]
    if part:
        yield Paragraph(
            f"Not all of the {len(results.ids)} clips were tested by all seeds of: {', '.join(part)}. A score is "
            "over a model's own clips; models are held against each other on the clips that both were tested on."
        )


def _facts(scores: Scores) -> dict[str, str]:
    results = scores.results
    cells = [result.cell for result in results.cells]
    known = results.groups != record.UNKNOWN_GROUP
    units = len(np.unique(results.units))
    kinds = {result.cell.model: result.architecture for result in results.cells}
    parts = {split: len({cell.part for cell in cells if cell.split == split}) for split in ("group", "video")}
    trainings = [name for name in FRAME_ORDERS if any(cell.training == name for cell in cells)]
    return {
        "Data set": results.name,
        "Classes": str(len(results.classes)),
        "Clips": f"{len(results.ids)}, of {results.num_frames} frames each",
        "Recording groups": (
            str(units) if known.all() else f"{known.sum()} clips have one; for the others the video"
        ),
        "Held out in turn": ", ".join(f"{n} parts by {split}" for split, n in parts.items() if n)
        or "nothing",
        "Seeds": ", ".join(map(str, sorted({cell.seed for cell in cells}))) or "none",
        "Models": ", ".join(m if kinds[m] == m else f"{m} ({kinds[m]})" for m in results.models) or "none",
        "Blind to order": ", ".join(results.order_blind) or "none of them",
        "Trained on frames": ", ".join(trainings) or "none",
        "Computed in": ", ".join(sorted({result.precision for result in results.cells})) or "nothing",
        "Trainings": str(len(cells)),
    }


def _how_to_read(scores: Scores) -> Iterator[Block]:
    yield Heading("How to read this")
    yield Bullets(
        [
            "Accuracy is the share of clips whose class is named, macro F1 the mean of the classes' F1: a class that "
            "is never predicted counts 0. Both are the mean over seeds, from 0 to 1, on clips of recording groups "
            "that the model was not trained on, unless it says “by video”.",
            "An interval [low, high] holds the true value in about 95 of 100 comparisons like this one. It comes from "
            "drawing whole groups again, with replacement (a bootstrap over groups, percentiles): clips of one "
            "recording look alike, and counting them as independent would make intervals too narrow.",
            "A change is paired: each clip under two conditions, by the same weights where the intervention is at "
            "test time. Its p is that of a sign-flip test: how often a change at least as large, either way, appears "
            "if each group's change could as well have had the other sign.",
            "The p in verdicts is corrected for all questions of this report together (false discovery rate, Benjamini "
            "and Hochberg): of the answers “yes”, about one in twenty may be wrong.",
            "“Yes” takes a corrected p below 0.05. “No” takes an interval that leaves no room for a change of "
            f"{MARGIN} of accuracy or more; smaller ones may be there. Else the answer is “cannot tell”, with the "
            "number of groups that would probably settle it, by their spread and a power of 80%.",
            "McNemar's test takes clips for independent: its p is too small where groups are large. It stands there "
            "because it is what is usually published.",
            "Intervals in tables of classes and interventions are not corrected for their number: of 20 changes that "
            "are none, one lies outside its interval.",
        ]
    )
    found = {perturb.stem(name) for name in scores.interventions()}
    rows = [
        [f"{name}<k>" if name in ("first", "last") else name, meaning]
        for name, meaning in perturb.MEANINGS.items()
        if name in found
    ]
    if rows:
        yield Table("The interventions at test time.", ("Intervention", "What the model is shown"), rows)
    yield Heading("Limits", 3)
    yield Bullets(
        [
            "A model that is disturbed by an intervention at test time need not depend on what was taken away: frames "
            "in another order are also frames unlike those that it was trained on. Only training without it tells.",
            "The background is the median over a clip's frames: where the camera moves it is a blurred mean of places, "
            "and what does not move counts as background, persons included.",
            "With few groups (below about 20) bootstrap intervals are too narrow; the sign-flip test keeps its "
            "level, but with fewer than 6 groups it cannot fall below 0.05.",
            "Seeds are averaged, not drawn: intervals tell how the score varies with the recordings, and the spread "
            "over seeds, shown beside it, how it varies with the training's chance.",
            "All of it is about these clips, this resolution and this training: no verdict holds for a model in "
            "general.",
        ]
    )
