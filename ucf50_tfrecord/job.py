"""One training as a job, from a dataset's clips to the results: `prepare` makes the job, `run` executes it.

    with contextlib.ExitStack() as stack:
        job = prepare(manifest, folds, ..., stack=stack)
        outcome = run(job, ...)

Every worker (process) of a multi-worker strategy calls both functions; only the chief worker writes files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import keras
import tensorflow as tf

from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import Cache, ClassWeight, FoldBy, Precision, Sampler
from ucf50_tfrecord.dataset import feed as feed_lib
from ucf50_tfrecord.dataset import pretext, reader
from ucf50_tfrecord.dataset.feed import CacheChoice, Feed
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation import lookalikes, pretrained, runner
from ucf50_tfrecord.evaluation import teachers as teachers_lib
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json
from ucf50_tfrecord.training import checkpoint, logs, loop, provenance
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained as trained_lib
from ucf50_tfrecord.training.folds import Folds, check_early_stopping
from ucf50_tfrecord.training.listener import Listener

_Split = Literal["validation", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobListener(Listener):
    """Functions that a job calls during its training, and between evaluations.

    By default these functions ignore everything and never stop the job.

    chose_cache: called with the place where the clips are kept, and the reason for that place.
    loading: called with a list of folds and the number of their clips that will be loaded into memory (0 if
      none). It returns a context manager that is open during the loading. Entering it gives a function, which
      is called with the number of clips in each batch once that batch is loaded.
    predicting: called with the name of each teacher and the number of clips that it will predict. It returns a
      context manager like that of `loading`.
    """

    chose_cache: Callable[[CacheChoice], None] = lambda choice: None
    loading: Callable[[Sequence[int], int], AbstractContextManager[Callable[[int], None]]] = (
        lambda folds, num_clips: contextlib.nullcontext(lambda count: None)
    )
    predicting: teachers_lib.Progress = lambda name, num_clips: contextlib.nullcontext(lambda count: None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training that is ready to start.

    manifest: the dataset's manifest; with a pretext task, with that task's classes.
    config: all settings that decide the trained weights; a precision of "auto" is already resolved.
    strategy: the devices that train.
    feeds: one Feed (a source of batches) each for the training clips, the validation clips and, if there are
      test folds, the test clips.
    state: the model with its initial weights, and the optimizer.
    run_dir: the run's folder.
    """

    manifest: Manifest
    config: run_lib.RunConfig
    strategy: tf.distribute.Strategy
    feeds: list[Feed]
    state: loop.State
    run_dir: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a job.

    trained: the result of the training.
    summary: the contents of summary.json; None if the job was stopped, in which case the run can be resumed.
    """

    trained: loop.Trained
    summary: run_lib.Summary | None


def make_feeds(
    manifest: Manifest,
    splits: Sequence[Sequence[int]],
    inputs: InputSpec,
    *,
    strategy: tf.distribute.Strategy,
    shuffle_shards: int = 0,
    listener: JobListener = JobListener(),
) -> list[Feed]:
    """Makes a feed (a source of batches) for each set of folds; loads the clips that are kept in memory.

    Args:
      manifest: the dataset's manifest.
      splits: sets of folds.
      inputs: how the clips are read.
      strategy: the devices that receive the batches.
      shuffle_shards: number of shards whose clips are shuffled together, or 0 for all shards.
      listener: its functions chose_cache and loading are called.

    Raises:
      UserError: if a fold does not exist, a shard is damaged, or the clips do not fit into the cache that
        `inputs` names.
    """
    splits_clips = [inputs.load_clips(manifest, folds, shuffle_shards=shuffle_shards) for folds in splits]
    choice = feed_lib.choose_cache(
        inputs.cache,
        sum(clips.num_bytes for clips in splits_clips),
        num_processes=strategy_lib.num_workers_here(strategy),
        steps_are_short=manifest.features is not None,
    )
    listener.chose_cache(choice)
    feeds = []
    for folds, clips in zip(splits, splits_clips):
        with listener.loading(folds, len(clips) if choice.cache != Cache.NONE else 0) as count:
            feed = Feed(
                clips,
                strategy=strategy,
                cache=choice.cache,
                skip_bad_records=inputs.skips_bad_records,
                on_loaded=count,
            )
        feeds.append(feed)
    return feeds


def prepare(
    manifest: Manifest,
    folds: Folds,
    *,
    model: ModelSpec,
    train: TrainSpec,
    inputs: InputSpec,
    strategy: tf.distribute.Strategy,
    run_dir: str | None,
    stack: contextlib.ExitStack,
    allowed_code: Collection[str] = (),
    listener: JobListener = JobListener(),
) -> Job:
    """Checks the settings of a training and makes its feeds, its model and, last, its run folder.

    Args:
      manifest: the dataset's manifest.
      folds: the folds to train, validate and test on, as choose_folds returns them.
      model: the model to train.
      train: how the model is trained.
      inputs: how the clips are read.
      strategy: the devices that train.
      run_dir: the run's folder. If it holds an unfinished run of the same configuration, that run is resumed.
        None makes a new folder under runs/.
      stack: receives the lock on the run's folder, which this process holds until the stack is closed.
      allowed_code: builders outside this package, as <module>:<builder>, that teachers may name; see
        trained.load_model.
      listener: its functions chose_cache, loading, predicting and warn are called.

    Raises:
      UserError: if `run_dir` holds another run, a clip cannot be read, the model cannot be built, a teacher is refused
        (see teachers.load), the model's encoder was trained on clips that are held out (see
        pretrained.check_held_out), or the workers of a multi-worker strategy have different settings or shards.
    """
    check_early_stopping(train, folds)
    expect(
        train.augment.temporal_shift < model.num_frames,
        f"a shift of less than a clip's {model.num_frames} frames",
        temporal_shift=train.augment.temporal_shift,
    )
    if manifest.features:
        train.check_fits_features()
    if manifest.multi_label:
        _check_several_labels(manifest, train)
    train = dataclasses.replace(train, precision=strategy_lib.choose_precision(train.precision))
    splits = [inputs.load_clips(manifest, part) for part in folds.sets] if train.teachers else []
    teachers = teachers_lib.load(
        train.teacher_runs, splits, inputs, strategy=strategy, allowed_code=allowed_code
    )
    labelled = manifest
    if train.has_pretext:
        labelled = pretext.relabel_manifest(manifest)
        model = dataclasses.replace(model, num_classes=len(labelled.classes))
    config = run_lib.RunConfig(
        data_dir=storage.absolute(manifest.data_dir),
        fingerprint=manifest.fingerprint,
        classes=labelled.classes,
        train_folds=folds.train or (),
        val_folds=folds.val or (),
        test_folds=folds.test or (),
        model=model,
        train=train,
        clip_format=manifest.format,
        features=manifest.features,
        multi_label=labelled.multi_label,
        taught_by=tuple(teacher.identity for teacher in teachers),
    )
    if run_dir:
        run_lib.check_run(run_dir, config)
    feeds = make_feeds(
        manifest,
        folds.sets,
        inputs,
        strategy=strategy,
        shuffle_shards=train.shuffle_shards,
        listener=listener,
    )
    is_chief = strategy_lib.is_chief(strategy)
    held_out = [feed.clips for feed in feeds[1:]]
    pretrained.check_held_out(model, held_out, warn=listener.warn if is_chief else lambda text: None)
    if is_chief:
        warning = lookalikes.find(feeds[0].clips, feeds[-1].clips)
        if warning:
            listener.warn(warning)
    config = dataclasses.replace(config, video_secs=reader.video_secs([feed.clips for feed in feeds]))
    feeds[0] = teachers_lib.teach(
        feeds[0], teachers, train, strategy=strategy, predicting=listener.predicting
    )
    state = loop.build_state(model, train, num_clips=len(feeds[0].clips), strategy=strategy)
    digests = strategy_lib.gather_from_workers(strategy, run_lib.digest(config))
    expect(len(set(digests)) == 1, "the same settings and shards for all workers", digests=digests)

    # Every worker has checked the folder before the chief makes it, and none continues before it is made.
    run_dir = run_dir or run_lib.make_run_dir(manifest.data_dir, model.name)
    if strategy_lib.is_chief(strategy):
        stack.enter_context(run_lib.open_run(run_dir, config))
    strategy_lib.wait_for_workers(strategy)
    return Job(manifest=labelled, config=config, strategy=strategy, feeds=feeds, state=state, run_dir=run_dir)


def _check_several_labels(manifest: Manifest, train: TrainSpec) -> None:
    """Raises UserError if a training of clips with several labels has settings that need one label per clip."""
    if train.class_weight != ClassWeight.NONE:
        manifest.expect_one_label(f"class_weight {train.class_weight}")
    if train.sampler != Sampler.ALL:
        manifest.expect_one_label(f"the sampler {train.sampler}")
    if train.mixes_clips:
        manifest.expect_one_label("mixup and cutmix")
    if train.teachers:
        manifest.expect_one_label("knowledge distillation")


def run(
    job: Job,
    options: run_lib.RunOptions = run_lib.RunOptions(),
    *,
    listener: JobListener = JobListener(),
    flags: Mapping[str, object] | None = None,
) -> Outcome:
    """Trains and evaluates a job's model; writes summary.json, predictions.jsonl and the encoder's weights.

    Args:
      job: the job, as prepare returns it.
      options: how often the run is logged and saved.
      listener: receives progress and warnings, and may stop the job.
      flags: the options that the program was started with, to be shown in TensorBoard's description of the
        run.

    Raises:
      UserError: if no checkpoint fits, a clip cannot be read, the loss or its gradient becomes NaN, or clips have not as
        many views as the options ask for.
    """
    predictor = runner.Predictor(job.state.model, job.strategy)
    views = runner.choose_views(options.test_views, job.manifest, job.config.model, job.config.train)
    evaluators = [
        runner.Evaluator(
            predictor,
            feed,
            batch_size=job.config.train.batch_size,
            test_views=views,
            has_pretext=job.config.train.has_pretext,
            warn=listener.warn,
        )
        for feed in job.feeds[1:]
    ]
    trained = loop.train(
        job.feeds[0],
        job.state,
        job.config.train,
        run_dir=job.run_dir,
        options=options,
        evaluate=evaluators[0],
        open_log=functools.partial(_open_log, job, flags),
        listener=listener,
    )
    strategy_lib.wait_for_workers(job.strategy)  # until the chief has saved the best weights
    evaluations = _evaluate(job, trained, evaluators, options, listener.should_stop)
    summary = None
    if evaluations is not None:
        summary = summarize(job, trained, evaluations)
        if strategy_lib.is_chief(job.strategy):
            summary = write_results(summary, evaluations, trained.model, job.run_dir)
    strategy_lib.wait_for_workers(job.strategy)  # the others would miss a worker that exits first
    return Outcome(trained=trained, summary=summary)


def _open_log(job: Job, flags: Mapping[str, object] | None, step: int) -> logs.TensorBoardLog:
    """Opens the TensorBoard files of a run that goes on after step `step`; writes the run's description."""
    log = logs.TensorBoardLog(job.run_dir, start_step=step, writes=strategy_lib.is_chief(job.strategy))
    if log.writes:
        values = run_lib.hparams(job.config) | {"devices": job.strategy.num_replicas_in_sync}
        log.hparams(values, logs.metrics_of(job.manifest))
        data = run_lib.describe_data(job.config, [len(feed.clips) for feed in job.feeds])
        log.card(data=data, **provenance.environment(), flags=dict(flags or {}))
    return log


def _evaluate(
    job: Job,
    trained: loop.Trained,
    evaluators: Sequence[runner.Evaluator],
    options: run_lib.RunOptions,
    should_stop: Callable[[], bool],
) -> dict[_Split, list[runner.Evaluation]] | None:
    """Scores the model of a finished training on the validation clips and, if there are any, the test clips.

    Each split is evaluated once per intervention in runner.RUN_INTERVENTIONS (an intervention is a change of
    the clips, such as shuffled frames) and, if `options` ask for it, averaged over the clips' views. The last weights are scored: weights that were chosen by their
    validation scores would make these scores too good. With early stopping, which needs test folds, the
    weights of the best epoch are scored.

    Returns:
      A dictionary from split to its evaluations, in the order of RUN_INTERVENTIONS, VIEWS last. The first split is the
      one that the summary reports: "test" if there are test folds. None if the training is not finished, or
      if `should_stop` returns True between evaluations.
    """
    if not trained.finished:
        return None
    if job.config.train.early_stopping:
        checkpoint.load_weights(job.run_dir, "best", trained.model)
    evaluate: dict[_Split, runner.Evaluator] = {}
    if len(evaluators) > 1:
        evaluate["test"] = evaluators[1]
    evaluate["validation"] = evaluators[0]
    found: dict[_Split, list[runner.Evaluation]] = {split: [] for split in evaluate}
    names = [*runner.RUN_INTERVENTIONS, *([runner.VIEWS] if options.test_views > 1 else [])]
    for split, name in itertools.product(evaluate, names):
        if any(strategy_lib.gather_from_workers(job.strategy, int(should_stop()))):
            return None
        found[split].append(evaluate[split](name))
    if "test" in found and strategy_lib.is_chief(job.strategy):
        log = logs.TensorBoardLog(job.run_dir)
        log.drop_from("test", 0)  # scores that the same run wrote when it finished before
        log.scalars("test", found["test"][0].scores, trained.step)
        log.evaluation("test", found["test"][0], evaluate["test"].mistakes(found["test"][0]), trained.step)
        log.close()
    return found


def summarize(
    job: Job, trained: loop.Trained, evaluations: Mapping[_Split, Sequence[runner.Evaluation]]
) -> run_lib.Summary:
    """Builds the contents of summary.json for a job whose training and evaluations are finished."""
    config = job.config
    origin = pretrained.find_origin(config.model, config.features)
    (split, (plain, shuffled, *views)), *others = evaluations.items()
    scores: dict[str, Any] = plain.scores | {
        name: run_lib.Scores(**other.scores) for name, (other, *_) in others
    }
    return run_lib.Summary(
        **scores,
        split=split,
        shuffled=run_lib.Scores(**shuffled.scores),
        views=run_lib.Scores(**views[0].scores) if views else None,
        num_clips=len(plain.clips),
        folds=config.scored_folds,
        weights=trained_lib.scored_weights(config),
        train_folds=config.train_folds,
        encoder_folds=origin and origin[1].train_folds,
        model=config.model.name,
        params=trained.model.count_params(),
        epochs=config.train.epochs,
        trained_epochs=trained.epochs,
        seed=config.train.seed,
        precision=Precision(config.train.precision),
        best=run_lib.Best.of(trained.best_score, trained.best_epoch, multi_label=config.multi_label),
        clips_per_sec=trained.clips_per_sec,
        wait_share=trained.wait_share,
        num_skipped_clips=trained.num_skipped,
        num_train_clips=len(job.feeds[0].clips),
        num_devices=job.strategy.num_replicas_in_sync,
        num_workers=strategy_lib.num_workers(job.strategy),
        fold_by=FoldBy(job.manifest.fold_rule.fold_by),
        fingerprint=config.fingerprint,
        data_dir=config.data_dir,
        environment=provenance.environment(),
        teachers=tuple(teacher.name for teacher in config.taught_by),
    )


def write_results(
    summary: run_lib.Summary,
    evaluations: Mapping[_Split, list[runner.Evaluation]],
    model: keras.Model,
    run_dir: str,
) -> run_lib.Summary:
    """Writes predictions.jsonl, the encoder's weights and summary.json into a run's folder.

    Returns:
      The summary as written. If nothing was left to train, it states the speed and the number of skipped
      clips that the earlier summary.json states.
    """
    reported = next(iter(evaluations.values()))
    runner.save_predictions(pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME), reported)
    encoder = next((layer for layer in model.layers if layer.name == "encoder"), None)
    if encoder is not None:
        with storage.atomic_path(pathlib.Path(run_dir, run_lib.ENCODER_FILENAME)) as unfinished:
            encoder.save_weights(unfinished)
    path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if summary.clips_per_sec is None and path.exists():  # nothing was left to train: keep the measured speed
        before = run_lib.load_summary(run_dir)
        kept = ("clips_per_sec", "wait_share", "num_skipped_clips")
        summary = dataclasses.replace(summary, **{name: getattr(before, name) for name in kept})
    storage.write_json(path, to_json(summary))
    return summary
