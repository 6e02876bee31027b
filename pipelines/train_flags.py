"""Defines the flags of a training: the model, how to train it, and on which folds."""

from __future__ import annotations

from typing import Any

from absl import flags

from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import recipes
from ucf50_tfrecord.architectures import ENCODERS, MODELS, is_own_code
from ucf50_tfrecord.specs import AugmentSpec, ModelSpec, TrainSpec
from ucf50_tfrecord.training.folds import AskedFolds

_RECIPE = flags.DEFINE_string(
    "recipe",
    None,
    f"Settings that replace the defaults of flags; flags that are given override the recipe. One of "
    f"{', '.join(recipes.names())}, or a file that ends in .flags.",
)
_SPECS = (
    SpecFlags(ModelSpec, names=recipes.SETTING_NAMES, defaults={"name": "lstm", "num_frames": 0}),
    SpecFlags(TrainSpec),
    SpecFlags(AugmentSpec),
)
_VAL_FOLDS = flags.DEFINE_string(
    "val_folds",
    None,
    "Folds to validate on, such as 1-5,9, or their names, such as val. Default: the fold named val or test; else the "
    "first fifth of the folds, or all that --train_folds leaves.",
)
_TEST_FOLDS = flags.DEFINE_string(
    "test_folds",
    None,
    "Folds for the final scores; they do not influence the training. Default: the fold named test, if val is also a "
    "name; else the validation folds.",
)
_TRAIN_FOLDS = flags.DEFINE_string(
    "train_folds", None, "Folds to train on. Default: the fold named train, else all others."
)

for _name, _known in (("model", MODELS), ("encoder", ENCODERS)):
    flags.register_validator(
        _name,
        lambda value, known=_known: value in known or is_own_code(value),
        f"Expected one of {', '.join(_known)}, or <module>:<builder>.",
    )


def settings(recipe: str | None = None) -> dict[str, Any]:
    """Returns the settings of a training: those of a recipe, overridden by flags that are given.

    Settings that neither the recipe nor a given flag sets have the defaults of their flags.

    Args:
      recipe: the recipe's name; None stands for the value of --recipe, or for no recipe if that is not given.

    Raises:
      UserError: if there is no such recipe.
    """
    values = {
        recipes.SETTING_NAMES.get(name, name): value
        for spec in _SPECS
        for name, value in spec.values().items()
    }
    recipe = recipe or _RECIPE.value
    stored = recipes.load(recipe) if recipe else {}
    return values | {name: value for name, value in stored.items() if not flags.FLAGS[name].present}


def asked_folds() -> AskedFolds:
    """Returns the folds that --train_folds, --val_folds and --test_folds ask for.

    Raises:
      UserError: if a flag is no list of folds.
    """
    return AskedFolds(
        train=_TRAIN_FOLDS.value or "", val=_VAL_FOLDS.value or "", test=_TEST_FOLDS.value or ""
    )
