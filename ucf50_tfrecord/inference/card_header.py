"""The YAML header of a model card, which the Hugging Face Hub shows: tags, data, and the run's scores.

Source of its fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ucf50_tfrecord import markdown
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.specs import format_folds

_TASK = "video-classification"


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
            "metrics": ["accuracy", "f1"],
            "model-index": [{"name": f"{run.model} on {run.results.name}", "results": [_result(run)]}],
        }
    )


def _result(run: FinishedRun) -> dict[str, Any]:
    """Returns the entry of the model index: the scores on the run's held-out clips, and how these were held out."""
    plain = Condition(run.model)
    estimates = {
        ("accuracy", "Accuracy"): run.scores.accuracy(plain),
        ("f1", "Macro F1"): run.scores.macro_f1(plain),
    }
    metrics = [
        {"type": kind, "name": name, "value": estimate.value}
        for (kind, name), estimate in estimates.items()
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
