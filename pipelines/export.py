"""Exports a finished run for other programs, with a model card.

python -m pipelines.export --run=runs/demo
python -m pipelines.export --run=runs/demo --formats=onnx --output=/models/demo
"""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from pipelines import code_flags, console, run_flags, stored_results, terminal
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS, FORMATS

if TYPE_CHECKING:
    from ucf50_tfrecord.inference.card_files import Export

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write. Default: <run>/export.")
_NAMES = [f"{name} (needs the extra {kind.extra})" if kind.extra else name for name, kind in FORMATS.items()]
_FORMATS = flags.DEFINE_list(
    "formats", list(DEFAULT_FORMATS), f"Formats to write, any of: {', '.join(_NAMES)}."
)

_MAX_ERROR = flags.DEFINE_float(
    "max_error",
    None,
    "The files also say of which clips the model is confident: of so many that at most this fraction of the answers, "
    "such as 0.1, is wrong. The threshold of the confidence is chosen on the run's held-out clips.",
)
_COMPARISON = flags.DEFINE_string(
    "comparison",
    None,
    "Folder of a comparison with --hold_out_classes, whose figures on unknown classes the model card then gives.",
)

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)


def main() -> None:
    run_dir = run_flags.run_dir()
    console.load_tensorflow()
    import tensorflow as tf

    # On a GPU the compared probabilities would be computed in TensorFloat-32, and a training may use the GPU.
    tf.config.set_visible_devices([], "GPU")
    from ucf50_tfrecord.evaluation.result_files import RESULTS_FILENAME
    from ucf50_tfrecord.inference import export, finished_run

    output = _OUTPUT.value or os.path.join(run_dir, "export")
    run = finished_run.load(run_dir, run_flags.weights())
    comparison = None
    if _COMPARISON.value:
        comparison = stored_results.load(pathlib.Path(_COMPARISON.value, RESULTS_FILENAME))
    exported = export.export_run(
        run,
        output,
        formats=_FORMATS.value,
        max_error=_MAX_ERROR.value,
        warn=terminal.warn,
        allowed_code=code_flags.allowed_code(),
        comparison=comparison,
    )
    print_export(exported, output, several_labels=run.config.multi_label)


def print_export(exported: Export, output: str, *, several_labels: bool) -> None:
    from ucf50_tfrecord.inference.card import CARD_FILENAME

    other = "other classes" if several_labels else "another class"
    source = "clips of the run" if exported.own else "clips of random pixels"
    width = max(len(FORMATS[file.format].filename) for file in exported.files) + 2
    terminal.say(
        f"Read back, and compared with the model on {exported.num_clips} {source}:",
        f"  {'file':<{width}}{'MB':>8}{'ms per clip':>13}{other:>15}  largest difference of a probability",
    )
    for file in exported.files:
        kind = FORMATS[file.format]
        allowed = "any" if kind.tolerance is None else f"{kind.tolerance:g}"
        terminal.say(
            f"  {kind.filename:<{width}}{file.num_bytes / 1e6:>8.1f}{file.millis:>13.1f}{file.num_other:>15}"
            f"  {file.difference:.1g} (allowed: {allowed})"
        )
    if own := exported.own:
        terminal.say(
            f"  the run's own predictions: {own.largest:.1g}; {other} for {own.num_other} of {exported.num_clips}"
        )
    terminal.say(f"Export:     {output}", f"Model card: {os.path.join(output, CARD_FILENAME)}")


if __name__ == "__main__":
    console.run(main)
