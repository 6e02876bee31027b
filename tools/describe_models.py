"""Lists the models with their numbers of parameters and a short description.

python -m tools.describe_models --classes=50 --frames=15 --size=64
"""

from __future__ import annotations

import inspect

from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.specs import ClipFormat, ModelSpec, parse_size

_CLASSES = flags.DEFINE_integer("classes", 50, "Number of classes.")
_FRAMES = flags.DEFINE_integer("frames", ClipFormat.num_frames, "Frames per clip.", lower_bound=1)
_SIZE = flags.DEFINE_string(
    "size", str(ClipFormat.height), "Frame size, such as 64 or 112x96 (height x width)."
)


def main() -> None:
    height, width = parse_size(_SIZE.value)
    clip_format = ClipFormat(num_frames=_FRAMES.value, height=height, width=width)
    console.load_tensorflow()
    from ucf50_tfrecord import models
    from ucf50_tfrecord.models import builders

    terminal.say(f"{_CLASSES.value} classes, clips of {clip_format}", "")
    terminal.say(f"{'model':<13}{'parameters':>11}  description")
    for name, traits in MODELS.items():
        spec = ModelSpec(
            name=name, num_classes=_CLASSES.value, num_frames=_FRAMES.value, height=height, width=width
        )
        count = models.build_model(spec).count_params()
        about = inspect.getdoc(builders.load(traits.builder)).splitlines()[0].rstrip(".")
        row = f"{name:<13}{count:>11,}  {about}"
        terminal.say_wrapped(row, subsequent_indent=" " * 26)


if __name__ == "__main__":
    console.run(main)
