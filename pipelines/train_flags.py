"""What the training's flags say: the model, how to train it, and on which folds."""

from __future__ import annotations

import dataclasses
import itertools

from absl import flags

from pipelines import terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.architectures import ENCODERS, THREE_BLOCK
from ucf50_tfrecord.specs import (
    FRAME_ORDERS,
    MODEL_NAMES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    AugmentSpec,
    ModelSpec,
    TrainSpec,
    UserError,
    expect,
    format_folds,
    is_own_code,
    parse_folds,
)

_MODEL = flags.DEFINE_string(
    "model",
    "lstm",
    f"The model: one of {', '.join(MODEL_NAMES)}, or a builder of your own as <module>:<function>.",
)
_ENCODER = flags.DEFINE_string(
    "encoder",
    THREE_BLOCK,
    "The frame encoder, in models that leave the choice: three_block, a model of keras.applications, or a builder of "
    "your own as <module>:<function>.",
)
_ENCODER_WEIGHTS = flags.DEFINE_string(
    "encoder_weights", "none", "What the encoder starts with: none, imagenet, or a file of its weights."
)
_FREEZE_ENCODER = flags.DEFINE_boolean("freeze_encoder", False, "Train all but the encoder.")
_MOTION = flags.DEFINE_boolean("motion", False, "Give the model each frame's difference from the one before.")
_VAL_FOLDS = flags.DEFINE_string(
    "val_folds",
    None,
    "Folds to evaluate on, such as 1-5,9. Default: the first fifth of the folds, or all that --train_folds leaves.",
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
_FRAME_ORDER = flags.DEFINE_enum(
    "frame_order",
    FRAME_ORDERS[0],
    FRAME_ORDERS,
    "Train on clips with their frames shuffled, or with a single frame in place of all: what order is worth.",
)
_SHUFFLE_SHARDS = flags.DEFINE_integer(
    "shuffle_shards",
    0,
    "Mix the clips of so many shards at a time, for shards that cannot all be near; 0 mixes all.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the order of clips and all other chance.")
_PRECISION = flags.DEFINE_enum("precision", "auto", PRECISIONS, "Of the computation; weights are float32.")
_XLA = flags.DEFINE_boolean("xla", False, "Compile the forward and backward pass by XLA; on one device.")


@flags.validator("model", f"Expected one of {', '.join(MODEL_NAMES)}, or <module>:<function>.")
def _is_model(name: str) -> bool:
    return name in MODEL_NAMES or is_own_code(name)


@flags.validator("encoder", f"Expected one of {', '.join(ENCODERS)}, or <module>:<function>.")
def _is_encoder(name: str) -> bool:
    return name in ENCODERS or is_own_code(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """Which folds to train on, to validate on during training, and to test on; None where not said."""

    train: tuple[int, ...] | None
    val: tuple[int, ...] | None
    test: tuple[int, ...] | None


def folds_from_flags(*, test_wanted: bool) -> Folds:
    """Reads the folds' flags.

    Raises:
      UserError: if they are no folds, or the test folds that are wanted are not given.
    """
    asked = Folds(
        **{
            name: parse_folds(flag.value) if flag.value else None
            for name, flag in (("train", _TRAIN_FOLDS), ("val", _VAL_FOLDS), ("test", _TEST_FOLDS))
        }
    )
    expect(
        not test_wanted or asked.test is not None,
        "--test_folds with --early_stopping: scores on the folds that chose the epoch would flatter it",
        test_folds=_TEST_FOLDS.value,
    )
    return asked


def choose_folds(manifest: manifest_lib.Manifest, asked: Folds) -> Folds:
    """Fills in the folds to validate and to train on where they are not given.

    Raises:
      UserError: if a fold does not exist, or is in two of the sets.
    """
    test = asked.test or ()
    val, train = asked.val, asked.train
    if val is None and train is None:
        val = manifest_lib.default_val_folds(manifest, without=test)
    if val is None:
        val = tuple(fold for fold in manifest.folds if fold not in (*train, *test))
    if train is None:
        train = tuple(fold for fold in manifest.folds if fold not in (*val, *test))
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
        missing = manifest.missing_classes(part)
        if missing:
            terminal.warn(f"no clip of {', '.join(missing)} in {name}={format_folds(part)}")
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
            frame_order=_FRAME_ORDER.value,
        ),
        shuffle_shards=_SHUFFLE_SHARDS.value,
        seed=_SEED.value,
        precision=_PRECISION.value,
        xla=_XLA.value,
    )
