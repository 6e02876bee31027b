"""The training loop, all of it visible. Read `train` from top to bottom.

Keras's `fit` is not used: it does not run under MultiWorkerMirroredStrategy, and what
it restores after an interruption is the epoch, not the step.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import meter as meter_lib
from ucf50_tfrecord.training import step as step_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.checkpoint import Checkpoints
from ucf50_tfrecord.training.logs import TensorBoardLog
from ucf50_tfrecord.training.optimizer import WeightAverages, make_optimizer
from ucf50_tfrecord.training.profiling import Profiler
from ucf50_tfrecord.training.run import RunOptions

_NUM_STRIPS = 4
_NUM_NAMED_CLIPS = 5
# Pictures of the scores are left out where they would take more of the time.
_MAX_DRAWING_SHARE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands, for a progress display. Epochs count from 1.

    `scores` holds the epoch's validation scores at its end and the latest training
    values between, if there are new ones.
    """

    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    epoch_done: bool = False
    scores: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls and does not decide itself.

    make_evaluator: given the model, returns what scores it after each epoch, as
      evaluation.runner.Evaluator does.
    open_log: given the step that training starts after, returns the run's TensorBoard files.
    report: is told after each call of steps.
    warn: is told, in a sentence, what the user should know but need not stop for.
    should_stop: asked after each call of steps; True saves a checkpoint and ends the loop. Of several
      workers one is enough: all end after the same step.
    """

    make_evaluator: Callable[[keras.Model], Any]
    open_log: Callable[[int], TensorBoardLog]
    report: Callable[[Progress], None] = lambda progress: None
    warn: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What training changes."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    averages: WeightAverages | None

    @property
    def has_batch_norm(self) -> bool:
        layers = self.model._flatten_layers(include_self=False)
        return any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)

    def evaluated_weights(self) -> contextlib.AbstractContextManager:
        """While it is open the model has the weights that are evaluated: the average, if there is one."""
        return contextlib.nullcontext() if self.averages is None else self.averages.applied()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves.

    model: with the weights that are evaluated.
    evaluate: what Hooks.make_evaluator returned.
    finished: whether it came to its end, by the number of epochs or by TrainSpec.early_stopping.
    step, epochs: how many have been done, those of earlier processes included.
    wait_share: the share of the training time spent waiting for input. Like
      `clips_per_sec` it is None if no step was left to do.
    num_skipped: training clips that could not be read and were left out.
    """

    model: keras.Model
    evaluate: Any
    finished: bool
    step: int
    epochs: int
    clips_per_sec: float | None
    wait_share: float | None
    num_skipped: int
    best_macro_f1: float
    best_epoch: int


def build_state(
    model_spec: ModelSpec, spec: TrainSpec, *, num_clips: int, strategy: tf.distribute.Strategy
) -> State:
    """Builds the model with its initial weights, and the optimizer.

    Args:
      model_spec: which model.
      spec: how to train; its precision must be resolved, see strategy.choose_precision.
      num_clips: clips in an epoch.
      strategy: the devices.

    Raises:
      UserError: if the model cannot be built, see models.build_model, or not be compiled as asked for.
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
            "a model without recurrent layers where XLA compiles for GPUs: it cannot compile cuDNN's",
            model=model_spec.name,
        )
        optimizer = make_optimizer(spec, steps_per_epoch, policy)
        optimizer.build(model.trainable_variables)
        averages = WeightAverages(model, spec.ema) if spec.ema else None
    return State(model=model, optimizer=optimizer, averages=averages)


def train(
    feed: Feed,
    state: State,
    spec: TrainSpec,
    *,
    strategy: tf.distribute.Strategy,
    options: RunOptions,
    hooks: Hooks,
) -> Trained:
    """Trains a model, going on from the run's last checkpoint if it has one.

    Args:
      feed: the training clips.
      state: what build_state returns, for the same spec.
      spec: how to train.
      strategy: the devices.
      options: where to save and how often.
      hooks: evaluation, TensorBoard's files, progress and interruption.

    Raises:
      UserError: if no checkpoint fits, a clip cannot be read, or the loss or its gradient becomes NaN.
    """
    with contextlib.ExitStack() as stack:
        training = _Training(feed, state, spec, strategy=strategy, options=options, hooks=hooks, stack=stack)
        ballot = _StopBallot(hooks.should_stop, strategy_lib.num_workers(strategy))
        stopped = False
        training.catch_up()
        while not stopped and training.has_steps_left():
            votes = training.take_steps(ballot.vote())
            stopped = ballot.decide(votes)
            scores = training.log_and_save(stopped)
            if training.is_epoch_done() and not stopped:  # else the run does that when it goes on
                scores = training.end_epoch()
            hooks.report(training.progress(scores))
        return training.result()


class _Training:
    """What `train` works on: the run's state, its input, and where they are logged and saved."""

    def __init__(
        self,
        feed: Feed,
        state: State,
        spec: TrainSpec,
        *,
        strategy: tf.distribute.Strategy,
        options: RunOptions,
        hooks: Hooks,
        stack: contextlib.ExitStack,
    ):
        """Restores the last checkpoint and opens what `stack` closes."""
        self._feed, self._state, self._spec, self._options, self._hooks = feed, state, spec, options, hooks
        self._steps_per_epoch = pipeline.num_steps(len(feed.clips), spec.batch_size)
        self._num_steps = spec.epochs * self._steps_per_epoch
        is_chief = strategy_lib.is_chief(strategy)
        with strategy.scope():
            self._checkpoints = Checkpoints(
                options.run_dir, state.model, state.optimizer, state.averages, writes=is_chief
            )
        self._checkpoints.restore_last(hooks.warn)
        self._step = int(self._checkpoints.step.numpy())
        steps = strategy_lib.gather_from_workers(strategy, self._step)
        expect(len(set(steps)) == 1, "all workers to see the same checkpoint", steps=steps)

        # The stream starts at the very batch that comes next.
        self._batches = feed.iterator(batch_size=spec.batch_size, seed=spec.seed, start_step=self._step)
        train_step = step_lib.make_train_step(
            state.model,
            state.optimizer,
            spec,
            strategy=strategy,
            frames=feed.frames,
            averages=state.averages,
        )
        self._train_steps = step_lib.make_train_steps(train_step, strategy)
        self._evaluate = hooks.make_evaluator(state.model)
        self._log = hooks.open_log(self._step)
        stack.callback(self._log.close)
        profile_steps = options.profile_steps if is_chief else None
        self._profiler = stack.enter_context(Profiler(options.run_dir, profile_steps, warn=hooks.warn))
        self._meter = meter_lib.Meter()
        self._wait_alarm = meter_lib.WaitAlarm(feed.advice, hooks.warn)
        self._last_save = time.monotonic()
        self._next_pictures = 0.0  # when, by the clock

    def catch_up(self) -> None:
        """Does what belongs before the next step."""
        if self._step == 0 and self._log.writes:
            self._log.clips("training clips", read_clips(self._feed.clips.spread(_NUM_STRIPS)))
        if self._step and self.is_epoch_done() and not self._is_evaluated():
            self._log.drop_from("validation", self._step)
            self.end_epoch()  # the process ended between the epoch's last step and this

    def has_steps_left(self) -> bool:
        return self._step < self._num_steps and not self._stops_early()

    def take_steps(self, vote: float) -> tf.Tensor:
        """Trains up to the next step after which there is something to do; returns the votes, float32 []."""
        ends = [self._steps_per_epoch, self._options.log_every_steps]
        count = min(self._options.steps_per_call, *(end - self._step % end for end in ends))
        for bound in self._profile_bounds():
            if self._step < bound:
                count = min(count, bound - self._step)
        self._meter.start_call()
        self._profiler.step(self._step + 1)
        with tf.device("CPU:0"):  # where the seeds that come of the step are wanted
            arguments = tf.constant(self._step, tf.int64), tf.constant(count, tf.int32), tf.constant(vote)
        with self._feed.explained():
            rows, times, votes = self._train_steps(self._batches, *arguments)
            self._meter.end_call(rows, times)
        self._step += count
        self._checkpoints.step.assign(self._step)
        return votes

    def log_and_save(self, stopped: bool) -> dict[str, float]:
        """Adds a point to the curves and saves a checkpoint, if it is time to; returns the point."""
        due = stopped or time.monotonic() - self._last_save > self._options.checkpoint_secs
        # Evaluation may take long, so that an epoch is saved before.
        save = due or self.is_epoch_done()
        if not save and self._step % self._options.log_every_steps:
            return {}
        rows = self._meter.read()
        self._check(rows)  # before anything is saved
        scores = meter_lib.curves(rows, self._meter.last)
        self._wait_alarm.note(self._meter.last)
        rate = float(tf.convert_to_tensor(self._state.optimizer.learning_rate))
        self._log.scalars("train", scores | {"learning_rate": rate}, self._step)
        if save:
            self._save()
        return scores

    def is_epoch_done(self) -> bool:
        return self._step % self._steps_per_epoch == 0

    def end_epoch(self) -> dict[str, float]:
        """Evaluates, logs and saves; returns the epoch's scores."""
        step, epoch = self._step, self._step // self._steps_per_epoch
        scores = self._meter.read_epoch_loss()
        if self._feed.skipped:
            self._log.scalars("train", {"input/skipped_clips": len(self._feed.skipped)}, step)
            self._hooks.warn(self._feed.describe_skipped())
        with self._state.evaluated_weights():
            evaluation = self._evaluate()
            self._checkpoints.save_best(evaluation.scores["macro_f1"], epoch)
        self._checkpoints.evaluated_epochs.assign(epoch)
        self._log.scalars("validation", evaluation.scores, step)
        started = time.monotonic()
        if self._log.writes and (started >= self._next_pictures or not self.has_steps_left()):
            self._log.evaluation("validation", evaluation, self._evaluate.mistakes(evaluation), step)
            drawn = time.monotonic()
            # Drawing 50 classes may take longer than an epoch.
            self._next_pictures = drawn + (drawn - started) / _MAX_DRAWING_SHARE
        self._log.flush()
        self._save()
        return scores | evaluation.scores

    def progress(self, scores: dict[str, float]) -> Progress:
        return Progress(
            step=self._step,
            num_steps=self._num_steps,
            epoch=(self._step - 1) // self._steps_per_epoch + 1,
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
            step=self._step,
            epochs=self._step // self._steps_per_epoch,
            **self._meter.total(),
            num_skipped=len(self._feed.skipped),
            best_macro_f1=float(self._checkpoints.best_macro_f1.numpy()),
            best_epoch=int(self._checkpoints.best_epoch.numpy()),
        )

    def _save(self) -> None:
        self._checkpoints.save_last()
        self._last_save = time.monotonic()

    def _is_evaluated(self) -> bool:
        return self._checkpoints.evaluated_epochs.numpy() >= self._step // self._steps_per_epoch

    def _stops_early(self) -> bool:
        """Whether there has been no better epoch for as many as TrainSpec.early_stopping says."""
        checkpoints = self._checkpoints
        epochs_without = int(checkpoints.evaluated_epochs.numpy() - checkpoints.best_epoch.numpy())
        return 0 < self._spec.early_stopping <= epochs_without

    def _profile_bounds(self) -> tuple[int, ...]:
        """After which steps a call ends for the profile's sake: before its first and after its last."""
        if self._options.profile_steps is None:
            return ()
        first, last = self._options.profile_steps
        return first - 1, last

    def _check(self, rows: np.ndarray) -> None:
        """Raises UserError at the first step whose loss or gradient is not finite.

        Under float16's loss scale gradients overflow now and then: such steps are skipped.
        """
        columns = dict(zip(step_lib.COLUMNS, rows.T))
        bad = ~np.isfinite(columns["loss"])
        if not isinstance(self._state.optimizer, keras.optimizers.LossScaleOptimizer):
            bad |= columns["finite"] < 0.5
        if not bad.any():
            return
        first = int(np.flatnonzero(bad)[0])
        step = self._step - len(rows) + first  # from 0
        clips, batch_size = self._feed.clips, self._spec.batch_size
        indices = pipeline.batch_clips(clips, batch_size=batch_size, seed=self._spec.seed, step=step)
        names = [clips.ids[clip] for clip in indices[:_NUM_NAMED_CLIPS]]
        more = ", …" if len(indices) > len(names) else ""
        loss = columns["loss"][first]
        what = "gradient is not finite" if np.isfinite(loss) else f"loss is {loss}"
        raise UserError(
            f"The {what} at step {step + 1} (epoch {step // self._steps_per_epoch + 1}), on the clips "
            f"{', '.join(names)}{more}. The last good checkpoint is kept",
            Remedy(Action.SET, learning_rate=Change.SMALLER),
            Remedy(Action.SET, clip_norm=1),
            Remedy(Action.SET, precision="float32"),
        )


class _StopBallot:
    """Lets all workers stop after the same step, whenever and wherever a request arrives.

    A worker's vote goes into a call and comes back summed over all. What counts is the vote of the
    call before last, which has ended on every device by then, so that nobody waits for it. A process
    that trains alone decides at once.
    """

    def __init__(self, should_stop: Callable[[], bool], num_workers: int):
        self._should_stop, self._num_workers = should_stop, num_workers
        self._votes: collections.deque[tf.Tensor] = collections.deque()

    def vote(self) -> float:
        """Returns this worker's vote for the next call."""
        return float(self._num_workers > 1 and self._should_stop())

    def decide(self, votes: tf.Tensor) -> bool:
        """Tells, after a call with these votes, whether to stop: the same in all workers."""
        if self._num_workers == 1:
            return self._should_stop()
        self._votes.append(votes)
        return len(self._votes) > meter_lib.MAX_QUEUED_CALLS and bool(self._votes.popleft().numpy() > 0)
