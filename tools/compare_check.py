"""Checks the comparison on synthetic corpora whose right verdicts are known.

  python -m tools.compare_check --folder=bench_results/compare_check

In a corpus of tools.scenarios, the classes differ by a known (planted) cause,
or not at all. On each corpus, a sequence model and its order-blind control are
trained and tested as pipelines.compare does, on small clips. The comparison
then gives verdicts: answers to questions such as "does the LSTM need frame
order?". If the cause in question is planted, the answer "yes" is right, and
"no" is a false claim. If it is absent, "yes" is a false claim, and any other
answer is right. If the trainings are too short, both are false claims.

Some scenarios compare a recipe with itself: trainings that differ in their
seeds alone are drawn into two sets, again and again. Verdicts that tell the
sets from each other are false claims:

  python -m tools.compare_check --scenarios=speed_twice --trainings=8

Finished corpora and trainings are kept, so the same command resumes. Several
processes, also on several hosts, may share the corpora, such as the tasks of a
job array: --task_index=$SLURM_ARRAY_TASK_ID --task_count=8. The last process to
finish prints the table; --finalize only prints it. Exits with status 1 if a
bar of tools.judging is missed: too many false claims, or too few planted causes
that are found.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from absl import flags

from pipelines import comparison_flags, comparison_jobs, console, convert, terminal
from tools import judging, make_demo_videos, processes
from tools.judging import Corpus, Judged
from tools.scenarios import SCENARIOS, Answer, Scenario
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord import recipes as recipes_lib
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.jobs import own_part_first
from ucf50_tfrecord.specs import ClipFormat, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.evaluation.results import Results
    from ucf50_tfrecord.evaluation.verdicts import Verdict

_FOLDER = flags.DEFINE_string(
    "folder", "bench_results/compare_check", "Folder for corpora, runs and figures."
)
_SCENARIOS = flags.DEFINE_list("scenarios", list(SCENARIOS), "Scenarios to check.")
_CORPUS_SEEDS = flags.DEFINE_list("corpus_seeds", ["0", "1", "2"], "Seeds of the corpora of each scenario.")
_QUICK = flags.DEFINE_boolean("quick", False, "Only one corpus of each scenario.")
_TRAININGS = flags.DEFINE_integer(
    "trainings", 8, "Trainings of a recipe that is compared with itself.", lower_bound=6
)

for _name in ("jobs", "task_index", "task_count", "finalize"):
    flags.declare_key_flag(_name)

_SIZE, _NUM_FRAMES = 32, 8
_NUM_GROUPS, _CLIPS_PER_GROUP = 16, 12  # clips of all classes
_NUM_PARTS, _NUM_SEEDS = 2, 3
# The precision is fixed, so that verdicts of different machines can be compared.
_TRAINING = {"epochs": 12, "batch_size": 16, "precision": "float32"}
# Fraction of test clips with a near-duplicate in training above which the audit is taken to say that groups are wrong.
_MIN_NEAR_DUPLICATES = 0.5
_DONE = "judged.json"


class Unit(NamedTuple):
    """A corpus to judge, the unit of work: a scenario's name and the corpus's seed."""

    name: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name}-{self.seed}"

    @property
    def scenario(self) -> Scenario:
        return SCENARIOS[self.name]

    def folder(self, parent: pathlib.Path) -> pathlib.Path:
        return parent / str(self)

    def is_done(self, parent: pathlib.Path) -> bool:
        return (self.folder(parent) / _DONE).exists()


def run(
    units: Sequence[Unit],
    parent: pathlib.Path,
    judge: Callable[[Unit], Corpus | None],
    *,
    task: tuple[int, int],
    jobs: int,
) -> None:
    """Judges the corpora that are not finished yet, several at a time, except those that other processes judge.

    Args:
      units: the corpora.
      parent: folder of the corpora's folders.
      judge: function that judges a corpus, in a process of its own; None if another process is judging it.
      task: as in `claimable`.
      jobs: number of processes.
    """
    while wanted := claimable(units, parent, task):
        num_finished = 0
        with processes.pool(jobs, max_tasks_per_child=1) as pool:
            for started in [pool.submit(judge, unit) for unit in wanted]:
                if (corpus := started.result()) is not None:
                    judging.print_corpus(corpus)
                    num_finished += 1
        if not num_finished:
            break


def claimable(units: Sequence[Unit], parent: pathlib.Path, task: tuple[int, int]) -> list[Unit]:
    """Lists the unfinished corpora that no other process judges, in the order in which this process judges them.

    Args:
      units: the corpora.
      parent: folder of the corpora's folders.
      task: tuple (index, count): the index of this process, and the number of processes that share the corpora. Each
        process begins with its own part of the corpora, then takes those of other parts.
    """
    ordered = own_part_first(units, task)
    return [unit for unit in ordered if not (unit.is_done(parent) or storage.is_locked(unit.folder(parent)))]


def judge_corpus(unit: Unit, parent: pathlib.Path, *, trainings: int) -> Corpus | None:
    """Makes a corpus, compares the models on it and judges the verdicts, unless another process has done so.

    Args:
      unit: the corpus.
      parent: folder of the corpora's folders.
      trainings: number of trainings of a recipe that is compared with itself.

    Returns:
      The judged verdicts as they are stored: the parent process, which unpickles them, then needs no TensorFlow.
      None if another process is judging the corpus.
    """
    folder = unit.folder(parent)
    storage.make_folder(folder)
    try:
        with storage.folder_lock(folder):
            if not unit.is_done(parent):
                console.load_tensorflow()
                results = compare(unit, folder, trainings=trainings)
                judge = judge_one_recipe if unit.scenario.is_one_recipe else judge_results
                storage.write_json(folder / _DONE, to_json(judge(unit, results)))
    except storage.LockedError:
        return None
    return load(unit, parent, trainings=trainings)


def load(unit: Unit, parent: pathlib.Path, *, trainings: int) -> Corpus:
    """Reads the judged verdicts on a corpus.

    Raises:
      UserError: if they are missing, damaged, or about another number of trainings of one recipe.
    """
    path = unit.folder(parent) / _DONE
    corpus = parsing.read(path, Corpus, "judged verdicts")
    others = {draws.num_trainings for draws in corpus.draws} - {trainings}
    expect(
        not others,
        f"{trainings} trainings of the recipe in {path} (remove this file to judge again)",
        trainings=sorted(others),
    )
    return corpus


def judge_results(unit: Unit, results: Results) -> Corpus:
    """Judges the verdicts and the audit of a comparison of two models on a corpus."""
    from ucf50_tfrecord.evaluation import verdicts

    scenario = unit.scenario
    judged = judge_verdicts(verdicts.judge(results), unit)
    missing = sorted(scenario.truth.keys() - {one.kind for one in judged})
    expect(not missing, "a verdict of each kind with a known truth", scenario=unit.name, missing=missing)
    return Corpus(judged=(*judged, judge_audit(results, unit)))


def judge_one_recipe(unit: Unit, results: Results) -> Corpus:
    """Judges verdicts that compare trainings of one recipe: the first ones by seed, and many random draws."""
    from tools import same_recipe

    seeds = sorted({result.cell.seed for result in results.cells})
    first, second = seeds[: same_recipe.SET_SIZE], seeds[same_recipe.SET_SIZE : 2 * same_recipe.SET_SIZE]
    verdicts = [same_recipe.judge(results, kind, first, second) for kind in unit.scenario.truth]
    return Corpus(
        judged=(*judge_verdicts(verdicts, unit), judge_audit(results, unit)),
        draws=tuple(same_recipe.count_differences(results, scenario=unit.name, seed=unit.seed)),
    )


def judge_verdicts(verdicts: Iterable[Verdict], unit: Unit) -> list[Judged]:
    """Checks verdicts on a corpus against its scenario's truth; returns those whose right answer is known."""
    scenario = unit.scenario
    return [
        Judged(
            scenario=unit.name,
            seed=unit.seed,
            kind=verdict.kind,
            expected=scenario.truth[verdict.kind],
            answer=_answer_of(verdict, scenario),
            text=verdict.text,
        )
        for verdict in verdicts
        if verdict.kind in scenario.truth and verdict.models[0] == _model_of(verdict, scenario)
    ]


def judge_audit(results: Results, unit: Unit) -> Judged:
    """Checks whether the audit finds near-duplicates between groups where groups are wrong, and only there."""
    from ucf50_tfrecord.choices import FoldBy

    assert results.audit is not None
    fraction = results.audit[FoldBy.GROUP]["near_duplicates"]
    return Judged(
        scenario=unit.name,
        seed=unit.seed,
        kind=judging.AUDIT,
        expected="yes" if unit.scenario.copied_groups else "no",
        answer="yes" if fraction >= _MIN_NEAR_DUPLICATES else "no",
        text=f"{fraction:.1%} of the test clips have a near-duplicate in another group.",
    )


def _model_of(verdict: Verdict, scenario: Scenario) -> str | None:
    """Returns the model whose verdict is checked: the sequence model or its order-blind control."""
    from ucf50_tfrecord.evaluation.verdicts import KINDS

    kind = KINDS[verdict.kind]
    if kind.conditions is None:  # about both; the better one comes first
        return verdict.models[0]
    return scenario.control if kind.order_blind else scenario.sequence_model


def _answer_of(verdict: Verdict, scenario: Scenario) -> Answer:
    """Returns a verdict's answer; "no" if it claims the wrong one of two models ahead."""
    is_about_two, ahead = len(verdict.models) == 2, scenario.ahead or scenario.sequence_model
    if (
        is_about_two
        and scenario.truth[verdict.kind] == verdict.answer == "yes"
        and verdict.models[0] != ahead
    ):
        return "no"
    return cast(Answer, str(verdict.answer))


def compare(unit: Unit, folder: pathlib.Path, *, trainings: int) -> Results:
    """Trains and tests a scenario's models on a corpus.

    Args:
      unit: the corpus.
      folder: folder of the corpus's videos, shards and trainings.
      trainings: number of trainings of a recipe that is compared with itself; only the usual ones, as verdicts on
        two sets of them need no others.
    """
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.evaluation import compare as compare_lib
    from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec
    from ucf50_tfrecord.training import strategy as strategy_lib

    scenario, manifest = unit.scenario, make_shards(unit, folder)
    recipes = {
        model: comparison_flags.make_recipe(_settings(model, scenario), manifest) for model in scenario.models
    }
    if scenario.is_one_recipe:
        chosen: dict[str, Any] = {"num_seeds": trainings, "orders": ()}
    else:
        chosen = {"num_seeds": _NUM_SEEDS, "audited": (scenario.sequence_model,)}
    comparison = compare_lib.Comparison(
        folder=str(folder),
        spec=ComparisonSpec(recipes=recipes, num_parts=_NUM_PARTS, inside=False, **chosen),
        clips=load_clips(manifest, manifest.folds),
    )
    comparison.run(ComparisonListener(), strategy=strategy_lib.make_strategy("auto", environment={}))
    return comparison.results()


def _settings(model: str, scenario: Scenario) -> dict[str, Any]:
    settings = recipes_lib.load(model) | _TRAINING
    return settings | {"epochs": scenario.epochs.get(model, settings["epochs"])}


def make_shards(unit: Unit, folder: pathlib.Path):
    """Renders a corpus as videos and converts them to shards; returns the shards' manifest."""
    from tools import shards

    videos, data = folder / "videos", folder / "shards"
    scenario = unit.scenario
    if not videos.exists():
        make_demo_videos.make_scenario(
            videos,
            scenario,
            groups=_NUM_GROUPS,
            clips=round(_CLIPS_PER_GROUP / (scenario.imbalance + len(scenario.classes) - 1)),
            seed=unit.seed,
            num_frames=_NUM_FRAMES,
            workers=1,
        )
    clip_format = ClipFormat(num_frames=_NUM_FRAMES, height=_SIZE, width=_SIZE)
    return shards.convert(videos, str(data), clip_format, num_workers=1, name=unit.name)


def report(corpora: Sequence[Corpus], folder: pathlib.Path) -> int:
    """Prints the table and the bars, and writes all judged verdicts; returns the exit status, 1 if a bar is missed."""
    judged = [one for corpus in corpora for one in corpus.judged]
    draws = [one for corpus in corpora for one in corpus.draws]
    judging.print_table(judged)
    bars = judging.find_bars(judged, draws)
    terminal.say("", *(f"{'met   ' if bar.is_met else 'MISSED'} {bar.text}" for bar in bars))
    storage.write_json(
        folder / "compare_check.json", to_json(Corpus(judged=tuple(judged), draws=tuple(draws)))
    )
    return 0 if all(bar.is_met for bar in bars) else 1


def read_units() -> list[Unit]:
    """Returns the corpora that the flags ask for, one of each scenario after another."""
    for name in _SCENARIOS.value:
        expect(name in SCENARIOS, f"scenarios out of {', '.join(SCENARIOS)}", scenario=name)
    for seed in _CORPUS_SEEDS.value:
        expect(seed.isdigit(), "--corpus_seeds=<numbers>", corpus_seeds=seed)
    seeds = _CORPUS_SEEDS.value
    if _QUICK.value:
        given = flags.FLAGS["corpus_seeds"].present
        expect(not given, "either --quick or --corpus_seeds", corpus_seeds=",".join(seeds))
        seeds = seeds[:1]
    return [Unit(name, int(seed)) for seed in seeds for name in _SCENARIOS.value]


def main() -> int:
    units, task, folder = read_units(), convert.task(), pathlib.Path(_FOLDER.value)
    if not convert.finalizes():
        jobs = max(1, len(comparison_jobs.job_environments()))
        if jobs > 1:  # of one core each
            os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
        judge = functools.partial(judge_corpus, parent=folder, trainings=_TRAININGS.value)
        run(units, folder, judge, task=task, jobs=jobs)
    left = [str(unit) for unit in units if not unit.is_done(folder)]
    expect(not (left and convert.finalizes()), "that all corpora are judged", unfinished=", ".join(left))
    if left:
        terminal.say(
            f"Other processes are judging {len(left)} corpora. The last process to finish prints the table."
        )
        return 0
    return report([load(unit, folder, trainings=_TRAININGS.value) for unit in units], folder)


if __name__ == "__main__":
    console.run(main)
