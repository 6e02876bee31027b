"""The YAML header of a model card, which the Hugging Face Hub shows: tags, data, and the run's scores.

Source of its fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ucf50_tfrecord import markdown
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.specs import format_folds

_TASK = "video-classification"
# Types and names of the scores; by whether clips have several labels.
_NAMES = {
    False: (("accuracy", "Accuracy"), ("f1", "Macro F1")),
    True: (
        ("mean_average_precision", "Mean average precision"),
        ("f1", "Macro F1 at 0.5"),
        ("f1", "Micro F1 at 0.5"),
        ("f1", "Macro F1 at thresholds of other recordings"),
        ("f1", "Micro F1 at thresholds of other recordings"),
    ),
}


def header(run: FinishedRun) -> str:
    """Returns the header of an exported run's card.

    The license is "unknown": whether that of the data extends to a model is not for this package to say.
    """
    return markdown.yaml_header(
        {
            "license": "unknown",
            "library_name": "keras",
            "pipeline_tag": _TASK,
            "tags": ["action-recognition", "video", run.model],
            "datasets": [run.results.name],
            "metrics": list(dict.fromkeys(kind for kind, _ in _NAMES[run.config.multi_label])),
            "model-index": [{"name": f"{run.model} on {run.results.name}", "results": [_result(run)]}],
        }
    )


def _estimates(run: FinishedRun) -> tuple[Estimate | None, ...]:
    """Returns the scores of the run's held-out clips, in the order of their names."""
    if not run.config.multi_label:
        plain = Condition(run.model)
        return run.scores.accuracy(plain), run.scores.macro_f1(plain)
    scores = run.label_scores
    return scores.mean_average_precision, *scores.f1, *(scores.tuned_f1 or (None, None))


def _result(run: FinishedRun) -> dict[str, Any]:
    """Returns the entry of the model index: the scores on the run's held-out clips, and how these were held out."""
    metrics = [
        {"type": kind, "name": name, "value": estimate.value}
        for (kind, name), estimate in zip(_NAMES[run.config.multi_label], _estimates(run))
        if estimate and math.isfinite(estimate.value)
    ]
    args = {
        "folds": format_folds(np.unique(run.results.folds).tolist()),
        "fold_by": str(run.summary.fold_by),
        "fingerprint": run.config.fingerprint,
    }
    if run.is_selected:
        args["weights"] = "selected by these very clips, so the scores are too high"
    dataset = {
        "name": run.results.name,
        "type": run.results.name,
        "split": "test" if run.is_tested else "validation",
        "args": args,
    }
    return {"task": {"type": _TASK, "name": "Action recognition"}, "dataset": dataset, "metrics": metrics}
