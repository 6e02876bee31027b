"""Trains a model on shards and evaluates it on folds that it has not seen.

  python -m pipelines.train --videos=/data/UCF50 \\
    --flagfile=pipelines/recipes/lstm.flags

With --videos the shards are brought up to date first; with --data alone they
are taken as they are. With --run naming an unfinished run, that run goes on.

With --strategy=multi_worker this is one of several workers, which TF_CONFIG or
Slurm names; all get the same flags, with --data and --run.
tools/launch_workers.py starts them on one machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console, convert, inputs, terminal, train_flags
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import (
    STRATEGIES,
    TrainSpec,
    UserError,
    expect,
    format_folds,
    to_json,
)
from ucf50_tfrecord.texts import shell_command
from ucf50_tfrecord.training import cluster

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ucf50_tfrecord.dataset.feed import Feed
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import logs, loop
    from ucf50_tfrecord.training import run as run_lib

_RUN = flags.DEFINE_string("run", None, "The run's folder. Default: a new one, runs/<data>-<model>-<time>.")
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    STRATEGIES,
    "Devices: one; mirrored, all of this process; multi_worker, all of the workers that TF_CONFIG or Slurm "
    "names; or auto.",
)
_JOIN_SECS = flags.DEFINE_float("join_secs", 600, "With several workers: seconds to wait for them to start.")
_LOG_EVERY = flags.DEFINE_integer(
    "log_every_steps", 20, "Steps between training curves' points.", lower_bound=1
)
_STEPS_PER_CALL = flags.DEFINE_integer(
    "steps_per_call",
    1,
    "Steps to take in one call from the host, at most; more relieve the host where steps are short.",
    lower_bound=1,
)
_CHECKPOINT_SECS = flags.DEFINE_float("checkpoint_secs", 300, "Seconds between checkpoints within an epoch.")

_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "The first and the last step to profile, such as 20,30, for TensorBoard's Profile page.",
)

for _module in (train_flags, convert, inputs):
    flags.adopt_module_key_flags(_module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training that is ready to start.

    feeds: of the training, the validation and, if there are some, the test clips.
    """

    manifest: manifest_lib.Manifest
    config: run_lib.RunConfig
    strategy: tf.distribute.Strategy
    feeds: list[Feed]
    state: loop.State
    run_dir: str


def main() -> None:
    with contextlib.ExitStack() as stack:
        job = prepare(stack)
        from ucf50_tfrecord.training import strategy as strategy_lib

        announce(job)
        with console.stop_requests() as should_stop, console.TrainingDisplay(should_stop) as display:
            evaluators = make_evaluators(job, display.warn)
            trained = train(job, evaluators, display)
            strategy_lib.wait_for_workers(job.strategy)  # until the chief has saved the best weights
            evaluations = evaluate_run(job, trained, evaluators, should_stop)
        if evaluations is None:
            print_stopped(trained, job.run_dir, strategy_lib.num_workers(job.strategy))
        elif strategy_lib.is_chief(job.strategy):
            summary = summarize(job, trained, evaluations)
            write_results(summary, evaluations, trained.model, job.run_dir)
            print_summary(summary, job.run_dir)
        strategy_lib.wait_for_workers(job.strategy)  # who ends first would be missed


def prepare(stack: contextlib.ExitStack) -> Job:
    """Checks what is asked for and makes all that training needs; its folder last.

    `stack` is to be left when training ends, however it ends.
    """
    train_spec, asked = read_flags()
    uses_workers = cluster.uses_workers(_STRATEGY.value, os.environ)
    if uses_workers:
        check_worker_flags()

    # Shards, before TensorFlow is loaded: the conversion's workers start lighter.
    manifest = convert.load_or_convert()
    folds = train_flags.choose_folds(manifest, asked)
    model_spec = train_flags.model_spec_from_flags(manifest)
    expect(
        train_spec.augment.temporal_shift < model_spec.num_frames,
        f"a shift of less than a clip's {model_spec.num_frames} frames",
        temporal_shift=train_spec.augment.temporal_shift,
    )

    console.load_tensorflow()
    from ucf50_tfrecord.dataset import reader
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    strategy = start_devices(stack, uses_workers)
    train_spec = dataclasses.replace(
        train_spec, precision=strategy_lib.choose_precision(train_spec.precision)
    )

    # Clips and model: a mistake in what was asked for shows before anything is written.
    config = run_lib.RunConfig(
        data_dir=storage.absolute(manifest.data_dir),
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        train_folds=folds.train,
        val_folds=folds.val,
        test_folds=folds.test or (),
        model=model_spec,
        train=train_spec,
        clip_format=manifest.format,
    )
    if _RUN.value:
        run_lib.check_run(_RUN.value, config)
    splits = [part for part in dataclasses.astuple(folds) if part]
    feeds = inputs.make_feeds(manifest, splits, strategy, shuffle_shards=train_spec.shuffle_shards)
    config = dataclasses.replace(config, video_secs=reader.video_secs([feed.clips for feed in feeds]))
    state = loop.build_state(model_spec, train_spec, num_clips=len(feeds[0].clips), strategy=strategy)
    digests = strategy_lib.gather_from_workers(strategy, run_lib.digest(config))
    expect(len(set(digests)) == 1, "the same flags and shards for all workers", digests=digests)

    # The run's folder. All workers have looked at it by now, and none goes on before it is made.
    run_dir = _RUN.value or run_lib.make_run_dir(manifest.data_dir, model_spec.name)
    if strategy_lib.is_chief(strategy):
        stack.enter_context(run_lib.open_run(run_dir, config))
    strategy_lib.wait_for_workers(strategy)
    return Job(manifest=manifest, config=config, strategy=strategy, feeds=feeds, state=state, run_dir=run_dir)


def start_devices(stack: contextlib.ExitStack, uses_workers: bool) -> tf.distribute.Strategy:
    """Returns the devices, those of all workers once they have come; while `stack` lasts their failures are told."""
    from ucf50_tfrecord.training import strategy as strategy_lib

    if uses_workers:
        terminal.say("Waiting for the other workers …", flush=True)
    strategy = strategy_lib.make_strategy(_STRATEGY.value, join_secs=_JOIN_SECS.value)
    console.handle_sigterm()  # which TensorFlow takes for itself where there are workers
    stack.enter_context(strategy_lib.explain_exhausted_memory())
    stack.enter_context(strategy_lib.explain_lost_workers(strategy))
    stack.enter_context(console.only_chief_speaks(strategy_lib.is_chief(strategy)))
    return strategy


def read_flags() -> tuple[TrainSpec, train_flags.Folds]:
    """Reads what the flags say of the training, before anything is done for them.

    Raises:
      UserError: if something is wrong with them, whatever the shards.
    """
    train_spec = train_flags.train_spec_from_flags()
    asked = train_flags.folds_from_flags(test_wanted=train_spec.early_stopping > 0)
    parse_steps(_PROFILE_STEPS.value)
    return train_spec, asked


def announce(job: Job) -> None:
    """Says what is trained, on what."""
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
    num_clips = len(job.feeds[0].clips)
    if config.train.batch_size > num_clips:
        terminal.warn(
            f"{num_clips} training clips do not fill a batch of {config.train.batch_size}: "
            f"--batch_size={num_clips} trains as well, in less memory and time"
        )
    if config.train.batch_size % num_devices and job.state.has_batch_norm:
        terminal.warn(
            f"{num_devices} devices cannot share {config.train.batch_size} clips a step evenly: the clips "
            "that fill a batch up do not count, but batch norm sees them"
        )


def make_evaluators(job: Job, warn: Callable[[str], None]) -> list[Callable[[keras.Model], runner.Evaluator]]:
    """Returns what makes the evaluators on the validation clips and, if there are some, the test clips."""
    from ucf50_tfrecord.evaluation import runner

    options = {"strategy": job.strategy, "batch_size": job.config.train.batch_size, "warn": warn}
    return [functools.partial(runner.Evaluator, feed=feed, **options) for feed in job.feeds[1:]]


def train(job: Job, evaluators: list[Callable], display: console.TrainingDisplay) -> loop.Trained:
    from ucf50_tfrecord.training import loop

    return loop.train(
        job.feeds[0],
        job.state,
        job.config.train,
        strategy=job.strategy,
        options=loop.RunOptions(
            run_dir=job.run_dir,
            log_every_steps=_LOG_EVERY.value,
            steps_per_call=_STEPS_PER_CALL.value,
            checkpoint_secs=_CHECKPOINT_SECS.value,
            profile_steps=parse_steps(_PROFILE_STEPS.value),
        ),
        make_evaluator=evaluators[0],
        open_log=functools.partial(open_log, job),
        listener=display,
    )


def open_log(job: Job, step: int) -> logs.TensorBoardLog:
    """Opens TensorBoard's files of a run that starts after a step, and says there what the run is made of."""
    from ucf50_tfrecord.training import logs, provenance
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    log = logs.TensorBoardLog(job.run_dir, start_step=step, writes=strategy_lib.is_chief(job.strategy))
    if log.writes:
        log.hparams(run_lib.hparams(job.config) | {"devices": job.strategy.num_replicas_in_sync})
        data = run_lib.describe_data(job.config, [len(feed.clips) for feed in job.feeds])
        log.card(data=data, **provenance.environment(), flags=given_flags())
    return log


def evaluate_run(
    job: Job, trained: loop.Trained, evaluators: list[Callable], should_stop: Callable[[], bool]
) -> dict[str, list[runner.Evaluation]] | None:
    """Scores a finished run; returns a split's evaluations, one for each of runner.RUN_INTERVENTIONS.

    These are the last weights, as selecting the best by the folds that are scored would flatter
    them; with early stopping the best epoch's. The first split is the one that is reported: the
    test folds, where there are some.

    Returns None if the run is not finished, or is stopped meanwhile.
    """
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import checkpoint, logs
    from ucf50_tfrecord.training import strategy as strategy_lib

    if not trained.finished:
        return None
    if job.config.train.early_stopping:
        checkpoint.load_weights(job.run_dir, "best", trained.model)
    evaluate = {"validation": trained.evaluate}
    if len(evaluators) > 1:
        evaluate = {"test": evaluators[1](trained.model)} | evaluate
    found: dict[str, list[runner.Evaluation]] = {split: [] for split in evaluate}
    for split, name in itertools.product(evaluate, runner.RUN_INTERVENTIONS):
        if any(strategy_lib.gather_from_workers(job.strategy, int(should_stop()))):
            return None
        found[split].append(evaluate[split](name))
    if "test" in found and strategy_lib.is_chief(job.strategy):
        log = logs.TensorBoardLog(job.run_dir)
        log.drop_from("test", 0)  # of the same run, finished before
        log.scalars("test", found["test"][0].scores, trained.step)
        log.evaluation("test", found["test"][0], evaluate["test"].mistakes(found["test"][0]), trained.step)
        log.close()
    return found


def write_results(
    summary: run_lib.Summary,
    evaluations: dict[str, list[runner.Evaluation]],
    model: keras.Model,
    run_dir: str,
) -> None:
    """Writes predictions.jsonl, the encoder's weights and summary.json."""
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import run as run_lib

    reported = next(iter(evaluations.values()))
    runner.save_predictions(pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME), reported)
    encoder = next((layer for layer in model.layers if layer.name == "encoder"), None)
    if encoder is not None:
        unfinished = pathlib.Path(run_dir, f".{run_lib.ENCODER_FILENAME}")
        encoder.save_weights(unfinished)
        os.replace(unfinished, pathlib.Path(run_dir, run_lib.ENCODER_FILENAME))
    path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if summary.clips_per_sec is None and path.exists():  # nothing was left to train
        before = run_lib.load_summary(run_dir)
        kept = ("clips_per_sec", "wait_share", "num_skipped_clips")
        summary = dataclasses.replace(summary, **{name: getattr(before, name) for name in kept})
    storage.write_json(path, to_json(summary))


def check_worker_flags() -> None:
    """Checks the flags of one of several workers.

    Raises:
      UserError: if the workers could not agree on a folder.
    """
    if not _RUN.value:
        raise UserError(
            "With several workers pass --run=<folder>: the same for all, on a file system that all share."
        )
    if flags.FLAGS["videos"].value:
        raise UserError(
            "With several workers pass --data=<folder of shards> in place of --videos, and convert before: "
            "python -m pipelines.convert --videos=…"
        )


def print_stopped(trained: loop.Trained, run_dir: str, num_workers: int) -> None:
    stopped = f"Stopped at step {trained.step} and saved. To go on:"
    if num_workers > 1:
        terminal.say(f"{stopped} start all workers again with --run={run_dir}", flush=True)
    else:
        terminal.say(stopped, f"  {resume_command(run_dir)}", flush=True)


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Reads steps such as "20,30"; None of None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+),(\d+)", text.replace(" ", ""))
    expect(
        match is not None and 1 <= int(match[1]) <= int(match[2]),
        "--profile_steps=a,b with 1 <= a <= b",
        profile_steps=text,
    )
    return int(match[1]), int(match[2])


def given_flags() -> dict[str, object]:
    """Returns all flags of this program, as given or by default."""
    return {flag.name: flag.value for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}


def summarize(
    job: Job, trained: loop.Trained, evaluations: dict[str, list[runner.Evaluation]]
) -> run_lib.Summary:
    """Returns what summary.json says of a finished run."""
    from ucf50_tfrecord.training import provenance
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib
    from ucf50_tfrecord.training import trained as trained_lib

    config = job.config
    (split, (plain, shuffled)), *others = evaluations.items()
    return run_lib.Summary(
        **plain.scores,
        **{name: run_lib.Scores(**other.scores) for name, (other, _) in others},
        split=split,
        shuffled=run_lib.Scores(**shuffled.scores),
        num_clips=len(plain.clips),
        folds=config.test_folds or config.val_folds,
        weights=trained_lib.scored_weights(config),
        train_folds=config.train_folds,
        model=config.model.name,
        params=trained.model.count_params(),
        epochs=config.train.epochs,
        trained_epochs=trained.epochs,
        seed=config.train.seed,
        precision=config.train.precision,
        best=run_lib.Best(macro_f1=trained.best_macro_f1, epoch=trained.best_epoch),
        clips_per_sec=trained.clips_per_sec,
        wait_share=trained.wait_share,
        num_skipped_clips=trained.num_skipped,
        num_train_clips=len(job.feeds[0].clips),
        num_devices=job.strategy.num_replicas_in_sync,
        num_workers=strategy_lib.num_workers(job.strategy),
        fold_by=job.manifest.fold_rule.fold_by,
        fingerprint=config.fingerprint,
        data_dir=config.data_dir,
        environment=provenance.environment(),
    )


def resume_command(run_dir: str) -> str:
    """Returns this very command with --run added."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--run=")]
    return shell_command([console.python(), "-m", "pipelines.train", *arguments, f"--run={run_dir}"])


def print_summary(summary: run_lib.Summary, run_dir: str) -> None:
    chosen = f"with the weights of epoch {summary.best.epoch}, " if summary.weights == "best" else ""
    title = (
        f"{summary.model}, {summary.params:,} parameters, after {summary.trained_epochs} epochs, "
        f"{chosen}on {summary.num_clips} clips of folds {format_folds(summary.folds)}"
    )
    console.print_scores(title, to_json(summary), to_json(summary.shuffled))
    tensorboard = shell_command([console.python(), "-m", "tensorboard.main", "--logdir", run_dir])
    terminal.say(f"Run:         {run_dir}", f"TensorBoard: {tensorboard}")


if __name__ == "__main__":
    console.run(main)
