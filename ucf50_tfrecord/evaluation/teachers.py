"""Teachers of a knowledge distillation: finished runs whose predictions a training is also trained towards.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015). Several teachers are an
ensemble: the mean of their probabilities is the target.

A teacher predicts each training clip once, as the clip is stored, before the training starts. Its probabilities come with
the batches. A teacher may read other clips of the same videos than its student, such as features or larger frames: its
own shards, whose clips have the same ids.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord import remote
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import pretrained
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.runner import Evaluation, Evaluator, Predictor
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import TrainSpec, format_folds
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig, TeacherRun

# A function of a teacher's name and the number of clips that it predicts. It returns a context manager that is open
# meanwhile. Entering it gives a function, which is called with the number of clips in each batch that is predicted.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]

_OTHER = Remedy(Action.SET, teachers=Change.OTHER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A finished run that teaches.

    identity: what identifies the run.
    model: its trained model.
    clips: index of the student's training clips, in the student's order, in the teacher's own shards; None if both
      read the same shards.
    """

    identity: TeacherRun
    model: keras.Model
    clips: ClipIndex | None


def load(
    run_dirs: Sequence[str],
    splits: Sequence[ClipIndex],
    inputs: InputSpec,
    *,
    strategy: tf.distribute.Strategy,
    allowed_code: Collection[str] = (),
) -> list[Teacher]:
    """Loads runs' models as teachers, after the checks that they can and may teach.

    Args:
      run_dirs: the runs' folders.
      splits: the student's training clips, validation clips and, if there are any, test clips.
      inputs: how clips are read.
      strategy: the devices that predict.
      allowed_code: as in trained.load_model.

    Raises:
      UserError: if a run is not finished, has other classes, has seen clips that the student holds out, or its shards
        are missing or lack a training clip. Also if its model cannot be loaded, or two runs have the same weights.
    """
    teachers: list[Teacher] = []
    for run_dir in run_dirs:
        config = run_lib.load_classifier(run_dir)
        _check_run(run_dir, config, splits[0].manifest)
        manifest = _find_manifest(run_dir, config, splits[0].manifest)
        trained.check_fits(manifest, config)
        _check_unseen(run_dir, config, manifest, splits)
        is_own = manifest is splits[0].manifest
        clips = None if is_own else _find_clips(run_dir, manifest, splits[0], inputs)
        weights = trained.scored_weights(config)
        model = trained.load_model(run_dir, config, weights, strategy=strategy, allowed_code=allowed_code)
        identity = TeacherRun(
            name=pathlib.Path(os.path.abspath(run_dir)).name,
            fingerprint=config.fingerprint,
            weights=trained.digest_weights(model),
        )
        same = [other.identity.name for other in teachers if other.identity.weights == identity.weights]
        expect(not same, "teachers of different weights", _OTHER, same_weights=[*same, identity.name])
        teachers.append(Teacher(identity=identity, model=model, clips=clips))
    return teachers


def teach(
    feed: Feed,
    teachers: Sequence[Teacher],
    train: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    predicting: Progress,
) -> Feed:
    """Returns a feed of the same training clips with the teachers' probabilities as soft targets.

    Args:
      feed: the student's feed of training clips.
      teachers: the teachers. If there are none, the feed is returned as it is.
      train: the settings of the student's training, such as the temperature of the probabilities.
      strategy: the devices that predict.
      predicting: called with the name of each teacher and the number of clips, see Progress.

    Raises:
      UserError: if a clip cannot be read, or a teacher predicts NaN or infinity.
    """
    if not teachers:
        return feed
    total = np.zeros((len(feed.clips), len(feed.clips.manifest.classes)))
    for teacher in teachers:
        with predicting(teacher.identity.name, len(feed.clips)) as on_clips:
            found = _predict(teacher, feed, train.batch_size, strategy, on_clips)
        logits = np.zeros_like(total)  # of clips that are skipped, which the training skips, too
        logits[np.isin(feed.clips.ids, found.clips.ids)] = found.logits
        total += special.softmax(logits / train.temperature, axis=1)
    return feed.with_soft_targets((total / len(teachers)).astype(np.float32))


def _predict(
    teacher: Teacher,
    feed: Feed,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    on_clips: Callable[[int], object],
) -> Evaluation:
    """Returns a teacher's predictions for the clips of the student's feed; arguments and errors as in teach."""
    own = feed if teacher.clips is None else Feed(teacher.clips, strategy=strategy)
    evaluate = Evaluator(Predictor(teacher.model, strategy), own, batch_size=batch_size, names=[PLAIN])
    left = len(feed.clips)

    def after_batch() -> bool:
        nonlocal left
        on_clips(min(batch_size, left))
        left -= batch_size
        return False  # do not stop

    return evaluate.evaluate_each([PLAIN], after_batch)[PLAIN]


def _check_run(run_dir: str, config: RunConfig, student: Manifest) -> None:
    """Raises UserError unless a run is finished, predicts the student's classes, and its training clips are known."""
    if not pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME).is_file():
        raise UserError(
            f"The teacher {run_dir} is not finished: it holds no {run_lib.SUMMARY_FILENAME}",
            Remedy(Action.TRAIN, "to finish it", run_dir=run_dir),
            _OTHER,
        )
    if config.multi_label or config.classes != student.classes:
        kind = "several labels per clip" if config.multi_label else f"{len(config.classes)} classes"
        raise UserError(
            f"The teacher {run_dir} predicts {kind} ({', '.join(config.classes[:3])}, …), but {student.data_dir} has one "
            f"label per clip out of {len(student.classes)} classes ({', '.join(student.classes[:3])}, …)",
            _OTHER,
        )
    expect(
        not config.clip_split,
        f"a teacher that is trained on all clips of its training folds in {run_dir}",
        _OTHER,
        clip_split=config.clip_split,
    )
    # Which clips those teachers have seen was checked for the folds of this run alone.
    expect(
        not config.taught_by,
        f"a teacher without teachers of its own in {run_dir}: they may have seen clips that this training holds out",
        _OTHER,
        teachers=[teacher.name for teacher in config.taught_by],
    )


def _find_manifest(run_dir: str, config: RunConfig, student: Manifest) -> Manifest:
    """Returns the manifest of a teacher's shards: `student` if these have the same contents as the student's.

    Raises:
      UserError: if the shards are missing, behind a URL, or have changed.
    """
    if config.fingerprint == student.fingerprint:
        return student
    manifest, why = None, f"{config.data_dir} is not a local folder"
    if not remote.is_remote(config.data_dir):  # a file must not make this process send requests
        manifest, why = trained.find_manifest(config)
    if manifest is None:
        raise UserError(f"The teacher {run_dir} cannot predict the training clips: {why}", _OTHER)
    return manifest


def _find_clips(run_dir: str, manifest: Manifest, training: ClipIndex, inputs: InputSpec) -> ClipIndex:
    """Returns an index of the training clips in a teacher's own shards, in the order of the student's.

    Raises:
      UserError: if a clip is missing, or has another class there.
    """
    clips = inputs.load_clips(manifest, manifest.folds)
    clips = clips.find(training.ids, f"all training clips, as it is the data of the teacher {run_dir}")
    other = np.flatnonzero(clips.labels != training.labels)
    expect(
        not len(other),
        f"the classes of all training clips in {manifest.data_dir}, the data of the teacher {run_dir}",
        **{training.ids[i]: manifest.classes[clips.labels[i]] for i in other[:1]},
    )
    return clips


def _check_unseen(run_dir: str, config: RunConfig, manifest: Manifest, splits: Sequence[ClipIndex]) -> None:
    """Raises UserError if a run has seen clips that the student holds out: the student's scores would be too high.

    A run with early stopping was selected by its scores on its validation clips, so they must not be among the clips of
    the student's final scores.
    """
    seen = [("trained on", config.train_folds, splits[1:])]
    if config.train.early_stopping:
        seen.append(("selected by its scores on", config.val_folds, splits[-1:]))
    for how, folds, held_out in seen:
        videos = pretrained.videos_of(load_clips(manifest, folds, check_shards=False))
        if leaked := pretrained.find_clips(held_out, videos):
            raise UserError(
                f"The teacher {run_dir} was {how} clips of folds {format_folds(leaked)}, such as "
                f"{min(leaked.values())}, which this training holds out: its scores would be too high",
                *_remedies(config, manifest, splits),
            )


def _remedies(config: RunConfig, manifest: Manifest, splits: Sequence[ClipIndex]) -> list[Remedy]:
    """Returns the ways out of a leak: other folds, if possible those that the teacher held out, or another teacher."""
    if manifest is not splits[0].manifest:  # whose folds may be others
        return [Remedy(Action.SET, val_folds=Change.OTHER), _OTHER]
    folds = {"val_folds": config.val_folds, "test_folds": config.test_folds}
    same = {name: format_folds(part) for name, part in folds.items() if part}
    return [Remedy(Action.SET, "to hold out the clips that the teacher held out", **same), _OTHER]
