"""Finished runs, read from their files for an export: configuration, scores, predictions and manifest."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from ucf50_tfrecord import labels, parsing
from ucf50_tfrecord.choices import FoldBy
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.evaluation import result_files, runner
from ucf50_tfrecord.evaluation.results import Cell, CellResult, Results
from ucf50_tfrecord.inference import abstention, held_out, label_scores
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.calibration import Calibration
from ucf50_tfrecord.inference.held_out import Thresholds
from ucf50_tfrecord.inference.label_scores import LabelScores
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.report.scores import Scores
from ucf50_tfrecord.specs import ClipFormat
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig, Summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run's configuration, scores and predictions.

    run_dir: the run's folder.
    config: the run's configuration.
    weights: checkpoint to export, "last" or "best".
    summary: contents of the run's summary.json.
    predictions_path: file of the predictions of these weights for the held-out clips.
    results: these predictions, as the results of a comparison that has this training only.
    manifest: manifest of the run's shards; None if they are missing, damaged, or replaced by others.
    no_manifest: the reason if `manifest` is None; otherwise, empty.
    """

    run_dir: str
    config: RunConfig
    weights: str
    summary: Summary
    predictions_path: pathlib.Path
    results: Results
    manifest: Manifest | None
    no_manifest: str

    @functools.cached_property
    def scores(self) -> Scores:
        """The scores of the run's predictions for its held-out clips, if these have one label each."""
        return Scores(self.results)

    @functools.cached_property
    def label_scores(self) -> LabelScores:
        """The same scores if clips have several labels."""
        return label_scores.of_results(self.results, self.model)

    @functools.cached_property
    def thresholds(self) -> Thresholds | None:
        """From which probability on each class is predicted, if clips have several labels; otherwise, None."""
        if not self.config.multi_label:
            return None
        return held_out.load_thresholds(self.run_dir, self.config, self.weights)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the classes that are predicted from probabilities, float [N, C].

        Returns:
          The most probable classes, int64 [N]; with several labels per clip bool [N, C], those that reach their
          thresholds.
        """
        if self.thresholds is None:
            return probabilities.argmax(axis=1)
        return probabilities >= np.array(self.thresholds.values)

    @property
    def model(self) -> str:
        """The name of the run's model."""
        return self.config.model.name

    @property
    def clip_format(self) -> ClipFormat | None:
        """The format of the run's clips; None if a run of an earlier version has lost its shards."""
        return self.config.clip_format or (self.manifest.format if self.manifest else None)

    @property
    def is_tested(self) -> bool:
        """Whether the run's scores are on test folds; otherwise, they are on validation folds."""
        return bool(self.config.test_folds)

    @property
    def is_selected(self) -> bool:
        """Whether the weights were selected by their score on the very clips that the run's scores are on."""
        return trained.is_selected(self.config, self.weights)

    def load_clips(self, folds: Sequence[int]) -> tuple[ClipIndex | None, str]:
        """Loads the index of the clips of some folds.

        Returns:
          A tuple of the index and ""; or of None and the reason, if there is no manifest or a sidecar cannot be
          read.
        """
        if self.manifest is None:
            return None, "the shards' manifest is missing"
        try:
            return load_clips(self.manifest, folds, check_shards=False), ""
        except UserError as error:
            return None, str(error)

    @property
    def leaks(self) -> bool:
        """Whether clips of one recording can be both in training and among the held-out clips."""
        return self.summary.fold_by == FoldBy.VIDEO

    def rules(self, max_error: float | None) -> Rules:
        """Makes the rules of when an exported model abstains: for probabilities without a temperature.

        Args:
          max_error: the wanted largest fraction of wrong answers; see abstention.make_rules.

        Raises:
          UserError: if max_error is out of range, or clips have several labels.
        """
        purpose = f"max_error, which the export of {self.run_dir} is asked for"
        labels.expect_one(self.config.multi_label, purpose, self.config.data_dir)
        return abstention.make_rules(
            held_out.of_results(self.results, self.model),
            "",
            calibration=Calibration(reason="exported models compute probabilities without a temperature"),
            max_error=max_error,
            is_selected=self.is_selected,
        )


def load(run_dir: str, weights: str | None = None) -> FinishedRun:
    """Reads a finished run's configuration, scores and predictions.

    Args:
      run_dir: the run's folder.
      weights: checkpoint to export, "last" or "best"; None for the one that the run's own scores are of. The
        scores of the other one are read from the folder of a later evaluation of the run with these weights.

    Raises:
      UserError: if the folder holds no run, its training has not finished, or the weights have no scores.
    """
    config = run_lib.load_classifier(run_dir)
    summary_path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if pathlib.Path(run_dir, result_files.CELL_FILENAME).is_file():
        raise UserError(
            f"{run_dir} is one training of a comparison, whose scores are in its report: only a model that was trained "
            "by itself can be exported",
            Remedy(Action.TRAIN),
        )
    if not summary_path.is_file():
        raise UserError(
            f"{run_dir} holds no {run_lib.SUMMARY_FILENAME}, which a training writes when it has finished: a card "
            "would have no scores",
            Remedy(Action.TRAIN, "to finish it", run_dir=str(run_dir)),
        )
    summary = run_lib.load_summary(run_dir)
    missing = [name for name in ("fold_by", "num_train_clips") if getattr(summary, name) is None]
    if missing:
        raise UserError(f"{summary_path} is from an earlier version: it has no {', '.join(missing)}")
    weights = weights or trained.scored_weights(config)
    predictions_path = find_predictions(run_dir, config, summary, weights)
    manifest, why = trained.find_manifest(config)
    return FinishedRun(
        run_dir=run_dir,
        config=config,
        weights=weights,
        summary=summary,
        predictions_path=predictions_path,
        results=_load_results(predictions_path, config, manifest),
        manifest=manifest,
        no_manifest=why,
    )


def find_predictions(run_dir: str, config: RunConfig, summary: Summary, weights: str) -> pathlib.Path:
    """Finds the file of a checkpoint's predictions for a run's held-out clips.

    Args:
      run_dir: the run's folder.
      config, summary: the contents of its files.
      weights: the checkpoint, "last" or "best".

    Raises:
      UserError: if the run was not evaluated with these weights.
    """
    if weights == summary.weights:
        return pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME)
    folder = run_lib.evaluation_dir(run_dir, weights, config.scored_folds)
    path = folder / run_lib.SUMMARY_FILENAME
    found = _Evaluated()
    if path.is_file():
        found = parsing.read(path, _Evaluated, "an evaluation's summary", extra=True)
    if found.fingerprint != config.fingerprint:
        raise UserError(
            f"The scores in {run_dir} are those of its {summary.weights} weights. A card of the {weights} "
            "ones needs theirs, on the run's own shards",
            Remedy(Action.EVALUATE, run_dir=str(run_dir), weights=weights),
        )
    return folder / run_lib.PREDICTIONS_FILENAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """The fields that are read from the summary of a run's later evaluation."""

    fingerprint: str | None = None


def _load_results(path: pathlib.Path, config: RunConfig, manifest: Manifest | None) -> Results:
    """Loads a run's predictions from the file `path`, as results of a comparison that has this training only."""
    found = runner.load_predictions(path, len(config.classes), several_labels=config.multi_label)
    predictions = [p for p in found if p.intervention != runner.VIEWS]  # which comparisons do not test
    clips = {p.clip_id: (p.label, p.group, p.fold) for p in predictions}
    place = {clip_id: i for i, clip_id in enumerate(clips)}
    logits = {
        name: np.full((len(clips), len(config.classes)), np.nan, np.float32)
        for name in dict.fromkeys(p.intervention for p in predictions)
    }
    for p in predictions:
        logits[p.intervention][place[p.clip_id]] = p.logits
    classes, groups, folds = zip(*clips.values())
    cell = CellResult(
        cell=Cell(model=config.model.name, seed=config.train.seed),
        architecture=config.model.name,
        clips=np.arange(len(clips)),
        logits=logits,
        recurrence=None,
        run_dir="",
        precision=config.train.precision,
    )
    return Results(
        name=manifest.name if manifest else pathlib.Path(config.data_dir).name,
        classes=config.classes,
        num_frames=config.model.num_frames,
        ids=tuple(clips),
        labels=labels.to_array(classes, len(config.classes), multi_label=config.multi_label).astype(np.int64),
        groups=np.array(groups, np.int64),
        folds=np.array(folds, np.int64),
        cells=(cell,),
    )
