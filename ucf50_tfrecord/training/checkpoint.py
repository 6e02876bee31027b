"""Saves and restores a training's checkpoints, which hold the weights, the optimizer and the step.

A checkpoint holds no random state: all random numbers and the clips' order follow from the seed and the step.
"""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Callable

import keras
import tensorflow as tf

from ucf50_tfrecord.errors import Action, Change, Remedy, UserError
from ucf50_tfrecord.texts import tensorflow_reason
from ucf50_tfrecord.training.optimizer import WeightAverages

# TensorFlow's errors for a checkpoint that is truncated, garbled or from another model.
_DAMAGE = (AssertionError, IndexError, ValueError, tf.errors.OpError)


class Checkpoints:
    """The checkpoints of a run: the last two, and the weights with the best validation macro F1.

    No checkpoint is overwritten: each new one gets the next number. Older checkpoints are deleted once the
    new one is complete. TensorFlow verifies a checkpoint's checksums when it reads the checkpoint.

    All workers (processes that train together) restore checkpoints, but only one worker writes them. That
    worker need not wait for the others, because reading a Keras variable does not combine values of several
    replicas.

    step: int64 variable, the number of finished training steps.
    evaluated_epochs: int64 variable, the number of the last evaluated epoch; 0 before the first evaluation.
    best_score: float32 variable, the best validation macro F1 (with several labels per clip, mean average precision); -1
      before the first evaluation. Files call it best_macro_f1.
    best_epoch: int64 variable, the epoch of best_score; 0 before the first evaluation.
    """

    def __init__(
        self,
        run_dir: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        averages: WeightAverages | None = None,
        *,
        writes: bool = True,
    ):
        """Makes the variables of the checkpoints.

        Args:
          run_dir: the run's folder.
          model: the model that is trained.
          optimizer: the model's optimizer.
          averages: the moving average of the model's weights, or None.
          writes: whether this process writes checkpoints; if False, it only restores them.
        """
        self._writes = writes
        self.step, self.evaluated_epochs, self.best_epoch = (
            tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
            for name in ("step", "evaluated_epochs", "best_epoch")
        )
        self.best_score = tf.Variable(-1.0, trainable=False, name="best_macro_f1")
        self._state = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            step=self.step,
            evaluated_epochs=self.evaluated_epochs,
            best_macro_f1=self.best_score,
            best_epoch=self.best_epoch,
            **_tracked(averages),
        )
        self._best = tf.train.Checkpoint(model=model)
        self._folder = pathlib.Path(run_dir, "checkpoints")

    def restore_last(self, warn: Callable[[str], None] = lambda text: None) -> bool:
        """Restores the newest undamaged checkpoint. If this process writes, it deletes newer damaged ones.

        Args:
          warn: called with one sentence for each damaged checkpoint that is newer than the restored one.

        Returns:
          True if a checkpoint was restored, False if the run has none yet.

        Raises:
          UserError: if the run has checkpoints, but each is damaged or from another model.
        """
        damaged = {}
        for path in find(self._folder / "last"):
            try:
                self._state.read(path).assert_consumed()
            except _DAMAGE as error:
                damaged[path] = f"Cannot restore the checkpoint {path}: {tensorflow_reason(error)}"
                continue
            for bad, text in damaged.items():
                warn(f"{text}. Training uses the previous one, of step {self.step.numpy()}.")
                if self._writes:
                    _remove(pathlib.Path(bad).parent, lambda name: name == pathlib.Path(bad).name)
            return True
        if damaged:
            raise UserError(
                f"{next(iter(damaged.values()))}. None before it is sound",
                Remedy(Action.SET, run_dir=Change.OTHER),
            )
        return False

    def save_last(self) -> None:
        if self._writes:
            _write(self._state, self._folder / "last", num_kept=2)

    def save_best(self, score: float, epoch: int) -> None:
        """Saves the model's weights if `score`, their validation score, is the best so far."""
        if score > self.best_score.numpy():
            self.best_score.assign(score)
            self.best_epoch.assign(epoch)
            if self._writes:
                _write(self._best, self._folder / "best", num_kept=1)


def find(folder: pathlib.Path) -> list[str]:
    """Lists a folder's checkpoints, newest first, as path prefixes for tf.train.load_checkpoint."""
    found = [re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index")]
    numbers = sorted((int(match[1]) for match in found if match), reverse=True)
    return [str(folder / f"ckpt-{number}") for number in numbers]


def check(path: str) -> None:
    """Reads a whole checkpoint, so that TensorFlow verifies its checksums.

    Args:
      path: the checkpoint's path prefix, as `find` lists it.

    Raises:
      UserError: if the checkpoint is damaged.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _DAMAGE as error:
        raise UserError(f"The checkpoint {path} is damaged: {tensorflow_reason(error)}") from error


def _write(checkpoint: tf.train.Checkpoint, folder: pathlib.Path, *, num_kept: int) -> None:
    """Writes a folder's next checkpoint, and deletes old checkpoints.

    Keeps the newest `num_kept` checkpoints. Also deletes the files of unfinished checkpoints.

    Raises:
      UserError: if the checkpoint cannot be written.
    """
    before = find(folder)
    number = 1 + (int(before[0].rsplit("-", 1)[1]) if before else 0)
    try:
        checkpoint.write(str(folder / f"ckpt-{number}"))
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"Cannot write a checkpoint into {folder}: {tensorflow_reason(error)}") from error
    kept = {pathlib.Path(path).name for path in find(folder)[:num_kept]}
    _remove(folder, lambda name: name not in kept)


def _remove(folder: pathlib.Path, chosen: Callable[[str], bool]) -> None:
    """Deletes all files of each checkpoint for which chosen(name) returns True; a name is, for example, ckpt-7.

    Index files are deleted before data files, because files without an index file are not taken for a
    checkpoint.
    """
    for path in sorted(folder.glob("ckpt-*"), key=lambda path: path.suffix != ".index"):
        match = re.fullmatch(r"(ckpt-[0-9]+)([._].*)?", path.name)
        if match and chosen(match[1]):
            if path.is_dir():  # left by TensorFlow when it was killed
                shutil.rmtree(path)
            else:
                path.unlink()


def load_weights(run_dir: str, which: str, model: keras.Model, *, averaged: bool = False) -> None:
    """Loads a run's weights into a model; loads their moving averages instead if the run keeps averages.

    Args:
      run_dir: the run's folder.
      which: the checkpoint: "last", or "best" for the epoch with the best validation macro F1.
      model: the model that receives the weights; it must have the architecture of the run's model.
      averaged: whether the run kept a moving average of its weights (TrainSpec.ema).

    Raises:
      UserError: if the run has no undamaged checkpoint `which`, or the checkpoint does not fit the model.
    """
    folder = pathlib.Path(run_dir, "checkpoints", which)
    # The best checkpoint holds the averaged weights themselves.
    averages = WeightAverages(model, 0.0) if averaged and which == "last" else None
    errors = []
    for path in find(folder):
        try:
            status = tf.train.Checkpoint(model=model, **_tracked(averages)).read(path)
            status.assert_existing_objects_matched().expect_partial()
        except _DAMAGE as error:
            errors.append(f"Cannot restore the checkpoint {path}: {tensorflow_reason(error)}")
            continue
        if averages is not None:
            averages.apply()
        return
    if errors:
        raise UserError(errors[0])
    raise UserError(f"{folder} holds no checkpoint: the run has not finished an epoch yet")


def _tracked(averages: WeightAverages | None) -> dict[str, WeightAverages]:
    return {} if averages is None else {"averages": averages}
