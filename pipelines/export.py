"""Exports a finished run for other programs, with a model card.

python -m pipelines.export --run=runs/demo
python -m pipelines.export --run=runs/demo --formats=saved_model,keras,onnx --output=/models/demo
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console
from ucf50_tfrecord.specs import UserError

if TYPE_CHECKING:
    from ucf50_tfrecord.inference.card import Export

_RUN = flags.DEFINE_string("run", None, "The run's folder.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write. Default: <run>/export.")
_FORMATS = flags.DEFINE_list(
    "formats",
    ["saved_model", "keras"],
    "What to write, out of saved_model, keras, and onnx, which needs the extra `onnx`.",
)
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, ("last", "best"), "Which checkpoint of the run. Default: that of its own final scores."
)


def main() -> None:
    if not _RUN.value:
        raise UserError("Pass --run=<folder of a run>.")
    console.load_tensorflow()
    import tensorflow as tf

    # What is compared would be computed in TensorFloat-32 there, and a training may run on it.
    tf.config.set_visible_devices([], "GPU")
    from ucf50_tfrecord.inference import export, sources

    output = _OUTPUT.value or os.path.join(_RUN.value, "export")
    run = sources.gather(_RUN.value, _WEIGHTS.value)
    print_export(export.export_run(run, output, formats=_FORMATS.value, warn=console.warn), output)


def print_export(exported: Export, output: str) -> None:
    from ucf50_tfrecord.inference.card import CARD_FILENAME
    from ucf50_tfrecord.inference.snippets import FILENAMES

    kind = "clips of the run" if exported.own else "clips of random pixels"
    print(
        f"Read back, and compared with the model on {exported.num_clips} {kind} (tolerance {exported.tolerance:g}):\n"
        f"  {'file':<14}{'MB':>8}  largest difference of a probability"
    )
    for file in exported.files:
        print(f"  {FILENAMES[file.format]:<14}{file.num_bytes / 1e6:>8.1f}  {file.difference:.1g}")
    if own := exported.own:
        print(
            f"  the run's own predictions: {own.largest:.1g}; another class for {own.num_other} of {exported.num_clips}"
        )
    print(f"Export:     {output}\nModel card: {os.path.join(output, CARD_FILENAME)}")


if __name__ == "__main__":
    console.run(main)
