"""The report's sections on scores: of the models, against each other, and under interventions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.drawing import canvas, diagrams
from ucf50_tfrecord.drawing.document import Block, Cell, Figure, Heading, Paragraph, Table, file_name
from ucf50_tfrecord.evaluation.results import SHUFFLED, Condition
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.evaluation.verdicts import Verdict
from ucf50_tfrecord.report.answers import TONES
from ucf50_tfrecord.report.scores import Scores, excludes_zero, shown

_CHANGE = "change of accuracy (0 to 1)"
# Trained on, tested with: as is, shuffled only at test time, in both, a single frame only at test time, in both.
_TRAININGS = {
    "trained as is, tested as is": ("kept", perturb.PLAIN),
    "trained as is, tested shuffled": ("kept", SHUFFLED),
    "trained shuffled, tested shuffled": ("shuffled", SHUFFLED),
    "trained as is, tested on one frame": ("kept", "middle1"),
    "trained and tested on one frame": ("single", "middle1"),
}


def sections(scores: Scores, verdicts: Sequence[Verdict]) -> Iterator[Block]:
    yield from _scores(scores)
    yield from _models_apart(verdicts)
    yield from _interventions(scores)
    yield from _trainings(scores)


def _scores(scores: Scores) -> Iterator[Block]:
    conditions = {model: Condition(model) for model in scores.models}
    seeds = {model: scores.by_seed(condition) for model, condition in conditions.items()}
    accuracy = {model: scores.accuracy(condition) for model, condition in conditions.items()}
    f1 = {model: scores.macro_f1(condition) for model, condition in conditions.items()}
    # Of the clips of all models, where these differ: the line is a help to the eye.
    chance = scores.chance(max(conditions.values(), key=lambda condition: scores.tested(condition).sum()))
    yield Heading("Scores")
    panels = [
        diagrams.Panel(
            title,
            "0 to 1",
            {title: list(values.values())},
            points=[of_model[i] for of_model in seeds.values()],
            reference=(chance[i], "always the most frequent class"),
        )
        for i, (title, values) in enumerate({"accuracy": accuracy, "macro F1": f1}.items())
    ]
    caption = "Accuracy and macro F1 with 95% intervals over groups; the ticks below are the seeds."
    alt = "; ".join(f"{model}: accuracy {accuracy[model]}, macro F1 {f1[model]}" for model in scores.models)
    yield Figure("scores", diagrams.draw_forest(scores.models, panels), caption, alt, canvas.PRINT_DPI)
    rows = [
        [model, shown(accuracy[model]), shown(f1[model]), _spread(seeds[model][0]), _spread(seeds[model][1])]
        for model in scores.models
    ]
    columns = ("Model", "Accuracy", "Macro F1", "Accuracy by seed", "Macro F1 by seed")
    caption = (
        f"Scores on clips, 0 to 1, with 95% intervals over groups. Always naming the most frequent class gives "
        f"accuracy {chance[0]:.3f} and macro F1 {chance[1]:.3f}."
    )
    yield Table(caption, columns, rows)
    yield from _qualities(scores, conditions)
    yield _class_table(scores, conditions)


def _spread(values: np.ndarray) -> str:
    return f"{values[0]:.3f}" if len(values) == 1 else f"{values.min():.3f} to {values.max():.3f}"


def _qualities(scores: Scores, conditions: dict[str, Condition]) -> Iterator[Block]:
    quality = {model: scores.quality(condition) for model, condition in conditions.items()}
    videos = {model: scores.by_video(condition) for model, condition in conditions.items()}
    columns = ["Model", "Log loss", "Calibration error"]
    rows = [[model, f"{q.log_loss:.3f}", f"{q.calibration_error:.3f}"] for model, q in quality.items()]
    if any(q.top5 is not None for q in quality.values()):
        columns.append("Top-5 accuracy")
        rows = [[*row, f"{quality[row[0]].top5:.3f}"] for row in rows]
    if any(videos.values()):
        columns += ["Videos", "Accuracy by video", "Macro F1 by video"]
        rows = [[*row, *_video_cells(videos[row[0]])] for row in rows]
    caption = (
        "Of the mean of the seeds' probabilities, which is mostly better and less sure of itself than one seed. Log "
        "loss: mean of -ln(probability of the true class), in nats. Calibration error: how far, on average, the "
        "highest probability is from the share of clips that are right (expected calibration error, 15 bins)."
    )
    yield Table(caption, columns, rows)
    if any(videos.values()):
        yield Paragraph("A video's class is that of the mean of its clips' probabilities.")


def _video_cells(found: tuple[int, Estimate, Estimate] | None) -> list[str]:
    return [str(found[0]), shown(found[1]), shown(found[2])] if found else ["–"] * 3


def _class_table(scores: Scores, conditions: dict[str, Condition]) -> Table:
    found = {model: scores.class_scores(condition) for model, condition in conditions.items()}  # [3, C] each
    rows = [
        [
            name,
            *(
                "–" if np.isnan(x[:, i]).any() else " / ".join(f"{v:.2f}" for v in x[:, i])
                for x in found.values()
            ),
        ]
        for i, name in enumerate(scores.results.classes)
    ]
    caption = "Precision / recall / F1 of each class, 0 to 1: means over seeds."
    return Table(caption, ("Class", *scores.models), rows)


def _models_apart(verdicts: Sequence[Verdict]) -> Iterator[Block]:
    found = [verdict for verdict in verdicts if verdict.kind == "models_differ"]
    if not found:
        return
    yield Heading("Models against each other")
    rows = [
        [
            f"{v.models[0]} over {v.models[1]}",
            shown(v.effect, sign=True),
            *(f"{p:.2g}" for p in (v.p, v.adjusted_p, v.mcnemar_p)),
            Cell(v.answer, TONES[v.answer]),
        ]
        for v in found
    ]
    columns = ("Pair", "Difference of accuracy", "Sign-flip p", "Corrected p", "McNemar p", "Do they differ?")
    caption = (
        "Each pair on the same clips, the one ahead first. The sign-flip test flips whole groups; corrected for all "
        "questions of the report. McNemar's is on one prediction a clip, by the mean of the seeds' probabilities."
    )
    yield Table(caption, columns, rows)


def _interventions(scores: Scores) -> Iterator[Block]:
    names = scores.interventions()
    yield Heading("Interventions at test time")
    if not names:
        yield Paragraph("The models were tested on the clips as they are, and on nothing else.")
        return
    yield Paragraph(
        "The same weights on changed clips: what a model loses shows what it used, or what disturbs it. “How to read "
        "this” says what each intervention does."
    )
    changes = {
        model: [scores.change(Condition(model, perturbation=name), Condition(model)) for name in names]
        for model in scores.models
    }
    values = np.array([[e.value if e else np.nan for e in row] for row in changes.values()])
    unsure = np.array([[not excludes_zero(estimate) for estimate in row] for row in changes.values()])
    picture = diagrams.draw_changes(values, rows=scores.models, columns=names, label=_CHANGE, unsure=unsure)
    caption = "Change of accuracy under each intervention; grey where its 95% interval holds 0."
    yield Figure(
        "interventions",
        picture,
        caption,
        "The numbers are those of the table that follows.",
        canvas.PRINT_DPI,
    )
    rows = [[name, *(_marked(changes[model][i]) for model in scores.models)] for i, name in enumerate(names)]
    caption = "Change of accuracy against the clip as it is, with 95% intervals over groups; shaded where they miss 0."
    yield Table(caption, ("Intervention", *scores.models), rows)
    yield from _horizon_figure(scores)
    yield from _by_class(scores, names)


def _marked(estimate: Estimate | None) -> Cell:
    tone = "" if not excludes_zero(estimate) else "no" if estimate.value < 0 else "yes"
    return Cell(shown(estimate, sign=True), tone)


def _horizon_figure(scores: Scores) -> Iterator[Block]:
    total = scores.results.num_frames
    counts = [*perturb.horizons(total), total]
    charts = []
    for end in ("first", "last"):
        curves = []
        for style, model in enumerate(scores.models):
            names = [f"{end}{k}" if k < total else perturb.PLAIN for k in counts]
            found = [(k, scores.accuracy(Condition(model, perturbation=n))) for k, n in zip(counts, names)]
            known = [(k, e.value, e.low, e.high) for k, e in found if e is not None]
            if len(known) > 1:  # more than the whole clip
                curves.append(diagrams.Curve(model, style, *zip(*known)))
        if curves:
            ticks = {k: str(k) if k < total else f"all {k}" for k in counts}
            chance = scores.chance(Condition(scores.models[0]))[0], "most frequent class"
            axes = (f"number of {end} frames shown", "accuracy (0 to 1)")
            charts.append(
                diagrams.Chart(f"only the {end} frames", *axes, curves, xticks=ticks, reference=chance)
            )
    if charts:
        yield Heading("Memory horizon", 3)
        caption = (
            "Accuracy when only the first or the last frames are shown; bands are 95% intervals over groups."
        )
        alt = (
            "Accuracy against the number of frames shown; the numbers follow from the table of interventions."
        )
        yield Figure("horizon", diagrams.draw_charts(charts), caption, alt, canvas.PRINT_DPI)


def _by_class(scores: Scores, names: Sequence[str]) -> Iterator[Block]:
    classes = scores.results.classes
    yield Heading("Interventions by class", 3)
    tables = {
        model: np.stack(
            [scores.mean_changes_by_class(Condition(model, perturbation=n), Condition(model)) for n in names],
            axis=1,
        )
        for model in scores.models
    }
    limit = diagrams.colour_limit(np.stack(list(tables.values())))
    for model, table in tables.items():
        picture = diagrams.draw_changes(table, rows=classes, columns=names, label=_CHANGE, limit=limit)
        caption = f"{model}: change of each class's accuracy (its recall) under each intervention."
        alt = "A class a row, an intervention a column, the change as a number."
        yield Figure(f"interventions_{file_name(model)}", picture, caption, alt, canvas.PRINT_DPI)
    models = [m for m in scores.sequence_models if scores.tested(Condition(m, perturbation=SHUFFLED)).any()]
    if not models:
        return
    shuffled = [scores.changes_by_class(Condition(m, perturbation=SHUFFLED), Condition(m)) for m in models]
    rows = [[name, *(_marked(of_model[i]) for of_model in shuffled)] for i, name in enumerate(classes)]
    caption = (
        "Change of each class's accuracy when frames are shuffled, with 95% intervals over groups, not corrected for "
        "their number; shaded where they miss 0. Those of other interventions follow from results.json."
    )
    yield Table(caption, ("Class", *models), rows)


def _trainings(scores: Scores) -> Iterator[Block]:
    yield Heading("Interventions in training")
    models = [
        model
        for model in scores.models
        if any(
            scores.tested(Condition(model, training=t, perturbation=p)).any()
            for t, p in _TRAININGS.values()
            if t != "kept"
        )
    ]
    if not models:
        yield Paragraph(
            "No model was trained on shuffled or single frames (--orders): whether order is needed, or only "
            "expected, cannot be told apart here."
        )
        return
    yield Paragraph(
        "The same recipe trained on shuffled frames, or on one frame of each clip. What is lost at test time only "
        "to a model trained as usual is the shock of clips unlike any it has seen; what it still loses when trained "
        "without order, or on one frame, it needed."
    )
    series = {
        name: [scores.accuracy(Condition(model, training=t, perturbation=p)) for model in models]
        for name, (t, p) in _TRAININGS.items()
    }
    series = {name: found for name, found in series.items() if any(found)}
    panel = diagrams.Panel("", "accuracy (0 to 1), 95% intervals over groups", series)
    picture = diagrams.draw_forest(models, [panel], panel_width=7.0)
    alt = "The numbers are those of the table that follows."
    yield Figure(
        "trainings",
        picture,
        "Accuracy by what the frames were like in training and in the test.",
        alt,
        canvas.PRINT_DPI,
    )
    rows = [[model, *(shown(found[i]) for found in series.values())] for i, model in enumerate(models)]
    yield Table(
        "Accuracy by what the frames were like in training and in the test, 0 to 1, with 95% intervals over groups.",
        ("Model", *series),
        rows,
    )
