"""Trains the recipes and variants of them with several seeds; prints the scores.

  python -m benchmarks.accuracy --data=data/ucf50x8-15x64x64 \\
    --val_folds=4,5,20-23

A run's scores are those of its last weights on the validation folds. Nothing,
such as the epoch, is selected by the scores on these folds. Finished runs are
kept, so the same command resumes an interrupted table.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import sys
import time
from typing import Annotated

import msgspec
from absl import flags

from benchmarks.measuring import spread, write_figures
from pipelines import console, terminal
from tools import processes
from ucf50_tfrecord import manifest, parsing, recipes, storage
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import to_json
from ucf50_tfrecord.training import run as run_lib

_DATA = flags.DEFINE_string("data", None, "Folder of shards.", required=True)
_VAL_FOLDS = flags.DEFINE_string("val_folds", None, "Validation folds. Default: those of pipelines.train.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_ROWS = flags.DEFINE_list("rows", None, "Rows of the table. Default: all that can train on --data.")
_RUNS = flags.DEFINE_string("runs", "bench_results/accuracy", "Folder for the runs and the figures.")

_PLAIN = ("--dropout=0", "--nohorizontal_flip", "--label_smoothing=0")

# By name of the row: its recipe, and flags that override the recipe.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{recipe: (recipe, ()) for recipe in recipes.names()},
    # The published models, trained for as many epochs as the others.
    **{f"{name} long": (name, ("--epochs=20",)) for name in ("seed_pool", "seed_rnn", "seed_lstm")},
    # From the published LSTM to the recipe lstm, with one more step in each row.
    "ladder 1: schedule": ("lstm", ("--model=seed_lstm", *_PLAIN)),
    "ladder 2: flips and smoothing": ("lstm", ("--model=seed_lstm", "--dropout=0")),
    "ladder 3: normalised and averaged": ("lstm", ("--dropout=0",)),
    # Candidates for the recipe.
    "lstm without flips": ("lstm", _PLAIN[1:2]),
    "lstm with a constant rate": ("lstm", ("--schedule=constant", "--warmup_epochs=0")),
    "lstm with motion": ("lstm", ("--motion",)),
    "lstm with more augmentation": (
        "lstm",
        ("--crop_area=0.5", "--brightness=0.2", "--contrast=0.2", "--saturation=0.2"),
    ),
    "conv3d with motion": ("conv3d", ("--motion",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The scores of a recipe or a variant of it on the validation folds, with one value per seed."""

    name: str
    epochs: int
    accuracy: list[float]
    macro_f1: list[float]
    shuffled_macro_f1: list[float]  # with shuffled frames
    secs: list[float]  # of each training command, its start and its evaluation included


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished training of this benchmark."""

    flags: tuple[str, ...]  # among them the settings of its recipe
    secs: Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # of the whole training command


def train(name: str, seed: str) -> tuple[Training, run_lib.Summary]:
    """Trains one row of ROWS with one seed, unless an earlier call has done so.

    Raises:
      UserError: if training fails, or the row was trained with other flags before.
    """
    recipe, extra = ROWS[name]
    run_dir = pathlib.Path(_RUNS.value, f"{name.replace(':', '').replace(' ', '-')}-seed{seed}")
    given = [f"--recipe={recipe}", *extra, f"--data={_DATA.value}", f"--seed={seed}"]
    given += [f"--val_folds={_VAL_FOLDS.value}"] if _VAL_FOLDS.value else []
    # The recipe's settings too: the recipe may change after the training.
    resolved = (*(f"--{option}={value}" for option, value in recipes.load(recipe).items()), *given)
    done = run_dir / "row.json"
    if done.exists():
        training = parsing.read(done, Training, "a training of this benchmark")
        if training.flags != resolved:
            then, now = set(training.flags), set(resolved)
            raise UserError(
                f"{run_dir} was trained with other flags. Then: {_sorted(then - now)}. Now: {_sorted(now - then)}. "
                "Remove that folder to train again, or pass another --runs."
            )
    else:
        started = time.monotonic()
        processes.run([sys.executable, "-m", "pipelines.train", *given, f"--run={run_dir}"])
        training = Training(resolved, time.monotonic() - started)
        storage.write_json(done, to_json(training))
    return training, run_lib.load_summary(run_dir)


def _sorted(options: set[str]) -> str:
    return " ".join(sorted(options)) or "none"


def measure(name: str) -> Row:
    """Trains one row of ROWS with each seed of --seeds; returns its scores."""
    found = [train(name, seed) for seed in _SEEDS.value]
    return Row(
        name=name,
        epochs=found[0][1].epochs,
        accuracy=[summary.accuracy for _, summary in found],
        macro_f1=[summary.macro_f1 for _, summary in found],
        shuffled_macro_f1=[summary.shuffled.macro_f1 for _, summary in found],
        secs=[training.secs for training, _ in found],
    )


def _is_of(name: str, *, features: bool) -> bool:
    """Tells whether a row classifies clips, of features or of frames; recipes of a pretext task predict no class."""
    return name.startswith("features_") == features and "pretext" not in recipes.load(ROWS[name][0])


def main() -> None:
    of_features = manifest.load(_DATA.value).features is not None
    names = _ROWS.value or [name for name in ROWS if _is_of(name, features=of_features)]
    for name in names:
        expect(name in ROWS, f"rows out of {', '.join(ROWS)}", row=name)
    terminal.say(f"{'':<36}{'epochs':>6}{'accuracy':>16}{'macro F1':>16}{'shuffled':>16}{'minutes':>9}")
    rows = []
    for name in names:
        rows.append(measure(name))
        row = rows[-1]
        scores = "".join(f"{spread(v):>16}" for v in (row.accuracy, row.macro_f1, row.shuffled_macro_f1))
        terminal.say(f"{name:<36}{row.epochs:>6}{scores}{statistics.mean(row.secs) / 60:>9.1f}", flush=True)
    write_figures(os.path.join(_RUNS.value, "accuracy.json"), to_json(rows))


if __name__ == "__main__":
    console.run(main)
