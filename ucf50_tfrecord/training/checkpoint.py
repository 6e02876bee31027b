"""What a run remembers: weights, optimizer and the step. All chance and the clips' order follow from the step."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import keras
import tensorflow as tf

from ucf50_tfrecord.specs import UserError
from ucf50_tfrecord.training.optimizer import WeightAverages

# What TensorFlow raises for a checkpoint that is cut short, garbled or of another model.
_DAMAGE = (AssertionError, IndexError, ValueError, tf.errors.OpError)
_NUM_KEPT = 2


class Checkpoints:
    """The checkpoints of a run: the last ones, and the best by validation macro F1.

    TensorFlow writes each checkpoint under a temporary name and its index last, and compares
    checksums when it reads one.

    step: int64 variable, the number of finished training steps.
    evaluated_epochs: int64 variable, after how many epochs the model has been evaluated.
    best_macro_f1, best_epoch: variables that tell when the best weights were saved.

    Of several workers all restore and one writes. That one needs no other for it: no variable
    of Keras's is put together from the replicas when it is read.
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
        """`writes` tells whether this process is the one that saves."""
        self._writes = writes
        folder = pathlib.Path(run_dir, "checkpoints")
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
        self._last_dir = folder / "last"
        self._last = tf.train.CheckpointManager(self._state, str(self._last_dir), max_to_keep=_NUM_KEPT)
        best = tf.train.Checkpoint(model=model)
        self._best = tf.train.CheckpointManager(best, str(folder / "best"), max_to_keep=1)

    def restore_last(self, warn: Callable[[str], None] = lambda text: None) -> bool:
        """Restores the newest checkpoint that is sound; returns False where there is none yet.

        Args:
          warn: is told of newer ones that are damaged.

        Raises:
          UserError: if there are checkpoints, but all are damaged or of another model.
        """
        errors = []
        for path in _newest_first(self._last_dir):
            try:
                self._state.restore(path).assert_consumed()
            except _DAMAGE as error:
                errors.append(f"Cannot restore the checkpoint {path}: {error}")
                continue
            for text in errors:
                warn(f"{text}. The one before it is taken, of step {self.step.numpy()}.")
            return True
        if errors:
            raise UserError(errors[0])
        return False

    def save_last(self) -> None:
        if self._writes:
            self._last.save(checkpoint_number=self.step)

    def save_best(self, macro_f1: float, epoch: int) -> None:
        """Saves the weights if they beat all before by validation macro F1."""
        if macro_f1 > self.best_macro_f1.numpy():
            self.best_macro_f1.assign(macro_f1)
            self.best_epoch.assign(epoch)
            if self._writes:
                self._best.save(checkpoint_number=self.step)


def load_weights(run_dir: str, which: str, model: keras.Model, *, averaged: bool = False) -> None:
    """Loads a run's weights, those that were evaluated, into a model of the same kind.

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
    for path in _newest_first(folder):
        try:
            status = tf.train.Checkpoint(model=model, **_tracked(averages)).restore(path)
            status.assert_existing_objects_matched().expect_partial()
        except _DAMAGE as error:
            errors.append(f"Cannot restore the checkpoint {path}: {error}")
            continue
        if averages is not None:
            averages.apply()
        return
    if errors:
        raise UserError(errors[0])
    raise UserError(f"{folder} holds no checkpoint: the run has not finished an epoch yet")


def _tracked(averages: WeightAverages | None) -> dict[str, WeightAverages]:
    return {} if averages is None else {"averages": averages}


def _newest_first(folder: pathlib.Path) -> list[str]:
    """Lists the checkpoints in a folder, by their numbers: TensorFlow's own list may be torn too."""
    numbers = [re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index")]
    return [
        str(folder / f"ckpt-{number}") for number in sorted((int(m[1]) for m in numbers if m), reverse=True)
    ]
