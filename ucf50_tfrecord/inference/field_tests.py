"""The model card's sections on tests beyond the run's own clips, on the people shown, and on what was not tested.

The numbers come from files of earlier tests of the same weights, which lie in the run's folder, and from a
comparison whose trainings left classes out.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ucf50_tfrecord import labels, parsing, record
from ucf50_tfrecord.drawing.document import Block, Bullets, Heading, Paragraph, Table, counted
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.statistics import Estimate
from ucf50_tfrecord.evaluation.unknown import Score
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.parsing import Count, Finite
from ucf50_tfrecord.report import unknown_classes
from ucf50_tfrecord.report.scores import format_estimate
from ucf50_tfrecord.robustness.scores import SCORES_FILENAME
from ucf50_tfrecord.training import run as run_lib

_MAX_OTHER_SETS = 20  # rows of the table of other data sets

# An estimate in a JSON file: its value and the ends of its interval; null stands for an unknown number.
_Interval = tuple[Finite | None, Finite | None, Finite | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kept:
    """A robustness score; see robustness.scores.Score."""

    accuracy: _Interval
    relative: _Interval
    above_chance: _Interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Corruption:
    mean: _Kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """The fields that are read from the scores of a run on corrupted clips; see robustness.scores.Scores."""

    num_clips: Count
    plain: _Interval
    overall: _Kept
    families: dict[str, _Kept]
    corruptions: dict[str, _Corruption]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Value:
    """An estimate in the summary of an evaluation; null stands for an unknown number."""

    value: Finite | None
    low: Finite | None
    high: Finite | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ClassScores:
    accuracy: _Value
    macro_f1: _Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shared:
    num_clips: Count
    unit: str
    num_units: Count
    all_outputs: _ClassScores


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherSet:
    """The fields that are read from the summary of a run's evaluation on another data set.

    data_dir: folder of the other set's shards.
    num_clips: number of its clips.
    here, class_map, confidence_auroc: as in evaluation.elsewhere.OtherSetScores.
    """

    data_dir: str
    num_clips: Count
    here: _Shared
    class_map: dict[str, str | None]
    confidence_auroc: _Value | None


def section(run: FinishedRun, comparison: Results | None = None) -> Iterator[Block]:
    """Yields the blocks of the sections.

    Args:
      run: the run.
      comparison: a comparison with trainings of the run's model without some classes; None if there is none.

    Raises:
      UserError: if a file of an earlier test is damaged, or the comparison has no such trainings.
    """
    robustness = load_robustness(run)
    others = load_other_sets(run)
    yield Heading("Tests beyond these clips")
    yield from _describe_robustness(robustness)
    yield from _describe_other_sets(others)
    yield from _describe_unknown(run, comparison)
    yield from _people(run)
    yield from _use()
    yield from _checklist(
        {
            "clips of recordings that training has not seen": "" if run.leaks else "scores",
            "noise, blur, compression, frame timing": (
                counted(len(robustness.corruptions), "corruption") if robustness else ""
            ),
            "another data set": counted(len(others), "data set") if others else "",
            "videos of classes that the model does not know": "other trainings" if comparison else "",
            "when not to answer": "" if run.config.multi_label else "thresholds",
            "differences between people": "",
            "long videos with several actions, or none": "",
            "videos made to mislead the model": "",
            "drift of the videos during use": "",
        }
    )


def models_without_classes(run: FinishedRun, comparison: Results) -> list[str]:
    """Lists a comparison's names for models of a run's architecture that were also trained without some classes.

    Raises:
      UserError: if there are none, or the run is on clips with several labels.
    """
    purpose = f"figures of a comparison in the card of {run.run_dir}"
    labels.expect_one(run.config.multi_label, purpose, run.config.data_dir)
    found = {
        one.cell.model for one in comparison.cells if one.cell.held_out and one.architecture == run.model
    }
    expect(
        found,
        f"a comparison with trainings of {run.model} that leave classes out",
        comparison=f"{sorted(comparison.models)}, with no classes left out of {run.model}",
    )
    return sorted(found)


def load_robustness(run: FinishedRun) -> Robustness | None:
    """Reads the scores of a run's exported weights on corrupted versions of its held-out clips.

    Returns:
      The scores; None if they were not measured, the clips or weights have changed since, or clips have several labels,
      for which they are not defined.

    Raises:
      UserError: if the file is damaged.
    """
    folder = run_lib.evaluation_dir(run.run_dir, run.weights, run.config.scored_folds, kind="robustness")
    path = folder / SCORES_FILENAME
    if run.config.multi_label or not path.is_file():
        return None
    found = parsing.read(path, Robustness, "a test of robustness", extra=True)
    own, num_clips = run.scores.accuracy(Condition(run.model)).value, len(run.results.ids)
    # A training that went on has other weights. Kernels may round one clip to the other side.
    is_same = found.plain[0] is not None and abs(found.plain[0] - own) <= 1.5 / num_clips
    return found if found.num_clips == num_clips and is_same else None


def load_other_sets(run: FinishedRun) -> list[OtherSet]:
    """Reads the summaries of a run's evaluations, with the exported weights, on other data sets.

    Raises:
      UserError: if a file is damaged.
    """
    folders = sorted(pathlib.Path(run.run_dir).glob(f"evaluation-{run.weights}-on-*"))
    paths = [path for folder in folders if (path := folder / run_lib.SUMMARY_FILENAME).is_file()]
    return [
        parsing.read(path, OtherSet, "the summary of an evaluation on another data set", extra=True)
        for path in paths[:_MAX_OTHER_SETS]
    ]


def _describe_robustness(found: Robustness | None) -> Iterator[Block]:
    if found is None:
        return
    rows: list[Sequence[str]] = [("unchanged", _format(found.plain), "–", "–")]
    scores = {**found.families, "all": found.overall}
    rows += [
        (name, _format(kept.accuracy), _format(kept.relative), _format(kept.above_chance))
        for name, kept in scores.items()
    ]
    yield Table(
        f"Accuracy on {found.num_clips:,} corrupted held-out clips, as means over five severities; the fraction of "
        "the accuracy that is kept (relative robustness, Schiappa et al. 2023), and the same above chance.",
        ("corruptions", "accuracy", "kept", "kept above chance"),
        rows,
    )
    means = {name: one.mean.accuracy[0] for name, one in found.corruptions.items()}
    known = {name: mean for name, mean in means.items() if mean is not None}
    if known:
        worst = sorted(known, key=known.__getitem__)[:3]
        listed = ", ".join(f"{name} ({known[name]:.3f})" for name in worst)
        yield Paragraph(f"The corruptions with the lowest accuracy: {listed}.")


def _describe_other_sets(others: Sequence[OtherSet]) -> Iterator[Block]:
    if not others:
        return
    rows = []
    for one in others:
        shared = sum(name is not None for name in one.class_map.values())
        scores = one.here.all_outputs
        rows.append(
            (
                pathlib.PurePath(one.data_dir).name,
                f"{shared} of {len(one.class_map)}",
                f"{one.here.num_clips:,} of {one.num_clips:,}",
                f"{one.here.num_units:,} {one.here.unit}",
                _format_value(scores.accuracy),
                _format_value(scores.macro_f1),
                _format_value(one.confidence_auroc),
            )
        )
    yield Table(
        "Other data sets, on clips of the classes that they share with the run. The last column tells how well "
        "confidence separates these clips from clips of other classes (AUROC; 0.5 is guessing).",
        ("data set", "shared classes", "clips", "units", "accuracy", "macro F1", "AUROC"),
        rows,
    )


def _describe_unknown(run: FinishedRun, comparison: Results | None) -> Iterator[Block]:
    if comparison is None:
        return
    rows: list[Sequence[str]] = []
    for model in models_without_classes(run, comparison):
        own = [one for one in comparison.cells if one.cell.held_out and one.cell.model == model]
        for score in Score:
            by_set = unknown_classes.detections(comparison, own, model, score)
            measures = (unknown_classes.measure(by_set, name) for name in unknown_classes.MEASURES)
            rows.append((model, score, *map(format_estimate, measures)))
    yield Table(
        f"How well scores tell clips of unknown classes from known ones, for trainings of the same model on "
        f"{comparison.name} that left classes out. These are other weights than the exported ones. Intervals are over "
        "sets of left-out classes.",
        ("model", "score", *unknown_classes.MEASURES.values()),
        rows,
    )


def _people(run: FinishedRun) -> Iterator[Block]:
    yield Heading("People and places")
    items = (
        [_groups_per_class(run)]
        if run.manifest
        else ["The recording groups of the training clips are unknown."]
    )
    items += [
        "Clips of one recording group often show the same person in front of the same background (Reddy and Shah "
        "2013, on UCF50). So the number of groups limits the number of people and places.",
        "No file records who is shown, where, or when: age, skin, sex, clothes, disability and country are unknown, "
        "for training clips and for tested clips.",
    ]
    yield Bullets(items)


def _groups_per_class(run: FinishedRun) -> str:
    """Describes how many recording groups the training clips of a class come from."""
    clips, why = run.load_clips(run.config.train_folds)
    if clips is None:
        return f"The recording groups of the training clips are unknown: {why}."
    known = clips.groups != record.UNKNOWN_GROUP
    if not known.any():
        return "The training clips have no recording groups, so the number of people and places is unknown."
    counts = {
        name: len(np.unique(clips.groups[known & clips.has_class(label)]))
        for label, name in enumerate(run.config.classes)
    }
    least = min(counts, key=counts.__getitem__)
    return (
        f"The training clips of a class come from {counts[least]} to {max(counts.values())} recording groups, fewest "
        f"for {least}."
    )


def _use() -> Iterator[Block]:
    yield Heading("Responsible use")
    yield Bullets(
        [
            "Made for research and teaching on action recognition, and for sorting videos whose errors cost little.",
            "The videos show people. Do not use it to watch, identify or judge people, nor where an error harms "
            "someone; no test here supports that.",
            "It was not tested for differences between people: age, skin, sex, body, clothes, disability, country. "
            "UCF50's videos come from YouTube: they show the people who were filmed and uploaded there, and how.",
            "The videos belong to their owners, and data sets have terms of use, UCF50 too "
            "(https://www.crcv.ucf.edu/data/UCF50.php). Check that they allow your use of a model made from them.",
        ]
    )


def _checklist(tests: Mapping[str, str]) -> Iterator[Block]:
    """Yields the table of the tests that broader use needs; `tests` says what was tested, if anything."""
    yield Heading("Checklist before broader use")
    rows = [(name, f"tested, see above: {what}" if what else "not tested") for name, what in tests.items()]
    yield Table("What was tested, and what was not.", ("test", "state"), rows)


def _format(values: _Interval) -> str:
    if values[0] is None:
        return "–"
    return format_estimate(Estimate(*(math.nan if value is None else value for value in values)))


def _format_value(estimate: _Value | None) -> str:
    return _format((estimate.value, estimate.low, estimate.high)) if estimate else "–"
