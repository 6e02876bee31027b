"""Trains a model on shards, evaluates it on folds that it has not seen, and sums up.

  python -m pipelines.train --videos=/data/UCF50 --flagfile=pipelines/recipes/lstm.flags

With --videos the shards are brought up to date first; with --data alone they are
taken as they are. With --run naming an unfinished run, that run goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console, convert, inputs
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import (
    MODEL_NAMES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STRATEGIES,
    AugmentSpec,
    ModelSpec,
    TrainSpec,
    UserError,
    expect,
    format_folds,
    parse_folds,
)

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training import run as run_lib

_RUN = flags.DEFINE_string("run", None, "The run's folder. Default: a new one, runs/<data>-<model>-<time>.")
_MODEL = flags.DEFINE_enum("model", "lstm", MODEL_NAMES, "The model.")
_VAL_FOLDS = flags.DEFINE_string(
    "val_folds", None, "Folds to evaluate on, such as 1-5,9. Default: the first fifth of the folds."
)
_TRAIN_FOLDS = flags.DEFINE_string("train_folds", None, "Folds to train on. Default: all others.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training clips.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Clips a step, over all devices.")
_OPTIMIZER = flags.DEFINE_enum("optimizer", "adam", OPTIMIZERS, "The optimizer.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "The (peak) learning rate.")
_SCHEDULE = flags.DEFINE_enum("schedule", "constant", SCHEDULES, "How the learning rate runs.")
_WARMUP_EPOCHS = flags.DEFINE_float("warmup_epochs", 0.0, "Epochs of linear warm-up, with --schedule=cosine.")
_WEIGHT_DECAY = flags.DEFINE_float("weight_decay", 0.0, "Weight decay, with --optimizer=adamw.")
_LABEL_SMOOTHING = flags.DEFINE_float("label_smoothing", 0.0, "Share of the target spread over all classes.")
_DROPOUT = flags.DEFINE_float("dropout", 0.0, "Dropout, in models that have it.")
_FLIP = flags.DEFINE_boolean("horizontal_flip", False, "Mirror half of the training clips, anew each epoch.")
_CROP_AREA = flags.DEFINE_float(
    "crop_area", 1.0, "Cut at least this share of each training frame out, and scale it back; 1 is off."
)
_BRIGHTNESS = flags.DEFINE_float("brightness", 0.0, "Scale training clips' brightness by 1 - x to 1 + x.")
_CONTRAST = flags.DEFINE_float("contrast", 0.0, "Scale training clips' contrast by 1 - x to 1 + x.")
_SATURATION = flags.DEFINE_float("saturation", 0.0, "Scale training clips' saturation by 1 - x to 1 + x.")
_TEMPORAL_SHIFT = flags.DEFINE_integer(
    "temporal_shift", 0, "Move training clips by up to this many frames in time."
)
_ERASE = flags.DEFINE_float("erase", 0.0, "Share of training clips in which a rectangle is painted over.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the order of clips and all other chance.")
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "Of the computation; weights are float32.")
_STRATEGY = flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Devices: one, all mirrored, or auto.")
_LOG_EVERY = flags.DEFINE_integer(
    "log_every_steps", 20, "Steps between training curves' points.", lower_bound=1
)
_CHECKPOINT_SECS = flags.DEFINE_float("checkpoint_secs", 300, "Seconds between checkpoints within an epoch.")

flags.adopt_module_key_flags(convert)
flags.adopt_module_key_flags(inputs)


def main() -> None:
    # What the flags say, before anything is done for them.
    train_spec = train_spec_from_flags()
    val_folds = parse_folds(_VAL_FOLDS.value) if _VAL_FOLDS.value else None
    train_folds = parse_folds(_TRAIN_FOLDS.value) if _TRAIN_FOLDS.value else None

    # Shards, before TensorFlow is loaded: the conversion's workers start lighter.
    manifest = convert.load_or_convert()
    val_folds, train_folds = choose_folds(manifest, val_folds, train_folds)
    model_spec = model_spec_from_flags(manifest)
    expect(
        train_spec.augment.temporal_shift < model_spec.num_frames,
        f"a shift of less than a clip's {model_spec.num_frames} frames",
        temporal_shift=train_spec.augment.temporal_shift,
    )

    # Devices and clips.
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import logs, loop
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    strategy = strategy_lib.make_strategy(_STRATEGY.value)
    train_spec = dataclasses.replace(
        train_spec, precision=strategy_lib.choose_precision(train_spec.precision)
    )
    config = run_lib.RunConfig(
        data_dir=os.path.abspath(manifest.data_dir),
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        train_folds=train_folds,
        val_folds=val_folds,
        model=model_spec,
        train=train_spec,
    )
    if _RUN.value:
        run_lib.check_run(_RUN.value, config)
    train_feed, val_feed = inputs.make_feeds(manifest, (train_folds, val_folds), strategy)

    # Run.
    run_dir = _RUN.value or run_lib.make_run_dir(manifest.data_dir, model_spec.name)
    run_lib.open_run(run_dir, config)
    print(
        f"Training {model_spec.name} on {len(train_feed.clips)} clips (folds {format_folds(train_folds)}), "
        f"validating on {len(val_feed.clips)} (folds {format_folds(val_folds)}); {train_spec.precision} on "
        f"{strategy.num_replicas_in_sync} {strategy_lib.device_type()}(s); run {run_dir}"
    )

    # Training.
    log = logs.TensorBoardLog(run_dir)
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    log.text("flags", {flag.name: flag.value for flag in key_flags})
    with console.stop_requests() as should_stop, console.TrainingDisplay() as display:
        trained = loop.train(
            train_feed,
            model_spec,
            train_spec,
            strategy=strategy,
            options=loop.RunOptions(
                run_dir=run_dir, log_every_steps=_LOG_EVERY.value, checkpoint_secs=_CHECKPOINT_SECS.value
            ),
            hooks=loop.Hooks(
                make_evaluator=functools.partial(
                    runner.Evaluator,
                    feed=val_feed,
                    strategy=strategy,
                    batch_size=train_spec.batch_size,
                    warn=display.warn,
                ),
                report=display.update,
                warn=display.warn,
                should_stop=should_stop,
            ),
            log=log,
        )
    if not trained.finished:
        print(f"Stopped at step {trained.step} and saved. To go on:\n  {resume_command(run_dir)}")
        return

    # Evaluation of the last weights: selecting the best by these folds would flatter them.
    evaluations = [trained.evaluate(perturbation) for perturbation in runner.PERTURBATIONS]
    runner.save_predictions(pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME), evaluations)
    summary = summarize(trained, evaluations, config) | {
        "num_train_clips": len(train_feed.clips),
        "num_skipped_clips": trained.num_skipped,
        "num_devices": strategy.num_replicas_in_sync,
        "fold_by": manifest.fold_rule.fold_by,
    }
    summary_path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if trained.clips_per_sec is None and summary_path.exists():  # nothing was left to train
        before = storage.read_json(summary_path)
        summary |= {key: before.get(key) for key in ("clips_per_sec", "wait_share", "num_skipped_clips")}
    storage.write_json(summary_path, summary)
    print_summary(summary, run_dir)


def summarize(trained: loop.Trained, evaluations: list[runner.Evaluation], config: run_lib.RunConfig) -> dict:
    """Returns what summary.json says of a finished run."""
    plain, shuffled = evaluations
    return plain.scores | {
        "shuffled": shuffled.scores,
        "num_clips": len(plain.clips),
        "folds": config.val_folds,
        "train_folds": config.train_folds,
        "model": config.model.name,
        "params": trained.model.count_params(),
        "epochs": config.train.epochs,
        "seed": config.train.seed,
        "precision": config.train.precision,
        "best": {"macro_f1": trained.best_macro_f1, "epoch": trained.best_epoch},
        "clips_per_sec": trained.clips_per_sec,
        "wait_share": trained.wait_share,
        "fingerprint": config.fingerprint,
        "data_dir": config.data_dir,
    }


def choose_folds(
    manifest: manifest_lib.Manifest, val_folds: tuple[int, ...] | None, train_folds: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the folds to validate on and to train on, filling in what is not given.

    Raises:
      UserError: if a fold does not exist, or is in both.
    """
    if val_folds is None:
        val_folds = manifest_lib.default_val_folds(manifest)
    if train_folds is None:
        train_folds = tuple(fold for fold in manifest.folds if fold not in val_folds)
    both = sorted(set(val_folds) & set(train_folds))
    if both:
        raise UserError(f"Folds {format_folds(both)} are in both --train_folds and --val_folds")
    for name, folds in (("val_folds", val_folds), ("train_folds", train_folds)):
        unknown = sorted(set(folds) - set(manifest.folds))
        if unknown or not folds:
            raise UserError(
                f"Expected --{name} out of folds {format_folds(manifest.folds)} of {manifest.data_dir}. "
                f"Received: {format_folds(unknown) or 'none'}"
            )
        counts = [
            sum(manifest.clips_per_class[fold][label] for fold in folds)
            for label in range(len(manifest.classes))
        ]
        missing = [name for name, count in zip(manifest.classes, counts) if not count]
        if missing:
            print(
                f"warning: no clip of {', '.join(missing)} in --{name}={format_folds(folds)}", file=sys.stderr
            )
    return val_folds, train_folds


def model_spec_from_flags(manifest: manifest_lib.Manifest) -> ModelSpec:
    return ModelSpec(
        name=_MODEL.value,
        num_classes=len(manifest.classes),
        num_frames=manifest.format.num_frames,
        height=manifest.format.height,
        width=manifest.format.width,
        dropout=_DROPOUT.value,
    )


def train_spec_from_flags() -> TrainSpec:
    return TrainSpec(
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        optimizer=_OPTIMIZER.value,
        learning_rate=_LEARNING_RATE.value,
        schedule=_SCHEDULE.value,
        warmup_epochs=_WARMUP_EPOCHS.value,
        weight_decay=_WEIGHT_DECAY.value,
        label_smoothing=_LABEL_SMOOTHING.value,
        augment=AugmentSpec(
            horizontal_flip=_FLIP.value,
            crop_area=_CROP_AREA.value,
            brightness=_BRIGHTNESS.value,
            contrast=_CONTRAST.value,
            saturation=_SATURATION.value,
            temporal_shift=_TEMPORAL_SHIFT.value,
            erase=_ERASE.value,
        ),
        seed=_SEED.value,
        precision=_PRECISION.value,
    )


def resume_command(run_dir: str) -> str:
    """Returns this very command with --run added."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--run=")]
    return shlex.join([sys.executable, "-m", "pipelines.train", *arguments, f"--run={run_dir}"])


def print_summary(summary: dict, run_dir: str) -> None:
    title = (
        f"{summary['model']}, {summary['params']:,} parameters, after {summary['epochs']} epochs, "
        f"on {summary['num_clips']} clips of folds {format_folds(summary['folds'])}"
    )
    console.print_scores(title, summary, summary["shuffled"])
    logdir = os.path.join(run_dir, "tensorboard")
    print(
        f"Run:         {run_dir}\n"
        f"TensorBoard: {shlex.join([sys.executable, '-m', 'tensorboard.main', '--logdir', logdir])}"
    )


if __name__ == "__main__":
    console.run(main)
