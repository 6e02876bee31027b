"""The model card of an exported run: data, model, training, scores, abstention, limits, responsible use, and files.

Source of the sections: Mitchell et al. 2019, "Model Cards for Model Reporting". Every number comes from
the run's files and the manifest of its shards. The card says so if any of these is missing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.architectures import APPLICATIONS, THREE_BLOCK
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.drawing.document import Block, Bullets, Heading, Paragraph, Table, counted
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.interventions import FIRST_SHUFFLE
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.inference import card_answers, card_files, card_header, card_labels, field_tests
from ucf50_tfrecord.inference.card_files import Export
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.labels import count_clips, of_row
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.report.scores import TOP, format_estimate
from ucf50_tfrecord.specs import AugmentSpec, format_folds, to_json

CARD_FILENAME = "MODEL_CARD.md"
_FEW_CLIPS = 10  # with fewer clips of a class, the card warns that the class's scores say little
_NUM_CONFUSED = 10
_LEAK = (
    "Clips of one recording can be on both sides of this split, so the scores measure recognition of the "
    "recording too. They are higher than on new recordings; do not compare them with scores by group."
)
_LIMITS = (
    "A video of none of the classes still gets one of them, often with a high probability.",
    "Probabilities are those of the network, without calibration; their average error is the expected calibration error "
    "above.",
)


def write(path: pathlib.Path, run: FinishedRun, export: Export, comparison: Results | None = None) -> None:
    """Writes an export's model card as Markdown; see `build`. Raises UserError if the file cannot be written."""
    with storage.atomic_write(path) as file:
        markdown = document.to_markdown(build(run, export, comparison))
        file.write(f"{card_header.header(run)}{markdown}".encode())


def build(run: FinishedRun, export: Export, comparison: Results | None = None) -> document.Document:
    """Builds the model card of an exported run, as a document.

    Args:
      run: the run.
      export: the files of the export.
      comparison: as in field_tests.section.

    Raises:
      UserError: as field_tests.section does.
    """
    answers = card_labels.section if run.config.multi_label else card_answers.section
    sections = (_summary, _data, _model, _training, _scores, answers, _limits)
    blocks = [block for section in sections for block in section(run)]
    blocks += field_tests.section(run, comparison)
    blocks += card_files.section(run, export)
    return document.Document(f"Model card: {run.model} on {run.results.name}", blocks)


def _summary(run: FinishedRun) -> Iterator[Block]:
    results, num_classes = run.results, len(run.config.classes)
    if run.config.multi_label:
        task = (
            f"Finds which of {num_classes} kinds of action a short video clip shows: one, several, or none."
        )
        score = f"mean average precision {format_estimate(run.label_scores.mean_average_precision)}"
    else:
        task = f"Distinguishes {num_classes} kinds of action in short video clips."
        score = f"accuracy {format_estimate(run.scores.accuracy(Condition(run.model)))}"
    new = "" if run.leaks else ", which training has not seen"
    yield Paragraph(
        f"{task} Trained on {counted(run.summary.num_train_clips, 'clip')}; {score} on "
        f"{counted(len(results.ids), 'clip')} of {_count_groups(results.groups)}{new}."
    )
    if run.leaks:
        yield Paragraph(f"Warning: {_LEAK}")


def _data(run: FinishedRun) -> Iterator[Block]:
    config, summary, manifest = run.config, run.summary, run.manifest
    yield Heading("Data")
    sets = {"training": config.train_folds, "validation": config.val_folds, "test": config.test_folds}
    rows = [("set", run.results.name), ("classes", f"{len(config.classes)}: {', '.join(config.classes)}")]
    rows += [(f"{name} clips", _describe_set(run, folds)) for name, folds in sets.items()]
    if run.clip_format:
        rows.append(("stored clips", str(run.clip_format)))
    if manifest:
        rows += [("videos", _describe_videos(manifest)), ("decoded by", manifest.decoder)]
    rows += [("split", _describe_split(run)), ("fingerprint of the shards", config.fingerprint)]
    if summary.num_skipped_clips:
        rows.append(("training clips that could not be read", str(summary.num_skipped_clips)))
    yield Table("The data of training and evaluation.", ("", ""), rows)
    if not manifest:
        yield Paragraph(
            f"The shards' manifest is missing ({run.no_manifest}), and with it a part of this table."
        )


def _describe_set(run: FinishedRun, folds: Sequence[int]) -> str:
    if not folds:
        return "none"
    where = f"folds {format_folds(folds)}"
    if set(folds) == set(run.config.scored_folds):
        counts = f"{counted(len(run.results.ids), 'clip')} of {_count_groups(run.results.groups)}"
        return f"{counts}, {where}"
    clips, why = run.load_clips(folds)
    if clips:
        return f"{counted(len(clips), 'clip')} of {_count_groups(clips.groups)}, {where}"
    is_training = tuple(folds) == run.config.train_folds
    count = counted(run.summary.num_train_clips, "clip") if is_training else "unknown number of clips"
    return f"{count}, {where}; recording groups unknown: {why}"


def _describe_videos(manifest: Manifest) -> str:
    left_out = f"; {len(manifest.quarantined)} of them are left out, because they could not be decoded"
    return f"{manifest.num_videos:,}{left_out if manifest.quarantined else ''}"


def _describe_split(run: FinishedRun) -> str:
    if run.leaks:
        return "by video (leaks recordings): a video's fold follows from its name"
    if (run.results.groups == record.UNKNOWN_GROUP).any():
        return "by group where a video has one; else by video, which may leak recordings"
    return "by group: no recording is on both sides of the split"


def _model(run: FinishedRun) -> Iterator[Block]:
    spec, config = run.config.model, run.config
    each = ", each by itself (sigmoid)" if config.multi_label else ""
    yield Heading("Model")
    yield Table(
        "The exported model.",
        ("", ""),
        [
            ("architecture", spec.name),
            ("parameters", f"{run.summary.params:,}"),
            ("frame encoder", _encoder(run)),
            ("input", f"uint8 RGB, {spec.num_frames} frames of {spec.height}x{spec.width} per clip"),
            ("differences of frames as input, too", "yes" if spec.motion else "no"),
            ("output", f"a probability for each of {len(config.classes)} classes{each}"),
            ("precision", f"trained in {config.train.precision}, exported in float32"),
        ],
    )


def _encoder(run: FinishedRun) -> str:
    """Describes the frame encoder and its weights, by what a training starts from."""
    spec, train = run.config.model, run.config.train
    if run.config.features:
        return f"frozen: the one of the stored features ({run.config.features})"
    encoder = f"{spec.encoder} of keras.applications" if spec.encoder in APPLICATIONS else spec.encoder
    encoder = "the project's own" if spec.encoder == THREE_BLOCK else encoder
    weights = "random initialization" if spec.encoder_weights == "none" else spec.encoder_weights
    if spec.freeze_encoder:
        epochs = train.unfreeze_after_epoch
        weights += f", frozen for the first {epochs} of {train.epochs} epochs" if epochs else ", frozen"
    return f"{encoder}; weights: {weights}"


def _training(run: FinishedRun) -> Iterator[Block]:
    summary, spec = run.summary, run.config.train
    train = to_json(spec)
    augment = train.pop("augment")
    for name in ("teachers", "distillation", "temperature"):  # in a row of their own, without the runs' paths
        train.pop(name, None)
    augmentation = {name: value for name, value in augment.items() if value != getattr(AugmentSpec, name)}
    weights = f"{run.weights}, after {summary.trained_epochs} epochs"
    if run.weights == "best":
        score = "mean average precision" if run.config.multi_label else "macro F1"
        weights = f"best by validation {score}, of epoch {summary.best.epoch} of {summary.trained_epochs}"
    rows = [
        ("weights", weights),
        ("augmentation", _listed(augmentation) or "none"),
        ("options", _listed({name: value for name, value in train.items() if name != "precision"})),
        (
            "devices, workers",
            ", ".join(str(n or "unknown") for n in (summary.num_devices, summary.num_workers)),
        ),
    ]
    if summary.teachers:
        setting = f"weight {spec.distillation:g} in the loss, temperature {spec.temperature:g}"
        rows.insert(1, ("taught by the runs", f"{', '.join(summary.teachers)}; {setting}"))
    for name in ("versions", "devices", "code"):
        rows.append((name, _listed(summary.environment.get(name, {})) or "not recorded by this run"))
    yield Heading("Training")
    yield Table("The training.", ("", ""), rows)


def _scores(run: FinishedRun) -> Iterator[Block]:
    several, results = run.config.multi_label, run.results
    kind = "test" if run.is_tested else "validation"
    where = (
        f"On {counted(len(results.ids), 'clip')} of {_count_groups(results.groups)}, the {kind} folds "
        f"{format_folds(np.unique(results.folds).tolist())}; 95% intervals by resampling whole groups (single "
        "videos where they have no group), too narrow where groups are few."
    )
    yield Heading("Scores")
    yield card_labels.score_table(run, where) if several else _score_table(run, where)
    if run.is_selected:
        yield Paragraph("Warning: the weights were selected by these very clips, so the scores are too high.")
    yield from card_labels.details(run) if several else _details(run)


def _score_table(run: FinishedRun, where: str) -> Block:
    """Returns the table of scores; `where` are sentences on the clips and the intervals."""
    scores = run.scores
    plain, shuffled = Condition(run.model), Condition(run.model, intervention=FIRST_SHUFFLE)
    quality = scores.quality(plain)
    chance_accuracy, chance_f1 = scores.chance(plain)
    rows = [
        ("accuracy", format_estimate(scores.accuracy(plain))),
        ("macro F1", format_estimate(scores.macro_f1(plain))),
        (f"class among the {TOP} most probable", format_estimate(top_accuracy(run.results, plain))),
        ("expected calibration error", f"{quality.calibration_error:.3f}"),
        ("accuracy, frames shuffled", format_estimate(scores.accuracy(shuffled))),
        ("macro F1, frames shuffled", format_estimate(scores.macro_f1(shuffled))),
        ("accuracy that shuffling costs", format_estimate(scores.change(plain, shuffled), sign=True)),
        ("accuracy of always predicting the most frequent class", f"{chance_accuracy:.3f}"),
        ("macro F1 of the same", f"{chance_f1:.3f}"),
    ]
    return Table(
        f"{where} The calibration error has no interval: resampling only makes it larger. – means not available.",
        ("measure", "value"),
        rows,
    )


def _details(run: FinishedRun) -> Iterator[Block]:
    """Yields the scores by video, the table of classes and the most confused ones."""
    if by_video := run.scores.by_video(Condition(run.model)):
        count, accuracy, f1 = by_video
        yield Paragraph(
            f"By the mean of each video's clips: accuracy {format_estimate(accuracy)}, macro F1 {format_estimate(f1)} "
            f"on {count} videos."
        )
    yield _class_table(run)
    yield from _confusion_table(run)


def top_accuracy(results: Results, condition: Condition) -> statistics.Estimate | None:
    """Computes the fraction of clips whose true class is among the TOP most probable ones, with its interval.

    Returns:
      The estimate; None if there are not more than TOP classes.
    """
    if len(results.classes) <= TOP:
        return None
    [logits] = results.logits(condition)
    true = np.take_along_axis(logits, results.labels[:, np.newaxis], axis=1)
    found = ((logits > true).sum(axis=1) < TOP).astype(float)
    return statistics.mean_interval(found, results.units)


def _class_table(run: FinishedRun) -> Block:
    precision, recall, f1 = run.scores.class_scores(Condition(run.model))  # each [C]
    counts = np.bincount(run.results.labels, minlength=len(f1))
    order = np.argsort(-np.nan_to_num(f1, nan=-1), kind="stable")
    numbers = {i: [f"{x[i]:.3f}" if counts[i] else "–" for x in (f1, precision, recall)] for i in order}
    rows = [(run.config.classes[i], *numbers[i], str(counts[i])) for i in order]
    return Table(
        "Each class, the best first; – means no clip here.",
        ("class", "F1", "precision", "recall", "clips"),
        rows,
    )


def _confusion_table(run: FinishedRun) -> Iterator[Block]:
    counts = run.scores.confusion(run.model)
    classes = run.config.classes
    rows = [
        (classes[c.true], classes[c.taken_for], str(counts[c.true, c.taken_for]), f"{c.mean:.3f}")
        for c in run.scores.most_confused(_NUM_CONFUSED)
    ]
    if rows:
        yield Table(
            "The most confused classes, by the fraction of the true class's clips.",
            ("class", "predicted as", "clips", "fraction"),
            rows,
        )


def _limits(run: FinishedRun) -> Iterator[Block]:
    results, spec, several = run.results, run.config.model, run.config.multi_label
    counts = count_clips(map(of_row, results.labels), len(results.classes))
    few = [f"{name} ({count})" for name, count in zip(results.classes, counts) if count < _FEW_CLIPS]
    cost = _cost_of_shuffling(run)
    limits, score = (card_labels.LIMITS, "mean average precision") if several else (_LIMITS, "accuracy")
    items = [
        f"The scores above are of {counted(len(results.ids), 'clip')} of {results.name}: other cameras, places, people "
        "and ways to do an action may give other scores.",
        limits[0],
        f"It sees {spec.num_frames} frames, evenly spaced over a whole trimmed video, and nothing between them; "
        "longer videos, with several actions or none, were not tested.",
        *limits[1:],
    ]
    if few:
        items.append(
            f"Classes with fewer than {_FEW_CLIPS} tested clips, about which little is known: {', '.join(few)}."
        )
    if cost is not None and not cost.low > 0:
        items.append(
            f"Shuffling the frames costs {format_estimate(cost, sign=True)} of the "
            f"{score}: nothing here shows that the model uses their order."
        )
    if run.leaks:
        items.append(_LEAK)
    yield Heading("Limits")
    yield Bullets(items)


def _cost_of_shuffling(run: FinishedRun) -> Estimate | None:
    """Returns the accuracy, or with several labels the mean average precision, that shuffling the frames costs."""
    if run.config.multi_label:
        return run.label_scores.cost_of_shuffling
    return run.scores.change(Condition(run.model), Condition(run.model, intervention=FIRST_SHUFFLE))


def _count_groups(groups: np.ndarray) -> str:
    known = np.unique(groups[groups != record.UNKNOWN_GROUP])
    unknown = int((groups == record.UNKNOWN_GROUP).sum())
    if not len(known):
        return "unknown recording groups"
    rest = f" (and {counted(unknown, 'clip')} without one)" if unknown else ""
    return f"{counted(len(known), 'recording group')}{rest}"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
