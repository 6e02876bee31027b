"""Builds the page of a check for drift: findings, measures over batches beside the reference, and all tests."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import Finding, Measure
from ucf50_tfrecord.drawing import diagrams, document
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Bullets, Document, Entry, Figure, Heading, Paragraph, Table
from ucf50_tfrecord.monitoring.drift import CUSTOMARY_PSI, FINDABLE
from ucf50_tfrecord.monitoring.results import Results
from ucf50_tfrecord.monitoring.videos import NUMBERS, Videos

NAME = "monitor"
_TONES = {Finding.DRIFT: "no", Finding.NO_DRIFT: "yes", Finding.TOO_FEW: "unknown"}
_LABELS: Mapping[Measure, str] = {
    Measure.CONFIDENCE: "probability of the predicted class",
    Measure.BRIGHTNESS: "mean luma (0 to 1)",
    Measure.MOTION_ENERGY: "change between frames (0 to 1)",
    Measure.FRAME_RATE: "frames per second",
}
_STATISTICS: Mapping[Measure, str] = {
    Measure.SOFTMAX: "Kolmogorov-Smirnov distance",
    Measure.CLASSES: "chi-squared",
} | dict.fromkeys(NUMBERS, "population stability index")
_BAND = (0.1, 0.9)  # quantiles
_REFERENCE_STYLE, _STREAM_STYLE = 7, 0  # grey, blue
_HALF_WIDTH = 0.25  # of the band of a single batch
_NUM_CLASSES = 10  # of the table of predicted classes
_HOW_TO_READ = (
    "The unit is the video: a video's windows are averaged before anything is compared.",
    "The alarm level is divided equally among the batches, and then among the measures (Bonferroni). So any alarm at "
    "all, in any batch, has the level's probability if nothing has drifted.",
    "Softmax: the Kolmogorov-Smirnov distance of the probabilities of each class; the largest one is shown, and its p "
    "value is multiplied by the number of classes (Rabanser et al. 2019). Sample sizes are divided by the design effect, "
    "since videos of one recording look alike.",
    "Predicted classes: chi-squared. Confidence, brightness, motion energy and frame rate: the population stability index "
    "over tenths of the reference. The thresholds of both come from streams of the same size that are drawn from the "
    f"reference as whole recordings. The customary threshold of the index, {CUSTOMARY_PSI}, is not used: small streams "
    "exceed it by chance.",
    f"“{Finding.TOO_FEW}” stands in place of “{Finding.NO_DRIFT}” if a change that moves {FINDABLE:.0%} of the videos "
    "past some probability of a class would be missed in more than 1 of 5 streams.",
)
_LIMITS = (
    "Drift is a change of inputs or outputs. It does not say that accuracy fell, and accuracy may fall without it.",
    "The stream is taken to come in recordings as large as the reference's. If many videos of the stream are of one "
    "recording, alarms are too frequent.",
    "The reference is the run's held-out clips, usually as many of each class. A stream with other frequencies of the "
    "classes has drifted in this sense.",
)


def build(results: Results) -> Document:
    """Builds the page."""
    blocks: list[Block] = [Paragraph(summarize(results)), *map(Paragraph, results.notes())]
    blocks += [*_batches(results), *_measures(results), *_tests(results), *_classes(results)]
    blocks += [Heading("How to read this"), Bullets(_HOW_TO_READ), Heading("Limits", 3), Bullets(_LIMITS)]
    return Document(f"Drift of a stream against {results.run}", blocks)


def write(folder: pathlib.Path, content: Document) -> None:
    """Writes the page as monitor.html, and as monitor.md with its pictures in figures/*.png.

    Raises:
      UserError: if a file cannot be written.
    """
    for path, data in document.to_files(content, NAME).items():
        with storage.atomic_write(folder / path) as file:
            file.write(data)


def summarize(results: Results) -> str:
    """Returns the finding for the whole stream as a sentence or two."""
    reference = (
        f"The reference: {len(results.reference.videos)} held-out videos of {results.num_recordings} recordings; "
        f"{results.design_effect:.1f} of them count as one."
    )
    if len(results.checks) == 1:
        [check] = results.checks
        return f"{check.num_videos} videos: {check.describe()}. {reference}"
    counts = {finding: sum(check.finding == finding for check in results.checks) for finding in Finding}
    parts = ", ".join(f"{finding} in {count}" for finding, count in counts.items() if count)
    return f"{len(results.checks)} batches: {parts}. {reference}"


def _batches(results: Results) -> Iterator[Block]:
    yield Heading("Findings")
    rows: list[list[str | Entry]] = [
        [
            batch.name,
            str(len(batch.videos)),
            str(batch.num_failed),
            Entry(check.describe(), _TONES[check.finding]),
        ]
        for batch, check in zip(results.batches, results.checks)
    ]
    caption = f"The probability of any alarm without drift is {results.level:g}."
    yield Table(caption, ("Batch", "Videos", "Not predicted", "Finding"), rows)


def _measures(results: Results) -> Iterator[Block]:
    yield Heading("Measures over the stream")
    charts = [
        diagrams.Chart(str(measure).replace("_", " "), "batch", _LABELS[measure], _curves(results, measure))
        for measure in NUMBERS
        if results.reference.videos.numbers(measure) is not None
    ]
    yield Figure(
        "measures",
        diagrams.draw_charts(charts),
        "Medians by batch. Bands hold the middle 80% of the videos, of the stream and of the reference.",
        "Confidence, brightness, motion energy and frame rate by batch, each beside the reference's band.",
        PRINT_DPI,
    )


def _curves(results: Results, measure: Measure) -> list[diagrams.Curve]:
    reference = _quantiles(results.reference.videos, measure)
    last = len(results.batches)
    found = [diagrams.Curve("reference", _REFERENCE_STYLE, (0, last + 1), *zip(reference, reference))]
    known = {
        float(place): batch.videos
        for place, batch in enumerate(results.batches, 1)
        if len(batch.videos) and batch.videos.numbers(measure) is not None
    }
    places, rows = list(known), [_quantiles(videos, measure) for videos in known.values()]
    if len(rows) == 1:  # a band needs two points
        places, rows = [places[0] - _HALF_WIDTH, places[0] + _HALF_WIDTH], 2 * rows
    if rows:
        found.append(diagrams.Curve("stream", _STREAM_STYLE, places, *zip(*rows)))
    return found


def _quantiles(videos: Videos, measure: Measure) -> tuple[float, float, float]:
    """Returns a measure's median and the ends of its band."""
    low, middle, high = np.quantile(videos.numbers(measure), (_BAND[0], 0.5, _BAND[1])).tolist()
    return middle, low, high


def _tests(results: Results) -> Iterator[Block]:
    yield Heading("Tests")
    rows: list[list[str | Entry]] = []
    for batch, check in zip(results.batches, results.checks):
        for test in check.tests:
            where = f" ({test.where})" if test.where else ""
            rows.append(
                [
                    batch.name,
                    str(test.measure) + where,
                    _STATISTICS[test.measure],
                    f"{test.statistic:.3f}",
                    f"{test.threshold:.3f}",
                    f"{test.p:.2g}",
                    Entry("alarm", "no") if test.is_alarm else Entry("–"),
                ]
            )
    levels = sorted({test.level for check in results.checks for test in check.tests})
    caption = f"An alarm is a p value of at most {' or '.join(f'{level:.2g}' for level in levels) or '–'}."
    yield Table(caption, ("Batch", "Measure", "Statistic", "Found", "Threshold", "p", "Alarm"), rows)


def _classes(results: Results) -> Iterator[Block]:
    yield Heading("Predicted classes")
    size = len(results.classes)
    stream = np.bincount(
        np.concatenate([batch.videos.predicted for batch in results.batches]), minlength=size
    )
    reference = np.bincount(results.reference.videos.predicted, minlength=size)
    before, after = reference / reference.sum(), stream / stream.sum()
    order = np.argsort(-np.abs(after - before), kind="stable")[:_NUM_CLASSES]
    rows = [
        [results.classes[i], f"{before[i]:.3f}", f"{after[i]:.3f}", f"{after[i] - before[i]:+.3f}"]
        for i in order
    ]
    caption = "Fractions of videos that are predicted as a class, for the classes with the largest changes."
    yield Table(caption, ("Class", "Reference", "Stream", "Change"), rows)
