"""A model's card: what it was made of, what it scores, what it must not be used for, how to call it.

Source of the parts: Mitchell et al. 2019, "Model Cards for Model Reporting". Every number comes from
the run's files and its shards' manifest; what is not there is said to be missing.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.architectures import APPLICATIONS, THREE_BLOCK
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.dataset.perturb import FIRST_SHUFFLE
from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.drawing.document import Block, Bullets, Code, Heading, Paragraph, Table
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import statistics
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.inference import snippets
from ucf50_tfrecord.inference.snippets import FILENAMES
from ucf50_tfrecord.inference.sources import Sources
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.report.scores import TOP, format_estimate
from ucf50_tfrecord.specs import AugmentSpec, format_folds, to_json

CARD_FILENAME = "MODEL_CARD.md"
_FEW_CLIPS = 10  # of a class: its scores say little
_NUM_CONFUSED = 10
_LEAK = (
    "Clips of one recording can stand on both sides of this split, so the scores measure recognition of the "
    "recording too. They are higher than on new recordings; do not compare them with scores by group."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file or folder of an export. difference: the largest of its probabilities from the model's."""

    format: str
    num_bytes: int
    difference: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """How far the exported model's probabilities are from those that the run noted for the same clips.

    mean: over clips, of the largest difference in each. largest: of all. num_other: clips that get another class.
    """

    mean: float
    largest: float
    num_other: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, and how it was compared: on so many clips; `own` is None if they were random pixels."""

    files: tuple[ExportedFile, ...]
    tolerance: float
    num_clips: int
    own: Own | None


def write(path: pathlib.Path, sources: Sources, export: Export) -> None:
    """Writes the card as Markdown.

    Raises:
      UserError: if it cannot be written.
    """
    with storage.atomic_write(path) as file:
        file.write(document.to_markdown(build(sources, export)).encode())


def build(sources: Sources, export: Export) -> document.Document:
    """Returns the card of an exported run."""
    sections = (_summary, _data, _model, _training, _scores, _limits, _use)
    blocks = [block for section in sections for block in section(sources)]
    blocks += _files(sources, export)
    return document.Document(f"Model card: {sources.model} on {sources.results.name}", blocks)


def _summary(sources: Sources) -> Iterator[Block]:
    results, num_classes = sources.results, len(sources.config.classes)
    accuracy = format_estimate(sources.scores.accuracy(Condition(sources.model)))
    new = "" if sources.leaks else ", which training has not seen"
    yield Paragraph(
        f"Tells {num_classes} kinds of action in short video clips apart. Trained on "
        f"{_count(sources.summary.num_train_clips, 'clip')}; accuracy {accuracy} on "
        f"{_count(len(results.ids), 'clip')} of {_count_groups(results.groups)}{new}."
    )
    if sources.leaks:
        yield Paragraph(f"Warning: {_LEAK}")


def _data(sources: Sources) -> Iterator[Block]:
    config, summary, manifest = sources.config, sources.summary, sources.manifest
    yield Heading("Data")
    sets = {"training": config.train_folds, "validation": config.val_folds, "test": config.test_folds}
    rows = [("set", sources.results.name), ("classes", f"{len(config.classes)}: {', '.join(config.classes)}")]
    rows += [(f"{name} clips", _describe_set(sources, folds)) for name, folds in sets.items()]
    if sources.clip_format:
        rows.append(("stored clips", str(sources.clip_format)))
    if manifest:
        rows += [("videos", _describe_videos(manifest)), ("decoded by", manifest.decoder)]
    rows += [("split", _describe_split(sources)), ("fingerprint of the shards", config.fingerprint)]
    if summary.num_skipped_clips:
        rows.append(("training clips that could not be read", str(summary.num_skipped_clips)))
    yield Table("What the model was made from.", ("", ""), rows)
    if not manifest:
        yield Paragraph(
            f"The shards' manifest is missing ({sources.no_manifest}), and with it what it says of the data."
        )


def _describe_set(sources: Sources, folds: Sequence[int]) -> str:
    if not folds:
        return "none"
    where = f"folds {format_folds(folds)}"
    if set(folds) == set(sources.config.test_folds or sources.config.val_folds):  # those that are scored
        counts = f"{_count(len(sources.results.ids), 'clip')} of {_count_groups(sources.results.groups)}"
        return f"{counts}, {where}"
    if clips := _indexed(sources, folds):
        return f"{_count(len(clips), 'clip')} of {_count_groups(clips.groups)}, {where}"
    is_training = tuple(folds) == sources.config.train_folds
    count = _count(sources.summary.num_train_clips, "clip") if is_training else "unknown number of clips"
    return f"{count}, {where}; recording groups unknown, as the shards' sidecars are missing"


def _indexed(sources: Sources, folds: Sequence[int]) -> ClipIndex | None:
    """The clips of some folds, None if the shards' sidecars do not tell."""
    if sources.manifest is None:
        return None
    try:
        return load_clips(sources.manifest, folds, check_shards=False)
    except UserError:
        return None  # the card says so


def _describe_videos(manifest: Manifest) -> str:
    left_out = f"; {len(manifest.quarantined)} of them left out, as they could not be decoded"
    return f"{manifest.num_videos:,}{left_out if manifest.quarantined else ''}"


def _describe_split(sources: Sources) -> str:
    if sources.leaks:
        return "by video (leaks recordings): a video's fold is drawn from its name"
    if (sources.results.groups == record.UNKNOWN_GROUP).any():
        return "by group, where a video has one; else by video, which may leak recordings"
    return "by group: no recording stands on both sides of the split"


def _model(sources: Sources) -> Iterator[Block]:
    spec, config = sources.config.model, sources.config
    encoder = f"{spec.encoder} of keras.applications" if spec.encoder in APPLICATIONS else spec.encoder
    encoder = "the project's own" if spec.encoder == THREE_BLOCK else encoder
    weights = "from chance" if spec.encoder_weights == "none" else f"from {spec.encoder_weights}"
    yield Heading("Model")
    yield Table(
        "What is exported.",
        ("", ""),
        [
            ("architecture", spec.name),
            ("parameters", f"{sources.summary.params:,}"),
            (
                "frame encoder",
                f"{encoder}, started {weights}{' and kept so' if spec.freeze_encoder else ''}",
            ),
            ("input", f"uint8 RGB, {spec.num_frames} frames of {spec.height}x{spec.width} a clip"),
            ("frames' differences as input too", "yes" if spec.motion else "no"),
            ("output", f"one of {len(config.classes)} classes, a probability for each"),
            ("precision", f"trained in {config.train.precision}, exported in float32"),
        ],
    )


def _training(sources: Sources) -> Iterator[Block]:
    summary, train = sources.summary, to_json(sources.config.train)
    changes = {
        name: value for name, value in train.pop("augment").items() if value != getattr(AugmentSpec(), name)
    }
    weights = f"{sources.weights}, after {summary.trained_epochs} epochs"
    if sources.weights == "best":
        weights = f"best by validation macro F1, of epoch {summary.best.epoch} of {summary.trained_epochs}"
    rows = [
        ("weights", weights),
        ("augmentation", _listed(changes) or "none"),
        ("flags", _listed({name: value for name, value in train.items() if name != "precision"})),
        (
            "devices, workers",
            ", ".join(str(n or "unknown") for n in (summary.num_devices, summary.num_workers)),
        ),
    ]
    for name in ("versions", "devices", "code"):
        rows.append((name, _listed(summary.environment.get(name, {})) or "not recorded by this run"))
    yield Heading("Training")
    yield Table("How it was trained.", ("", ""), rows)


def _scores(sources: Sources) -> Iterator[Block]:
    scores, results = sources.scores, sources.results
    plain, shuffled = Condition(sources.model), Condition(sources.model, perturbation=FIRST_SHUFFLE)
    quality = scores.quality(plain)
    chance_accuracy, chance_f1 = scores.chance(plain)
    rows = [
        ("accuracy", format_estimate(scores.accuracy(plain))),
        ("macro F1", format_estimate(scores.macro_f1(plain))),
        (f"class among the {TOP} likeliest", format_estimate(top_accuracy(results, plain))),
        ("expected calibration error", f"{quality.calibration_error:.3f}"),
        ("accuracy, frames shuffled", format_estimate(scores.accuracy(shuffled))),
        ("macro F1, frames shuffled", format_estimate(scores.macro_f1(shuffled))),
        ("accuracy that shuffling costs", format_estimate(scores.change(plain, shuffled), sign=True)),
        ("accuracy of always naming the most frequent class", f"{chance_accuracy:.3f}"),
        ("macro F1 of the same", f"{chance_f1:.3f}"),
    ]
    kind = "test" if sources.is_tested else "validation"
    yield Heading("Scores")
    yield Table(
        f"On {_count(len(results.ids), 'clip')} of {_count_groups(results.groups)}, the {kind} folds "
        f"{format_folds(np.unique(results.folds).tolist())}; 95% intervals by resampling whole groups (videos "
        "that have none by themselves), too narrow where groups are few. The calibration error has none: resampling "
        "only makes it larger. – is not noted.",
        ("measure", "value"),
        rows,
    )
    if sources.is_selected:
        yield Paragraph("Warning: the weights were chosen by these very clips, which flatters the scores.")
    if by_video := scores.by_video(plain):
        count, accuracy, f1 = by_video
        yield Paragraph(
            f"By the mean of each video's clips: accuracy {format_estimate(accuracy)}, macro F1 {format_estimate(f1)} "
            f"on {count} videos."
        )
    yield _class_table(sources)
    yield from _confusion_table(sources)


def top_accuracy(results: Results, condition: Condition) -> statistics.Estimate | None:
    """How often the true class is among the likeliest; None with so few classes that it always is."""
    if len(results.classes) <= TOP:
        return None
    [logits] = results.logits(condition)
    true = np.take_along_axis(logits, results.labels[:, np.newaxis], axis=1)
    found = ((logits > true).sum(axis=1) < TOP).astype(float)
    return statistics.mean_interval(found, results.units)


def _class_table(sources: Sources) -> Block:
    precision, recall, f1 = sources.scores.class_scores(Condition(sources.model))  # each [C]
    counts = np.bincount(sources.results.labels, minlength=len(f1))
    order = np.argsort(-np.nan_to_num(f1, nan=-1), kind="stable")
    numbers = {i: [f"{x[i]:.3f}" if counts[i] else "–" for x in (f1, precision, recall)] for i in order}
    rows = [(sources.config.classes[i], *numbers[i], str(counts[i])) for i in order]
    return Table(
        "Each class, the best first; – has no clip here.",
        ("class", "F1", "precision", "recall", "clips"),
        rows,
    )


def _confusion_table(sources: Sources) -> Iterator[Block]:
    counts = sources.scores.confusion(sources.model)
    classes = sources.config.classes
    rows = [
        (classes[c.true], classes[c.taken_for], str(counts[c.true, c.taken_for]), f"{c.mean:.3f}")
        for c in sources.scores.most_confused(_NUM_CONFUSED)
    ]
    if rows:
        yield Table(
            "What is confused most, by the share of the true class's clips.",
            ("class", "taken for", "clips", "share"),
            rows,
        )


def _limits(sources: Sources) -> Iterator[Block]:
    results, spec = sources.results, sources.config.model
    counts = np.bincount(results.labels, minlength=len(results.classes))
    few = [f"{name} ({count})" for name, count in zip(results.classes, counts) if count < _FEW_CLIPS]
    cost = sources.scores.change(
        Condition(sources.model), Condition(sources.model, perturbation=FIRST_SHUFFLE)
    )
    items = [
        f"It was tested on {_count(len(results.ids), 'clip')} of {results.name}, and on nothing else: other cameras, "
        "places, people and ways to do an action were not tested.",
        "A video of none of the classes still gets one of them, often with a high probability.",
        f"It sees {spec.num_frames} frames, evenly spaced over a whole trimmed video, and nothing between them; "
        "longer videos, with several actions or none, were not tested.",
        "Probabilities are as the network gives them; how far they are off on average is the expected "
        "calibration error above.",
    ]
    if few:
        items.append(
            f"Classes with fewer than {_FEW_CLIPS} tested clips, of which little is known: {', '.join(few)}."
        )
    if cost is not None and not cost.low > 0:
        items.append(
            f"Shuffling the frames costs {format_estimate(cost, sign=True)} of the accuracy: nothing here shows that "
            "the model uses their order."
        )
    if sources.leaks:
        items.append(_LEAK)
    yield Heading("Limits")
    yield Bullets(items)


def _use(sources: Sources) -> Iterator[Block]:
    yield Heading("Responsible use")
    yield Bullets(
        [
            "Made for research and teaching on action recognition, and for sorting videos whose errors cost little.",
            "The videos show people. Do not use it to watch, identify or judge people, nor where an error harms "
            "someone; no test here supports that.",
            "It was not tested for whom it fails: age, skin, sex, body, clothes, disability, country. UCF50's videos "
            "come from YouTube: they show who was filmed and uploaded there, and how.",
            "The videos belong to their owners, and sets of them have terms of use, UCF50's too "
            "(https://www.crcv.ucf.edu/data/UCF50.php). Whether they allow what you do with a model made from "
            "them is yours to find out.",
        ]
    )


def _files(sources: Sources, export: Export) -> Iterator[Block]:
    yield Heading("Files, and how to call them")
    rows = [
        (FILENAMES[file.format], f"{file.num_bytes / 1e6:.1f}", f"{file.difference:.1g}")
        for file in export.files
    ]
    kind = "held-out clips" if export.own else "clips of random pixels, as the run's own were not there"
    yield Table(
        f"Each was read back and compared with the model on {export.num_clips} {kind}; probabilities may differ "
        f"by {export.tolerance:g}.",
        ("file", "MB", "largest difference"),
        rows,
    )
    if export.own:
        yield Paragraph(
            f"On the same clips the run itself, in {sources.config.train.precision}, noted probabilities that differ "
            f"by {export.own.largest:.1g} at most; {_count(export.own.num_other, 'clip')} of {export.num_clips} got "
            "another class."
        )
    yield Paragraph(_how_frames_are_made(sources))
    for file in export.files:
        yield Paragraph(snippets.MEANINGS[file.format])
        yield Code(snippets.snippet(file.format, sources.config.model))


def _how_frames_are_made(sources: Sources) -> str:
    spec, clip_format = sources.config.model, sources.clip_format
    how = "the way of spacing and resizing them is not known, as the shards' manifest is missing"
    if clip_format:
        spacing = {"index": "by their number", "time": "by the clock"}[clip_format.spacing]
        resize = {"stretch": "stretched to", "crop": "cropped to", "pad": "padded to"}[clip_format.resize]
        how = f"evenly spaced {spacing}, from the video's first to its last, {resize} the size"
        if (count := clip_format.clips_per_video) > 1:
            how += f"; {count * spec.num_frames} such frames of a video are dealt in turn to {count} clips"
    return (
        f"A clip is {spec.num_frames} RGB frames of {spec.height} rows and {spec.width} columns, uint8; {how}. Run "
        "these in this folder."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _count_groups(groups: np.ndarray) -> str:
    known = np.unique(groups[groups != record.UNKNOWN_GROUP])
    unknown = int((groups == record.UNKNOWN_GROUP).sum())
    if not len(known):
        return "unknown recording groups"
    rest = f" (and {_count(unknown, 'clip')} of none)" if unknown else ""
    return f"{_count(len(known), 'recording group')}{rest}"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
