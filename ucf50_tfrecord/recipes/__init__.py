"""Recipes: named settings of model and training, one flagfile each, beside this module.

A setting is a field of ModelSpec, TrainSpec or AugmentSpec, under its own name; `model` is ModelSpec.name.
A recipe's lines read `--name=value`, `--name` and `--noname`, so that programs can take it as a flagfile.
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import AugmentSpec, ModelSpec, TrainSpec

_FOLDER = pathlib.Path(__file__).parent
_SUFFIX = ".flags"
# Fields that are no settings: the clips decide them, or they hold settings themselves.
_DECIDED = {"num_classes", "num_frames", "height", "width", "augment"}


def setting_types() -> dict[str, type]:
    """Returns the type of each setting, by its name."""
    found: dict[str, type] = {}
    for spec in (ModelSpec, TrainSpec, AugmentSpec):
        found |= typing.get_type_hints(spec)
    found["model"] = found.pop("name")
    return {name: kind for name, kind in found.items() if name not in _DECIDED}


def names() -> list[str]:
    """Returns the recipes that come with the library, sorted."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}"))


def load(recipe: str) -> dict[str, Any]:
    """Reads a recipe's settings.

    Args:
      recipe: a name of `names`, or the path of a file that ends in .flags.

    Raises:
      UserError: if there is no such recipe, or a line is no setting.
    """
    if not recipe.endswith(_SUFFIX):
        expect(recipe in names(), f"a recipe out of {', '.join(names())}", recipe=recipe)
    path = pathlib.Path(recipe) if recipe.endswith(_SUFFIX) else _FOLDER / f"{recipe}{_SUFFIX}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read the recipe {path}: it is not UTF-8") from error
    return dict(_parse(line.strip(), path) for line in lines if line.strip() and line[0] != "#")


def _parse(line: str, path: pathlib.Path) -> tuple[str, Any]:
    name, assigned, text = line.removeprefix("--").partition("=")
    types = setting_types()
    if not assigned and types.get(name.removeprefix("no")) is bool:
        return name.removeprefix("no"), not name.startswith("no")
    try:
        if not line.startswith("--") or types[name] is bool:
            raise ValueError(line)
        return name, types[name](text)
    except (KeyError, ValueError):
        raise UserError(
            f"Expected lines such as --epochs=20 in the recipe {path}. Received: {line}"
        ) from None


def check(settings: Mapping[str, Any]) -> None:
    """Raises UserError unless each name is a setting's."""
    known = setting_types()
    unknown = sorted(set(settings) - set(known))
    expect(not unknown, f"settings out of {', '.join(sorted(known))}", settings=unknown)


def train_spec(settings: Mapping[str, Any]) -> TrainSpec:
    """Builds the specification of a training from settings; those of the model are ignored.

    Raises:
      UserError: if a value is out of its range.
    """
    return TrainSpec(augment=AugmentSpec(**_of(AugmentSpec, settings)), **_of(TrainSpec, settings))


def model_spec(settings: Mapping[str, Any], manifest: Manifest) -> ModelSpec:
    """Builds the specification of a model for a dataset's clips from settings; those of the training are ignored.

    Raises:
      UserError: if a value is out of its range, or the model does not take it.
    """
    return ModelSpec(
        **_of(ModelSpec, {"name" if name == "model" else name: value for name, value in settings.items()}),
        num_classes=len(manifest.classes),
        num_frames=manifest.format.num_frames,
        height=manifest.format.height,
        width=manifest.format.width,
    )


def _of(spec: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are fields of a dataclass."""
    fields = {field.name for field in dataclasses.fields(spec)}
    return {name: value for name, value in settings.items() if name in fields}
