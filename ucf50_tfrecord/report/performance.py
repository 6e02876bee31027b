"""The comparison report's sections on scores: of each model, of pairs of models, and under interventions.

An intervention is a change of the clips, such as shuffled frames, at test time or in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord.choices import FrameOrder
from ucf50_tfrecord.drawing import diagrams
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Entry, Figure, Heading, Paragraph, Table, file_name
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLED, horizons
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.evaluation.verdicts import KINDS, Verdict
from ucf50_tfrecord.report import costs, cues
from ucf50_tfrecord.report.answers import tone
from ucf50_tfrecord.report.scores import Scores, excludes_zero, format_estimate

_CHANGE = "change of accuracy (0 to 1)"
_SEE_TABLE = "The numbers are in the table that follows."
# The order of frames in training and the intervention at test time, by the description in the report.
_TRAININGS = {
    "trained as is, tested as is": (FrameOrder.KEPT, PLAIN),
    "trained as is, tested shuffled": (FrameOrder.KEPT, SHUFFLED),
    "trained shuffled, tested shuffled": (FrameOrder.SHUFFLED, SHUFFLED),
    "trained as is, tested on one frame": (FrameOrder.KEPT, "middle1"),
    "trained and tested on one frame": (FrameOrder.SINGLE, "middle1"),
}


def sections(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    """Yields the blocks of four sections: on scores, on pairs of models, on costs, and on interventions."""
    yield from _scores(scores)
    yield from _models_apart(scores, verdicts)
    yield from costs.section(scores)
    yield from _interventions(scores)
    yield from cues.at_test_time(scores)
    yield from _trainings(scores)
    yield from cues.order_by_class(scores)


def _scores(scores: Scores) -> Iterator[Block]:
    conditions = {model: Condition(model) for model in scores.models}
    seeds = {model: scores.by_seed(condition) for model, condition in conditions.items()}
    accuracy = {model: scores.accuracy(condition) for model, condition in conditions.items()}
    f1 = {model: scores.macro_f1(condition) for model, condition in conditions.items()}
    # Models may be tested on different clips. The line of chance is only a guide: it is for the most clips.
    chance = scores.chance(max(conditions.values(), key=lambda condition: scores.tested(condition).sum()))
    yield Heading("Scores")
    panels = []
    for i, (title, values) in enumerate({"accuracy": accuracy, "macro F1": f1}.items()):
        series, points = {title: list(values.values())}, [by_seed[i] for by_seed in seeds.values()]
        reference = (chance[i], "always the most frequent class")
        panels.append(diagrams.Panel(title, "0 to 1", series, points, reference=reference))
    caption = "Accuracy and macro F1 with 95% intervals over groups; the ticks below are the seeds."
    alt = "; ".join(f"{model}: accuracy {accuracy[model]}, macro F1 {f1[model]}" for model in scores.models)
    yield Figure("scores", diagrams.draw_forest(scores.models, panels), caption, alt, PRINT_DPI)
    rows = [
        [m, format_estimate(accuracy[m]), format_estimate(f1[m]), _range(seeds[m][0]), _range(seeds[m][1])]
        for m in scores.models
    ]
    columns = ("Model", "Accuracy", "Macro F1", "Accuracy by seed", "Macro F1 by seed")
    caption = (
        f"Scores on clips, 0 to 1, with 95% intervals over groups. Always predicting the most frequent class gives "
        f"accuracy {chance[0]:.3f} and macro F1 {chance[1]:.3f}."
    )
    yield Table(caption, columns, rows)
    yield from _qualities(scores, conditions)
    yield _class_table(scores, conditions)


def _range(values: np.ndarray) -> str:
    return f"{values[0]:.3f}" if len(values) == 1 else f"{values.min():.3f} to {values.max():.3f}"


def _qualities(scores: Scores, conditions: dict[str, Condition]) -> Iterator[Block]:
    quality = {model: scores.quality(condition) for model, condition in conditions.items()}
    columns = ["Model", "Log loss", "Brier score", "Risk-coverage area", "Calibration error"]
    rows = []
    for model, q in quality.items():
        intervals = map(format_estimate, (q.log_loss, q.brier, q.risk_coverage_area))
        rows.append([model, *intervals, f"{q.calibration_error:.3f}"])
    if any(q.top5 is not None for q in quality.values()):
        columns.append("Top-5 accuracy")
        rows = [[*row, f"{quality[row[0]].top5:.3f}"] for row in rows]
    caption = (
        "Scores of the mean of the seeds' probabilities, which is mostly better and less confident than one seed, with "
        "95% intervals over groups. Log loss: mean of -ln(probability of the true class), in nats. Brier score: mean "
        "squared distance between the probabilities and the truth, 0 to 2. Risk-coverage area: the mean fraction of "
        "errors among clips that are at least as confident as a clip; if confidence says nothing about errors, it is "
        "the error rate. Calibration error: how far, on average, the highest probability is from the fraction of clips "
        "that are right (expected calibration error, 15 bins). Lower is better, except for accuracy."
    )
    yield Table(caption, columns, rows)
    videos = {model: scores.by_video(condition) for model, condition in conditions.items()}
    if any(videos.values()):
        rows = [[model, *_video_cells(found)] for model, found in videos.items()]
        caption = (
            "Scores of whole videos, 0 to 1, with 95% intervals over groups. A video's class is that of the mean of its "
            "clips' probabilities."
        )
        yield Table(caption, ("Model", "Videos", "Accuracy by video", "Macro F1 by video"), rows)


def _video_cells(found: tuple[int, Estimate, Estimate] | None) -> list[str]:
    return [str(found[0]), format_estimate(found[1]), format_estimate(found[2])] if found else ["–"] * 3


def _class_table(scores: Scores, conditions: dict[str, Condition]) -> Table:
    found = [scores.class_scores(condition) for condition in conditions.values()]  # [3, C] each

    def cell(values: np.ndarray) -> str:
        return "–" if np.isnan(values).any() else " / ".join(f"{value:.2f}" for value in values)

    rows = [[name, *(cell(x[:, i]) for x in found)] for i, name in enumerate(scores.results.classes)]
    caption = "Precision / recall / F1 of each class, 0 to 1: means over seeds."
    return Table(caption, ("Class", *scores.models), rows)


def _models_apart(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    found = [verdict for verdict in verdicts if KINDS[verdict.kind].conditions is None]
    if not found:
        return
    yield Heading("Models against each other")
    rows: list[list[str | Entry]] = []
    for v in found:
        numbers = ["–" if np.isnan(p) else f"{p:.2g}" for p in (v.p, v.adjusted_p, v.mcnemar_p)]
        answer = Entry(v.answer, tone(v.answer))
        effects = (v.effect, scores.macro_f1_lead(*v.models))
        leads = [format_estimate(effect, sign=True) for effect in effects]
        rows.append([" over ".join(v.models), *leads, *numbers, answer])
    columns = (
        "Pair",
        "Difference of accuracy",
        "Difference of macro F1",
        "p",
        "Corrected p",
        "McNemar p",
        "Do they differ?",
    )
    caption = (
        "Each pair on the same clips, the model ahead in accuracy first. The intervals and p allow for other recordings "
        "and other seeds; with one training of a recipe, they cannot be computed. p is that of the difference of "
        "accuracy; the correction is for all questions of the report. McNemar's test uses one prediction per clip, from "
        "the mean of the seeds' probabilities, and allows for neither."
    )
    yield Table(caption, columns, rows)


def _interventions(scores: Scores) -> Iterator[Block]:
    names = scores.interventions()
    yield Heading("Interventions at test time")
    if not names:
        yield Paragraph("The models were tested on unchanged clips only.")
        return
    yield Paragraph(
        "The same weights on changed clips: a loss shows what a model used, or what disturbs it. “How to read this” "
        "explains each intervention."
    )
    changes = {
        model: [scores.change(Condition(model, intervention=name), Condition(model)) for name in names]
        for model in scores.models
    }
    values = np.array([[e.value if e else np.nan for e in row] for row in changes.values()])
    unsure = np.array([[not excludes_zero(estimate) for estimate in row] for row in changes.values()])
    picture = diagrams.draw_changes(values, rows=scores.models, columns=names, label=_CHANGE, unsure=unsure)
    caption = "Change of accuracy under each intervention; grey where its 95% interval contains 0."
    yield Figure("interventions", picture, caption, _SEE_TABLE, PRINT_DPI)
    rows: list[list[str | Entry]] = [
        [name, *(_marked(changes[model][i]) for model in scores.models)] for i, name in enumerate(names)
    ]
    caption = (
        "Change of accuracy from that on the unchanged clip, with 95% intervals over groups; shaded where they "
        "exclude 0."
    )
    yield Table(caption, ("Intervention", *scores.models), rows)
    yield from _horizon_figure(scores)
    yield from _by_class(scores, names)


def _marked(estimate: Estimate | None) -> Entry:
    mark = "" if not excludes_zero(estimate) else "no" if estimate.value < 0 else "yes"
    return Entry(format_estimate(estimate, sign=True), mark)


def _horizon_figure(scores: Scores) -> Iterator[Block]:
    total = scores.results.num_frames
    counts = [*horizons(total), total]
    ticks = {k: str(k) if k < total else f"all {k}" for k in counts}
    charts = []
    for end in ("first", "last"):
        curves = []
        for style, model in enumerate(scores.models):
            names = [f"{end}{k}" if k < total else PLAIN for k in counts]
            found = [(k, scores.accuracy(Condition(model, intervention=n))) for k, n in zip(counts, names)]
            known = [(k, e.value, e.low, e.high) for k, e in found if e is not None]
            if len(known) > 1:  # not only the whole clip was tested
                curves.append(diagrams.Curve(model, style, *zip(*known)))
        if curves:
            chance = scores.chance(Condition(scores.models[0]))[0], "most frequent class"
            texts = (f"only the {end} frames", f"number of {end} frames shown", "accuracy (0 to 1)")
            charts.append(diagrams.Chart(*texts, curves, xticks=ticks, reference=chance))
    if charts:
        yield Heading("Memory horizon", 3)
        caption = "Accuracy with only the first or last frames shown; bands are 95% intervals over groups."
        alt = "Accuracy against the number of frames shown; the numbers are in the table of interventions."
        yield Figure("horizon", diagrams.draw_charts(charts), caption, alt, PRINT_DPI)


def _by_class(scores: Scores, names: Sequence[str]) -> Iterator[Block]:
    classes = scores.results.classes
    yield Heading("Interventions by class", 3)
    tables = {}
    for model in scores.models:
        conditions = [Condition(model, intervention=name) for name in names]
        changes = [scores.mean_changes_by_class(condition, Condition(model)) for condition in conditions]
        tables[model] = np.stack(changes, axis=1)
    limit = diagrams.colour_limit(np.stack(list(tables.values())))
    for model, table in tables.items():
        picture = diagrams.draw_changes(table, rows=classes, columns=names, label=_CHANGE, limit=limit)
        caption = f"{model}: change of each class's accuracy (its recall) under each intervention."
        alt = "One row per class, one column per intervention, the change as a number."
        yield Figure(f"interventions_{file_name(model)}", picture, caption, alt, PRINT_DPI)
    shuffled = {model: Condition(model, intervention=SHUFFLED) for model in scores.sequence_models}
    shuffled = {model: condition for model, condition in shuffled.items() if scores.tested(condition).any()}
    if not shuffled:
        return
    columns = [scores.changes_by_class(condition, Condition(m)) for m, condition in shuffled.items()]
    rows: list[list[str | Entry]] = [
        [name, *(_marked(column[i]) for column in columns)] for i, name in enumerate(classes)
    ]
    caption = (
        "Change of each class's accuracy when frames are shuffled, with 95% intervals over groups, not corrected for "
        "their number; shaded where they exclude 0. Those of other interventions follow from predictions.parquet."
    )
    yield Table(caption, ("Class", *shuffled), rows)


def _trainings(scores: Scores) -> Iterator[Block]:
    yield Heading("Interventions in training")
    conditions = {
        model: [Condition(model, training=t, intervention=p) for t, p in _TRAININGS.values()]
        for model in scores.models
    }
    conditions = {
        model: found
        for model, found in conditions.items()
        if any(c.training != FrameOrder.KEPT and scores.tested(c).any() for c in found)
    }
    if not conditions:
        yield Paragraph(
            "No model was trained on other orders of frames: this comparison cannot distinguish models that need "
            "frame order from models that only expect it."
        )
        return
    yield Paragraph(
        "The same recipe trained on shuffled frames, or on one frame of each clip. A model trained as usual may lose "
        "at test time only because such clips are unlike any it has seen. A model that still loses when trained "
        "without order, or on one frame, needed them."
    )
    columns = zip(*(map(scores.accuracy, found) for found in conditions.values()))
    series = {name: column for name, column in zip(_TRAININGS, columns) if any(column)}
    panel = diagrams.Panel("", "accuracy (0 to 1), 95% intervals over groups", series)
    picture = diagrams.draw_forest(list(conditions), [panel], panel_width=7.0)
    caption = "Accuracy by the frames of training and of the test"
    yield Figure("trainings", picture, f"{caption}.", _SEE_TABLE, PRINT_DPI)
    rows = [
        [m, *(format_estimate(column[i]) for column in series.values())] for i, m in enumerate(conditions)
    ]
    yield Table(f"{caption}, 0 to 1, with 95% intervals over groups.", ("Model", *series), rows)
