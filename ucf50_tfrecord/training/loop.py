"""The training loop. It is the function `train`; read that from top to bottom.

Keras's `fit` is not used: it does not run under MultiWorkerMirroredStrategy, and after an interruption it
resumes at the start of the epoch, not at the step.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.choices import Precision
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.models import encoders
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import meter as meter_lib
from ucf50_tfrecord.training import step as step_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.checkpoint import Checkpoints
from ucf50_tfrecord.training.listener import Listener, TrainProgress
from ucf50_tfrecord.training.logs import TensorBoardLog
from ucf50_tfrecord.training.optimizer import WeightAverages, make_optimizer, optimizer_variables
from ucf50_tfrecord.training.profiling import Profiler
from ucf50_tfrecord.training.run import RunOptions

_NUM_STRIPS = 4
_NUM_NAMED_CLIPS = 5
# Pictures of the scores are left out if drawing them would take a larger fraction of the time.
_MAX_DRAWING_FRACTION = 0.05


Frames = Callable[[dict[str, tf.Tensor]], tf.Tensor]
TrainSteps = Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Everything that training changes: the model, its optimizer and the moving average of its weights.

    It keeps the compiled training steps, which trainings that differ in their seed and clips can share, see
    `restart`.

    spec: the settings of the training.
    strategy: the devices that train.
    averages: the moving average of the model's weights; None if TrainSpec.ema is 0.
    late: the encoder's weights, if TrainSpec.unfreeze_after_epoch keeps them frozen at first.
    """

    spec: TrainSpec
    strategy: tf.distribute.Strategy
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    averages: WeightAverages | None
    late: Sequence[keras.Variable] = ()
    _compiled: dict[tuple[Frames, bool], TrainSteps] = dataclasses.field(default_factory=dict, init=False)

    def restart(self, fresh: State) -> None:
        """Copies all variables from a new state of equal structure; the compiled training steps stay.

        Args:
          fresh: the state to copy, as build_state returns it. Only its seed and its number of clips may differ.
        """
        for own, other in zip(self._variables(), fresh._variables(), strict=True):
            own.assign(other.numpy())

    @property
    def num_bytes(self) -> int:
        """Size of all variables, on each device."""
        return sum(
            math.prod(variable.shape) * variable.dtype.size for variable in map(_raw, self._variables())
        )

    def _variables(self) -> list[keras.Variable | tf.Variable]:
        averages = self.averages.averages if self.averages is not None else []
        return [*self.model.variables, *optimizer_variables(self.optimizer), *averages]

    def train_steps(self, frames: Frames, *, frozen: bool) -> TrainSteps:
        """Returns the function that takes training steps, compiled at its first use.

        Args:
          frames: maps a replica's batch to its frames, see Feed.frames.
          frozen: whether the encoder's weights are frozen.
        """
        key = frames, frozen and bool(self.late)
        if key not in self._compiled:
            train_step = step_lib.make_train_step(
                self.model,
                self.optimizer,
                self.spec,
                strategy=self.strategy,
                frames=frames,
                averages=self.averages,
                variables=self.trained_variables(frozen=frozen),
            )
            self._compiled[key] = step_lib.make_train_steps(train_step, self.strategy)
        return self._compiled[key]

    def trained_variables(self, *, frozen: bool) -> list[keras.Variable]:
        """Returns the weights that training steps change; without the encoder's weights if `frozen` is True."""
        late = {id(variable) for variable in self.late if frozen}
        return [variable for variable in self.model.trainable_variables if id(variable) not in late]

    @property
    def has_batch_norm(self) -> bool:
        layers = self.model._flatten_layers(include_self=False)
        return any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)

    def evaluated_weights(self) -> contextlib.AbstractContextManager:
        """Returns a context in which the model has the weights to evaluate: their moving averages, if any."""
        return contextlib.nullcontext() if self.averages is None else self.averages.applied()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome of a training.

    model: the trained model. If `finished`, it has the weights to evaluate: the moving averages if the
      training keeps them.
    evaluate: the evaluator of the model, train's argument `evaluate`.
    finished: whether the training is over: all epochs are done, or TrainSpec.early_stopping stopped it.
    step, epochs: numbers of finished steps and epochs, including those of earlier processes.
    clips_per_sec: training clips per second, or None if no step was timed (for example if no step was left to
      do).
    wait_share: fraction of the training time that was spent waiting for input, or None if no step was timed.
    num_skipped: number of unreadable training clips that were left out.
    best_score, best_epoch: the best validation macro F1 (with several labels per clip, mean average precision) and
      its epoch; -1 and 0 if no epoch was evaluated.
    """

    model: keras.Model
    evaluate: Any
    finished: bool
    step: int
    epochs: int
    clips_per_sec: float | None
    wait_share: float | None
    num_skipped: int
    best_score: float
    best_epoch: int


def train(
    feed: Feed,
    state: State,
    spec: TrainSpec,
    *,
    run_dir: str,
    options: RunOptions = RunOptions(),
    evaluate: Any,
    open_log: Callable[[int], TensorBoardLog],
    listener: Listener = Listener(),
) -> Trained:
    """Trains a model; resumes from the run's last checkpoint if the run has one.

    Args:
      feed: the source of the batches of training clips.
      state: the model and its optimizer, as build_state returns them for the same spec.
      spec: the settings of the training.
      run_dir: the run's folder.
      options: how often to log and save.
      evaluate: the evaluator of the model, such as an evaluation.runner.Evaluator. It is called after each
        epoch. With None, no epoch is evaluated; checkpoints are saved every checkpoint_secs and at the end, not
        after each epoch.
      open_log: called once with the number of steps that are already done; returns the run's TensorBoard log.
      listener: receives progress and warnings, and may stop the training.

    Raises:
      UserError: if the run has checkpoints but none fits, a clip cannot be read, or the loss or its gradient
        is not finite.
    """
    with contextlib.ExitStack() as stack:
        run = _Run(feed, state, spec, run_dir=run_dir, options=options, listener=listener)
        run.open(evaluate, open_log, stack)
        ballot = _StopBallot(listener.should_stop, strategy_lib.num_workers(state.strategy))
        stopped = False
        while not stopped and run.has_steps_left():
            run.meter.start_call()  # waits until the device has little left to do
            run.profiler.step(run.step + 1)
            count = run.count_next_steps()
            with feed.explained():
                rows, times, votes = run.take_steps(count, ballot.vote())
                run.meter.end_call(rows, times)
            run.advance(count)
            stopped = ballot.decide(votes)

            scores = {}
            save = stopped or run.is_checkpoint_due() or run.is_evaluation_due()  # which may take long
            if save or run.is_epoch_done() or run.step % options.log_every_steps == 0:
                scores = run.log_curves()  # fails, before anything is saved, if the loss is not finite
            if save:
                run.save()
            if run.is_epoch_done() and not stopped:  # a stopped run evaluates the epoch when it resumes
                scores = run.end_epoch()
            listener.report(run.progress(scores))
        return run.result()


class _Run:
    """A run in training: its model, its input, its log and its checkpoints.

    step: number of finished steps.
    """

    def __init__(
        self,
        feed: Feed,
        state: State,
        spec: TrainSpec,
        *,
        run_dir: str,
        options: RunOptions,
        listener: Listener,
    ):
        """Restores the run's last checkpoint, if it has one."""
        self._feed, self._state, self._spec = feed, state, spec
        self._run_dir, self._options, self._listener = run_dir, options, listener
        strategy = state.strategy
        self._steps_per_epoch = pipeline.num_steps(len(feed.clips), spec.batch_size)
        self._num_steps = spec.epochs * self._steps_per_epoch
        self._num_frozen_steps = spec.unfreeze_after_epoch * self._steps_per_epoch
        self._is_chief = strategy_lib.is_chief(strategy)
        with strategy.scope():
            self._checkpoints = Checkpoints(
                run_dir, state.model, state.optimizer, state.averages, writes=self._is_chief
            )
        self._checkpoints.restore_last(listener.warn)
        self.step = int(self._checkpoints.step.numpy())
        steps = strategy_lib.gather_from_workers(strategy, self.step)
        expect(len(set(steps)) == 1, "that all workers find the same checkpoint", steps=steps)
        self.meter = meter_lib.Meter()
        self._wait_alarm = meter_lib.WaitAlarm(feed.advice, listener.warn)
        self._next_pictures = 0.0  # no pictures before this time, by time.monotonic()

    def open(
        self, evaluate: Any, open_log: Callable[[int], TensorBoardLog], stack: contextlib.ExitStack
    ) -> None:
        """Opens the input at the next batch, the log and the profiler. `stack` closes the log and the profiler.

        Also evaluates the last epoch if an earlier process exited after the epoch's last step, before the
        evaluation.
        """
        spec, options = self._spec, self._options
        self._batches = self._feed.iterator(
            batch_size=spec.batch_size,
            seed=spec.seed,
            start_step=self.step,
            sampler=spec.sampler,
            class_weight=spec.class_weight,
            in_pairs=spec.mixes_clips,
        )
        self._evaluate, self._log = evaluate, open_log(self.step)
        stack.callback(self._log.close)
        profile_steps = options.profile_steps if self._is_chief else None
        self.profiler = stack.enter_context(Profiler(self._run_dir, profile_steps, warn=self._listener.warn))
        self._last_save = time.monotonic()
        if self.step == 0 and self._log.writes and not self._feed.clips.manifest.features:
            self._log.clips("training clips", read_clips(self._feed.clips.spread(_NUM_STRIPS)))
        if self.step and self.is_epoch_done() and not self._is_evaluated():
            self._log.drop_from("validation", self.step)
            self.end_epoch()

    def has_steps_left(self) -> bool:
        return self.step < self._num_steps and not self._stops_early()

    def count_next_steps(self) -> int:
        """Returns the number of steps for one call, so that the call ends where the host has work to do."""
        ends = [self._steps_per_epoch, self._options.log_every_steps]
        counts = [end - self.step % end for end in ends]
        if self._options.profile_steps is not None:  # a call's steps are either all profiled or none
            first, last = self._options.profile_steps
            counts += [end - self.step for end in (first - 1, last) if end > self.step]
        per_call = self._options.steps_per_call
        if not per_call:
            per_call = max(counts) if self._feed.clips.manifest.features else 1
        return min(per_call, *counts)

    def take_steps(self, count: int, vote: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes `count` steps in one call; returns a tuple of rows, times and votes, see make_train_steps."""
        with tf.device("CPU:0"):  # the host derives random seeds from the step
            arguments = tf.constant(self.step, tf.int64), tf.constant(count, tf.int32), tf.constant(vote)
            seed = tf.constant(self._spec.seed, tf.int64)
        is_frozen = self.step < self._num_frozen_steps  # a call's steps are of one epoch
        return self._state.train_steps(self._feed.frames, frozen=is_frozen)(self._batches, *arguments, seed)

    def advance(self, count: int) -> None:
        self.step += count
        self._checkpoints.step.assign(self.step)

    def is_epoch_done(self) -> bool:
        return self.step % self._steps_per_epoch == 0

    def is_checkpoint_due(self) -> bool:
        return time.monotonic() - self._last_save > self._options.checkpoint_secs

    def is_evaluation_due(self) -> bool:
        return self.is_epoch_done() and self._evaluate is not None

    def save(self) -> None:
        self._checkpoints.save_last()
        self._last_save = time.monotonic()

    def log_curves(self) -> dict[str, float]:
        """Adds a point to each training curve; returns the points by tag, without the learning rate.

        Raises:
          UserError: if a loss or gradient since the last point is not finite.
        """
        rows = self.meter.read()
        self._check(rows)
        scores = meter_lib.curves(rows, self.meter.last)
        self._wait_alarm.note(self.meter.last)
        rate = float(tf.convert_to_tensor(self._state.optimizer.learning_rate))
        self._log.scalars("train", scores | {"learning_rate": rate}, self.step)
        return scores

    def end_epoch(self) -> dict[str, float]:
        """Evaluates the model, logs and saves; returns the epoch's training loss and scores by name."""
        step, epoch = self.step, self.step // self._steps_per_epoch
        scores = self.meter.read_epoch_loss()
        if self._feed.skipped:
            self._log.scalars("train", {"input/skipped_clips": len(self._feed.skipped)}, step)
            self._listener.warn(self._feed.describe_skipped())
        if self._evaluate is None:
            self._checkpoints.evaluated_epochs.assign(epoch)  # there is nothing to do when the run resumes
            self._log.flush()
            if not self.has_steps_left():
                self.save()
            return scores
        with self._state.evaluated_weights():
            evaluation = self._evaluate()
            self._checkpoints.save_best(evaluation.selecting_score, epoch)
        self._checkpoints.evaluated_epochs.assign(epoch)
        self._log.scalars("validation", evaluation.scores, step)
        started = time.monotonic()
        if self._log.writes and (started >= self._next_pictures or not self.has_steps_left()):
            self._log.evaluation("validation", evaluation, self._evaluate.mistakes(evaluation), step)
            drawn = time.monotonic()
            # Drawing 50 classes may take longer than an epoch.
            self._next_pictures = drawn + (drawn - started) / _MAX_DRAWING_FRACTION
        self._log.flush()
        self.save()
        return scores | evaluation.scores

    def progress(self, scores: dict[str, float]) -> TrainProgress:
        return TrainProgress(
            step=self.step,
            num_steps=self._num_steps,
            epoch=(self.step - 1) // self._steps_per_epoch + 1,
            num_epochs=self._spec.epochs,
            epoch_done=self.is_epoch_done() and self._is_evaluated(),
            scores=scores,
        )

    def result(self) -> Trained:
        finished = not self.has_steps_left() and self._is_evaluated()
        if finished and self._state.averages is not None:
            self._state.averages.apply()
        return Trained(
            model=self._state.model,
            evaluate=self._evaluate,
            finished=finished,
            step=self.step,
            epochs=self.step // self._steps_per_epoch,
            **self.meter.total(),
            num_skipped=len(self._feed.skipped),
            best_score=float(self._checkpoints.best_score.numpy()),
            best_epoch=int(self._checkpoints.best_epoch.numpy()),
        )

    def _is_evaluated(self) -> bool:
        return self._checkpoints.evaluated_epochs.numpy() >= self.step // self._steps_per_epoch

    def _stops_early(self) -> bool:
        """Tells whether TrainSpec.early_stopping epochs have passed since the best epoch."""
        checkpoints = self._checkpoints
        epochs_without = int(checkpoints.evaluated_epochs.numpy() - checkpoints.best_epoch.numpy())
        return 0 < self._spec.early_stopping <= epochs_without

    def _check(self, rows: np.ndarray) -> None:
        """Raises UserError if the loss or the gradient of a step in `rows` is not finite; names that step.

        With float16 only the loss is checked. Its gradients, which are scaled up, overflow now and then, and
        the optimizer skips such steps.
        """
        found = step_lib.StepResult.of(rows)
        bad = ~np.isfinite(found.loss)
        if not isinstance(self._state.optimizer, keras.optimizers.LossScaleOptimizer):
            bad |= found.finite < 0.5
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        step = self.step - len(rows) + first  # counted from 0
        clips, spec = self._feed.clips, self._spec
        indices = pipeline.batch_clips(
            clips, batch_size=spec.batch_size, seed=spec.seed, step=step, sampler=spec.sampler
        )
        names = [clips.ids[clip] for clip in indices[:_NUM_NAMED_CLIPS]]
        more = ", …" if len(indices) > len(names) else ""
        loss = found.loss[first]
        what = "gradient is not finite" if np.isfinite(loss) else f"loss is {loss}"
        raise UserError(
            f"The {what} at step {step + 1} (epoch {step // self._steps_per_epoch + 1}), on the clips "
            f"{', '.join(names)}{more}. The last good checkpoint is kept",
            Remedy(Action.SET, learning_rate=Change.SMALLER),
            Remedy(Action.SET, clip_norm=1),
            Remedy(Action.SET, precision=Precision.FLOAT32),
        )


class _StopBallot:
    """Makes all workers stop after the same step, even if only one worker is asked to stop.

    Each worker passes its vote to the next call of training steps, which returns the sum of all workers'
    votes. The sum from the call before last decides: every device has finished that call, so reading the sum
    needs no wait. A process that trains alone decides at once.
    """

    def __init__(self, should_stop: Callable[[], bool], num_workers: int):
        self._should_stop, self._num_workers = should_stop, num_workers
        self._votes: collections.deque[tf.Tensor] = collections.deque()

    def vote(self) -> float:
        """Returns this worker's vote for the next call of training steps: 1 to stop, 0 to continue."""
        return float(self._num_workers > 1 and self._should_stop())

    def decide(self, votes: tf.Tensor) -> bool:
        """Tells whether to stop after a call that returned the sum `votes`; the same for all workers."""
        if self._num_workers == 1:
            return self._should_stop()
        self._votes.append(votes)
        return len(self._votes) > meter_lib.MAX_QUEUED_CALLS and bool(self._votes.popleft().numpy() > 0)


def _raw(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """Returns TensorFlow's variable of a Keras variable, or the variable itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def build_state(
    model_spec: ModelSpec, spec: TrainSpec, *, num_clips: int, strategy: tf.distribute.Strategy
) -> State:
    """Builds a model with its initial weights, its optimizer and the moving average of its weights.

    Args:
      model_spec: the specification of the model.
      spec: the settings of the training; the precision must not be AUTO, see strategy.choose_precision. If
        unfreeze_after_epoch is not 0, `model_spec` must freeze the encoder.
      num_clips: training clips per epoch.
      strategy: the devices that train.

    Raises:
      UserError: if the model cannot be built (see models.build_model), or if `spec` asks for XLA, which
        cannot compile the model.
    """
    keras.utils.set_random_seed(spec.seed)
    policy = strategy_lib.keras_policy(spec.precision)
    steps_per_epoch = pipeline.num_steps(num_clips, spec.batch_size)
    with strategy.scope():
        model = models.build_model(model_spec, dtype=policy)
        takes_cudnn = any(
            isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)) for layer in model.layers
        )
        expect(
            not (spec.xla and takes_cudnn and strategy_lib.device_type() == "GPU"),
            "a model without recurrent layers: XLA cannot compile cuDNN's recurrent layers for GPUs",
            model=model_spec.name,
        )
        # The optimizer and the averages have a place for weights that are trained later: all checkpoints of a run
        # have one structure.
        late = encoders.unfreeze(model) if spec.unfreeze_after_epoch else []
        optimizer = make_optimizer(spec, steps_per_epoch, policy, late)
        optimizer.build(model.trainable_variables)
        averages = WeightAverages(model, spec.ema) if spec.ema else None
    return State(spec=spec, strategy=strategy, model=model, optimizer=optimizer, averages=averages, late=late)
