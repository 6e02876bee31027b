"""Measures what balancing classes gains in macro F1 where some are rare.

  python -m benchmarks.imbalance --data=data/ucf50x8-15x64x64-lite0 \\
    --recipe=features_frame_pool

Makes half of a dataset's classes rare: of their training clips it keeps one in
--ratio, chosen by hashes of their ids. Trains the recipe without balancing,
with a balanced class_weight and with a balanced sampler, with the same seeds.
Each part of the folds is held out in turn, as in a comparison. Scores are those
of the last weights on the held-out clips of all parts, which stay complete.
Another score counts each held-out clip of a rare class as 1 / --ratio of a
clip: macro F1 if classes were as uneven among the held-out clips.
"""

from __future__ import annotations

import dataclasses
import tempfile
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from benchmarks import measuring
from pipelines import console, terminal
from ucf50_tfrecord import manifest, recipes
from ucf50_tfrecord.choices import Cache
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips, name_hash
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.workbench import Workbench

_DATA = flags.DEFINE_string("data", None, "Folder of shards or features.", required=True)
_RECIPE = flags.DEFINE_string("recipe", "features_frame_pool", "Recipe to train.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs. Default: the recipe's.", lower_bound=1)
_RATIO = flags.DEFINE_integer("ratio", 10, "Training clips of a frequent class per clip of a rare one.", 1)
_PARTS = flags.DEFINE_integer("parts", 5, "Parts of the folds, each held out once.", lower_bound=2)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each training.", lower_bound=1)
_SECOND_HALF = flags.DEFINE_boolean("second_half", True, "Whether the second half of the classes is rare.")
_OUTPUT = flags.DEFINE_string("output", "bench_results/imbalance.json", "File for the figures.")

# Settings of recipes, by the name of the row.
_ROWS: dict[str, dict[str, str]] = {
    "none": {},
    "class_weight": {"class_weight": "balanced"},
    "sampler": {"sampler": "balanced"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of one setting with one seed, on the held-out clips of all parts."""

    macro_f1: float
    uneven_macro_f1: float  # if classes were as uneven among the held-out clips
    rare_recall: float  # mean recall of the rare classes
    frequent_recall: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The clips, and which of them are trained on.

    clips: index of the N clips.
    rare: the classes that are rare in training, int [R].
    parts: the part in which each clip is held out, int [N].
    trained: for each part, the positions of its training clips.
    """

    clips: ClipIndex
    rare: np.ndarray
    parts: np.ndarray
    trained: list[np.ndarray]

    @classmethod
    def of(cls, clips: ClipIndex) -> Corpus:
        """Makes the flags' half of the classes rare."""
        rare = np.array_split(np.arange(len(clips.manifest.classes)), 2)[int(_SECOND_HALF.value)]
        parts = np.searchsorted(np.unique(clips.folds), clips.folds) % _PARTS.value
        outside = [np.flatnonzero(parts != part) for part in range(_PARTS.value)]
        trained = [places[thin_out(clips.select(places), rare, _RATIO.value)] for places in outside]
        return cls(clips=clips, rare=rare, parts=parts, trained=trained)

    def describe(self) -> str:
        """Describes the number of training clips per part."""
        counts = [
            (len(part), int(np.isin(self.clips.labels[part], self.rare).sum())) for part in self.trained
        ]
        return ", ".join(f"{total - rare} + {rare}" for total, rare in counts)

    def score(self, predicted: np.ndarray) -> Scores:
        """Scores the predicted classes of all clips, int [N]."""
        from sklearn import metrics

        labels = self.clips.labels
        is_rare, options = np.isin(labels, self.rare), {"average": "macro", "zero_division": 0}
        weights = np.where(is_rare, 1 / _RATIO.value, 1.0)
        recalls = metrics.recall_score(labels, predicted, average=None, zero_division=0)
        return Scores(
            macro_f1=float(metrics.f1_score(labels, predicted, **options)),
            uneven_macro_f1=float(metrics.f1_score(labels, predicted, sample_weight=weights, **options)),
            rare_recall=float(recalls[self.rare].mean()),
            frequent_recall=float(np.delete(recalls, self.rare).mean()),
        )


def thin_out(clips: ClipIndex, rare: np.ndarray, ratio: int) -> np.ndarray:
    """Returns a mask of the clips, bool [N], that keeps one in `ratio` clips of each rare class, and at least one."""
    kept = ~np.isin(clips.labels, rare)
    for label in rare.tolist():
        own = sorted(np.flatnonzero(clips.labels == label), key=lambda clip: name_hash(clips.ids[clip]))
        kept[own[: max(1, round(len(own) / ratio))]] = True
    return kept


def predict(
    bench: Workbench, model: ModelSpec, train: TrainSpec, trained: np.ndarray, tested: np.ndarray
) -> np.ndarray:
    """Trains on some clips; returns the predicted classes of others, int [M]; both are given by their positions."""
    from ucf50_tfrecord.evaluation.runner import Evaluator
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training.logs import TensorBoardLog

    feed = bench.feed.select(trained)
    program = bench.program(model, train, num_clips=len(feed.clips))
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            feed,
            program.state,
            train,
            run_dir=folder,
            evaluate=None,
            open_log=lambda step: TensorBoardLog(folder, start_step=step, writes=False),
        )
    evaluate = Evaluator(program.compiled.predictor, bench.feed.select(tested), batch_size=32)
    return evaluate().logits.argmax(axis=1)


def measure(bench: Workbench, corpus: Corpus, model: ModelSpec, train: TrainSpec) -> list[Scores]:
    """Returns the scores of each seed."""
    found = []
    for seed in range(_SEEDS.value):
        predicted = np.empty(len(corpus.clips), np.int64)
        for part, trained in enumerate(corpus.trained):
            tested = np.flatnonzero(corpus.parts == part)
            seeded = dataclasses.replace(train, seed=seed)
            predicted[tested] = predict(bench, model, seeded, trained, tested)
        found.append(corpus.score(predicted))
    return found


def main() -> None:
    stored = manifest.load(_DATA.value)
    settings = recipes.load(_RECIPE.value) | {"precision": "float32"}
    if _EPOCHS.value:
        settings |= {"epochs": _EPOCHS.value}
    model = recipes.model_spec(settings, stored)
    console.load_tensorflow()
    from ucf50_tfrecord.evaluation.workbench import Workbench
    from ucf50_tfrecord.training.strategy import make_strategy

    corpus = Corpus.of(load_clips(stored, stored.folds))
    bench = Workbench(corpus.clips, strategy=make_strategy("one", environment={}), cache=Cache.DEVICE)
    terminal.say(f"Training clips of frequent and rare classes, by part: {corpus.describe()}")
    names = [field.name for field in dataclasses.fields(Scores)]
    terminal.say(f"{'':<14}" + "".join(f"{name:>17}" for name in names), flush=True)
    found = {}
    for setting, options in _ROWS.items():
        scores = measure(bench, corpus, model, recipes.train_spec(settings | options))
        spreads = [measuring.spread([getattr(score, name) for score in scores]) for name in names]
        terminal.say(f"{setting:<14}" + "".join(f"{text:>17}" for text in spreads), flush=True)
        found[setting] = to_json(scores)
    measuring.write_figures(_OUTPUT.value, found)


if __name__ == "__main__":
    console.run(main)
