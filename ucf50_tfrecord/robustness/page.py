"""Builds the report of a test of robustness: scores, a heat map, curves, worst classes and strips of clips."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import CorruptionFamily
from ucf50_tfrecord.drawing import class_scores, diagrams, document
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import (
    Block,
    Bullets,
    Document,
    Entry,
    Figure,
    Heading,
    Paragraph,
    Table,
    file_name,
)
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.report.scores import format_estimate
from ucf50_tfrecord.robustness import scores as scores_lib
from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS
from ucf50_tfrecord.robustness.levels import SEVERITIES
from ucf50_tfrecord.robustness.results import NO_PREDICTION, Results
from ucf50_tfrecord.robustness.scores import Score, Scores

NAME = "robustness"
SHOWN_SEVERITIES = (0, 1, 3, 5)  # of the strips of clips
_NUM_CLASSES = 10  # of the table of worst classes
# Heights of the frames in strips, in pixels: smaller frames are enlarged, larger ones are shown with fewer pixels.
_STRIP_HEIGHT, _LARGE_FRAME = 48, 96
_COLUMNS = (
    "Mean accuracy (mPC)",
    "Relative robustness γr (rPC)",
    "Absolute robustness γa",
    "Relative, above chance",
)
_FAMILIES = {
    CorruptionFamily.SPATIAL: "pixels",
    CorruptionFamily.TEMPORAL: "time",
    CorruptionFamily.CODEC: "codec",
}
_HOW_TO_READ = (
    "Accuracy is the fraction of clips whose class is predicted, on held-out clips. Severity 0 is the unchanged clip; "
    "5 is the strongest corruption. An interval [low, high] is a 95% interval from a bootstrap over recording groups.",
    "γr = 1 - (A_c - A_p) / A_c, where A_c is the accuracy on unchanged clips and A_p the accuracy on corrupted ones: "
    "the fraction of its accuracy that the model keeps. γa = 1 - (A_c - A_p): 1 minus the accuracy that it loses "
    "(Schiappa et al. 2023). The mean accuracy over severities and corruptions is mPC, and its ratio to A_c is rPC, "
    "which equals the mean γr (Yi et al. 2021).",
    "γr flatters weak models: a model that guesses has γr = 1. “Above chance” counts both accuracies from that of always "
    "predicting the most frequent class. A negative number means an accuracy below chance. A dash means that the model is "
    "not above chance on unchanged clips, or not in some resamples.",
    "Random numbers follow from each clip's id: other runs on these clips see the same corrupted clips.",
)
_LIMITS = (
    "The corruptions are simulations. They say how a model fails under such changes, not how often these occur in the "
    "field.",
    "Some severities of different corruptions look alike, but a severity has no common scale: compare models under one "
    "corruption, rather than corruptions of one model.",
    "Corruptions of pixels and of time change the stored clip, after scaling. Those of the codec change the video "
    "before it is scaled; scaling hides part of their damage, as it would in the field.",
    "Intervals are not corrected for the number of corruptions and severities. With few groups (below about 20) they are "
    "too narrow.",
)


def build(
    runs: Sequence[tuple[Results, Scores]],
    *,
    strips: Mapping[str, Sequence[np.ndarray]],
    strips_of: str = "",
    notes: Sequence[str] = (),
) -> Document:
    """Builds the report.

    Args:
      runs: the results of one or more runs, each with its scores.
      strips: dictionary from a corruption's name to one clip under SHOWN_SEVERITIES, uint8 [T, H, W, 3] each.
      strips_of: id of that clip.
      notes: sentences on how the tests were made.
    """
    blocks: list[Block] = [*_summary(runs), *(Paragraph(note) for note in notes)]
    blocks += [*_heat_maps(runs), *_curves(runs), *_by_corruption(runs), *_classes(runs)]
    blocks += [*_strips(runs[0][0], strips, strips_of), *_how_to_read()]
    return Document(f"Robustness of {', '.join(results.name for results, _ in runs)}", blocks)


def _summary(runs: Sequence[tuple[Results, Scores]]) -> Iterator[Block]:
    for results, scores in runs:
        yield Paragraph(_sentence(results, scores))
    yield Heading("Scores")
    rows = []
    for results, scores in runs:
        prefix = f"{results.name}: " if len(runs) > 1 else ""
        rows.append([f"{prefix}unchanged clips", format_estimate(scores.plain), "–", "–", "–"])
        parts = {_FAMILIES[family]: score for family, score in scores.by_family.items()}
        for name, score in (parts | {"all corruptions": scores.overall}).items():
            rows.append([f"{prefix}{name}", *_cells(score)])
    caption = "Means over corruptions and severities, with 95% intervals over groups."
    yield Table(caption, ("Clips", *_COLUMNS), rows)


def _sentence(results: Results, scores: Scores) -> str:
    means = {name: score.accuracy.value for name, score in scores.by_corruption.items()}
    worst, best = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    kept = scores.overall.above_chance.value
    above = (
        f" Of its accuracy above chance, it keeps {kept:.0%}." if kept >= 0 else " This mean is below chance."
    )
    above = "" if np.isnan(kept) else above
    return (
        f"{results.name} ({results.model}) has accuracy {format_estimate(scores.plain)} on {len(results.ids)} unchanged "
        f"clips of {len(np.unique(results.units))} groups, where chance is {scores.chance:.3f}. Under corruption, its "
        f"mean accuracy is {format_estimate(scores.overall.accuracy)}: it keeps {scores.overall.relative.value:.0%}."
        f"{above} It loses most under {worst} (mean accuracy {means[worst]:.3f}), least under {best} ({means[best]:.3f})."
    )


def _cells(score: Score) -> list[str]:
    values = (score.accuracy, score.relative, score.absolute, score.above_chance)
    return ["–" if np.isnan(value.value) else format_estimate(value) for value in values]


def _heat_maps(runs: Sequence[tuple[Results, Scores]]) -> Iterator[Block]:
    yield Heading("Change of accuracy by corruption and severity")
    tables = [
        np.array([[one.absolute.value - 1 for one in rows] for rows in scores.by_severity.values()])
        for _, scores in runs
    ]
    limit = diagrams.colour_limit(np.concatenate(tables))
    for (results, scores), table in zip(runs, tables):
        unsure = np.array(
            [
                [one.absolute.low <= 1 <= one.absolute.high for one in rows]
                for rows in scores.by_severity.values()
            ]
        )
        picture = diagrams.draw_changes(
            table,
            rows=list(scores.by_severity),
            columns=[f"severity {severity}" for severity in SEVERITIES],
            label="change of accuracy (0 to 1)",
            unsure=unsure,
            limit=limit,
        )
        caption = (
            f"{results.name}: accuracy minus that on unchanged clips, by severity. Grey numbers: the 95% interval holds "
            "0. With more than 20 corruptions, changes below 0.05 are not written."
        )
        alt = "One row per corruption, one column per severity, the change as a number."
        yield Figure(f"heat_map_{file_name(results.name)}", picture, caption, alt, PRINT_DPI)


def _curves(runs: Sequence[tuple[Results, Scores]]) -> Iterator[Block]:
    yield Heading("Accuracy by severity")
    curves: dict[CorruptionFamily, list[diagrams.Curve]] = {}
    for number, (results, scores) in enumerate(runs):
        for family in scores.by_family:
            style = number if len(runs) > 1 else len(curves)
            name = results.name if len(runs) > 1 else _FAMILIES[family]
            curves.setdefault(family, []).append(_curve(results, scores, family, name, style))
    texts = ("severity", "accuracy (0 to 1)")
    chance = runs[0][1].chance, "most frequent class"
    if len(runs) > 1:
        charts = [
            diagrams.Chart(_FAMILIES[family], *texts, found, reference=chance)
            for family, found in curves.items()
        ]
    else:
        charts = [diagrams.Chart("", *texts, [one for [one] in curves.values()], reference=chance)]
    caption = "Accuracy, a mean over the corruptions of a family; bands are 95% intervals over groups."
    alt = "Accuracy against severity, from 0 (unchanged) to 5."
    yield Figure("curves", diagrams.draw_charts(charts), caption, alt, PRINT_DPI)


def _curve(
    results: Results, scores: Scores, family: CorruptionFamily, name: str, style: int
) -> diagrams.Curve:
    rows = [results.right(corruption) for corruption in scores.by_corruption if _family(corruption) == family]
    estimates = [scores.plain]
    estimates += [statistics.mean_interval(mean, results.units) for mean in np.mean(rows, axis=0)]
    columns = zip(*((e.value, e.low, e.high) for e in estimates))
    return diagrams.Curve(name, style, (0, *SEVERITIES), *columns)


def _family(name: str) -> CorruptionFamily:
    return CORRUPTIONS[name].family


def _by_corruption(runs: Sequence[tuple[Results, Scores]]) -> Iterator[Block]:
    yield Heading("Scores by corruption")
    for results, scores in runs:
        rows = [[name, *_cells(score)] for name, score in scores.by_corruption.items()]
        caption = f"{results.name}: means over severities, with 95% intervals over groups."
        yield Table(caption, ("Corruption", *_COLUMNS), rows)
        lost = {name: int((table == NO_PREDICTION).sum()) for name, table in results.corrupted.items()}
        if failed := {name: count for name, count in lost.items() if count}:
            counts = ", ".join(f"{name} {count}" for name, count in failed.items())
            yield Paragraph(
                f"No frame could be decoded of some corrupted videos, which count as wrong: {counts}, of "
                f"{len(SEVERITIES) * len(results.ids)} each."
            )


def _classes(runs: Sequence[tuple[Results, Scores]]) -> Iterator[Block]:
    yield Heading("Worst classes")
    for results, _ in runs:
        rows: list[list[str | Entry]] = [
            [
                results.classes[one.label],
                str(one.num_clips),
                f"{one.plain:.3f}",
                f"{one.corrupted:.3f}",
                f"{-one.loss:+.3f}",
                f"{one.worst} ({one.worst_accuracy:.3f})",
            ]
            for one in scores_lib.class_scores(results)[:_NUM_CLASSES]
        ]
        caption = f"{results.name}: the classes whose accuracy (recall) corruptions lower most."
        columns = ("Class", "Clips", "Unchanged", "Corrupted, mean", "Change", "Lowest under")
        yield Table(caption, columns, rows)


def _strips(results: Results, strips: Mapping[str, Sequence[np.ndarray]], strips_of: str) -> Iterator[Block]:
    yield Heading("What the corruptions look like")
    rows = []
    for name in results.corrupted:
        entry = CORRUPTIONS[name]
        strengths = [f"{entry.strength(severity, results.clip_format):.3g}" for severity in SEVERITIES]
        rows.append([name, entry.meaning, entry.unit, *strengths])
    shape = f"{results.clip_format.num_frames}x{results.clip_format.height}x{results.clip_format.width}"
    columns = ("Corruption", "Meaning", "Strength", *map(str, SEVERITIES))
    yield Table(f"Strengths by severity, for clips of {shape}.", columns, rows)
    for name, versions in strips.items():
        captions = [f"severity {severity}" for severity in SHOWN_SEVERITIES]
        picture = class_scores.draw_captioned_clips(
            np.stack([_small(clip) for clip in versions]), captions, min_height=_STRIP_HEIGHT
        )
        yield Figure(
            f"clip_{name}",
            picture,
            f"{name}: {CORRUPTIONS[name].meaning} ({strips_of}).",
            f"Frames of one clip under {name}, severities {', '.join(map(str, SHOWN_SEVERITIES))}.",
            photo=True,
        )


def _small(clip: np.ndarray) -> np.ndarray:
    """Returns a clip, uint8 [T, H, W, 3], with fewer pixels if its frames are large."""
    step = max(1, round(clip.shape[1] / _LARGE_FRAME))
    return clip[:, ::step, ::step]


def _how_to_read() -> Iterator[Block]:
    yield Heading("How to read this")
    yield Bullets(_HOW_TO_READ)
    yield Heading("Limits", 3)
    yield Bullets(_LIMITS)


def write(folder: pathlib.Path, content: Document) -> None:
    """Writes the report as robustness.html, and as robustness.md with its pictures in figures/*.png.

    Raises:
      UserError: if a file cannot be written.
    """
    for path, data in document.to_files(content, NAME).items():
        with storage.atomic_write(folder / path) as file:
            file.write(data)
