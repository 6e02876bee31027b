"""Lists the models with their parameters, multiply-adds and a short description.

python -m tools.describe_models --classes=50 --frames=15 --size=64
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable

from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.specs import ClipFormat, ModelSpec, parse_size

_CLASSES = flags.DEFINE_integer("classes", 50, "Number of classes.")
_FRAMES = flags.DEFINE_integer("frames", ClipFormat.num_frames, "Frames per clip.", lower_bound=1)
_SIZE = flags.DEFINE_string(
    "size", str(ClipFormat.height), "Frame size, such as 64 or 112x96 (height x width)."
)
_NUM_FEATURES = 1280


def main() -> None:
    height, width = parse_size(_SIZE.value)
    clip_format = ClipFormat(num_frames=_FRAMES.value, height=height, width=width)
    console.load_tensorflow()
    spec = ModelSpec(
        name="lstm", num_classes=_CLASSES.value, num_frames=_FRAMES.value, height=height, width=width
    )
    terminal.say(f"{_CLASSES.value} classes, clips of {clip_format}", "")
    print_table(dataclasses.replace(spec, name=name) for name in MODELS)
    terminal.say(
        "", f"Recipes features_<model>: {_NUM_FEATURES} features per frame, as of efficientnet_lite0", ""
    )
    print_table(
        dataclasses.replace(spec, name=name, feature_shape=(_NUM_FEATURES,))
        for name, traits in MODELS.items()
        if traits.takes_features
    )


def print_table(specs: Iterable[ModelSpec]) -> None:
    """Prints a row per model. Its multiply-adds are those of a forward pass of one clip, in millions (M)."""
    from ucf50_tfrecord import models
    from ucf50_tfrecord.device_checks import operations
    from ucf50_tfrecord.models import builders

    terminal.say(f"{'model':<14}{'parameters':>11}{'multiply-adds':>15}  description")
    for spec in specs:
        model = models.build_model(spec)
        millions = operations.multiply_adds(model) / 1e6
        about = inspect.getdoc(builders.load(MODELS[spec.name].builder)).splitlines()[0].rstrip(".")
        row = f"{spec.name:<14}{model.count_params():>11,}{millions:>13,.1f} M  {about}"
        terminal.say_wrapped(row, subsequent_indent=" " * 42)


if __name__ == "__main__":
    console.run(main)
