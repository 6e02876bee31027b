"""The training loop, all of it visible. Read `train` from top to bottom.

Keras's `fit` is not used: it does not run under MultiWorkerMirroredStrategy, and what
it restores after an interruption is the epoch, not the step.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import models
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, UserError, expect
from ucf50_tfrecord.training import meter as meter_lib
from ucf50_tfrecord.training import step as step_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.checkpoint import Checkpoints
from ucf50_tfrecord.training.logs import TensorBoardLog
from ucf50_tfrecord.training.optimizer import WeightAverages, make_optimizer
from ucf50_tfrecord.training.profiling import Profiler

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
class RunOptions:
    """How a run is logged and saved. None of it changes the trained weights.

    steps_per_call: at most so many steps are taken in one call from the host.
    profile_steps: the first and the last step to profile, counted from 1; None profiles nothing.
    """

    run_dir: str
    log_every_steps: int = 20
    steps_per_call: int = 1
    checkpoint_secs: float = 300.0
    profile_steps: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What training changes."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    averages: WeightAverages | None

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
    is_chief: whether this process is the one that writes.
    """

    model: keras.Model
    evaluate: Any
    finished: bool
    step: int
    epochs: int
    clips_per_sec: float | None
    wait_share: float | None
    num_skipped: int
    is_chief: bool
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
      UserError: if the model cannot be built, see models.build_model.
    """
    keras.utils.set_random_seed(spec.seed)
    policy = strategy_lib.keras_policy(spec.precision)
    steps_per_epoch = pipeline.num_steps(num_clips, spec.batch_size)
    with strategy.scope():
        model = models.build_model(model_spec, dtype=policy)
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
      UserError: if no checkpoint fits, a clip cannot be read, memory runs out, or the loss becomes NaN.
    """
    # Where it stands.
    steps_per_epoch = pipeline.num_steps(len(feed.clips), spec.batch_size)
    num_steps = spec.epochs * steps_per_epoch
    with strategy.scope():
        checkpoints = Checkpoints(
            options.run_dir,
            state.model,
            state.optimizer,
            state.averages,
            writes=strategy_lib.is_chief(strategy),
        )
    checkpoints.restore_last(hooks.warn)
    step = int(checkpoints.step.numpy())
    steps = strategy_lib.gather_from_workers(strategy, step)
    expect(len(set(steps)) == 1, "all workers to see the same checkpoint", steps=steps)

    # Input: the stream starts at the very batch that comes next.
    batches = feed.iterator(batch_size=spec.batch_size, seed=spec.seed, start_step=step)
    train_steps = step_lib.make_train_steps(
        step_lib.make_train_step(
            state.model,
            state.optimizer,
            spec,
            strategy=strategy,
            frames=feed.frames,
            averages=state.averages,
        ),
        strategy,
    )
    log = hooks.open_log(step)
    validation = _Validation(feed, state, checkpoints, hooks, log)
    meter, wait_alarm = meter_lib.Meter(), meter_lib.WaitAlarm(feed.advice, hooks.warn)
    profiler = Profiler(options.run_dir, options.profile_steps, warn=hooks.warn)
    if step == 0:
        log.clips("training clips", read_clips(feed.clips.spread(_NUM_STRIPS)))
    elif step % steps_per_epoch == 0 and not validation.is_done(step // steps_per_epoch):
        validation.run(
            step, step // steps_per_epoch, last=step == num_steps
        )  # interrupted between an epoch's end and this

    # Steps.
    ballot = _StopBallot(hooks.should_stop, strategy_lib.num_workers(strategy))
    last_save = time.monotonic()
    stopped = False
    while step < num_steps and not stopped and not validation.stops_early(spec.early_stopping):
        epoch = step // steps_per_epoch
        count = min(  # up to the next step after which there is something to do
            options.steps_per_call,
            steps_per_epoch - step % steps_per_epoch,
            options.log_every_steps - step % options.log_every_steps,
        )
        meter.start_call()
        profiler.step(step + 1)
        with feed.explained(), _memory_explained(step):
            rows, times, votes = train_steps(batches, *_call_arguments(step, count, ballot.vote()))
            meter.end_call(rows, times)
        step += count
        checkpoints.step.assign(step)

        epoch_done = step % steps_per_epoch == 0
        stopped = ballot.decide(votes)
        due = stopped or time.monotonic() - last_save > options.checkpoint_secs
        scores = {}
        if due or epoch_done or step % options.log_every_steps == 0:
            with _memory_explained(step):
                rows = meter.read()
            _check_losses(rows[:, 0], step, feed, spec)  # before anything is saved
            scores = meter_lib.curves(rows, meter.last)
            wait_alarm.note(meter.last)
            rate = float(tf.convert_to_tensor(state.optimizer.learning_rate))
            log.scalars("train", scores | {"learning_rate": rate}, step)
        if due:
            checkpoints.save_last()
        if epoch_done:  # evaluation may take long, so what is due is saved before
            scores = {"train_loss": meter.read_epoch_loss()} | validation.run(
                step, epoch + 1, last=step == num_steps
            )
        if due or epoch_done:
            last_save = time.monotonic()
        hooks.report(
            Progress(
                step=step,
                num_steps=num_steps,
                epoch=epoch + 1,
                num_epochs=spec.epochs,
                epoch_done=epoch_done,
                scores=scores,
            )
        )

    profiler.close()
    log.close()
    finished = step >= num_steps or validation.stops_early(spec.early_stopping)
    if finished and state.averages is not None:
        state.averages.apply()
    return Trained(
        model=state.model,
        evaluate=validation.evaluate,
        finished=finished,
        step=step,
        epochs=step // steps_per_epoch,
        **meter.total(),
        num_skipped=len(feed.skipped),
        is_chief=log.writes,
        best_macro_f1=float(checkpoints.best_macro_f1.numpy()),
        best_epoch=int(checkpoints.best_epoch.numpy()),
    )


class _Validation:
    """What happens at an epoch's end: evaluation, its curves and pictures, checkpoints."""

    def __init__(self, feed: Feed, state: State, checkpoints: Checkpoints, hooks: Hooks, log: TensorBoardLog):
        self._feed, self._state, self._checkpoints = feed, state, checkpoints
        self._warn, self._log = hooks.warn, log
        self.evaluate = hooks.make_evaluator(state.model)
        self._next_pictures = 0.0  # when, by the clock: drawing 50 classes may take longer than an epoch

    def run(self, step: int, epoch: int, *, last: bool) -> dict[str, float]:
        """Does it all after so many steps and epochs; returns the scores."""
        if self._feed.skipped:
            self._log.scalars("train", {"input/skipped_clips": len(self._feed.skipped)}, step)
            self._warn(self._feed.describe_skipped())
        with self._state.evaluated_weights():
            evaluation = self.evaluate()
            self._checkpoints.save_best(evaluation.scores["macro_f1"], epoch)
        self._log.scalars("validation", evaluation.scores, step)
        started = time.monotonic()
        if self._log.writes and (started >= self._next_pictures or last):
            self._log.evaluation("validation", evaluation, self.evaluate.mistakes(evaluation), step)
            drawn = time.monotonic()
            self._next_pictures = drawn + (drawn - started) / _MAX_DRAWING_SHARE
        self._log.flush()
        self._checkpoints.evaluated_epochs.assign(epoch)
        self._checkpoints.save_last()
        return evaluation.scores

    def is_done(self, epoch: int) -> bool:
        return self._checkpoints.evaluated_epochs.numpy() >= epoch

    def stops_early(self, patience: int) -> bool:
        """Whether there has been no better epoch for so many, unless that is 0."""
        checkpoints = self._checkpoints
        epochs_without = int(checkpoints.evaluated_epochs.numpy() - checkpoints.best_epoch.numpy())
        return 0 < patience <= epochs_without


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


def _call_arguments(step: int, count: int, vote: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    with tf.device("CPU:0"):  # where the seeds that come of the step are wanted
        return tf.constant(step, tf.int64), tf.constant(count, tf.int32), tf.constant(vote)


def _check_losses(losses: np.ndarray, step: int, feed: Feed, spec: TrainSpec) -> None:
    """Raises UserError at the first loss that is not finite, of the steps that end at `step`."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if not len(bad):
        return
    first = step - len(losses) + int(bad[0])  # from 0
    num_clips = len(feed.clips)
    clips = pipeline.batch_clips(num_clips, batch_size=spec.batch_size, seed=spec.seed, step=first)
    names = [feed.clips.ids[clip] for clip in clips[:_NUM_NAMED_CLIPS]]
    more = ", …" if len(clips) > len(names) else ""
    raise UserError(
        f"The loss is {losses[bad[0]]} at step {first + 1} (epoch "
        f"{first // pipeline.num_steps(num_clips, spec.batch_size) + 1}), on the clips {', '.join(names)}{more}. "
        "The last good checkpoint is kept. A smaller --learning_rate, --clip_norm=1 or --precision=float32 may help."
    )


@contextlib.contextmanager
def _memory_explained(step: int) -> Iterator[None]:
    """Turns what TensorFlow raises where a device's memory does not suffice into an error for the user."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            f"Out of memory at step {step + 1}: {error.message.splitlines()[0]}. A smaller --batch_size, a 16-bit "
            "--precision, --cache=host or none, or clips of a smaller --size or fewer --frames take less."
        ) from error
