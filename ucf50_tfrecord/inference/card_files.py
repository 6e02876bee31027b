"""The part of a model card about the exported files: their differences from the model, and how to call them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ucf50_tfrecord.dataset import segments
from ucf50_tfrecord.drawing.document import Block, Code, Heading, Paragraph, Table, counted
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.inference.formats import FORMATS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A model's file or folder in an export.

    format: name of the export format, a key of formats.FORMATS.
    num_bytes: size of the file, or of all files in the folder.
    difference: largest difference between the file's probabilities and those of the run's model.
    num_other: number of the compared clips for which the file's most probable class is not the model's; with several
      labels per clip, for which the file does not predict the same classes.
    millis: median time to compute one clip, in milliseconds, with a thread per core.
    one_thread_millis: the same with one thread, or None if it was not measured.
    """

    format: str
    num_bytes: int
    difference: float
    num_other: int
    millis: float
    one_thread_millis: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunDifference:
    """Differences between the exported model's probabilities and those the run stored for the same clips.

    mean: mean over clips of each clip's largest difference.
    largest: largest difference of all.
    num_other: number of clips for which the most probable class differs; with several labels per clip, for which the
      predicted classes are not the same.
    """

    mean: float
    largest: float
    num_other: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """The files of an export, and how much they differ from the run's model.

    files: the exported files.
    num_clips: number of clips that the files were compared on.
    num_representative: number of other clips on which tflite_int8 measured the ranges of values; 0 without it.
    num_cores: number of CPU cores of the machine on which the files were timed.
    own: differences from the predictions that the run stored for these clips; None if the clips were random
      pixels.
    """

    files: tuple[ExportedFile, ...]
    num_clips: int
    num_representative: int
    num_cores: int
    own: RunDifference | None


def section(run: FinishedRun, export: Export) -> Iterator[Block]:
    """Yields the section about the files of an export."""
    yield Heading("Files, and how to call them")
    several = run.config.multi_label
    kind = "held-out clips" if export.own else "clips of random pixels, as the run's own were missing"
    other = "other classes" if several else "another class"
    agreement = (
        " Clips with other classes are those for which not all predicted classes are the same."
        if several
        else ""
    )
    yield Table(
        f"Each was read back and compared with the model on {export.num_clips} {kind}. Times are medians for one clip "
        f"on the {export.num_cores} CPU cores of the machine that exported.{agreement}",
        (
            "file",
            "MB",
            "largest difference of a probability",
            "allowed",
            other,
            "ms",
            "ms, one thread",
        ),
        [_row(file) for file in export.files],
    )
    if export.num_representative:
        yield Paragraph(
            f"The ranges of values in {FORMATS['tflite_int8'].filename} are those of {export.num_representative} other "
            "held-out clips, of other recording groups than the compared ones."
        )
    if export.own:
        yield Paragraph(
            f"The run itself, in {run.config.train.precision}, stored probabilities for the same clips; they differ "
            f"by {export.own.largest:.1g} at most, and {counted(export.own.num_other, 'clip')} of {export.num_clips} "
            f"got {other}."
        )
    yield Paragraph(_how_frames_are_made(run))
    for file in export.files:
        written = FORMATS[file.format]
        yield Paragraph((several and written.label_meaning) or written.meaning)
        yield Code(written.snippet(run.config.model, several_labels=several))


def _row(file: ExportedFile) -> tuple[str, ...]:
    kind = FORMATS[file.format]
    return (
        kind.filename,
        f"{file.num_bytes / 1e6:.1f}",
        f"{file.difference:.1g}",
        "any" if kind.tolerance is None else f"{kind.tolerance:g}",
        str(file.num_other),
        f"{file.millis:.3g}",
        "–" if file.one_thread_millis is None else f"{file.one_thread_millis:.3g}",
    )


def _how_frames_are_made(run: FinishedRun) -> str:
    spec, clip_format = run.config.model, run.clip_format
    how = "their spacing and resizing is unknown, as the shards' manifest is missing"
    if clip_format:
        spacing = {"index": "by their number", "time": "by time"}[clip_format.spacing]
        resize = {"stretch": "stretched to", "crop": "cropped to", "pad": "padded to"}[clip_format.resize]
        how = f"evenly spaced {spacing}, from the video's first to its last, {resize} the size"
        if (count := clip_format.clips_per_video) > 1:
            how += f"; {count * clip_format.num_frames} such frames of a video are assigned in turn to {count} clips"
        if (stored := clip_format.num_frames) > spec.num_frames:
            numbers = ", ".join(map(str, segments.middles(stored, spec.num_frames).tolist()))
            how += f"; of {stored} such frames per clip, the model takes these, counted from 0: {numbers}"
    return (
        f"A clip is {spec.num_frames} RGB frames of {spec.height} rows and {spec.width} columns, uint8; {how}. Run "
        "these in this folder."
    )
