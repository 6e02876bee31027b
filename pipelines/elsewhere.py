"""Evaluates a run on another data set: loads that set in the run's format, and prints the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import convert, features, remedies, terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import remote
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.errors import Action, Advice, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import class_matching
from ucf50_tfrecord.jobs import Plan
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import format_folds, shorten
from ucf50_tfrecord.training.run import RunConfig

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.elsewhere import ClassScores, Confidence, OtherSetScores, UnknownClass
    from ucf50_tfrecord.evaluation.statistics import Estimate

_MAX_ROWS = 20  # unknown classes that are printed
_NAME_WIDTH = 24


def load_videos(config: RunConfig, class_map: Mapping[str, str] | None) -> Manifest:
    """Converts the videos of --videos into clips, and features, of a run's format, except for up-to-date shards.

    Args:
      config: the run's configuration.
      class_map: as in class_matching.match_classes.

    Raises:
      UserError: if the classes do not match those of the run, which is checked before any video is converted, or
        the conversion fails.
    """
    given = [name for name in remedies.FEATURE_FLAGS.values() if flags.FLAGS[name].present]
    expect(not given, "no flags of features, which follow from the run", given=given)
    stored = config.clip_format
    if stored is None:
        raise UserError(
            "The format of the run's clips is unknown: the run is from an earlier version. Pass --data=<folder of "
            "shards> instead of --videos"
        )

    def check(planned: Plan) -> None:
        expect(
            planned.format.shape == stored.shape, f"clips of {stored}, as of the run", clips=planned.format
        )
        class_matching.match_classes(planned.classes, config.classes, class_map)

    convert.use_format(stored)
    manifest = convert.load_or_convert(check)
    return features.encode(manifest, like=config.features) if config.features else manifest


def trained_clips(config: RunConfig) -> set[str] | None:
    """Returns the names, <class>/<video>, of the videos that a run was trained on; None if its shards are missing."""
    from ucf50_tfrecord.evaluation.results import video_of

    if remote.is_remote(config.data_dir):  # a run of a stranger must not make this process send requests
        return None
    try:
        manifest = manifest_lib.load_if_finished(config.data_dir)
        if manifest is None or manifest.fingerprint != config.fingerprint:
            return None
        clips = load_clips(manifest, config.train_folds, check_shards=False)
    except UserError:  # damaged shards tell no more than missing ones
        return None
    return {video_of(clip_id) for clip_id in clips.ids}


def warn_about_training(num_same: int | None, num_clips: int, config: RunConfig) -> None:
    """Warns if clips of the other data set may be clips that the run was trained on.

    Args:
      num_same: number of clips with the class and the name of a training clip; None if these are unknown.
      num_clips: number of all clips.
      config: the run's configuration.
    """
    if num_same is None:
        terminal.warn(
            f"the shards of the run, {config.data_dir}, are missing or have changed: whether it was trained on some "
            "of these clips was not checked"
        )
    elif num_same:
        terminal.warn(
            Advice(
                f"{num_same} of {num_clips} clips have the class and the name of a clip that the run was trained on. "
                "If they show the same video, the scores say little about new clips",
                Remedy(
                    Action.SET, "to leave out the training folds", folds=format_folds(config.scored_folds)
                ),
            )
        )


def warn_about_format(manifest: Manifest, config: RunConfig) -> None:
    """Warns if the clips' frames were chosen or fitted in another way than those of the run."""
    if config.clip_format is None:
        return
    differing = [
        f"{name} {getattr(manifest.format, name)}, not {getattr(config.clip_format, name)}"
        for name in ("spacing", "resize")
        if getattr(manifest.format, name) != getattr(config.clip_format, name)
    ]
    if differing:
        terminal.warn(
            f"{manifest.data_dir} holds clips of another kind than the run's: {'; '.join(differing)}"
        )


def print_comparison(title: str, found: OtherSetScores, num_classes: int) -> None:
    """Prints the scores on another data set beside the run's own, and what is predicted for unknown classes.

    Args:
      title: the first line.
      found: the scores.
      num_classes: number of the run's classes.
    """
    matched = {name: match for name, match in found.class_map.items() if match is not None}
    terminal.say("", f"{title}:")
    terminal.say_wrapped(
        f"{len(matched)} of its {len(found.class_map)} classes are among the {num_classes} classes of the run. They "
        f"have {found.here.num_clips} of the clips."
    )
    renamed = [f"{name} -> {match}" for name, match in matched.items() if name != match]
    if renamed:
        terminal.say_wrapped(f"Matched with another name: {', '.join(renamed)}.")
    rows = [("this data set", found.here)]
    rows += [("the run's held-out clips", found.own)] if found.own else []
    units = [
        f"{scores.num_units} {scores.unit if scores.num_units > 1 else scores.unit.removesuffix('s')} of {name}"
        for name, scores in rows
    ]
    reason = "" if found.here.unit == "groups" else " Not all names of its videos tell a recording group."
    terminal.say_wrapped(f"95% intervals are over {' and '.join(units)}.{reason}", break_on_hyphens=False)
    terminal.say("", f"{'clips of shared classes':<31}{'accuracy':<23}macro F1")
    for name, scores in rows:
        terminal.say(_score_row(name, scores.all_outputs))
        if len({*matched.values()}) < num_classes:
            terminal.say(_score_row("  shared outputs only", scores.shared_outputs))
    _print_confidence([(name, scores.confidence) for name, scores in rows], found)
    _print_unknown(found.unknown_classes)


def _score_row(name: str, scores: ClassScores) -> str:
    return f"  {name:<29}{_shown(scores.accuracy):<23}{_shown(scores.macro_f1)}"


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} (no interval)" if math.isnan(estimate.low) else str(estimate)


def _print_confidence(rows: list[tuple[str, Confidence]], found: OtherSetScores) -> None:
    """Prints the confidence in predictions: `rows` of shared classes, then that for unknown classes."""
    if found.unknown_confidence:
        rows = [*rows, ("unknown classes", found.unknown_confidence)]
    terminal.say("", f"{'confidence':<31}{'mean':<23}10%   50%   90%")
    for name, confidence in rows:
        quantiles = "  ".join(f"{value:.2f}" for value in confidence.quantiles)
        terminal.say(f"  {name:<29}{_shown(confidence.mean):<23}{quantiles}")
    if found.confidence_auroc:
        terminal.say(f"  {'shared above unknown (AUROC)':<29}{_shown(found.confidence_auroc)}")


def _print_unknown(classes: Sequence[UnknownClass]) -> None:
    """Prints the most frequent predictions for each class that the run does not know."""
    if not classes:
        return
    terminal.say("", f"{'unknown class':<{_NAME_WIDTH + 2}}{'clips':>5}  most often predicted")
    for item in classes[:_MAX_ROWS]:
        most = [(shorten(name, _NAME_WIDTH), count) for name, count in list(item.predicted.items())[:2]]
        shown = ", ".join(f"{name} {count / item.num_clips:.0%}" for name, count in most)
        terminal.say(f"  {shorten(item.name, _NAME_WIDTH):<{_NAME_WIDTH}}{item.num_clips:>5}  {shown}")
    if len(classes) > _MAX_ROWS:
        terminal.say(f"  … and {len(classes) - _MAX_ROWS} more, in summary.json")


def is_other(
    manifest: Manifest, config: RunConfig, class_map: Mapping[str, str] | None, trained: set[str] | None
) -> bool:
    """Tells whether a dataset is another data set than that of the run, not the same in another encoding.

    It is the run's own if it has the run's classes and some of the videos that the run was trained on, unless
    --videos or a map of classes say otherwise.

    Args:
      manifest: the dataset's manifest.
      config: the run's configuration.
      class_map: as in class_matching.match_classes.
      trained: the names of the videos that the run was trained on, or None if they are unknown.
    """
    if manifest.fingerprint == config.fingerprint:
        return False
    if convert.has_videos() or class_map is not None or manifest.classes != config.classes:
        return True
    return bool(trained) and not _holds_some(manifest, trained)


def _holds_some(manifest: Manifest, names: set[str]) -> bool:
    from ucf50_tfrecord.evaluation.results import video_of

    clips = load_clips(manifest, manifest.folds, check_shards=False)
    return any(video_of(clip_id) in names for clip_id in clips.ids)
