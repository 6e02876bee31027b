"""Trains a model on shards and evaluates it on held-out folds.

  python -m pipelines.train --videos=/data/UCF50 --recipe=lstm

With --videos the shards are brought up to date first; with --data alone the
existing shards are used. If --run names an unfinished run, that run resumes.

With --strategy=multi_worker this process is one of several workers, which
TF_CONFIG or Slurm names. All workers get the same flags, with --data and --run.
pipelines.launch starts several workers on one machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import code_flags, console, features, inputs, remedies, terminal, train_flags
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import recipes
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import format_folds, to_json
from ucf50_tfrecord.training import cluster
from ucf50_tfrecord.training.folds import AskedFolds, check_early_stopping, choose_folds
from ucf50_tfrecord.training.run import RunOptions, Summary

if TYPE_CHECKING:
    import tensorflow as tf

    from ucf50_tfrecord.job import Job

_RUN = flags.DEFINE_string(
    "run",
    None,
    "The run's folder; an unfinished run resumes. Default: a new one, runs/<data>-<model>-<time>.",
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    Strategy.AUTO,
    list(Strategy),
    "Devices to train on: one; mirrored (all of this process); multi_worker (those of all workers that TF_CONFIG "
    "or Slurm names); or auto, which chooses one of these.",
)
_JOIN_SECS = flags.DEFINE_float("join_secs", 600, "Seconds to wait for the other workers to start.")
_OPTIONS = SpecFlags(RunOptions)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "First and last step to profile, such as 20,30, for TensorBoard's Profile page.",
)

for _module in (train_flags, features, inputs):
    flags.adopt_module_key_flags(_module)


def main() -> None:
    settings, asked, options = read_flags()
    uses_workers = cluster.uses_workers(_STRATEGY.value, os.environ)
    if uses_workers:
        check_worker_flags()

    manifest = features.load_data()  # before TensorFlow is loaded: its worker processes start lighter
    folds = choose_folds(manifest, asked, terminal.warn)
    model = recipes.model_spec(settings, manifest)

    console.load_tensorflow()
    from ucf50_tfrecord import job as job_lib
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import strategy as strategy_lib

    train = recipes.train_spec(settings)
    runner.choose_views(
        options.test_views, manifest, model, train
    )  # raises an error if there are not as many
    with contextlib.ExitStack() as stack:
        strategy = start_devices(stack, uses_workers)
        display = console.TrainingDisplay()
        listener = display.listener()
        job = job_lib.prepare(
            manifest,
            folds,
            model=model,
            train=train,
            inputs=inputs.INPUTS.build(),
            strategy=strategy,
            run_dir=_RUN.value,
            stack=stack,
            allowed_code=code_flags.allowed_code(),
            listener=listener,
        )
        announce(job)
        with display:
            outcome = job_lib.run(job, options, listener=listener, flags=flag_values() | settings)
        if outcome.summary is None:
            print_stopped(outcome.trained.step, job.run_dir, strategy_lib.num_workers(strategy))
        else:
            print_summary(outcome.summary, job.run_dir)


def read_flags() -> tuple[dict[str, Any], AskedFolds, RunOptions]:
    """Reads the flags of a training, so that a mistake shows before any video is converted.

    Returns:
      A tuple: the settings of the model and the training, the folds that the flags name, and the options of
      the run.

    Raises:
      UserError: if a flag is wrong for every dataset.
    """
    settings, asked = train_flags.settings(), train_flags.asked_folds()
    check_early_stopping(recipes.train_spec(settings), asked)
    options = _OPTIONS.build(profile_steps=parse_steps(_PROFILE_STEPS.value))
    return settings, asked, options


def start_devices(stack: contextlib.ExitStack, uses_workers: bool) -> tf.distribute.Strategy:
    """Waits until all workers have started; returns the devices that train, as a strategy.

    Args:
      stack: receives contexts, which this function enters. They turn TensorFlow's errors about full memory
        and lost workers into UserErrors, and hide the output of all workers but the chief (the first worker).
      uses_workers: whether the strategy trains with several workers.
    """
    from ucf50_tfrecord.training import strategy as strategy_lib

    if uses_workers:
        terminal.say("Waiting for the other workers …", flush=True)
    strategy = strategy_lib.make_strategy(_STRATEGY.value, join_secs=_JOIN_SECS.value)
    console.handle_sigterm()  # again: with several workers TensorFlow has replaced the handler
    stack.enter_context(strategy_lib.explain_exhausted_memory())
    stack.enter_context(strategy_lib.explain_lost_workers(strategy))
    stack.enter_context(console.only_chief_speaks(strategy_lib.is_chief(strategy)))
    return strategy


def announce(job: Job) -> None:
    """Prints the clips, the model and the devices of a training."""
    from ucf50_tfrecord.training import strategy as strategy_lib

    config, num_devices = job.config, job.strategy.num_replicas_in_sync
    sets = (
        ("training", config.train_folds),
        ("validating", config.val_folds),
        ("testing", config.test_folds),
    )
    counts = "; ".join(
        f"{name} on {len(feed.clips)} (folds {format_folds(folds)})"
        for (name, folds), feed in zip(sets, job.feeds)
    )
    terminal.say(
        f"Clips: {counts}.",
        f"{config.model.name}, {config.train.precision} on {num_devices} "
        f"{strategy_lib.device_type()}(s); run {job.run_dir}",
    )
    if config.taught_by:
        terminal.say(f"Taught by {', '.join(teacher.name for teacher in config.taught_by)}.")
    num_clips = len(job.feeds[0].clips)
    if config.train.batch_size > num_clips:
        terminal.warn(
            f"{num_clips} training clips do not fill a batch of {config.train.batch_size}: "
            f"--batch_size={num_clips} trains as well, in less memory and time"
        )
    if config.train.batch_size % num_devices and job.state.has_batch_norm:
        terminal.warn(
            f"{num_devices} devices cannot share {config.train.batch_size} clips per step evenly: padding clips are "
            "added. They do not count in the loss, but they change the statistics of batch norm"
        )


def check_worker_flags() -> None:
    """Raises UserError unless the flags let several workers share the folders of the run and the shards."""
    if not _RUN.value:
        raise UserError(
            "With several workers pass --run=<folder>: the same folder for all, on a file system that all share."
        )
    if flags.FLAGS["features"].value:
        raise UserError(
            "With several workers pass --data=<folder of features> instead of --features. To encode before: "
            f"{remedies.program('features')} --data=… --features=…"
        )
    if flags.FLAGS["videos"].value:
        raise UserError(
            "With several workers pass --data=<folder of shards> instead of --videos. To convert before: "
            f"{remedies.program('convert')} --videos=…"
        )


def print_stopped(step: int, run_dir: str, num_workers: int) -> None:
    stopped = f"Stopped at step {step} and saved. To go on:"
    if num_workers > 1:
        terminal.say(f"{stopped} start all workers again with --run={run_dir}", flush=True)
    else:
        terminal.say(stopped, f"  {remedies.this_command(run=run_dir)}", flush=True)


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Reads the first and the last step from a text such as "20,30"; returns None for None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+),(\d+)", text.replace(" ", ""))
    expect(
        match is not None and 1 <= int(match[1]) <= int(match[2]),
        "--profile_steps=a,b with 1 <= a <= b",
        profile_steps=text,
    )
    return int(match[1]), int(match[2])


def flag_values() -> dict[str, object]:
    """Returns the values of all flags of this program by name; flags that are not given have their defaults."""
    return {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}


def print_summary(summary: Summary, run_dir: str) -> None:
    chosen = f"with the weights of epoch {summary.best.epoch}, " if summary.weights == "best" else ""
    title = (
        f"{summary.model}, {summary.params:,} parameters, after {summary.trained_epochs} epochs, "
        f"{chosen}on {summary.num_clips} clips of folds {format_folds(summary.folds)}"
    )
    console.print_scores(title, to_json(summary), to_json(summary.shuffled), to_json(summary.views))
    tensorboard = remedies.shell_command([remedies.python(), "-m", "tensorboard.main", "--logdir", run_dir])
    terminal.say(f"Run:         {run_dir}", f"TensorBoard: {tensorboard}")


if __name__ == "__main__":
    console.run(main)
