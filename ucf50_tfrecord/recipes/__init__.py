"""Recipes: named settings of a model and its training, one flagfile per recipe, in the folder of this module.

A setting is a field of ModelSpec, TrainSpec or AugmentSpec and has the field's name, except for SETTING_NAMES. The
lines of a recipe read `--name=value`, `--name` or `--noname`, so that programs can use a recipe as a flagfile.
A recipe file of one's own may begin with `--recipe=<name>`: it then has the settings of that recipe, except for those
of its other lines.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import AugmentSpec, ModelSpec, TrainSpec

_FOLDER = pathlib.Path(__file__).parent
SUFFIX = ".flags"  # of a recipe's file
_BASE = "--recipe="  # the line that names the recipe that a file builds on
# Fields that are not settings: the dataset's clips decide their values, or they hold settings themselves.
_DECIDED = {"num_classes", "height", "width", "feature_shape", "motion_frames", "augment"}
# Names of settings by field, where they differ. Of a dataset, num_frames is the number of stored frames.
SETTING_NAMES = {"name": "model", "num_frames": "sample_frames"}
_SPECS = (ModelSpec, TrainSpec, AugmentSpec)


@functools.cache
def setting_types(specs: tuple[type, ...] = _SPECS) -> dict[str, type]:
    """Returns a dictionary from the name of each setting, a field of the dataclasses `specs`, to its type."""
    found: dict[str, type] = {}
    for spec in specs:
        hints = typing.get_type_hints(spec)
        found |= {SETTING_NAMES.get(name, name): kind for name, kind in hints.items()}
    return {name: kind for name, kind in found.items() if name not in _DECIDED}


def names() -> list[str]:
    """Returns the names of the recipes that come with the library, sorted."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{SUFFIX}"))


def load(recipe: str) -> dict[str, Any]:
    """Reads the settings of a recipe.

    Args:
      recipe: one of `names()`, or the path of a recipe file; such a path ends in .flags.

    Returns:
      A dictionary from the name of each setting in the recipe to its value.

    Raises:
      UserError: if the recipe, or the one that it builds on, does not exist, or one of its lines is not a setting.
    """
    if recipe.endswith(SUFFIX):
        path = pathlib.Path(recipe)
    else:
        known = names()
        expect(recipe in known, f"a recipe out of {', '.join(known)}", recipe=recipe)
        path = _FOLDER / f"{recipe}{SUFFIX}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"Cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read the recipe {path}: it is not UTF-8") from error
    stripped = [line.strip() for line in lines if line.strip() and line[0] != "#"]
    base: dict[str, Any] = {}
    if recipe.endswith(SUFFIX) and stripped and stripped[0].startswith(_BASE):
        base_name = stripped.pop(0).removeprefix(_BASE)
        meant = f"--recipe=<one of {', '.join(names())}> in the recipe {path}"
        expect(base_name in names(), meant, recipe=base_name)
        base = load(base_name)
    return base | dict(_parse(line, path) for line in stripped)


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


def check(settings: Mapping[str, Any], specs: tuple[type, ...] = _SPECS) -> None:
    """Raises UserError unless each key of `settings` names a setting, a field of the dataclasses `specs`."""
    known = setting_types(specs)
    unknown = sorted(set(settings) - set(known))
    expect(not unknown, f"settings out of {', '.join(sorted(known))}", settings=unknown)


def train_spec(settings: Mapping[str, Any]) -> TrainSpec:
    """Builds the specification of a training from settings; settings of the model are ignored.

    Raises:
      UserError: if a value is out of its range.
    """
    return TrainSpec(augment=AugmentSpec(**_of(AugmentSpec, settings)), **_of(TrainSpec, settings))


def model_spec(settings: Mapping[str, Any], manifest: Manifest) -> ModelSpec:
    """Builds the specification of a model for the clips of a dataset; settings of the training are ignored.

    Args:
      settings: values by name of the setting, `model` among them. If sample_frames is missing or 0, the model takes
        all stored frames.
      manifest: the dataset's manifest, which decides the clips' size and the number of classes.

    Raises:
      UserError: if a value is out of its range, or the model does not accept a setting.
    """
    fields = {setting: field for field, setting in SETTING_NAMES.items()}
    chosen = _of(ModelSpec, {fields.get(name, name): value for name, value in settings.items()})
    num_stored, num_frames = manifest.format.num_frames, chosen.pop("num_frames", 0)
    expect(
        0 <= num_frames <= num_stored,
        f"sample_frames of at most {num_stored}, the frames per clip in {manifest.data_dir}; 0 takes all",
        sample_frames=num_frames,
    )
    return ModelSpec(
        **chosen,
        num_classes=len(manifest.classes),
        num_frames=num_frames or num_stored,
        height=manifest.format.height,
        width=manifest.format.width,
        feature_shape=manifest.features.frame_shape if manifest.features else (),
        motion_frames=0 if manifest.features else manifest.format.motion_frames,
    )


def _of(spec: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those settings that are fields of the dataclass `spec`."""
    fields = {field.name for field in dataclasses.fields(spec)}
    return {name: value for name, value in settings.items() if name in fields}
