"""Checks the comparison on synthetic corpora whose right verdicts are known.

  python -m tools.compare_check --folder=bench_results/compare_check

In a corpus of tools.scenarios, the classes differ by a known (planted) cause,
or not at all. On each corpus, an LSTM and its order-blind control are trained
and tested as pipelines.compare does, on small clips. The comparison then gives
verdicts: answers to questions such as "does the LSTM need frame order?". If the
cause in question is planted, the answer "yes" is right, and "no" is a false
claim. If it is absent, "yes" is a false claim, and any other answer is right.
Finished corpora are kept, so the same command resumes. Exits with status 1 if
too few verdicts are right or too many are false claims.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from absl import flags

from pipelines import compare as compare_pipeline
from pipelines import console, terminal
from tools import make_demo_videos, processes, scenarios
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord import recipes as recipes_lib
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import ClipFormat, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.verdicts import Verdict

_FOLDER = flags.DEFINE_string(
    "folder", "bench_results/compare_check", "Folder for corpora, runs and figures."
)
_SCENARIOS = flags.DEFINE_list("scenarios", list(scenarios.SCENARIOS), "Scenarios to check.")
_CORPUS_SEEDS = flags.DEFINE_list("corpus_seeds", ["0", "1"], "Seeds of the corpora of each scenario.")

_SEQUENCE_MODEL, _CONTROL = "lstm", "frame_pool"
_SIZE, _NUM_FRAMES = 32, 8
_NUM_GROUPS, _CLIPS_PER_GROUP = 16, 12  # clips of all classes
_NUM_PARTS, _NUM_SEEDS = 2, 3
_TRAINING = {"epochs": 12, "batch_size": 16, "precision": "auto"}
# The required fraction of right verdicts, and the allowed fraction of false claims.
_MIN_RIGHT, _MAX_FALSE_CLAIMS = 0.90, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict of a comparison on a synthetic corpus, beside the right answer."""

    scenario: str
    seed: int  # of the corpus
    kind: str  # a key of evaluation.verdicts.KINDS
    expected: bool  # whether the right answer is "yes"
    # "yes", "no" or "cannot tell"; "no" too if the control is ahead where the sequence model should be
    answer: str
    text: str  # the verdict in words

    @property
    def is_right(self) -> bool:
        return (self.answer == "yes") == self.expected

    @property
    def is_false_claim(self) -> bool:
        return not self.is_right and self.answer != "cannot tell"


def judge_corpus(name: str, seed: int, folder: pathlib.Path) -> list[Judged]:
    """Compares the two models on a scenario's corpus, unless an earlier call has done so.

    Returns:
      The verdicts whose right answer is known, as they are stored: the parent process, which unpickles them,
      then needs no TensorFlow.
    """
    done = folder / "judged.json"
    if not done.exists():
        console.load_tensorflow()
        truth = scenarios.SCENARIOS[name].truth
        judged = judge_verdicts(compare(name, seed, folder), truth, scenario=name, seed=seed)
        missing = sorted(set(truth) - {one.kind for one in judged})
        expect(not missing, "a verdict of each kind with a known truth", scenario=name, missing=missing)
        storage.write_json(done, to_json(judged))
    return parsing.read(done, list[Judged], "a list of judged verdicts")


def judge_verdicts(
    verdicts: Iterable[Verdict], truth: Mapping[str, bool], *, scenario: str, seed: int
) -> list[Judged]:
    """Checks verdicts on a scenario's corpus against the scenario's truth.

    Returns:
      The verdicts whose right answer is known.
    """
    return [
        Judged(
            scenario=scenario,
            seed=seed,
            kind=verdict.kind,
            expected=truth[verdict.kind],
            answer=_answer_of(verdict, expected=truth[verdict.kind]),
            text=verdict.text,
        )
        for verdict in verdicts
        if verdict.kind in truth and verdict.models[0] == _model_of(verdict.kind, verdict.models)
    ]


def print_corpus(judged: list[Judged]) -> None:
    """Prints how many verdicts on one corpus are right, and the wrong ones."""
    wrong = [one for one in judged if not one.is_right]
    right = f"{len(judged) - len(wrong)} of {len(judged)} right"
    terminal.say(f"{judged[0].scenario}, seed {judged[0].seed}: {right}")
    lines = [f"  {'FALSE' if one.is_false_claim else 'missed'} {one.kind}: {one.text}" for one in wrong]
    terminal.say(*lines, flush=True)


def _model_of(kind: str, models: tuple[str, ...]) -> str:
    """Returns the model whose verdict of this kind is checked: the sequence model or its order-blind control."""
    from ucf50_tfrecord.evaluation.verdicts import KINDS

    if KINDS[kind].conditions is None:  # about both; the better one comes first
        return models[0]
    return _CONTROL if KINDS[kind].order_blind else _SEQUENCE_MODEL


def _answer_of(verdict: Verdict, *, expected: bool) -> str:
    """Returns a verdict's answer; "no" if it claims the control ahead where the sequence model should be."""
    from ucf50_tfrecord.evaluation.verdicts import KINDS

    is_reversed = KINDS[verdict.kind].conditions is None and verdict.models[0] == _CONTROL
    return "no" if expected and is_reversed and verdict.answer == "yes" else verdict.answer


def compare(name: str, seed: int, folder: pathlib.Path):
    """Trains and compares the LSTM and its control on a scenario's corpus; returns all verdicts."""
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.evaluation import compare as compare_lib
    from ucf50_tfrecord.evaluation import verdicts
    from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec
    from ucf50_tfrecord.training import strategy as strategy_lib

    manifest = make_shards(name, seed, folder)
    recipes = {
        model: compare_pipeline.make_recipe(recipes_lib.load(model) | _TRAINING, manifest)
        for model in (_CONTROL, _SEQUENCE_MODEL)
    }
    comparison = compare_lib.Comparison(
        folder=str(folder),
        spec=ComparisonSpec(
            recipes=recipes,
            num_parts=_NUM_PARTS,
            num_seeds=_NUM_SEEDS,
            audited=(_SEQUENCE_MODEL,),
            inside=False,
        ),
        clips=load_clips(manifest, manifest.folds),
    )
    strategy = strategy_lib.make_strategy("auto", environment={})
    comparison.run(ComparisonListener(), strategy=strategy)
    return verdicts.judge(comparison.results())


def make_shards(name: str, seed: int, folder: pathlib.Path):
    """Renders a scenario's corpus as videos and converts them to shards; returns the shards' manifest."""
    from tools import shards

    videos, data = folder / "videos", folder / "shards"
    if not videos.exists():
        scenario = scenarios.SCENARIOS[name]
        make_demo_videos.make_scenario(
            videos,
            scenario,
            groups=_NUM_GROUPS,
            clips=_CLIPS_PER_GROUP // len(scenario.classes),
            seed=seed,
            num_frames=_NUM_FRAMES,
            workers=1,
        )
    clip_format = ClipFormat(num_frames=_NUM_FRAMES, height=_SIZE, width=_SIZE)
    return shards.convert(videos, str(data), clip_format, num_workers=1, name=name)


def print_table(judged: Iterable[Judged]) -> None:
    """Prints one line per kind of verdict: how often planted causes were found, and absent causes claimed."""
    kinds = collections.defaultdict(list)
    for one in judged:
        kinds[one.kind].append(one)
    head = f"{'':<24}{'planted':>9}{'found':>8}{'denied':>8}{'absent':>9}{'claimed':>9}{'cannot tell':>13}"
    terminal.say("", head)
    for kind, cases in kinds.items():
        planted, absent = [c for c in cases if c.expected], [c for c in cases if not c.expected]
        terminal.say(
            f"{kind:<24}{len(planted):>9}{sum(c.is_right for c in planted):>8}"
            f"{sum(c.is_false_claim for c in planted):>8}{len(absent):>9}"
            f"{sum(c.is_false_claim for c in absent):>9}{sum(c.answer == 'cannot tell' for c in cases):>13}"
        )


def main() -> int:
    known = scenarios.SCENARIOS
    for name in _SCENARIOS.value:
        expect(name in known, f"scenarios out of {', '.join(known)}", scenario=name)
    for seed in _CORPUS_SEEDS.value:
        expect(seed.isdigit(), "--corpus_seeds=<numbers>", corpus_seeds=seed)
    jobs = max(1, len(compare_pipeline.job_environments()))
    if jobs > 1:  # of one core each
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    judged = []
    with processes.pool(jobs, max_tasks_per_child=1) as pool:
        started = [
            pool.submit(judge_corpus, name, seed, pathlib.Path(_FOLDER.value, f"{name}-{seed}"))
            for seed in map(int, _CORPUS_SEEDS.value)
            for name in _SCENARIOS.value
        ]
        for corpus in started:
            print_corpus(corpus.result())
            judged += corpus.result()
    print_table(judged)
    right = sum(one.is_right for one in judged) / len(judged)
    claims = sum(one.is_false_claim for one in judged) / len(judged)
    terminal.say(
        "",
        f"{len(judged)} verdicts: {right:.1%} right (required: {_MIN_RIGHT:.0%} or more), "
        f"{claims:.1%} false claims (allowed: {_MAX_FALSE_CLAIMS:.0%})",
    )
    storage.write_json(pathlib.Path(_FOLDER.value, "compare_check.json"), to_json(judged))
    return 0 if right >= _MIN_RIGHT and claims <= _MAX_FALSE_CLAIMS else 1


if __name__ == "__main__":
    console.run(main)
