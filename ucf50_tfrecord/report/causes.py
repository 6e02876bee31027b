"""The comparison report's sections on causes: the memory of recurrent layers, and the models' errors.

Sections are generators of document blocks, such as headings, paragraphs, tables and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.drawing import class_scores, diagrams
from ucf50_tfrecord.drawing.canvas import PRINT_DPI
from ucf50_tfrecord.drawing.document import Block, Bullets, Figure, Heading, Paragraph, Table, file_name
from ucf50_tfrecord.evaluation.recurrence import GATES
from ucf50_tfrecord.evaluation.results import Condition
from ucf50_tfrecord.report.cues import gain_words, uncorrected
from ucf50_tfrecord.report.scores import Scores

# Reads frames, uint8 [M, T, H, W, 3], of the clips with given indices in Results.ids, int64 [M].
ReadClips = Callable[[np.ndarray], np.ndarray]
_NUM_CONFUSED, _NUM_CONFUSED_STRIPS = 10, 4
_NUM_CLIPS, _NUM_CLIP_STRIPS = 10, 4
_NUM_ATTRIBUTED = 4
# Pairs (earlier, later) of models: the later one was designed to remember what the earlier one forgets.
_RIVALS = tuple((traits.improves_on, name) for name, traits in MODELS.items() if traits.improves_on)
_CURVES = {
    "loss_gradient": ("loss, by frame", "norm of d loss / d features"),
    "logit_gradient": ("true class's logit, by frame", "norm of d logit / d features"),
    "memory_gradient": ("the same through the last state alone", "norm of d logit / d features"),
    "probe_accuracy": ("linear probe on the hidden state", "accuracy (0 to 1)"),
}


def recurrence(scores: Scores) -> Iterator[Block]:
    """Yields the blocks of the section on how much recurrent layers remember; see evaluation.recurrence."""
    cells = {model: scores.results.cells_of(Condition(model)) for model in scores.models}
    found = {model: [r.recurrence for r in results if r.recurrence] for model, results in cells.items()}
    found = {model: inspected for model, inspected in found.items() if inspected}
    yield Heading("Inside the recurrence")
    if not found:
        yield Paragraph("No recurrent model was inspected.")
        return
    yield Paragraph(
        "The gradient with respect to a frame's features shows how much a small change of that frame moves the loss "
        "or the true class's logit. Where it falls towards early frames by powers of ten, these are forgotten. A "
        "model that averages its outputs over time gives every frame a direct path to the logit; the third diagram "
        "therefore shows the path through the last state alone, where the recurrence must carry the frame."
    )
    yield Paragraph(
        "The probe is a linear classifier fitted on the hidden state after each frame. It shows what the state "
        "contains by then, whether or not the model's own classifier uses it."
    )
    yield _recurrence_figure(scores, found)
    rows = [[model, *_memory(cells)] for model, cells in found.items()]
    caption = (
        f"Effective memory: the sum of the gradients through the last state over the largest one, from 1 frame to all "
        f"{scores.results.num_frames}. Fall: the gradient of the first frame as a fraction of the last frame's."
    )
    yield Table(caption, ("Model", "Frames remembered", "Least to most", "Fall", "Probe, last frame"), rows)
    yield from _gates(found)


def _recurrence_figure(scores: Scores, found: dict[str, list[dict[str, Any]]]) -> Figure:
    style = {model: number for number, model in enumerate(scores.models)}
    chance = scores.chance(Condition(next(iter(found))))[0], "most frequent class"
    charts = []
    for key, (title, ylabel) in _CURVES.items():
        curves = [_curve(model, style[model], [c[key] for c in cells]) for model, cells in found.items()]
        is_probe = key == "probe_accuracy"
        reference = chance if is_probe else None
        charts.append(diagrams.Chart(title, "frame", ylabel, curves, log=not is_probe, reference=reference))
    caption = (
        "Means over trainings; bands reach from the lowest to the highest. Gradient axes are logarithmic."
    )
    alt = "Gradients by frame and accuracy of a linear probe by frame, one line per model."
    return Figure("recurrence", diagrams.draw_charts(charts), caption, alt, PRINT_DPI)


def _curve(name: str, style: int, rows: Sequence[Sequence[float]]) -> diagrams.Curve:
    table = np.array(rows, float)  # [cells, T]
    frames = np.arange(1, table.shape[1] + 1)
    return diagrams.Curve(name, style, frames, table.mean(axis=0), table.min(axis=0), table.max(axis=0))


def _memory(cells: Sequence[dict[str, Any]]) -> list[str]:
    frames = np.array([cell["memory_frames"] for cell in cells], float)
    gradient = np.mean([cell["memory_gradient"] for cell in cells], axis=0)
    fall = f"{gradient[0] / gradient[-1]:.2g}" if gradient[-1] > 0 else "–"
    probe = np.mean([cell["probe_accuracy"] for cell in cells], axis=0)[-1]
    return [f"{frames.mean():.1f}", f"{frames.min():.1f} to {frames.max():.1f}", fall, f"{probe:.3f}"]


def _gates(found: dict[str, list[dict[str, Any]]]) -> Iterator[Block]:
    charts = []
    for model, cells in found.items():
        gates = [gate for gate in GATES if all(gate in cell["gates"] for cell in cells)]
        curves = [_curve(g, GATES.index(g), [cell["gates"][g] for cell in cells]) for g in gates]
        if curves:
            charts.append(diagrams.Chart(model, "frame", "mean activity (0 to 1)", curves))
    if charts:
        caption = (
            "Activity of the LSTMs' gates, mean over units and clips, from 0 (closed) to 1 (open). A forget gate "
            "near 1 keeps the memory, and lets gradients through."
        )
        alt = "Gate activity by frame, one line per gate."
        yield Figure("gates", diagrams.draw_charts(charts), caption, alt, PRINT_DPI)


def attributions(scores: Scores, read_clips: ReadClips | None) -> Iterator[Block]:
    """Yields the blocks of the section on what single frames contribute; nothing if it was not measured.

    Args:
      scores: the numbers of the comparison.
      read_clips: function that reads clips' frames for pictures; None for a section without these.
    """
    by_clip: dict[int, dict[str, list[Sequence[float]]]] = {}
    for model in scores.models:
        for result in scores.results.cells_of(Condition(model)):
            for found in result.attributions:
                rows = by_clip.setdefault(found.clip, {}).setdefault(model, [])
                rows.append(found.contributions)
    if not by_clip:
        return
    clips = sorted(by_clip)
    clips = [clips[i] for i in np.linspace(0, len(clips) - 1, min(_NUM_ATTRIBUTED, len(clips))).astype(int)]
    results, style = scores.results, {model: number for number, model in enumerate(scores.models)}
    names = [f"{number}: {results.classes[results.labels[clip]]}" for number, clip in enumerate(clips, 1)]
    yield Heading("Contributions of frames")
    yield Paragraph(
        "A frame's contribution is what it adds to the probability of the true class, averaged over orders in which the "
        "clip's frames are added (Shapley values). A frame that is not there yet is replaced by the frame before it. "
        "The contributions sum to the probability for the whole clip minus the class's frequency in training. Frames "
        "below 0 mislead the model. Few orders are used, so small contributions are uncertain."
    )
    charts = [
        diagrams.Chart(
            name, "frame", "contribution", [_curve(m, style[m], rows) for m, rows in by_clip[clip].items()]
        )
        for name, clip in zip(names, clips)
    ]
    caption = "Contribution of each frame to the probability of the true class: means over seeds; bands reach from the "
    caption += "lowest to the highest. The clips are chosen by their positions in the data set, not by their results."
    alt = "Contribution by frame for a few clips, one line per model."
    yield Figure("contributions", diagrams.draw_charts(charts), caption, alt, PRINT_DPI)
    if read_clips is not None:
        captions = [f"{name}: {results.ids[clip]}" for name, clip in zip(names, clips)]
        caption = "The clips of the diagrams."
        yield strips("contributing_clips", read_clips, np.array(clips), captions, caption)


def errors(scores: Scores, read_clips: ReadClips | None) -> Iterator[Block]:
    """Yields the blocks of the section on errors.

    They show confused classes, each class's gain over an order-blind model, and clips on which one of two
    models is right and the other wrong.

    Args:
      scores: the numbers of the comparison.
      read_clips: function that reads clips' frames for pictures; None for a section without these.
    """
    yield Heading("Errors")
    if read_clips is None:
        yield Paragraph("Pictures of clips are left out: the clips were not available.")
    for model in scores.models:
        matrix = scores.confusion(model)
        right, total = int(np.trace(matrix)), int(matrix.sum())
        caption = (
            f"{model}: the predictions for each class; {right} of {total} predictions of all seeds are right."
        )
        alt = f"Confusion matrix of {model}; its largest entries are in the table of confused pairs."
        picture = class_scores.draw_confusion(matrix, scores.results.classes)
        yield Figure(f"confusion_{file_name(model)}", picture, caption, alt)
    yield from _confused(scores, read_clips)
    yield from _class_gains(scores)
    for one, other in _RIVALS:
        if one in scores.models and other in scores.models:
            yield from _one_fails(scores, one, other, read_clips)


def _confused(scores: Scores, read_clips: ReadClips | None) -> Iterator[Block]:
    found, classes = scores.most_confused(_NUM_CONFUSED), scores.results.classes
    yield Heading("Most confused pairs", 3)
    if not found:
        yield Paragraph("No class was confused with another.")
        return
    rows = [
        [f"{classes[c.true]} → {classes[c.taken_for]}", *(f"{c.fractions[m]:.2f}" for m in scores.models)]
        for c in found
    ]
    caption = (
        "The fraction of a class's predictions, over all seeds, that name the other class; the most confused pairs by "
        "the mean over models."
    )
    yield Table(caption, ("True class → predicted class", *scores.models), rows)
    if read_clips is None:
        return
    chosen, captions = [], []
    for confusion in found[:_NUM_CONFUSED_STRIPS]:
        mistaken, likeness = _examples(scores, confusion.true, confusion.taken_for)
        true, other = classes[confusion.true], classes[confusion.taken_for]
        for clip, words in ((mistaken, f"true {true}, predicted {other}"), (likeness, f"true {other}")):
            if clip is not None:
                chosen.append(clip)
                captions.append(f"{words}: {scores.results.ids[clip]}")
    caption = "For each pair, a clip that most trainings confuse, and a clip of the predicted class."
    yield strips("confused_pairs", read_clips, np.array(chosen), captions, caption)


def _examples(scores: Scores, true: int, taken_for: int) -> tuple[int | None, int | None]:
    """Finds example clips for a pair of confused classes, by all models' predictions.

    Args:
      scores: the numbers of the comparison.
      true: index of the class that is confused.
      taken_for: index of the class that is predicted instead.

    Returns:
      A tuple of two clip indices. First, of the clips of class `true`, the one most often predicted as
      `taken_for`. Second, of the clips of class `taken_for`, the one most often predicted correctly. An index
      is None if no clip fits.
    """
    votes = np.zeros((2, len(scores.results.ids)))
    for model in scores.models:
        predictions, _ = scores.results.predictions(Condition(model))
        votes += (predictions == taken_for).sum(axis=0) * (scores.results.labels == [[true], [taken_for]])
    best = votes.argmax(axis=1)
    confused, recognised = (int(clip) if row[clip] > 0 else None for row, clip in zip(votes, best))
    return confused, recognised


def _class_gains(scores: Scores) -> Iterator[Block]:
    if not scores.order_blind or not scores.sequence_models:
        return
    classes, controls = scores.results.classes, {m: scores.control_of(m) for m in scores.sequence_models}
    yield Heading("Class gains over a model that cannot see order", 3)
    gains = {m: scores.changes_by_class(Condition(m), Condition(control)) for m, control in controls.items()}
    panels = []
    for model, gain in gains.items():
        style, reference = scores.models.index(model), (0.0, controls[model])
        text = "gain of accuracy (0 to 1)"
        panels.append(diagrams.Panel(model, text, {model: gain}, style=style, reference=reference))
    picture = diagrams.draw_forest(classes, panels, panel_width=2.3)
    caption = (
        "Each class's accuracy minus that of a model that cannot see order, on the same clips; 95% intervals "
        "over groups."
    )
    yield Figure("class_gains", picture, caption, "Gains beyond their intervals are named below.", PRINT_DPI)
    pairs = {f"{model} over {controls[model]}": gain for model, gain in gains.items()}
    yield Bullets([gain_words(pair, gain, classes) for pair, gain in pairs.items()])
    yield uncorrected(len(classes))


def _one_fails(scores: Scores, one: str, other: str, read_clips: ReadClips | None) -> Iterator[Block]:
    results, clips = scores.results, scores.only_right(other, one)
    classes, num_reverse = results.classes, len(scores.only_right(one, other))
    yield Heading(f"Where {one} fails and {other} does not", 3)
    yield Paragraph(
        f"All seeds of {one} are wrong and all of {other} right about {len(clips)} clips; the reverse holds for "
        f"{num_reverse}."
    )
    if not len(clips):
        return
    predictions, _ = results.predictions(Condition(one))
    labels = results.labels[clips]
    predicted = [int(np.bincount(predictions[:, i]).argmax()) for i in clips]
    rows = [[results.ids[i], classes[true], classes[p]] for i, true, p in zip(clips, labels, predicted)]
    more = f" The first {_NUM_CLIPS} of {len(clips)}." if len(clips) > _NUM_CLIPS else ""
    caption = f"Clips that only {other} recognises."
    yield Table(caption + more, ("Clip", "Class", f"Predicted by {one}"), rows[:_NUM_CLIPS])
    if read_clips is not None:
        # Takes one clip of each class before a second clip of any class.
        order = sorted(range(len(clips)), key=lambda k: (np.count_nonzero(labels[:k] == labels[k]), k))
        order = order[:_NUM_CLIP_STRIPS]
        captions = [f"true {true}, {one} predicts {p}: {clip}" for clip, true, p in (rows[k] for k in order)]
        name = f"{file_name(one)}_fails_{file_name(other)}_right"
        yield strips(name, read_clips, clips[order], captions, caption)


def strips(
    name: str, read_clips: ReadClips, clips: np.ndarray, captions: Sequence[str], caption: str
) -> Figure:
    """Makes a figure that shows clips as strips of frames below each other.

    Args:
      name: name of the figure.
      read_clips: function that reads clips' frames.
      clips: indices of M clips, int [M].
      captions: captions of the clips.
      caption: caption of the figure.
    """
    picture = class_scores.draw_captioned_clips(read_clips(clips.astype(np.int64)), captions)
    return Figure(name, picture, caption, "; ".join(captions), photo=True)
