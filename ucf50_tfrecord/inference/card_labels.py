"""The parts of a model card that differ for clips with several labels: scores, thresholds of classes, and limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ucf50_tfrecord.drawing.document import Block, Heading, Paragraph, Table
from ucf50_tfrecord.evaluation import multi_label
from ucf50_tfrecord.inference import label_scores
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.report.scores import format_estimate

LIMITS = (
    "A clip of none of the classes may still get some of them, often with a high probability, and a clip that shows a "
    "class may get none.",
    "A class that is not among a clip's labels counts as absent from it. Where labels are incomplete, the scores are too "
    "low, and the model has learned to leave such classes out.",
    "Probabilities are those of the network, without calibration.",
)


def score_table(run: FinishedRun, where: str) -> Block:
    """Returns the table of scores; `where` are sentences on the clips and the intervals."""
    scores = run.label_scores
    macro, micro = scores.f1
    tuned_macro, tuned_micro = scores.tuned_f1 or (None, None)
    shuffled = scores.shuffled.mean_average_precision if scores.shuffled else None
    rows = [
        ("mean average precision", format_estimate(scores.mean_average_precision)),
        ("macro F1 at 0.5", format_estimate(macro)),
        ("micro F1 at 0.5", format_estimate(micro)),
        ("macro F1 at thresholds of other recordings", format_estimate(tuned_macro)),
        ("micro F1 at thresholds of other recordings", format_estimate(tuned_micro)),
        ("clips with all classes right at 0.5", format_estimate(scores.accuracy)),
        ("mean average precision, frames shuffled", format_estimate(shuffled)),
        ("mean average precision that shuffling costs", format_estimate(scores.cost_of_shuffling, sign=True)),
        ("mean average precision of a random order of clips", f"{_chance(run):.3f}"),
    ]
    return Table(
        f"{where} Resamples without a class leave it out, which can move intervals where classes have few clips. Average "
        "precision is that of scikit-learn; means are over the classes that some clip here has. No clip is scored with "
        "a threshold that it, or another clip of its recording, was chosen on. – means not available.",
        ("measure", "value"),
        rows,
    )


def _chance(run: FinishedRun) -> float:
    """Returns the mean average precision that a random order of many clips has: the mean frequency of classes."""
    frequencies = run.label_scores.labels.mean(axis=0)
    return float(frequencies[frequencies > 0].mean())


def details(run: FinishedRun) -> Iterator[Block]:
    """Yields the scores by video and the table of classes."""
    videos = label_scores.of_videos(run.results, run.model)
    if videos:
        yield Paragraph(
            f"By the mean of each video's clips: mean average precision {format_estimate(videos.mean_average_precision)}, "
            f"macro F1 at 0.5 {format_estimate(videos.f1[0])} on {len(videos.labels)} videos."
        )
    yield _class_table(run)


def _class_table(run: FinishedRun) -> Block:
    assert run.thresholds is not None
    scores = run.label_scores
    precision = scores.class_precision
    columns = [precision, multi_label.class_f1(scores.labels, scores.decided)]
    tuned = scores.tuned
    columns.append(
        np.full(len(precision), np.nan) if tuned is None else multi_label.class_f1(scores.labels, tuned)
    )
    rows = []
    for i in np.argsort(-np.nan_to_num(precision, nan=-1), kind="stable"):
        average, fixed, other = ("–" if np.isnan(column[i]) else f"{column[i]:.3f}" for column in columns)
        count = str(int(scores.labels[:, i].sum()))
        threshold = f"{run.thresholds.values[i]:.3f}"
        rows.append((run.config.classes[i], average, fixed, threshold, other, count))
    return Table(
        "Each class, the highest average precision first; – means no clip here. A clip counts in each of its classes. "
        "The threshold is that of the files; the F1 behind it is at thresholds of other recordings, where there are any.",
        ("class", "average precision", "F1 at 0.5", "threshold", "F1 at thresholds", "clips"),
        rows,
    )


def section(run: FinishedRun) -> Iterator[Block]:
    """Yields the section about the thresholds from which on classes are predicted."""
    thresholds = run.thresholds
    assert thresholds is not None
    yield Heading("Which classes are predicted")
    yield Paragraph(
        "A class is predicted where its probability (the sigmoid of its logit) reaches its threshold, whatever the other "
        "classes' are: a clip may get several classes, or none. The files return this as the output predicted, "
        "model.keras the probabilities alone; export.json holds the thresholds. A file in 8 bits also compares in 8 "
        "bits: near a threshold, its output predicted may differ from its probabilities."
    )
    if thresholds.reason:
        yield Paragraph(f"All thresholds are {multi_label.THRESHOLD}: {thresholds.reason}.")
    else:
        yield Paragraph(
            f"The thresholds are those of the highest F1 of each class on {thresholds.num_clips} held-out clips of "
            f"{thresholds.num_groups} recording groups (or videos without one). Where a class has few clips, its "
            "threshold is uncertain. A class that all of these clips have, or none, keeps "
            f"{multi_label.THRESHOLD}."
        )
    yield Paragraph(
        "Calibration, and rules of when not to answer and of unknown classes, are defined for one label per clip only, so "
        "there are none."
    )
    if run.is_selected and not thresholds.reason:
        yield Paragraph(
            "Warning: the same clips have selected the weights, so the thresholds are probably worse on new videos than "
            "these scores say."
        )
    if run.leaks:
        yield Paragraph(
            "Warning: other clips of the same recordings may have been trained on, so the thresholds may not fit new "
            "recordings."
        )
