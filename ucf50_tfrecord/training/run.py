"""Reads, checks and makes the folder of a run. A run is one training: its configuration and its results.

<run>/config.json        a RunConfig, by which the run is resumed and evaluated
<run>/checkpoints/       last/ and best/
<run>/tensorboard/       event files
<run>/summary.json       scores, written when training has finished
<run>/predictions.jsonl  the model's logits for each held-out clip
<run>/encoder.weights.h5 weights of the trained frame encoder, if the model takes an encoder; for
                         ModelSpec.encoder_weights of other runs
<run>/monitor_reference.json  measures of the held-out clips' frames, written by the first monitoring
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.architectures import MODELS, model_traits
from ucf50_tfrecord.choices import FoldBy, Precision
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.parsing import Count, Finite, Fraction, Name, Sha256
from ucf50_tfrecord.settings import Range, check_settings, setting
from ucf50_tfrecord.specs import (
    MAX_VIEWS,
    ClipFormat,
    FeatureFormat,
    ModelSpec,
    TrainSpec,
    format_folds,
    to_json,
)

CONFIG_FILENAME = "config.json"
SUMMARY_FILENAME = "summary.json"
PREDICTIONS_FILENAME = "predictions.jsonl"
ENCODER_FILENAME = "encoder.weights.h5"
# A video's duration in seconds, within the range of a record's microseconds.
_Secs = Annotated[float, msgspec.Meta(gt=0, le=1e13)]
_Best = Annotated[float, msgspec.Meta(ge=-1, le=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherRun:
    """A run that taught another one: what identifies it, wherever its folder is.

    name: the name of its folder.
    fingerprint: that of the shards that it was trained on.
    weights: hex sha256 of its weights.
    """

    name: Name
    fingerprint: Sha256
    weights: Sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings and data that decide a run's weights, and the folder of its shards. Precision is never AUTO.

    data_dir: the folder of the shards.
    fingerprint: the manifest's fingerprint of the shards' contents, which does not depend on their folder.
    classes: the names of the classes, in the order of the logits.
    train_folds, val_folds, test_folds: the folds to train, validate and test on.
    clip_split: a description of how the run divides the clips of these folds; "" if it divides them by fold.
    clip_format: the manifest's format of the clips. None in runs of earlier versions.
    features: the format of the clips' features, if the model is trained on features in place of frames.
    multi_label: whether clips have several labels: then each logit's sigmoid is a class's probability, and the softmax
      of all of them otherwise.
    video_secs: the median and the largest duration of the clips' videos. Prediction uses them to cut other
      videos into clips. None in runs of earlier versions, and if the shards are not local files.
    taught_by: the runs of train.teachers, in the same order.
    """

    data_dir: Name
    fingerprint: Sha256
    classes: tuple[Name, ...]
    train_folds: tuple[Count, ...]
    val_folds: tuple[Count, ...]
    test_folds: tuple[Count, ...]
    model: ModelSpec
    train: TrainSpec
    clip_split: str = ""
    clip_format: ClipFormat | None = None
    features: FeatureFormat | None = None
    multi_label: bool = parsing.optional(False)
    video_secs: tuple[_Secs, _Secs] | None = None
    taught_by: tuple[TeacherRun, ...] = parsing.optional(())

    def __post_init__(self):
        expect(
            len(set(self.classes)) == len(self.classes) == self.model.num_classes,
            f"distinct classes, as many as the model's {self.model.num_classes}",
            classes=len(self.classes),
            distinct=len(set(self.classes)),
        )
        for name in ("train_folds", "val_folds", "test_folds"):
            folds = getattr(self, name)
            expect(len(set(folds)) == len(folds), f"{name} without repeated folds", **{name: folds})
        if self.clip_format:
            model, stored = self.model, self.clip_format
            sizes = [(spec.num_frames, spec.height, spec.width) for spec in (model, stored)]
            expect(
                sizes[0][1:] == sizes[1][1:] and model.num_frames <= stored.num_frames,
                "a clip_format of the size of the model's clips, and of as many frames or more",
                model=sizes[0],
                clip_format=sizes[1],
            )
        shape = self.features.frame_shape if self.features else ()
        expect(
            self.model.feature_shape == shape,
            f"a model whose feature_shape is {shape}, as the stored features are",
            feature_shape=self.model.feature_shape,
        )
        if self.train.unfreeze_after_epoch:
            self._check_unfreezing()
        if self.train.has_pretext:
            self._check_pretext()
        expect(
            len(self.taught_by) == len(self.train.teacher_runs),
            "taught_by to describe each of the teachers",
            taught_by=len(self.taught_by),
            teachers=self.train.teachers,
        )
        if self.video_secs:
            expect(
                self.video_secs[0] <= self.video_secs[1],
                "video_secs to be the median and the largest duration",
                video_secs=self.video_secs,
            )

    def _check_unfreezing(self) -> None:
        """Raises UserError unless the model has a frozen encoder that can be unfrozen."""
        expect(
            not self.model.feature_shape,
            "no unfreeze_after_epoch for stored features: a model of features has no encoder to train",
            unfreeze_after_epoch=self.train.unfreeze_after_epoch,
        )
        expect(
            self.model.freeze_encoder,
            "freeze_encoder and encoder_weights with unfreeze_after_epoch",
            model=self.model.name,
            freeze_encoder=self.model.freeze_encoder,
            unfreeze_after_epoch=self.train.unfreeze_after_epoch,
        )

    def _check_pretext(self) -> None:
        """Raises UserError unless the model has a frame encoder that the pretext task can train."""
        names = tuple(name for name, traits in MODELS.items() if traits.learns_order_in_encoder)
        expect(
            not self.features,
            "frames for a pretext task, not stored features: it trains the encoder",
            pretext=self.train.pretext,
        )
        expect(
            model_traits(self.model.name).learns_order_in_encoder,
            f"a model out of {names} for a pretext task: one that sees the order of frames through its frame encoder",
            model=self.model.name,
            pretext=self.train.pretext,
        )
        expect(
            not self.model.freeze_encoder,
            "an encoder that is not frozen with a pretext task, which trains it",
            freeze_encoder=self.model.freeze_encoder,
            pretext=self.train.pretext,
        )
        expect(
            self.model.num_frames >= 2,
            "at least 2 frames per clip for a pretext task of their order",
            num_frames=self.model.num_frames,
            pretext=self.train.pretext,
        )

    @property
    def num_stored_frames(self) -> int:
        """Frames per clip of the run's dataset; the model may take fewer of them."""
        return (self.clip_format or self.model).num_frames

    @property
    def scored_folds(self) -> tuple[int, ...]:
        """The folds of the run's final scores: its test folds, or its validation folds if it has none."""
        return self.test_folds or self.val_folds


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options for logging, saving and scoring a run. No option changes the trained weights.

    profile_steps: the first and the last step to profile, counted from 1; None profiles nothing.
    """

    log_every_steps: int = setting(
        20, "Number of steps between two points of the training curves.", Range(1, math.inf)
    )
    steps_per_call: int = setting(
        0,
        "Largest number of training steps in one call from the host to the device. More steps cost the host less "
        "time if steps are short. 0: one step on frames; on features, all steps up to the next point of the curves.",
        Range(0, math.inf),
    )
    checkpoint_secs: float = setting(
        300.0, "Seconds between checkpoints within an epoch.", Range(0, math.inf)
    )
    test_views: int = setting(
        1,
        "Also score predictions that are averaged over this many views of each clip: stored views of features; frames at "
        "other places of their segments, with sample_frames; or the clip and its mirror image (2), with horizontal_flip. 1 "
        "is off.",
        Range(1, MAX_VIEWS),
    )
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self):
        check_settings(self)


# Fields that do not make a configuration another one: the folders of the shards and of teachers (see taught_by), and
# facts that follow from the shards' contents and so from the fingerprint.
_NOT_COMPARED = ("data_dir", "clip_format", "video_secs", "teachers")


def load_config(run_dir: str) -> RunConfig:
    """Reads a run's configuration from its folder.

    Raises:
      UserError: if the folder is not a run's.
    """
    path = pathlib.Path(run_dir, CONFIG_FILENAME)
    if not os.path.isfile(path):  # pathlib's is_file raises an OSError for names that are too long
        raise UserError(f"{run_dir} is not a run's folder: it holds no {CONFIG_FILENAME}")
    return parsing.read(path, RunConfig, "a run's configuration")


def load_classifier(run_dir: str) -> RunConfig:
    """Reads the configuration of a run whose model predicts its dataset's classes.

    Raises:
      UserError: as load_config, or if the run was trained on a pretext task.
    """
    config = load_config(run_dir)
    if config.train.has_pretext:
        raise UserError(
            f"{run_dir} was trained on the pretext task {config.train.pretext}, not on classes: it predicts none. Its "
            "encoder is for a training on classes to start with",
            Remedy(Action.SET, "there", encoder_weights=os.path.join(run_dir, ENCODER_FILENAME)),
        )
    return config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a model on some clips. Those with the default None are of clips with several labels alone.

    See evaluation.multi_label.scores for these, and for the others' meaning then.
    """

    accuracy: Fraction
    macro_f1: Fraction
    micro_f1: Fraction | None = parsing.optional(None)
    mean_average_precision: Fraction | None = parsing.optional(None)
    tuned_macro_f1: Fraction | None = parsing.optional(None)
    tuned_micro_f1: Fraction | None = parsing.optional(None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The best epoch by validation macro F1. If no epoch was evaluated, `macro_f1` is -1 and `epoch` is 0.

    With several labels per clip it is the best epoch by mean average precision, and macro_f1 is None.
    """

    macro_f1: _Best | None
    epoch: Count
    mean_average_precision: _Best | None = parsing.optional(None)

    @classmethod
    def of(cls, score: float, epoch: int, *, multi_label: bool) -> Best:
        """Returns the best epoch from the score that selected it."""
        if multi_label:
            return cls(macro_f1=None, mean_average_precision=score, epoch=epoch)
        return cls(macro_f1=score, epoch=epoch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Scores):
    """The contents of a finished run's summary.json.

    accuracy, macro_f1: the final scores, on the clips of `split`.
    split: the split of the final scores: "test" if the run has test folds, else "validation".
    shuffled: scores on the same clips, if the frames of each clip are shuffled.
    views: scores on the same clips, if predictions are averaged over several views of each clip, see dataset.views; None
      unless asked for.
    validation: validation scores, if `split` is "test".
    folds: the folds of the final scores.
    weights: the checkpoint that the final scores were computed with, "last" or "best".
    encoder_folds: the folds that the run trained on whose encoder's weights this run started with, or whose encoder its
      features were made with; None if the encoder is not out of a run's folder.
    clips_per_sec: training clips per second, in the process that trained last; None if no step was timed.
    wait_share: fraction of that process's training time that was spent waiting for input; None if no step was
      timed.
    num_skipped_clips: number of unreadable training clips that this process left out.
    environment: the tables of training.provenance.environment.
    teachers: the names of the folders of the runs that taught the model.

    Fields with a default may be missing in summaries of earlier versions.
    """

    split: Literal["validation", "test"] = "validation"
    shuffled: Scores
    views: Scores | None = None
    validation: Scores | None = None
    num_clips: Count
    folds: tuple[Count, ...]
    weights: Literal["last", "best"]
    train_folds: tuple[Count, ...] = ()
    encoder_folds: tuple[Count, ...] | None = parsing.optional(None)
    model: Name
    params: Count
    epochs: Count
    trained_epochs: Count
    seed: Count
    precision: Precision = Precision.AUTO
    best: Best
    clips_per_sec: Finite | None = None
    wait_share: Finite | None = None
    num_skipped_clips: Count | None = None
    num_train_clips: Count | None = None
    num_devices: Count | None = None
    num_workers: Count | None = None
    fold_by: FoldBy | None = None
    fingerprint: Sha256 | None = None
    data_dir: str | None = None
    environment: dict[str, dict[str, str | int | bool]] = dataclasses.field(default_factory=dict)
    teachers: tuple[Name, ...] = parsing.optional(())

    def __post_init__(self):
        model_traits(self.model)  # refuses unknown names


def load_summary(run_dir: str | os.PathLike) -> Summary:
    """Reads a finished run's summary.json.

    Raises:
      UserError: if the file does not exist, or holds something else.
    """
    return parsing.read(pathlib.Path(run_dir, SUMMARY_FILENAME), Summary, "a training's summary")


def evaluation_dir(
    run_dir: str, weights: str, folds: Sequence[int], *, kind: str = "evaluation"
) -> pathlib.Path:
    """Returns the folder for the results of evaluating a run again; it is inside the run's folder.

    Args:
      run_dir: the run's folder.
      weights: the checkpoint that is evaluated, "last" or "best".
      folds: the folds that the checkpoint is evaluated on.
      kind: first word of the folder's name, by the kind of the evaluation.
    """
    return pathlib.Path(run_dir, f"{kind}-{weights}-{format_folds(folds)}")


def hparams(config: RunConfig) -> dict[str, Any]:
    """Returns a run's row of TensorBoard's HParams table: a dictionary by flag, most informative first."""
    model, train = to_json(config.model), to_json(config.train)
    telling = {"model": model.pop("name")}
    telling |= {name: train.pop(name) for name in ("epochs", "learning_rate", "batch_size", "seed")}
    folds = {
        f"{name}_folds": format_folds(getattr(config, f"{name}_folds")) for name in ("train", "val", "test")
    }
    return (
        telling | train.pop("augment") | train | model | folds | {"data": pathlib.Path(config.data_dir).name}
    )


def describe_data(config: RunConfig, num_clips: Sequence[int]) -> dict[str, str]:
    """Returns the table that describes a run's clips: a dictionary of texts by name.

    Args:
      config: the run's configuration.
      num_clips: numbers of training clips, validation clips and, if there are any, test clips.
    """
    sets = {"train": config.train_folds, "validation": config.val_folds, "test": config.test_folds}
    return {
        "folder": config.data_dir,
        "fingerprint": config.fingerprint,
        "classes": f"{len(config.classes)}: {', '.join(config.classes)}",
    } | {
        f"{name} clips": f"{count}, folds {format_folds(folds)}"
        for (name, folds), count in zip(sets.items(), num_clips)
    }


def make_run_dir(data_dir: str, model: str) -> str:
    """Makes a folder for a new run, runs/<data>-<model>-<time>, and returns its path.

    A number is appended to the name if such a folder exists already.
    """
    name = f"{pathlib.Path(data_dir).name}-{model.replace(':', '.')}-{time.strftime('%Y%m%d-%H%M%S')}"
    storage.make_folder("runs")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        path = pathlib.Path("runs", name + suffix)
        with contextlib.suppress(FileExistsError):  # a run that started in the same second
            path.mkdir()
            return str(path)
    raise UserError(f"runs/{name} to {name}-999 exist already", Remedy(Action.SET, run_dir=...))


@contextlib.contextmanager
def open_run(run_dir: str, config: RunConfig) -> Iterator[None]:
    """Starts a run in a folder, or resumes the run there if its configuration is the same.

    Holds the folder's lock while the block runs.

    Raises:
      UserError: if the folder holds a run of another configuration or other files (see check_run), or if
        another process holds the folder's lock.
    """
    storage.make_folder(run_dir)
    with storage.folder_lock(run_dir):
        check_run(run_dir, config)
        path = pathlib.Path(run_dir, CONFIG_FILENAME)
        if path.is_file() and load_config(run_dir).train.epochs != config.train.epochs:
            for name in (SUMMARY_FILENAME, PREDICTIONS_FILENAME):  # results after fewer epochs
                pathlib.Path(run_dir, name).unlink(missing_ok=True)
        storage.write_json(path, to_json(config))
        yield


def check_run(run_dir: str, config: RunConfig) -> None:
    """Checks that a folder holds no run yet, or a run of the same configuration.

    The number of epochs may grow if the learning rate is constant. Everything else that decides the weights
    must be equal.

    Raises:
      UserError: if the folder holds a run of another configuration, or files that a new run must not replace.
    """
    if os.path.exists(run_dir) and not os.path.isdir(run_dir):
        raise UserError(f"Expected a folder for the run. Received: {run_dir}, which is a file")
    path = os.path.join(run_dir, CONFIG_FILENAME)
    if not os.path.isfile(path):
        _check_new(run_dir)
        return
    if storage.read_json(path) == to_json(config):  # the usual case, without the time to check each value
        return
    old, new = _flatten(load_config(run_dir)), _flatten(config)
    differing = [name for name in new if old[name] != new[name] and name not in _NOT_COMPARED]
    if differing == ["epochs"] and new["epochs"] > old["epochs"] and new["schedule"] == "constant":
        differing = []
    if differing:
        changes = "; ".join(
            f"{name} was {_describe(name, old[name])}, is {_describe(name, new[name])}" for name in differing
        )
        raise UserError(
            f"{run_dir} holds a run with another configuration: {changes}",
            Remedy(Action.SET, run_dir=Change.OTHER),
            Remedy(Action.SET, "in a comparison", output=Change.OTHER),
        )


def _check_new(run_dir: str) -> None:
    """Checks that a new run may be written into a folder that holds no config.json (a run's first file).

    Raises:
      UserError: if the folder holds a set of shards, a comparison, or files that a new run would replace.
    """
    written = {"checkpoints", "tensorboard", SUMMARY_FILENAME, PREDICTIONS_FILENAME, ENCODER_FILENAME}
    others = {"manifest.json", "cells", "results.json", storage.MARKER_FILENAME}
    found = sorted(storage.list_folder(run_dir) & (written | others)) if os.path.isdir(run_dir) else []
    if found:
        raise UserError(
            f"Expected a new or empty folder for the run, or a run's folder. Received: {run_dir}, which holds "
            f"{found[0]} but no {CONFIG_FILENAME}"
        )


def digest(config: RunConfig) -> int:
    """Returns a number below 2**48 that identifies a configuration.

    Equal configurations have equal numbers, even if their shards are in different folders.
    """
    value = {key: value for key, value in to_json(config).items() if key not in _NOT_COMPARED}
    return int(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12], 16)


def _describe(name: str, value: Any) -> str:
    """Formats one field of a configuration, as _flatten returns it, for a message to the user."""
    if name == "fingerprint":
        return f"{value[:16]}…"
    if name.endswith("_folds"):
        return format_folds(value) or "none"
    if name == "taught_by":
        teachers = [f"{teacher['name']} (weights {teacher['weights'][:16]}…)" for teacher in value]
        return ", ".join(teachers) or "none"
    if name == "classes":
        return f"{len(value)} ({', '.join(value[:3])}{', …' if len(value) > 3 else ''})"
    return repr(value)


def _flatten(config: RunConfig) -> dict[str, Any]:
    """Returns all settings of a run by name, also those that its JSON leaves out while they have their defaults."""
    value = dataclasses.asdict(config)
    model, train = value.pop("model"), value.pop("train")
    model["model"] = model.pop("name")
    return value | model | train.pop("augment") | train
