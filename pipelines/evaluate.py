"""Evaluates a finished run again: other folds, other weights, or another data set.

  python -m pipelines.evaluate --run=runs/demo
  python -m pipelines.evaluate --run=runs/demo --weights=best --folds=6-10
  python -m pipelines.evaluate --run=runs/demo --videos=/data/UCF101

The classes of another data set are matched to those of the run by name, or by
--class_map. Its videos are converted into the format of the run's clips.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import code_flags, console, convert, elsewhere, inputs, run_flags, terminal
from ucf50_tfrecord import labels, storage
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.errors import Advice, UserError, expect
from ucf50_tfrecord.evaluation import class_matching
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import MAX_VIEWS, format_folds, parse_folds
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training.run import RunConfig, RunOptions

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.elsewhere import Predicted
    from ucf50_tfrecord.evaluation.runner import Evaluator

_CLASS_MAP = flags.DEFINE_string(
    "class_map",
    None,
    "File (.csv or .json) from classes of another data set to the run's classes, or to nothing. Classes that it does "
    "not name are matched by name.",
)
_FOLDS = flags.DEFINE_string(
    "folds",
    None,
    "Folds to evaluate on, such as 1-5,9, or their names. Default: the run's test folds, else its validation folds; of "
    "another data set, all.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Clips per step, over all devices.", lower_bound=1)
_TEST_VIEWS = flags.DEFINE_integer(
    "test_views",
    RunOptions.test_views,
    "Also score predictions that are averaged over this many views of each clip, as in a training. 1 is off.",
    lower_bound=1,
    upper_bound=MAX_VIEWS,
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    Strategy.AUTO,
    [Strategy.AUTO, Strategy.ONE, Strategy.MIRRORED],
    "Devices of this process: one, all mirrored, or auto.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for the results. Default: <run>/evaluation-<weights>-<folds>, or -on-<data> for another data set.",
)

_FOLDER_KIND = "an evaluation"

for _module in (convert, run_flags, code_flags, inputs):
    flags.adopt_module_key_flags(_module)


def main() -> None:
    run_dir = run_flags.run_dir()
    config = run_lib.load_classifier(run_dir)
    class_map = class_matching.load_class_map(_CLASS_MAP.value) if _CLASS_MAP.value else None
    manifest = load_data(config, class_map)  # before TensorFlow is loaded: its worker processes start lighter
    console.load_tensorflow()
    from ucf50_tfrecord.training import strategy as strategy_lib

    trained_on = elsewhere.trained_clips(config)
    with strategy_lib.explain_exhausted_memory():
        if elsewhere.is_other(manifest, config, class_map, trained_on):
            evaluate_elsewhere(run_dir, config, manifest, class_map, trained_on)
        else:
            expect(class_map is None, "no class_map for the run's own data set", class_map=_CLASS_MAP.value)
            evaluate_again(run_dir, config, manifest)


def load_data(config: RunConfig, class_map: Mapping[str, str] | None) -> Manifest:
    """Returns the manifest of the dataset that the flags name, or else of the run's own; converts --videos.

    Raises:
      UserError: if there is no such dataset, or as elsewhere.load_videos does.
    """
    if convert.has_videos():
        return elsewhere.load_videos(config, class_map)
    if convert.has_data():
        return convert.load()
    console.load_file_systems(config.data_dir)
    return manifest_lib.load(config.data_dir)


def make_evaluator(
    run_dir: str,
    config: RunConfig,
    manifest: Manifest,
    folds: Sequence[int],
    weights: str,
    names: Sequence[str],
) -> Evaluator:
    """Loads a run's model, and the clips to evaluate it on.

    Args:
      run_dir: the run's folder.
      config: the run's configuration.
      manifest: the dataset's manifest.
      folds: the folds to evaluate on.
      weights: the checkpoint to evaluate, "last" or "best".
      names: names of the interventions to evaluate under.
    """
    from ucf50_tfrecord import job
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import strategy as strategy_lib
    from ucf50_tfrecord.training import trained

    # Evaluates in this process only, even if the environment variables name several workers.
    strategy = strategy_lib.make_strategy(_STRATEGY.value, environment={})
    model = trained.load_model(
        run_dir, config, weights, strategy=strategy, allowed_code=code_flags.allowed_code()
    )
    listener = console.TrainingDisplay().listener()
    [feed] = job.make_feeds(manifest, [folds], inputs.INPUTS.build(), strategy=strategy, listener=listener)
    predictor = runner.Predictor(model, strategy)
    views = runner.choose_views(_TEST_VIEWS.value, manifest, config.model, config.train)
    return runner.Evaluator(
        predictor, feed, batch_size=_BATCH_SIZE.value, names=names, test_views=views, warn=terminal.warn
    )


def evaluate_again(run_dir: str, config: RunConfig, manifest: Manifest) -> None:
    """Evaluates a run on its own data set, perhaps in another encoding."""
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import trained

    trained.check_fits(manifest, config)
    runner.choose_views(
        _TEST_VIEWS.value, manifest, config.model, config.train
    )  # raises an error before work starts
    folds = parse_folds(_FOLDS.value, manifest.fold_numbers) if _FOLDS.value else config.scored_folds
    trained_on = sorted(set(folds) & set(config.train_folds))
    if trained_on:
        terminal.warn(
            f"the run was trained on folds {format_folds(trained_on)}; scores on these say nothing about new clips"
        )
    if manifest.fingerprint != config.fingerprint:
        terminal.warn(f"{manifest.data_dir} holds other shards than those the run was trained on")

    weights = run_flags.weights() or trained.scored_weights(config)
    folder = pathlib.Path(_OUTPUT.value or run_lib.evaluation_dir(run_dir, weights, folds))
    evaluate = make_evaluator(run_dir, config, manifest, folds, weights, runner.RUN_INTERVENTIONS)
    storage.claim_folder(folder, _FOLDER_KIND, _is_evaluation)  # before the evaluation, which may take long
    evaluations = list(evaluate.evaluate_each(runner.RUN_INTERVENTIONS).values())
    evaluations += [evaluate.average_views()] if _TEST_VIEWS.value > 1 else []

    runner.save_predictions(folder / run_lib.PREDICTIONS_FILENAME, evaluations)
    plain, shuffled, *averaged = evaluations
    views = averaged[0].scores if averaged else None
    storage.write_json(
        folder / run_lib.SUMMARY_FILENAME,
        plain.scores
        | {"shuffled": shuffled.scores, "views": views, "num_clips": len(plain.clips)}
        | describe(config, manifest, folds, weights, evaluate),
    )
    console.print_scores(
        f"{config.model.name} on {len(plain.clips)} clips of folds {format_folds(folds)}",
        plain.scores,
        shuffled.scores,
        views,
    )
    terminal.say(f"Results:     {folder}")


def evaluate_elsewhere(
    run_dir: str,
    config: RunConfig,
    manifest: Manifest,
    class_map: Mapping[str, str] | None,
    trained_on: set[str] | None,
) -> None:
    """Evaluates a run on another data set, whose classes are matched to those of the run.

    Args:
      run_dir: the run's folder.
      config: the run's configuration.
      manifest: the manifest of the other data set.
      class_map: as in class_matching.match_classes.
      trained_on: names of the videos that the run was trained on, or None if they are unknown.
    """
    from ucf50_tfrecord.evaluation import elsewhere as scoring
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import trained

    labels.expect_one(config.multi_label, "an evaluation on another data set", config.data_dir)
    manifest.expect_one_label("an evaluation on another data set")
    trained.check_format(manifest, config)
    expect(_TEST_VIEWS.value == 1, "no test_views on another data set", test_views=_TEST_VIEWS.value)
    elsewhere.warn_about_format(manifest, config)
    matches = class_matching.match_classes(manifest.classes, config.classes, class_map)
    folds = parse_folds(_FOLDS.value, manifest.fold_numbers) if _FOLDS.value else manifest.folds
    weights = run_flags.weights() or trained.scored_weights(config)
    default = pathlib.Path(run_dir, f"evaluation-{weights}-on-{pathlib.PurePath(manifest.data_dir).name}")
    folder = pathlib.Path(_OUTPUT.value or default)
    evaluate = make_evaluator(run_dir, config, manifest, folds, weights, [runner.PLAIN])
    storage.claim_folder(folder, _FOLDER_KIND, _is_evaluation)
    evaluation = evaluate(runner.PLAIN)
    clips = evaluation.clips
    predicted = scoring.predicted_elsewhere(clips, evaluation.logits, matches)
    expect(
        predicted.is_shared.any(),
        f"clips of shared classes in folds {format_folds(folds)}",
        num_clips=len(clips),
    )
    num_trained = scoring.count_same(clips, matches, config.classes, trained_on)
    elsewhere.warn_about_training(num_trained, len(clips), config)
    own = load_own(run_dir, config, weights, predicted)
    found = scoring.score_other_set(clips, predicted, own, matches, config.classes)

    scoring.save_predictions(folder / run_lib.PREDICTIONS_FILENAME, clips, predicted, config.classes)
    storage.write_json(
        folder / run_lib.SUMMARY_FILENAME,
        found.summary
        | {"num_clips_named_as_in_training": num_trained, "data_dir": manifest.data_dir}
        | describe(config, manifest, folds, weights, evaluate),
    )
    elsewhere.print_comparison(
        f"{config.model.name}, {weights} weights, on {len(clips)} clips of {manifest.data_dir}",
        found,
        len(config.classes),
    )
    terminal.say("", f"Results:     {folder}")


def load_own(run_dir: str, config: RunConfig, weights: str, predicted: Predicted) -> Predicted | None:
    """Loads a run's predictions for its own held-out clips of the classes that another data set shares.

    Returns:
      The predictions; None, after a warning that gives the reason, if there are none.
    """
    from ucf50_tfrecord.evaluation import elsewhere as scoring
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.inference import finished_run

    try:
        path = finished_run.find_predictions(run_dir, config, run_lib.load_summary(run_dir), weights)
        own = scoring.predicted_at_home(runner.load_predictions(path, len(config.classes)), predicted)
        expect(len(own.labels), "held-out clips of the shared classes", held_out=path)
    except UserError as error:
        terminal.warn(Advice(f"the run's own scores are left out: {error}", *error.remedies))
        return None
    return own


def describe(
    config: RunConfig, manifest: Manifest, folds: Sequence[int], weights: str, evaluate: Evaluator
) -> dict[str, object]:
    """Returns the fields of an evaluation's summary that state what was evaluated."""
    return {
        "weights": weights,
        "folds": list(folds),
        "model": config.model.name,
        "params": evaluate.model.count_params(),
        "seed": config.train.seed,
        "fingerprint": manifest.fingerprint,
    }


def _is_evaluation(names: set[str]) -> bool:
    """Tells from an unmarked folder's file names whether an earlier version wrote an evaluation into it.

    A run's folder has these two files, too, but also others.
    """
    return names == {run_lib.PREDICTIONS_FILENAME, run_lib.SUMMARY_FILENAME}


if __name__ == "__main__":
    console.run(main)
