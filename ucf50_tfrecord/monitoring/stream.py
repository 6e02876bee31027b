"""Reads the predictions of a stream of videos, and divides the stream into batches.

A file of predictions may come from a stranger: it is parsed with types and bounds, and no path in it is opened.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from ucf50_tfrecord import parsing
from ucf50_tfrecord.choices import BatchBy
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.monitoring.spec import MonitorSpec
from ucf50_tfrecord.monitoring.videos import PICTURES, Videos
from ucf50_tfrecord.parsing import Count, Fraction, Name, Sha256
from ucf50_tfrecord.specs import WindowSpec
from ucf50_tfrecord.training.run import RunConfig

MAX_BATCHES = 100  # of one check: their number divides the alarm level
_MAX_VIDEOS, _MAX_CLASSES = 1_000_000, 100_000
_SUM_ERROR = 1e-6  # per class, as probabilities are rounded

_Probabilities = Annotated[tuple[Fraction, ...], msgspec.Meta(min_length=1, max_length=_MAX_CLASSES)]
_Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A video of a file of predictions, or a video that could not be predicted.

    probabilities: class probabilities; None if there is no prediction.
    error: why there is no prediction; empty if there is one.
    brightness, motion_energy, frame_rate, modified: as in inference.predict.Prediction; None if unknown, as in
      files of earlier versions.
    """

    path: Name
    probabilities: _Probabilities | None = None
    error: str = ""
    brightness: Fraction | None = None
    motion_energy: Fraction | None = None
    frame_rate: _Rate | None = None
    modified: _Time | None = None

    def __post_init__(self):
        expect(
            (self.probabilities is None) == bool(self.error),
            "either probabilities or an error",
            probabilities=self.probabilities is not None,
            error=bool(self.error),
        )
        if self.probabilities:
            total = sum(self.probabilities)
            allowed = _SUM_ERROR * (1 + len(self.probabilities))
            expect(abs(total - 1) <= allowed, "probabilities whose sum is 1", sum=total)


_Entries = Annotated[tuple[Entry, ...], msgspec.Meta(max_length=_MAX_VIDEOS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    fingerprint: Sha256
    model: Name
    seed: Count
    weights: Name


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Calibration:
    temperature: Annotated[float, msgspec.Meta(ge=1e-3, le=1e3)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """The part of predictions.json that monitoring reads."""

    run: _Run
    classes: tuple[Name, ...]
    windows: WindowSpec
    calibration: _Calibration
    videos: _Entries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """A part of a stream.

    name: name of the part.
    videos: its predicted videos.
    num_failed: number of its videos that could not be predicted.
    """

    name: str
    videos: Videos
    num_failed: int


def read(path: str | os.PathLike, config: RunConfig, weights: str, windows: WindowSpec) -> Predicted:
    """Reads a file of predictions of a run.

    Args:
      path: path of the file.
      config: the run's configuration.
      weights: checkpoint of the run, "last" or "best".
      windows: how prediction cuts videos of this run by default.

    Raises:
      UserError: if the file cannot be read, is no file of predictions, or its predictions are of another model
        or of other windows, so that they cannot be compared with the run's own.
    """
    found = parsing.read(path, Predicted, "a file of predictions", extra=True)
    known = _Run(
        fingerprint=config.fingerprint, model=config.model.name, seed=config.train.seed, weights=weights
    )
    expect(found.run == known, f"predictions by {known} in {path}", run=found.run)
    expect(
        found.classes == config.classes,
        f"the run's {len(config.classes)} classes in {path}",
        classes=len(found.classes),
    )
    expect(
        found.windows == windows,
        f"predictions of {windows} in {path}, as the run's own",
        windows=found.windows,
    )
    check_classes(found.videos, len(config.classes), str(path))
    return found


def convert(values: list[dict[str, Any]], num_classes: int) -> tuple[Entry, ...]:
    """Converts predictions, as Prediction.to_json returns them, to entries."""
    entries = parsing.convert(values, _Entries, "These are no predictions", extra=True)
    check_classes(entries, num_classes, "The predictions")
    return entries


def check_classes(entries: Sequence[Entry], num_classes: int, place: str) -> None:
    """Raises UserError unless each prediction has `num_classes` probabilities."""
    lengths = {len(entry.probabilities) for entry in entries if entry.probabilities is not None}
    expect(
        lengths <= {num_classes},
        f"{num_classes} probabilities per video in {place}",
        lengths=sorted(lengths)[:5],
    )


def gather(entries: Sequence[Entry], num_classes: int) -> Videos:
    """Returns the predicted videos of some entries; a measure that one of them lacks is unknown."""
    found = [entry for entry in entries if entry.probabilities is not None]
    columns: dict[str, np.ndarray | None] = {}
    for name in PICTURES:
        values = [getattr(entry, name) for entry in found]
        columns[name] = None if None in values else np.array(values, float)
    probabilities = np.array([entry.probabilities for entry in found], float).reshape(-1, num_classes)
    return Videos(probabilities=probabilities, **columns)


def divide(entries: Sequence[Entry], num_classes: int, spec: MonitorSpec) -> list[Batch]:
    """Divides a stream into batches.

    Args:
      entries: the videos of the stream, in its order.
      num_classes: number of classes, C.
      spec: how to divide it. Videos that could not be predicted count as videos of a batch.

    Raises:
      UserError: if there are more than MAX_BATCHES batches, or a video's day is unknown.
    """
    parts: dict[str, list[Entry]] = {}
    for number, entry in enumerate(entries):
        parts.setdefault(_batch_of(entry, number, spec), []).append(entry)
    expect(
        len(parts) <= MAX_BATCHES,
        f"at most {MAX_BATCHES} batches, as each of them may raise a false alarm",
        Remedy(Action.SET, "to check them as one", by=BatchBy.ALL),
        Remedy(Action.SET, batch_videos=Change.LARGER),
        batches=len(parts),
    )
    names = sorted(parts) if spec.by == BatchBy.DAY else list(parts)
    return [
        Batch(
            name=name,
            videos=gather(parts[name], num_classes),
            num_failed=sum(bool(entry.error) for entry in parts[name]),
        )
        for name in names
    ]


def _batch_of(entry: Entry, number: int, spec: MonitorSpec) -> str:
    if spec.by == BatchBy.ALL:
        return "all"
    if spec.by == BatchBy.BATCH:
        return f"batch {number // spec.batch_videos + 1}"
    if entry.modified is None:
        raise UserError(
            f"Expected the day of each video. Received: {entry.path}, whose day is unknown: predictions of earlier "
            "versions do not hold it",
            Remedy(Action.SET, "to divide the stream by number", by=BatchBy.BATCH),
        )
    return entry.modified.astimezone(datetime.UTC).date().isoformat()
