"""Checkpoints: weights, optimizer and step. All random numbers and the clips' order follow from the step."""

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

# TensorFlow's errors for a checkpoint that is truncated, garbled or of another model.
_DAMAGE = (AssertionError, IndexError, ValueError, tf.errors.OpError)


class Checkpoints:
    """The checkpoints of a run: the last two, and the best by validation macro F1.

    No checkpoint is overwritten: each gets the next number, and older ones are deleted once it is complete.
    TensorFlow compares checksums when it reads one.

    All workers restore, one writes. It needs no other for that: reading a Keras variable combines nothing from the
    replicas.

    step: int64 variable, number of finished training steps.
    evaluated_epochs: int64 variable, number of epochs up to the last evaluation.
    best_macro_f1, best_epoch: variables, of the best weights.
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
        """Makes the variables. `writes` tells whether this process saves."""
        self._writes = writes
        self.step, self.evaluated_epochs, self.best_epoch = (
            tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
            for name in ("step", "evaluated_epochs", "best_epoch")
        )
        self.best_macro_f1 = tf.Variable(-1.0, trainable=False, name="best_macro_f1")
        self._state = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            step=self.step,
            evaluated_epochs=self.evaluated_epochs,
            best_macro_f1=self.best_macro_f1,
            best_epoch=self.best_epoch,
            **_tracked(averages),
        )
        self._best = tf.train.Checkpoint(model=model)
        self._folder = pathlib.Path(run_dir, "checkpoints")

    def restore_last(self, warn: Callable[[str], None] = lambda text: None) -> bool:
        """Restores the newest sound checkpoint and removes damaged ones after it; returns False if there is none yet.

        Args:
          warn: receives a sentence for each damaged checkpoint.

        Raises:
          UserError: if there are checkpoints, but all are damaged or of another model.
        """
        damaged = {}
        for path in find(self._folder / "last"):
            try:
                self._state.read(path).assert_consumed()
            except _DAMAGE as error:
                damaged[path] = f"Cannot restore the checkpoint {path}: {tensorflow_reason(error)}"
                continue
            for bad, text in damaged.items():
                warn(f"{text}. The one before it is taken, of step {self.step.numpy()}.")
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

    def save_best(self, macro_f1: float, epoch: int) -> None:
        """Saves the weights if their validation macro F1 is the best so far."""
        if macro_f1 > self.best_macro_f1.numpy():
            self.best_macro_f1.assign(macro_f1)
            self.best_epoch.assign(epoch)
            if self._writes:
                _write(self._best, self._folder / "best", num_kept=1)


def find(folder: pathlib.Path) -> list[str]:
    """Lists the checkpoints in a folder, the newest first, as tf.train.load_checkpoint takes them."""
    found = [re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index")]
    numbers = sorted((int(match[1]) for match in found if match), reverse=True)
    return [str(folder / f"ckpt-{number}") for number in numbers]


def check(path: str) -> None:
    """Reads a whole checkpoint, which compares its checksums.

    Args:
      path: as `find` lists it.

    Raises:
      UserError: if it is damaged.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except _DAMAGE as error:
        raise UserError(f"The checkpoint {path} is damaged: {tensorflow_reason(error)}") from error


def _write(checkpoint: tf.train.Checkpoint, folder: pathlib.Path, *, num_kept: int) -> None:
    """Writes the next checkpoint; removes the oldest and the remains of unfinished ones.

    Raises:
      UserError: if it cannot be written.
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
    """Removes all files of the checkpoints whose names, such as ckpt-7, are chosen; each index before its data."""
    for path in sorted(folder.glob("ckpt-*"), key=lambda path: path.suffix != ".index"):
        match = re.fullmatch(r"(ckpt-[0-9]+)([._].*)?", path.name)
        if match and chosen(match[1]):
            if path.is_dir():  # left by TensorFlow when it was killed
                shutil.rmtree(path)
            else:
                path.unlink()


def load_weights(run_dir: str, which: str, model: keras.Model, *, averaged: bool = False) -> None:
    """Loads a run's evaluated weights into a model of the same kind.

    Args:
      run_dir: the run's folder.
      which: "last" or "best".
      model: receives the weights.
      averaged: whether the run kept a moving average of its weights (TrainSpec.ema).

    Raises:
      UserError: if the run has no sound checkpoint of that kind, or it does not fit the model.
    """
    folder = pathlib.Path(run_dir, "checkpoints", which)
    # The best weights are saved as they were evaluated.
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
