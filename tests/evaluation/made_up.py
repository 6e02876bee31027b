"""Makes results of model comparisons that never ran: random predictions with a requested accuracy."""

from __future__ import annotations

import numpy as np

from ucf50_tfrecord.evaluation.interventions import SHUFFLED, SHUFFLES
from ucf50_tfrecord.evaluation.results import Cell, CellResult, Condition, Results

NUM_FRAMES = 8
CLASSES = ("Biking", "Diving", "Rowing", "Yo<Yo>")


def make_results(
    fractions: dict[tuple[str, str, str], float],
    *,
    num_groups: int = 20,
    clips_per_group: int = 8,
    num_seeds: int = 1,
    seed: int = 0,
) -> Results:
    """Makes results of a comparison with two parts of its clips. Each training is tested on one part.

    Args:
      fractions: dictionary from (model, training, intervention) to the fraction of clips that are predicted
        right. An intervention is a change of the test clips, such as reversed frames; SHUFFLED stands for
        all permutations of the frames.
      num_groups: number of recording groups.
      clips_per_group: number of clips in a group; the classes take turns.
      num_seeds: number of trainings of each model and part, which differ in their seeds.
      seed: seed of the random predictions.
    """
    rng = np.random.default_rng(seed)
    num_clips = num_groups * clips_per_group
    labels = np.arange(num_clips) % len(CLASSES)
    groups = np.arange(num_clips) // clips_per_group + 1
    cells = []
    for model, training in dict.fromkeys((model, training) for model, training, _ in fractions):
        wanted = {
            name: fraction for (m, t, name), fraction in fractions.items() if (m, t) == (model, training)
        }
        for number in range(num_seeds):
            names = [n for name in wanted for n in (SHUFFLES if name == SHUFFLED else (name,))]
            tables = {name: _logits(labels, wanted.get(name, wanted.get(SHUFFLED)), rng) for name in names}
            for part in range(2):
                chosen = np.flatnonzero(groups % 2 == part)
                cells.append(
                    CellResult(
                        cell=Cell(model=model, training=training, part=part, seed=number),
                        architecture=model,
                        clips=chosen,
                        logits={name: table[chosen] for name, table in tables.items()},
                        recurrence=None,
                        run_dir="",
                        precision="float32",
                    )
                )
    return Results(
        name="made up",
        classes=CLASSES,
        num_frames=NUM_FRAMES,
        ids=tuple(f"{CLASSES[label]}/v{i}" for i, label in enumerate(labels)),
        labels=labels,
        groups=groups,
        folds=groups,
        of_features=False,
        cells=tuple(cells),
    )


def right_about(results: Results, condition: Condition) -> float:
    """Returns the fraction of clips predicted right under a condition (a model, its training, its test)."""
    return float(np.nanmean(results.correct(condition)))


def _logits(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Draws random logits, float32 [N, C], that are largest at the label for a fraction of the N clips."""
    right = rng.permutation(len(labels)) < round(fraction * len(labels))
    said = np.where(right, labels, (labels + rng.integers(1, len(CLASSES), len(labels))) % len(CLASSES))
    logits = rng.normal(0, 0.3, (len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), said] += 3
    return logits.astype(np.float32)
