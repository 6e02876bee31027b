"""Evaluates a finished run again: other folds, other shards, or other weights.

python -m pipelines.evaluate --run=runs/demo
python -m pipelines.evaluate --run=runs/demo --weights=best --folds=6-10
"""

from __future__ import annotations

import pathlib

from absl import flags

from pipelines import code_flags, console, inputs, run_flags, terminal
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import Strategy
from ucf50_tfrecord.specs import format_folds, parse_folds

_DATA = flags.DEFINE_string("data", None, "Folder of shards. Default: the run's own.")
_FOLDS = flags.DEFINE_string(
    "folds",
    None,
    "Folds to evaluate on, such as 1-5,9, or their names. Default: the run's test folds, else its validation folds.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Clips per step, over all devices.", lower_bound=1)
_TEST_VIEWS = flags.DEFINE_boolean(
    "test_views", False, "Also score predictions that are averaged over all stored views of each clip."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    Strategy.AUTO,
    [Strategy.AUTO, Strategy.ONE, Strategy.MIRRORED],
    "Devices of this process: one, all mirrored, or auto.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results. Default: <run>/evaluation-<weights>-<folds>."
)

_FOLDER_KIND = "an evaluation"

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)
flags.adopt_module_key_flags(inputs)


def main() -> None:
    console.load_tensorflow()
    from ucf50_tfrecord.training import strategy as strategy_lib

    with strategy_lib.explain_exhausted_memory():
        evaluate_again()


def evaluate_again() -> None:
    from ucf50_tfrecord import job
    from ucf50_tfrecord.evaluation import runner
    from ucf50_tfrecord.training import run as run_lib
    from ucf50_tfrecord.training import strategy as strategy_lib
    from ucf50_tfrecord.training import trained

    run_dir = run_flags.run_dir()
    config = run_lib.load_config(run_dir)
    manifest = manifest_lib.load(_DATA.value or config.data_dir)
    trained.check_fits(manifest, config)
    if _TEST_VIEWS.value:
        runner.check_views(manifest)
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
    # Evaluates in this process only, even if the environment variables name several workers.
    strategy = strategy_lib.make_strategy(_STRATEGY.value, environment={})
    model = trained.load_model(
        run_dir, config, weights, strategy=strategy, allowed_code=code_flags.allowed_code()
    )
    listener = console.TrainingDisplay().listener()
    [feed] = job.make_feeds(manifest, [folds], inputs.INPUTS.build(), strategy=strategy, listener=listener)
    storage.claim_folder(folder, _FOLDER_KIND, _is_evaluation)  # before the evaluation, which may take long
    evaluate = runner.Evaluator(
        runner.Predictor(model, strategy), feed, batch_size=_BATCH_SIZE.value, warn=terminal.warn
    )
    evaluations = list(evaluate.evaluate_each(runner.RUN_INTERVENTIONS).values())
    evaluations += [evaluate.average_views()] if _TEST_VIEWS.value else []

    runner.save_predictions(folder / run_lib.PREDICTIONS_FILENAME, evaluations)
    plain, shuffled, *averaged = evaluations
    views = averaged[0].scores if averaged else None
    storage.write_json(
        folder / run_lib.SUMMARY_FILENAME,
        plain.scores
        | {
            "shuffled": shuffled.scores,
            "views": views,
            "weights": weights,
            "num_clips": len(plain.clips),
            "folds": folds,
            "model": config.model.name,
            "params": model.count_params(),
            "seed": config.train.seed,
            "fingerprint": manifest.fingerprint,
        },
    )
    console.print_scores(
        f"{config.model.name} on {len(plain.clips)} clips of folds {format_folds(folds)}",
        plain.scores,
        shuffled.scores,
        views,
    )
    terminal.say(f"Results:     {folder}")


def _is_evaluation(names: set[str]) -> bool:
    """Tells from an unmarked folder's file names whether an earlier version wrote an evaluation into it.

    A run's folder has these two files, too, but also others.
    """
    from ucf50_tfrecord.training import run as run_lib

    return names == {run_lib.PREDICTIONS_FILENAME, run_lib.SUMMARY_FILENAME}


if __name__ == "__main__":
    console.run(main)
