"""What a run remembers: weights, optimizer and the step. The order of clips follows from the step."""

from __future__ import annotations

import pathlib

import keras
import tensorflow as tf

from ucf50_tfrecord.specs import UserError

# What TensorFlow raises for a checkpoint that is cut short, garbled or of another model.
_DAMAGE = (AssertionError, IndexError, ValueError, tf.errors.OpError)


class Checkpoints:
    """The checkpoints of a run: the last ones, and the best by validation macro F1.

    `step` (int64 variable) counts finished training steps; `best_macro_f1` and
    `best_epoch` tell when `best` was saved. TensorFlow writes each checkpoint under a
    temporary name and its index last.
    """

    def __init__(self, run_dir: str, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        folder = pathlib.Path(run_dir, "checkpoints")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.best_macro_f1 = tf.Variable(-1.0, trainable=False, name="best_macro_f1")
        self.best_epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="best_epoch")
        # Keras does not track the state of its dropout layers' seeds for TensorFlow.
        weights = {id(variable) for variable in model.weights}
        seeds = [variable.value for variable in model.variables if id(variable) not in weights]
        state = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            seeds=seeds,
            step=self.step,
            best_macro_f1=self.best_macro_f1,
            best_epoch=self.best_epoch,
        )
        self._last = tf.train.CheckpointManager(state, str(folder / "last"), max_to_keep=2)
        best = tf.train.Checkpoint(model=model)
        self._best = tf.train.CheckpointManager(best, str(folder / "best"), max_to_keep=1)
        self._state = state

    def restore_last(self) -> bool:
        """Restores the newest checkpoint; returns False where there is none yet.

        Raises:
          UserError: if the checkpoint is damaged or belongs to another model.
        """
        path = self._last.latest_checkpoint
        if path is None:
            return False
        try:
            self._state.restore(path).assert_consumed()
        except _DAMAGE as error:
            raise UserError(f"Cannot restore the checkpoint {path}: {error}") from error
        return True

    def save_last(self) -> None:
        self._last.save(checkpoint_number=self.step)

    def save_best(self, macro_f1: float, epoch: int) -> None:
        """Saves the weights if they beat all before by validation macro F1."""
        if macro_f1 > self.best_macro_f1.numpy():
            self.best_macro_f1.assign(macro_f1)
            self.best_epoch.assign(epoch)
            self._best.save(checkpoint_number=self.step)


def load_weights(run_dir: str, which: str, model: keras.Model) -> None:
    """Loads a run's weights into a model of the same kind.

    Args:
      run_dir: the run's folder.
      which: "last" or "best".
      model: receives the weights.

    Raises:
      UserError: if the run has no such checkpoint, or it does not fit the model.
    """
    folder = pathlib.Path(run_dir, "checkpoints", which)
    path = tf.train.latest_checkpoint(str(folder))
    if path is None:
        raise UserError(f"{folder} holds no checkpoint: the run has not finished an epoch yet")
    try:
        status = tf.train.Checkpoint(model=model).restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except _DAMAGE as error:
        raise UserError(f"Cannot restore the checkpoint {path}: {error}") from error
