"""Tests finished runs on corrupted clips: noise, blur, codecs, frame timing.

  python -m pipelines.robustness --run=runs/demo
  python -m pipelines.robustness --runs=runs/a,runs/b --corruptions=spatial

Clips are those that the run was not trained on. Predictions are kept by
corruption: a test that was stopped continues with the same command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import code_flags, console, inputs, run_flags, terminal
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import CorruptionFamily
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import DecodeLimits, format_folds, parse_folds

if TYPE_CHECKING:
    import numpy as np

    from ucf50_tfrecord.dataset.clips import ClipIndex
    from ucf50_tfrecord.manifest import Manifest
    from ucf50_tfrecord.robustness.measure import Tester
    from ucf50_tfrecord.robustness.results import Results
    from ucf50_tfrecord.robustness.scores import Scores
    from ucf50_tfrecord.robustness.videos import Recoder
    from ucf50_tfrecord.training.run import RunConfig

_RUNS = flags.DEFINE_list("runs", [], "Folders of several runs, in place of --run. Their report is one.")
_DATA = flags.DEFINE_string("data", None, "Folder of shards. Default: the run's own.")
_FOLDS = flags.DEFINE_string(
    "folds", None, "Folds to test on. Default: the run's test folds, else its validation folds."
)
_CORRUPTIONS = flags.DEFINE_list(
    "corruptions",
    [],
    "Names of corruptions, or of their families: spatial, temporal, codec. Default: all; without codec if the folder "
    "of videos is missing.",
)
_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of the videos, for corruptions of the codec. Default: the one they were converted from.",
)
_RECODED = flags.DEFINE_string(
    "recoded",
    None,
    "Folder that keeps the clips of videos coded again, for other runs on the same shards. Default: <shards>-recoded.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Clips per step.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Number of processes that code videos again. Default: one per core.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for the report. Default: <run>/robustness-<weights>-<folds>; with --runs, runs/robustness.",
)
_LIMITS = SpecFlags(DecodeLimits, defaults={"timeout_secs": 600.0})

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)
flags.adopt_module_key_flags(inputs)

_FOLDER_KIND = "a test of robustness"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tested:
    """One tested run: its results and scores, and a clip under each corruption."""

    results: Results
    scores: Scores
    strips: dict[str, list[np.ndarray]]
    strips_of: str


def main() -> None:
    runs = _RUNS.value or [run_flags.run_dir()]
    expect(len(set(runs)) == len(runs), "each run once", runs=runs)
    if len(runs) > 1:
        joint = pathlib.Path(_OUTPUT.value or os.path.join("runs", "robustness"))
        storage.claim_folder(joint, _FOLDER_KIND, lambda names: False)
    console.load_tensorflow()
    from ucf50_tfrecord.training import strategy as strategy_lib

    with strategy_lib.explain_exhausted_memory():
        tested = [test_run(run_dir, is_only=len(runs) == 1) for run_dir in runs]
    if len(runs) > 1:
        write_report(tested, joint)


def test_run(run_dir: str, *, is_only: bool) -> _Tested:
    """Tests one run, and writes its results and report into a folder of its own.

    Args:
      run_dir: the run's folder.
      is_only: whether no other run is tested, so that --output names the folder of this one.
    """
    from ucf50_tfrecord.robustness.scores import SCORES_FILENAME
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import trained

    config = run_lib.load_classifier(run_dir)
    weights = run_flags.weights() or trained.scored_weights(config)
    manifest = load_frames(config)
    folds = parse_folds(_FOLDS.value, manifest.fold_numbers) if _FOLDS.value else config.scored_folds
    if trained_on := sorted(set(folds) & set(config.train_folds)):
        terminal.warn(
            f"the run was trained on folds {format_folds(trained_on)}; scores on these say nothing about new clips"
        )
    names = choose_corruptions(manifest)
    own = run_lib.evaluation_dir(run_dir, weights, folds, kind="robustness")
    folder = pathlib.Path(_OUTPUT.value) if is_only and _OUTPUT.value else own
    storage.claim_folder(folder, _FOLDER_KIND, lambda names: False)
    with storage.folder_lock(folder):
        storage.remove_unfinished(folder)
        tested = _test(run_dir, config, manifest, weights, folds, names, folder)
        facts: dict[str, Any] = {
            "run": run_dir,
            "model": config.model.name,
            "weights": weights,
            "folds": list(folds),
        }
        facts |= {"data": manifest.data_dir, "fingerprint": manifest.fingerprint}
        facts |= {"num_clips": len(tested.results.ids)}
        storage.write_json(folder / SCORES_FILENAME, facts | tested.scores.to_json())
        write_report([tested], folder)
    return tested


def load_frames(config: RunConfig) -> Manifest:
    """Loads the manifest of the frames of a run's clips, and checks that the run's model fits them.

    Raises:
      UserError: if it does not, or the clips have motion frames: of those, corruptions in time would need others.
    """
    from ucf50_tfrecord.dataset.clips import load_frames_manifest
    from ucf50_tfrecord.training import trained

    manifest = manifest_lib.load(_DATA.value or config.data_dir)
    trained.check_fits(manifest, config)
    manifest.expect_one_label("a test of robustness")
    if manifest.fingerprint != config.fingerprint:
        terminal.warn(f"{manifest.data_dir} holds other shards than those the run was trained on")
    manifest = load_frames_manifest(manifest) if manifest.features else manifest
    expect(
        not manifest.format.motion_frames,
        "clips without motion frames, which alone can be corrupted",
        data=manifest.data_dir,
        motion_frames=manifest.format.motion_frames,
    )
    return manifest


def choose_corruptions(manifest: Manifest) -> tuple[str, ...]:
    """Returns the names of the corruptions to test; warns if those of the codec are left out.

    Raises:
      UserError: if a name is unknown, or corruptions of the codec are asked for and there are no videos.
    """
    from ucf50_tfrecord.robustness import corruptions

    names = corruptions.select(_CORRUPTIONS.value or list(CorruptionFamily))
    of_codec = set(names) & set(corruptions.names([CorruptionFamily.CODEC]))
    folder = _VIDEOS.value or manifest.videos_dir
    if not of_codec or os.path.isdir(folder):
        return names
    problem = f"there is no folder {folder} of videos, which corruptions of the codec need"
    if _CORRUPTIONS.value or _VIDEOS.value:
        raise UserError(f"{problem[0].upper()}{problem[1:]}. Pass --videos=<folder>, or other --corruptions.")
    terminal.warn(f"{problem}: they are left out. Pass --videos=<folder> to test them")
    return tuple(name for name in names if name not in of_codec)


def _test(
    run_dir: str,
    config: RunConfig,
    manifest: Manifest,
    weights: str,
    folds: tuple[int, ...],
    names: tuple[str, ...],
    folder: pathlib.Path,
) -> _Tested:
    from ucf50_tfrecord import job
    from ucf50_tfrecord.features import frame_model
    from ucf50_tfrecord.robustness import measure, page, scores
    from ucf50_tfrecord.robustness.results import Results
    from ucf50_tfrecord.training import strategy as strategy_lib
    from ucf50_tfrecord.training import trained

    strategy = strategy_lib.make_strategy("one", environment={})
    model = frame_model.load_frame_model(
        run_dir, config, weights, strategy=strategy, allowed_code=code_flags.allowed_code()
    )
    listener = console.TrainingDisplay().listener()
    [feed] = job.make_feeds(manifest, [folds], inputs.INPUTS.build(), strategy=strategy, listener=listener)
    tester = measure.Tester(model, feed, strategy=strategy, batch_size=_BATCH_SIZE.value, warn=terminal.warn)
    with make_recoder(names, feed.clips) as recoder:
        digest, source = trained.digest_weights(model), recoder.source if recoder else ""
        keys = {name: measure.key_of(name, feed.clips, weights=digest, source=source) for name in names}
        predicted = dict(_measure(tester, names, keys, folder, len(config.classes), recoder))
        strips_of, strips = tester.example(names, recoder, page.SHOWN_SEVERITIES)
    kept = tester.kept
    results = Results(
        name=pathlib.Path(run_dir).name,
        model=config.model.name,
        classes=config.classes,
        # The strengths of corruptions of time are in frames that the model sees.
        clip_format=dataclasses.replace(manifest.format, num_frames=config.model.num_frames),
        ids=tuple(clip_id for clip_id, keep in zip(feed.clips.ids, kept) if keep),
        labels=feed.clips.labels[kept].astype(int),
        groups=feed.clips.groups[kept],
        plain=tester.plain[kept],
        corrupted={name: table[:, kept] for name, table in predicted.items()},
    )
    return _Tested(results=results, scores=scores.score_all(results), strips=strips, strips_of=strips_of)


def make_recoder(
    names: tuple[str, ...], clips: ClipIndex
) -> contextlib.AbstractContextManager[Recoder | None]:
    """Returns a context with the processes that code videos again; with None if no corruption needs them."""
    from ucf50_tfrecord.robustness import corruptions

    if not set(names) & set(corruptions.names([CorruptionFamily.CODEC])):
        return contextlib.nullcontext()
    from ucf50_tfrecord.robustness import videos  # imports PyAV

    data_dir = clips.manifest.data_dir
    return videos.Recoder(
        clips,
        videos_dir=_VIDEOS.value or clips.manifest.videos_dir,
        cache_dir=pathlib.Path(_RECODED.value or f"{data_dir.rstrip('/')}-recoded"),
        limits=_LIMITS.build(),
        num_workers=_WORKERS.value,
        warn=terminal.warn,
    )


def _measure(
    tester: Tester,
    names: tuple[str, ...],
    keys: dict[str, str],
    folder: pathlib.Path,
    num_classes: int,
    recoder: Recoder | None,
):
    """Yields the predictions under each corruption, and shows progress."""
    from ucf50_tfrecord.robustness import measure

    with contextlib.ExitStack() as stack:

        def on_start(name: str):
            stack.close()  # the bar of the corruption before
            number = names.index(name) + 1
            bar = console.progress_bar(len(tester.plain), "clip", f"{name} ({number}/{len(names)})")
            return stack.enter_context(bar).update

        yield from measure.measure(
            tester, names, keys, folder, num_classes=num_classes, recoder=recoder, on_start=on_start
        )


def write_report(tested: list[_Tested], folder: pathlib.Path) -> None:
    """Writes the report of one or more runs, and prints their scores."""
    from ucf50_tfrecord.robustness import page

    first = tested[0]
    content = page.build(
        [(one.results, one.scores) for one in tested], strips=first.strips, strips_of=first.strips_of
    )
    page.write(folder, content)
    for one in tested:
        print_scores(one)
    terminal.say(f"Report:     {folder / page.NAME}.html")


def print_scores(tested: _Tested) -> None:
    results, scores = tested.results, tested.scores
    terminal.say("", f"{results.name} ({results.model}) on {len(results.ids)} clips:")
    terminal.say("                     accuracy  kept (γr)  kept above chance")
    terminal.say(f"  {'unchanged':<17}{scores.plain.value:>12.4f}")
    rows = {str(family): score for family, score in scores.by_family.items()} | {"all": scores.overall}
    for name, score in rows.items():
        accuracy, relative, above = (
            getattr(score, field).value for field in ("accuracy", "relative", "above_chance")
        )
        terminal.say(f"  {name:<17}{accuracy:>12.4f}{relative:>11.4f}{above:>19.4f}")


if __name__ == "__main__":
    console.run(main)
