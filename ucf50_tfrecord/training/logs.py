"""Writes a run's TensorBoard files: curves, pictures, texts and the run's row in the HParams table.

The HParams table compares runs: it has a row per run, and a column per flag and per final score.

<run>/tensorboard/              the run's row in the HParams table
<run>/tensorboard/train/        curves, texts, sample clips, the profile
<run>/tensorboard/validation/   curves and pictures of the scores
<run>/tensorboard/test/         curves and pictures of the scores on test clips, if there are any
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from ucf50_tfrecord.drawing import class_scores
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.texts import tensorflow_reason
from ucf50_tfrecord.training import events

SPLITS = ("train", "validation", "test")
# The score columns of the HParams table, as (split, tag of the curve).
METRICS = (
    ("validation", "accuracy"),
    ("validation", "macro_f1"),
    ("test", "accuracy"),
    ("test", "macro_f1"),
)
# The same of clips with several labels.
MULTI_LABEL_METRICS = (*METRICS, ("validation", "mean_average_precision"), ("test", "mean_average_precision"))
# A fixed name, so that writing the row again replaces it.
_HPARAMS_FILENAME = "events.out.tfevents.0000000000.hparams"
_NUM_SHOWN = 5  # columns of the HParams table; the user has to tick the others to see them


class TensorBoardLog:
    """Writes a run's event files; the x axis of every curve is the training step.

    A split is "train", "validation" or "test". The event file of a split is made at the first write to the
    split. Only `flush` and `close` guarantee that events are on disk. All methods raise UserError if a file
    cannot be written, such as when the disk is full.

    writes: whether this log writes anything at all.
    """

    def __init__(self, run_dir: str, *, start_step: int | None = None, writes: bool = True):
        """Opens a run's log.

        Args:
          run_dir: the run's folder.
          start_step: the number of steps that are already done: 0, or the step of the checkpoint that
            training resumes from. Events of later steps are removed; a process that was interrupted after its
            last checkpoint left them. None removes no events.
          writes: whether to write anything. If several workers train together, it is True in one worker only.

        Raises:
          UserError: if an event file cannot be read or written.
        """
        self._folder = pathlib.Path(run_dir, "tensorboard")
        self._run_name = os.path.basename(os.path.abspath(run_dir))
        self._start_step = start_step or 0
        self.writes = writes
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        if start_step is not None and writes:
            for split in SPLITS:
                events.drop_later(self._folder / split, start_step)

    def drop_from(self, split: str, step: int) -> None:
        """Removes a split's events of `step` and of later steps, so that they can be written again.

        Call this method before anything else is written to the split.

        Raises:
          UserError: if an event file cannot be read or written.
        """
        expect(split not in self._writers, "a split that has not been written to", split=split)
        if self.writes:
            events.drop_later(self._folder / split, step - 1)

    def scalars(self, split: str, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve that `values` names. Waits for values that are tensors."""
        points = Summary()  # all points in one record: tf.summary.scalar takes 0.2 ms per point
        for name, value in values.items():
            points.MergeFrom(scalar_pb(_valid(name), float(value)))
        with self._writing(split, step):
            tf.summary.experimental.write_raw_pb(points.SerializeToString())

    def card(self, **sections: Mapping[str, object]) -> None:
        """Writes a text page that describes the run, with a two-column table for each section.

        A run that resumes gets another page, at the step that it resumes from, because flags, code and
        machine may have changed.

        Args:
          sections: the tables, by title. A table is a dictionary from name to value.
        """
        parts = [f"### {title.capitalize()}\n\n{_markdown(table)}" for title, table in sections.items()]
        self._text("run", "\n\n".join(parts))

    def hparams(self, values: Mapping[str, object], metrics: Sequence[tuple[str, str]] = METRICS) -> None:
        """Writes the run's row of the HParams table, which compares runs; an earlier row is replaced.

        TensorBoard takes the table's columns from the first run that it finds, so all runs need the same
        columns.

        Args:
          values: the row's values by flag. The most informative flags come first, because the table shows
            only the first five until the user chooses others. Values other than numbers, booleans and strings
            are shown as text.
          metrics: the score columns, as (split, tag of the curve). A column stays empty if the run never
            writes a point of that curve.

        Raises:
          UserError: if the row's file cannot be written.
        """
        if not self.writes:
            return
        row = {_valid(name): _hparam(value) for name, value in values.items()}
        columns = [
            hparams_api.Metric(tag=tag, group=split, display_name=f"{split} {tag}") for split, tag in metrics
        ]
        shown = list(row)[:_NUM_SHOWN]
        now = time.time()
        summaries = [
            hparams_api.hparams_config_pb([hparams_api.HParam(n, _Column(n in shown)) for n in row], columns),
            hparams_api.hparams_pb(row, trial_id=_valid(self._run_name), start_time_secs=now),
        ]
        header = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
        records = [header.SerializeToString()]
        for summary in summaries:
            event = tf.compat.v1.Event(wall_time=now, step=0)
            event.summary.ParseFromString(summary.SerializeToString())
            records.append(event.SerializeToString())
        events.write_records(self._folder / _HPARAMS_FILENAME, records)

    def clips(self, name: str, video: np.ndarray) -> None:
        """Writes a picture of clips, each as a strip of all its frames from left to right.

        Args:
          name: the picture's tag.
          video: the clips, uint8 [N, T, H, W, C]; neighbours of frames, beyond the first 3 of C, are not shown.
        """
        strips = [np.concatenate(list(frames[..., :3]), axis=1) for frames in video]
        self._picture("train", name, np.concatenate(strips, axis=0), self._start_step)

    def confusion(
        self, matrix: np.ndarray, classes: Sequence[str], step: int, *, split: str = "validation"
    ) -> None:
        """Writes a picture of a confusion matrix.

        Args:
          matrix: numbers of clips, int [C, C]; rows are true classes, columns are predicted classes.
          classes: the names of the C classes.
          step: the training step.
          split: the split of the clips.
        """
        self._picture(split, "confusion", class_scores.draw_confusion(matrix, classes), step)

    def class_f1(
        self, f1: np.ndarray, classes: Sequence[str], step: int, *, split: str = "validation"
    ) -> None:
        """Writes a picture of all classes' F1, sorted by F1, and a point of each class's curve.

        The curves are called per_class_f1/<class>. These names sort after the names of all other curves, so
        that TensorBoard shows these curves below the others.

        Args:
          f1: each class's F1, float [C]; NaN for a class without clips, whose curve gets no point.
          classes: the names of the C classes.
          step: the training step.
          split: the split of the clips.
        """
        expect(len(f1) == len(classes), "an F1 for each class", f1=len(f1), classes=len(classes))
        self._picture(split, "per_class_f1", class_scores.draw_class_f1(f1, classes), step)
        points = {
            f"per_class_f1/{name}": float(value) for name, value in zip(classes, f1) if not np.isnan(value)
        }
        self.scalars(split, points, step)

    def mistakes(
        self, video: np.ndarray, captions: Sequence[str], step: int, *, split: str = "validation"
    ) -> None:
        """Writes a picture of misclassified clips; it shows a caption and some frames of each clip.

        If no clip is misclassified, the picture says so. Without this picture, TensorBoard would show that of
        an earlier step as the latest.

        Args:
          video: the misclassified clips, uint8 [N, T, H, W, 3].
          captions: N texts, such as "v_Biking_g04_c02: true Biking, predicted Diving (0.93)".
          step: the training step.
          split: the split of the clips.
        """
        expect(
            len(video) == len(captions), "a caption for each clip", video=len(video), captions=len(captions)
        )
        self._picture(split, "mistakes", class_scores.draw_captioned_clips(video, captions), step)

    def evaluation(
        self, split: str, evaluation: Any, mistakes: tuple[np.ndarray, Sequence[str]] | None, step: int
    ) -> None:
        """Writes the pictures of an evaluation: confusion matrix, F1 of each class, and worst mistakes.

        With several labels per clip there is no confusion matrix.

        Args:
          split: the split of the evaluated clips.
          evaluation: an evaluation.runner.Evaluation.
          mistakes: a tuple of the worst misclassified clips, uint8 [N, T, H, W, 3], and their captions; None if
            there are no frames to show.
          step: the training step.
        """
        classes = evaluation.clips.manifest.classes
        if not evaluation.is_multi_label:
            self.confusion(evaluation.confusion, classes, step, split=split)
        self.class_f1(evaluation.class_f1, classes, step, split=split)
        if mistakes is not None:
            self.mistakes(*mistakes, step, split=split)

    def flush(self) -> None:
        """Waits until all events are in the event files."""
        with explain_unwritable(self._folder):
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Flushes and closes the event files; closing them again does nothing."""
        with explain_unwritable(self._folder):
            for writer in self._writers.values():
                writer.close()
        self._writers = {}

    @contextlib.contextmanager
    def _writing(self, split: str, step: int) -> Iterator[None]:
        # The no-op writer does not replace the caller's default writer, so record_if stops that one from writing.
        with (
            explain_unwritable(self._folder),
            tf.summary.record_if(self.writes),
            self._writer(split).as_default(step=step),
        ):
            yield

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        expect(split in SPLITS, f"a split that is one of {SPLITS}", split=split)
        if not self.writes:
            return tf.summary.create_noop_writer()
        if split not in self._writers:
            events.await_new_name(self._folder / split)
            self._writers[split] = tf.summary.create_file_writer(str(self._folder / split))
        return self._writers[split]

    def _text(self, name: str, markdown: str) -> None:
        with self._writing("train", self._start_step):
            tf.summary.text(_valid(name), markdown)

    def _picture(self, split: str, name: str, picture: np.ndarray, step: int) -> None:
        with self._writing(split, step):
            tf.summary.image(_valid(name), picture[np.newaxis])


def metrics_of(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Returns the score columns of the HParams table for runs on a dataset."""
    return MULTI_LABEL_METRICS if manifest.multi_label else METRICS


@contextlib.contextmanager
def explain_unwritable(folder: str | os.PathLike) -> Iterator[None]:
    """Raises a UserError if TensorFlow fails to write event files while the block runs.

    Args:
      folder: the folder of the event files, for the message.

    Raises:
      UserError: instead of TensorFlow's error.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(
            f"Cannot write TensorBoard's files in {folder}: {tensorflow_reason(error)}"
        ) from error


class _Column(hparams_api.Domain):
    """A column of the HParams table, without a list of its possible values.

    TensorBoard would take such a list from one run, use it as a filter, and hide runs with other values.
    """

    def __init__(self, shown: bool):
        self._shown = shown

    @property
    def dtype(self) -> type:
        return object

    def sample_uniform(self, rng: object = None) -> object:
        raise NotImplementedError("a column has no values to draw from")

    def update_hparam_info(self, hparam_info: api_pb2.HParamInfo) -> None:
        hparam_info.differs = self._shown  # columns that differ between runs come first


def _markdown(table: Mapping[str, object]) -> str:
    """Returns a table of names and values as Markdown, with Markdown's special characters shown literally."""
    rows = "".join(f"|{_code(name)}|{_code(value)}|\n" for name, value in table.items())
    return f"|name|value|\n|---|---|\n{rows}"


def _code(value: object) -> str:
    """Returns Markdown that shows a value literally, as code on one line."""
    text = _valid(" ".join(str(value).splitlines()))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in (text[:1], text[-1:]) else ""
    return f"{fence}{space}{text}{space}{fence}" if text.strip() else ""


def _hparam(value: object) -> bool | int | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (tuple, list)):
        value = ", ".join(map(str, value))
    return value if isinstance(value, (bool, int, float)) else _valid(str(value))


def _valid(text: str) -> str:
    """Escapes characters that a protocol buffer cannot hold, such as in folder names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
