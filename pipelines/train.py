"""Trains a model on shards, evaluates it on folds that it has not seen, and sums up.

  python -m pipelines.train --videos=/data/UCF50 --flagfile=pipelines/recipes/lstm.flags

With --videos the shards are brought up to date first; with --data alone they are
taken as they are. With --run naming an unfinished run, that run goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pipelines import console, convert, inputs
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import (
    ENCODERS,
    MODEL_NAMES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    STRATEGIES,
    THREE_BLOCK,
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
_ENCODER = flags.DEFINE_enum(
    "encoder", THREE_BLOCK, ENCODERS, "The frame encoder, in models that leave the choice."
)
_ENCODER_WEIGHTS = flags.DEFINE_string(
    "encoder_weights", "none", "What the encoder starts with: none, imagenet, or a file of its weights."
)
_FREEZE_ENCODER = flags.DEFINE_boolean("freeze_encoder", False, "Train all but the encoder.")
_MOTION = flags.DEFINE_boolean("motion", False, "Give the model each frame's difference from the one before.")
_VAL_FOLDS = flags.DEFINE_string(
    "val_folds", None, "Folds to evaluate on, such as 1-5,9. Default: the first fifth of the folds."
)
_TEST_FOLDS = flags.DEFINE_string(
    "test_folds",
    None,
    "Folds for the final scores, which nothing is selected on. Default: the validation folds.",
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
_CLIP_NORM = flags.DEFINE_float("clip_norm", 0.0, "Norm that the gradient is cut down to; 0 is off.")
_EMA = flags.DEFINE_float(
    "ema", 0.0, "Decay of a moving average of the weights, which is evaluated in their place; 0 is off."
)
_EARLY_STOPPING = flags.DEFINE_integer(
    "early_stopping",
    0,
    "End after so many epochs without a better validation macro F1, and take the best epoch's weights; "
    "wants --test_folds. 0 is off.",
)
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
_XLA = flags.DEFINE_boolean("xla", False, "Compile the forward and backward pass by XLA; on one device.")
_STRATEGY = flags.DEFINE_enum("strategy", "auto", STRATEGIES, "Devices: one, all mirrored, or auto.")
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

flags.adopt_module_key_flags(convert)
flags.adopt_module_key_flags(inputs)


def main() -> None:
    # What the flags say, before anything is done for them.
    train_spec = train_spec_from_flags()
    asked = Folds(
        **{
            name: parse_folds(flag.value) if flag.value else None
            for name, flag in (("train", _TRAIN_FOLDS), ("val", _VAL_FOLDS), ("test", _TEST_FOLDS))
        }
    )
    expect(
        not train_spec.early_stopping or asked.test is not None,
        "--test_folds with --early_stopping: scores on the folds that chose the epoch would flatter it",
        early_stopping=train_spec.early_stopping,
    )

    # Shards, before TensorFlow is loaded: the conversion's workers start lighter.
    manifest = convert.load_or_convert()
    folds = choose_folds(manifest, asked)
    model_spec = model_spec_from_flags(manifest)
    expect(
        train_spec.augment.temporal_shift < model_spec.num_frames,
        f"a shift of less than a clip's {model_spec.num_frames} frames",
        temporal_shift=train_spec.augment.temporal_shift,
    )

    # Devices, clips and model.
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
        train_folds=folds.train,
        val_folds=folds.val,
        test_folds=folds.test or (),
        model=model_spec,
        train=train_spec,
    )
    if _RUN.value:
        run_lib.check_run(_RUN.value, config)
    feeds = inputs.make_feeds(manifest, [part for part in dataclasses.astuple(folds) if part], strategy)
    state = loop.build_state(model_spec, train_spec, num_clips=len(feeds[0].clips), strategy=strategy)

    # Run.
    run_dir = _RUN.value or run_lib.make_run_dir(manifest.data_dir, model_spec.name)
    run_lib.open_run(run_dir, config)
    counts = "; ".join(
        f"{name} on {len(feed.clips)} (folds {format_folds(part)})"
        for name, feed, part in zip(("training", "validating", "testing"), feeds, dataclasses.astuple(folds))
    )
    print(
        f"Clips: {counts}.\n{model_spec.name}, {train_spec.precision} on {strategy.num_replicas_in_sync} "
        f"{strategy_lib.device_type()}(s); run {run_dir}"
    )

    # Training.
    log = logs.TensorBoardLog(run_dir)
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    log.text("flags", {flag.name: flag.value for flag in key_flags})
    with console.stop_requests() as should_stop, console.TrainingDisplay() as display:
        evaluators = [
            functools.partial(
                runner.Evaluator,
                feed=feed,
                strategy=strategy,
                batch_size=train_spec.batch_size,
                warn=display.warn,
            )
            for feed in feeds[1:]
        ]
        trained = loop.train(
            feeds[0],
            state,
            train_spec,
            strategy=strategy,
            options=loop.RunOptions(
                run_dir=run_dir,
                log_every_steps=_LOG_EVERY.value,
                steps_per_call=_STEPS_PER_CALL.value,
                checkpoint_secs=_CHECKPOINT_SECS.value,
            ),
            hooks=loop.Hooks(
                make_evaluator=evaluators[0],
                report=display.update,
                warn=display.warn,
                should_stop=should_stop,
            ),
            log=log,
        )
    if not trained.finished:
        print(f"Stopped at step {trained.step} and saved. To go on:\n  {resume_command(run_dir)}")
        return
    summary = evaluate_run(trained, evaluators, config, run_dir) | {
        "num_train_clips": len(feeds[0].clips),
        "num_devices": strategy.num_replicas_in_sync,
        "fold_by": manifest.fold_rule.fold_by,
    }
    write_summary(summary, run_dir)
    print_summary(summary, run_dir)


def evaluate_run(
    trained: loop.Trained, evaluators: list[Callable], config: run_lib.RunConfig, run_dir: str
) -> dict:
    """Scores a finished run on its held-out clips, saves the predictions, and returns its summary.

    These are the last weights, as selecting the best by the folds that are scored would flatter
    them; with early stopping the best epoch's, scored on the test folds.
    """
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import checkpoint
    from ucf50_tfrecord.training import run as run_lib

    if config.train.early_stopping:
        checkpoint.load_weights(run_dir, "best", trained.model)
    evaluate = evaluators[-1](trained.model) if len(evaluators) > 1 else trained.evaluate
    evaluations = [evaluate(perturbation) for perturbation in runner.PERTURBATIONS]
    runner.save_predictions(pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME), evaluations)
    validation = {"validation": trained.evaluate().scores} if len(evaluators) > 1 else {}
    return summarize(trained, evaluations, config) | validation


def write_summary(summary: dict, run_dir: str) -> None:
    from ucf50_tfrecord.training import run as run_lib

    path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if summary["clips_per_sec"] is None and path.exists():  # nothing was left to train
        before = storage.read_json(path)
        summary |= {key: before.get(key) for key in ("clips_per_sec", "wait_share", "num_skipped_clips")}
    storage.write_json(path, summary)


def summarize(trained: loop.Trained, evaluations: list[runner.Evaluation], config: run_lib.RunConfig) -> dict:
    """Returns what summary.json says of a finished run."""
    plain, shuffled = evaluations
    return plain.scores | {
        "shuffled": shuffled.scores,
        "num_clips": len(plain.clips),
        "folds": config.test_folds or config.val_folds,
        "weights": "best" if config.train.early_stopping else "last",
        "train_folds": config.train_folds,
        "model": config.model.name,
        "params": trained.model.count_params(),
        "epochs": config.train.epochs,
        "stopped_early": trained.stopped_early,
        "seed": config.train.seed,
        "precision": config.train.precision,
        "best": {"macro_f1": trained.best_macro_f1, "epoch": trained.best_epoch},
        "clips_per_sec": trained.clips_per_sec,
        "wait_share": trained.wait_share,
        "num_skipped_clips": trained.num_skipped,
        "fingerprint": config.fingerprint,
        "data_dir": config.data_dir,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """Which folds to train on, to validate on during training, and to test on; None where not said."""

    train: tuple[int, ...] | None
    val: tuple[int, ...] | None
    test: tuple[int, ...] | None


def choose_folds(manifest: manifest_lib.Manifest, asked: Folds) -> Folds:
    """Fills in the folds to validate and to train on where they are not given.

    Raises:
      UserError: if a fold does not exist, or is in two of the sets.
    """
    test = asked.test or ()
    val = asked.val or manifest_lib.default_val_folds(manifest, without=(*test, *(asked.train or ())))
    train = asked.train or tuple(fold for fold in manifest.folds if fold not in (*val, *test))
    folds = Folds(train=train, val=val, test=asked.test)
    named = {f"--{name}_folds": part for name, part in dataclasses.asdict(folds).items() if part is not None}
    for (name, part), (other_name, other) in itertools.combinations(named.items(), 2):
        both = sorted(set(part) & set(other))
        if both:
            raise UserError(f"Folds {format_folds(both)} are in both {name} and {other_name}")
    for name, part in named.items():
        unknown = sorted(set(part) - set(manifest.folds))
        if unknown or not part:
            raise UserError(
                f"Expected {name} out of folds {format_folds(manifest.folds)} of {manifest.data_dir}. "
                f"Received: {format_folds(unknown) or 'none'}"
            )
        counts = np.sum([manifest.clips_per_class[fold] for fold in part], axis=0)
        missing = [name for name, count in zip(manifest.classes, counts) if not count]
        if missing:
            print(f"warning: no clip of {', '.join(missing)} in {name}={format_folds(part)}", file=sys.stderr)
    return folds


def model_spec_from_flags(manifest: manifest_lib.Manifest) -> ModelSpec:
    return ModelSpec(
        name=_MODEL.value,
        num_classes=len(manifest.classes),
        num_frames=manifest.format.num_frames,
        height=manifest.format.height,
        width=manifest.format.width,
        dropout=_DROPOUT.value,
        encoder=_ENCODER.value,
        encoder_weights=_ENCODER_WEIGHTS.value,
        freeze_encoder=_FREEZE_ENCODER.value,
        motion=_MOTION.value,
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
        clip_norm=_CLIP_NORM.value,
        ema=_EMA.value,
        early_stopping=_EARLY_STOPPING.value,
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
        xla=_XLA.value,
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
