"""The comparison report's section on costs: the minutes of each model's training, beside its accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ucf50_tfrecord.drawing import diagrams
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Figure, Heading, Table
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.report.scores import Scores, format_estimate


def section(scores: Scores) -> Iterator[Block]:
    """Yields a figure of accuracy against minutes, and a table; nothing if no model's cost is known."""
    found = {model: known for model in scores.models if (known := scores.costs(model))}
    if not found:
        return
    minutes = {model: np.array([cost.secs / 60 for cost in known]) for model, known in found.items()}
    speeds = {model: np.array([cost.clips_per_sec for cost in known]) for model, known in found.items()}
    accuracy = {model: scores.accuracy(Condition(model)) for model in found}
    yield Heading("Costs")
    points = [
        diagrams.Point(model, style, float(np.median(minutes[model])), estimate)
        for style, model in enumerate(scores.models)
        if (estimate := accuracy.get(model))
    ]
    caption = (
        "Accuracy against minutes per training (median), with 95% intervals over groups. Better recipes are higher and "
        "further left."
    )
    picture = diagrams.draw_points(points, xlabel="minutes per training", ylabel="accuracy (0 to 1)")
    alt = "; ".join(
        f"{model}: {_median(minutes[model])} minutes, accuracy {accuracy[model]}" for model in found
    )
    yield Figure("costs", picture, caption, alt, PRINT_DPI)
    rows = [
        [
            model,
            _median(minutes[model]),
            _median(speeds[model]),
            f"{known[0].num_parameters:,}",
            format_estimate(accuracy[model]),
        ]
        for model, known in found.items()
    ]
    caption = (
        "Costs of a training: median and range over the trainings. Minutes are those of the training steps, without the "
        "program's start, the model's compilation, tests, and the encoding of features. They depend on the hardware, and "
        "on other work beside them, such as other trainings of the comparison."
    )
    yield Table(caption, ("Model", "Minutes per training", "Clips/s", "Parameters", "Accuracy"), rows)


def _median(values: np.ndarray) -> str:
    """Formats the median of some values, and their range if there are several."""
    ends = f" ({_short(values.min())} to {_short(values.max())})" if len(values) > 1 else ""
    return f"{_short(float(np.median(values)))}{ends}"


def _short(value: float) -> str:
    """Formats a positive number with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
