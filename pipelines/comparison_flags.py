"""Defines the flags that say what a comparison compares, and how it divides the clips."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import train_flags
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import recipes
from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import check_folds, parse_folds

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec, Recipe

_MODELS = flags.DEFINE_list(
    "models",
    ["frame_pool", "rnn", "lstm"],
    "Recipes to compare: names, or files that end in .flags, whose names without the ending the report uses.",
)
_CV = flags.DEFINE_string(
    "cv",
    None,
    "Number of parts of the cross-validation, each of whole folds; logo: one part per fold. Default: 5; with "
    "--val_folds, these folds are the only part that is tested.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    3,
    "Number of trainings of each model on each part, with seeds 0, 1, …. With 1, no claim about recipes is possible.",
    lower_bound=1,
)
_TRAINED_ORDERS = (FrameOrder.SHUFFLED, FrameOrder.SINGLE)
_ORDERS = flags.DEFINE_list(
    "orders",
    list(_TRAINED_ORDERS),
    "Also train models that see frame order with these orders: shuffled, single, or none (empty).",
)
_AUDIT = flags.DEFINE_list(
    "audit",
    ["all"],
    "Models to train also on clips that are split by video, to audit leaks: all, none, or names.",
)
_HOLD_OUT_CLASSES = flags.DEFINE_integer(
    "hold_out_classes",
    0,
    "Also train each model without this many classes at a time, each class once, to test how well it tells unknown "
    "classes from known ones. 0 is off.",
    lower_bound=0,
)

# Flags of a training that the comparison sets by itself.
_DECIDED = ("recipe", "model", "seed", "frame_order", "early_stopping", "train_folds", "test_folds")


def name_recipes() -> dict[str, str]:
    """Reads --models. Returns a dictionary from each compared model's name in the comparison to its recipe, a name or a file.

    Raises:
      UserError: if a recipe is neither a known name nor a file whose name can name a model, or two have one name.
    """
    named: dict[str, str] = {}
    for recipe in dict.fromkeys(_MODELS.value):
        name = recipe
        if recipe.endswith(recipes.SUFFIX):
            name = pathlib.Path(recipe).stem
            expect(
                re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII) is not None,
                "each recipe file to be named after a model: a letter, then letters, digits or _",
                models=recipe,
            )
        else:
            known = f"each model to be one of {', '.join(recipes.names())}, or a file that ends in .flags"
            expect(recipe in recipes.names(), known, models=recipe)
        expect(name not in named, "recipes with different names", models=[named.get(name), recipe])
        named[name] = recipe
    return named


def read_settings(recipe: str, *, of_features: bool = False) -> dict[str, Any]:
    """Returns the settings of a recipe, overridden by the flags that are given.

    Args:
      recipe: the recipe's name or file.
      of_features: whether the clips are stored as features. The recipe features_<name> then replaces <name>.

    Raises:
      UserError: if a flag or a setting is wrong, or a flag sets a value that the comparison chooses itself.
    """
    for flag in _DECIDED:
        expect(
            not flags.FLAGS[flag].present,
            f"no --{flag}: the comparison chooses it",
            **{flag: flags.FLAGS[flag].value},
        )
    for_features = f"features_{recipe}"
    replaces = of_features and for_features in recipes.names()
    settings = train_flags.settings(for_features if replaces else recipe)
    recipes.train_spec(settings).check_fits_comparison()
    return settings


def make_recipe(settings: Mapping[str, Any], manifest: manifest_lib.Manifest) -> Recipe:
    """Builds a Recipe for a dataset's clips from settings. The Recipe's precision is never AUTO."""
    from ucf50_tfrecord.evaluation.cells import Recipe
    from ucf50_tfrecord.training import strategy as strategy_lib

    train = recipes.train_spec(settings)
    if manifest.features:
        train.check_fits_features()
    return Recipe(
        model=recipes.model_spec(settings, manifest),
        train=dataclasses.replace(train, precision=strategy_lib.choose_precision(train.precision)),
    )


def spec_flags(models: Sequence[str]) -> dict[str, Any]:
    """Returns those arguments of ComparisonSpec that the flags set, as a dictionary.

    A cross-validation divides the dataset's folds into parts. Models are tested on each part, after training on
    the other parts. In the dictionary, "num_parts" is the number of parts; it is None if each fold is a part of
    its own (--cv=logo). In place of "held_out", it has "hold_out_classes", the number of classes per set.

    Args:
      models: the names of the models to compare.

    Raises:
      UserError: if a flag is wrong, or flags contradict each other.
    """
    val_folds, cv = flags.FLAGS["val_folds"].value, _CV.value or "5"
    expect(not (val_folds and _CV.value), "either --cv or --val_folds", cv=_CV.value, val_folds=val_folds)
    expect(cv == "logo" or (cv.isdecimal() and int(cv) >= 2), "--cv=<a number from 2 on> or --cv=logo", cv=cv)
    orders = [order for order in _ORDERS.value if order]
    for order in orders:
        expect(
            order in _TRAINED_ORDERS, f"each order to be one of {', '.join(_TRAINED_ORDERS)}", orders=order
        )
    asked = ",".join(_AUDIT.value)
    audited = {"all": list(models), "none": []}.get(asked, _AUDIT.value)
    unknown = sorted(set(audited) - set(models))
    expect(not unknown, f"only compared models ({', '.join(models)}) in --audit", audit=unknown)
    num_parts = None if cv == "logo" else int(cv)
    if val_folds:
        check_folds(val_folds)
        expect(
            not flags.FLAGS["audit"].present or not audited,
            "--cv, not --val_folds, with --audit",
            audit=asked,
        )
        num_parts, audited = 0, []  # there are no parts to assign videos to
    return {
        "num_parts": num_parts,
        "val_folds": val_folds,
        "num_seeds": _SEEDS.value,
        "orders": tuple(orders),
        "audited": tuple(audited),
        "hold_out_classes": _HOLD_OUT_CLASSES.value,
    }


def make_spec(
    manifest: manifest_lib.Manifest, recipes: dict[str, Recipe], asked: dict[str, Any]
) -> ComparisonSpec:
    """Builds the specification of a comparison on a dataset.

    Args:
      manifest: the dataset's manifest.
      recipes: the recipes to compare, by the names of their models.
      asked: the other arguments of ComparisonSpec, as spec_flags returns them.

    Raises:
      UserError: if too few classes remain when the classes that the flags ask for are held out.
    """
    from ucf50_tfrecord.evaluation import unknown
    from ucf50_tfrecord.evaluation.cells import ComparisonSpec

    num_parts = len(manifest.folds) if asked["num_parts"] is None else asked["num_parts"]
    text = asked["val_folds"]
    val_folds = parse_folds(text, manifest.fold_numbers) if text else ()
    others = {name: value for name, value in asked.items() if name != "hold_out_classes"}
    return ComparisonSpec(
        recipes=recipes,
        held_out=unknown.class_sets(manifest.classes, asked["hold_out_classes"]),
        **others | {"num_parts": num_parts, "val_folds": val_folds},
    )
