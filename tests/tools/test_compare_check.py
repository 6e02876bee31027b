"""The check of verdicts. It runs in processes of its own, since it defines flags that others define too."""

import json
import signal
import time

import pytest

from tests import warm
from tests.conftest import run_module
from tests.warm import run_code, start_code
from tools.judging import Corpus, Draws, Judged
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import to_json

# The scenario, the model that is ahead, the answer, and whether that is right and a false claim.
PAIRS = [
    ("order", "lstm", "yes", True, False),
    ("order", "frame_pool", "yes", False, True),
    ("order", "frame_pool", "cannot tell", False, False),
    ("order", "frame_pool", "no", False, True),
    ("nothing", "lstm", "yes", False, True),
    ("nothing", "frame_pool", "yes", False, True),
    ("nothing", "frame_pool", "no", True, False),
    ("control_ahead", "frame_pool", "yes", True, False),
    ("control_ahead", "lstm", "yes", False, True),
    ("control_ahead", "lstm", "cannot tell", False, False),
    ("undertrained", "lstm", "cannot tell", True, False),
    ("undertrained", "lstm", "no", False, True),
]
JUDGE_PAIRS = """
import json, sys
from tests.report.tiny import tiny_verdict
from tools.compare_check import Unit, judge_verdicts

found = []
for scenario, ahead, answer, *_ in json.loads(sys.argv[1]):
    behind = {"lstm": "frame_pool", "frame_pool": "lstm"}[ahead]
    verdict = tiny_verdict("models_differ", ahead, behind, answer=answer)
    [judged] = judge_verdicts([verdict], Unit(scenario, 0))
    found.append([judged.is_right, judged.is_false_claim])
print(json.dumps(found))
"""
JUDGE_CORPORA = """
import dataclasses, json
from tests.evaluation import made_up
from tools import compare_check
from tools.compare_check import Unit

def answers(corpus):
    return [[one.kind, one.expected, one.answer] for one in corpus.judged]

results = made_up.make_results({("lstm", "kept", "none"): 0.7}, num_groups=8, num_seeds=6)
results = dataclasses.replace(results, audit={"group": {"near_duplicates": 0.02}})
twice = compare_check.judge_one_recipe(Unit("speed_twice", 0), results)
audits = []
for name, fraction in (("nothing", 0.02), ("nothing", 0.7), ("wrong_groups", 0.7), ("wrong_groups", 0.02)):
    audited = dataclasses.replace(results, audit={"group": {"near_duplicates": fraction}})
    audits.append(compare_check.judge_audit(audited, Unit(name, 0)))
print(json.dumps([answers(twice), [d.num_draws for d in twice.draws], [one.is_right for one in audits]]))
"""
CLAIM = """
import json, pathlib, sys
from tools.compare_check import Unit, claimable

units = [Unit("order", seed) for seed in range(6)]
print(json.dumps([[u.seed for u in claimable(units, pathlib.Path(sys.argv[1]), (i, 3))] for i in range(3)]))
"""
RUN = """
import functools, pathlib, sys
from pipelines import console
from tests.tools import made_up_corpora
from tools.compare_check import Unit, run

units = [Unit("order", seed) for seed in range(4)]
console.handle_sigterm()
judge = functools.partial(getattr(made_up_corpora, sys.argv[2]), parent=pathlib.Path(sys.argv[1]))
run(units, pathlib.Path(sys.argv[1]), judge, task=(1, 2), jobs=1)
"""
ELSEWHERE = """
import pathlib, sys
from tools.compare_check import Unit, judge_corpus

print(judge_corpus(Unit("order", 0), pathlib.Path(sys.argv[1]), trainings=8))
"""


def finish(folder, name, answer="yes", *, differ=None, trainings=8):
    """Writes the judged verdicts of a corpus that was never made."""
    scenario, _, seed = name.rpartition("-")
    kind, expected = ("models_differ", "no") if differ is not None else ("needs_order", "yes")
    judged = Judged(
        scenario=scenario, seed=int(seed), kind=kind, expected=expected, answer=answer, text="It says so."
    )
    drawn = Draws(
        scenario=scenario,
        seed=int(seed),
        kind=kind,
        num_trainings=trainings,
        set_size=3,
        num_draws=200,
        num_differ=differ or 0,
        num_by_groups=60,
    )
    (folder / name).mkdir(parents=True)
    corpus = Corpus(judged=(judged,), draws=() if differ is None else (drawn,))
    storage.write_json(folder / name / "judged.json", to_json(corpus))


def check(folder, *arguments):
    return run_module("tools.compare_check", f"--folder={folder}", *arguments)


def test_only_the_model_that_should_be_ahead_satisfies_a_scenario():
    result = run_code(JUDGE_PAIRS, json.dumps(PAIRS))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[is_right, is_false_claim] for *_, is_right, is_false_claim in PAIRS]


def test_one_recipe_and_the_audit_are_judged():
    result = run_code(JUDGE_CORPORA)
    assert result.returncode == 0, result.stderr
    judged, num_draws, audits = json.loads(result.stdout)
    kinds = [
        "needs_order",
        "needs_several_frames",
        "recognises_recording",
        "models_differ",
        "near_duplicates",
    ]
    assert [kind for kind, *_ in judged] == kinds
    assert all(expected == "no" and answer != "yes" for _, expected, answer in judged)
    assert num_draws == [15, 20, 20, 20, 20]  # of 6 trainings
    assert audits == [True, False, True, False]


def test_finished_corpora_are_not_judged_again(tmp_path):
    for seed in range(3):
        finish(tmp_path, f"order-{seed}")
        finish(tmp_path, f"speed_twice-{seed}", answer="cannot tell", differ=7)
    before = sorted(tmp_path.rglob("*"))
    for arguments in ([], ["--finalize"], ["--task_index=1", "--task_count=4"]):
        result = check(tmp_path, "--scenarios=order,speed_twice", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert "needs_order" in result.stdout
        assert result.stdout.splitlines()[-3:] == [
            "met    False claims: 0 of 6 (0.0%); 5% are allowed.",
            "met    Planted causes that are found: 3 of 3 (100.0%); at least 90% are required.",
            "met    Draws of one recipe's trainings that models_differ tells from each other: 21 of 600 (3.5%); 5% "
            "are allowed.",
        ]
    assert sorted({*tmp_path.rglob("*")} - {*before}) == [tmp_path / "compare_check.json"]
    stored = json.loads((tmp_path / "compare_check.json").read_text())
    assert (len(stored["judged"]), len(stored["draws"])) == (6, 3)


def test_each_missed_bar_is_a_sentence_and_the_status_is_1(tmp_path):
    finish(tmp_path, "order-0", "no")
    finish(tmp_path, "speed_twice-0", "no", differ=11)
    result = check(tmp_path, "--scenarios=order,speed_twice", "--quick")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines()[-3:] == [
        "MISSED False claims: 1 of 2 (50.0%); 5% are allowed.",
        "MISSED Planted causes that are found: 0 of 1 (0.0%); at least 90% are required.",
        "MISSED Draws of one recipe's trainings that models_differ tells from each other: 11 of 200 (5.5%); 5% are "
        "allowed.",
    ]


def test_the_last_process_prints_the_table(tmp_path):
    finish(tmp_path, "order-0")
    (tmp_path / "speed-0").mkdir()
    with storage.folder_lock(tmp_path / "speed-0"):
        result = check(tmp_path, "--scenarios=order,speed", "--quick")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "Other processes are judging 1 corpora. The last process to finish prints the table."
        ]
    assert not (tmp_path / "compare_check.json").exists()
    result = check(tmp_path, "--scenarios=order,speed", "--quick", "--finalize")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Expected that all corpora are judged. Received: unfinished='speed-0'" in result.stderr


def test_tasks_begin_with_their_own_corpora_and_leave_out_others(tmp_path):
    finish(tmp_path, "order-4")
    (tmp_path / "order-2").mkdir()
    with storage.folder_lock(tmp_path / "order-2"):
        result = run_code(CLAIM, tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[0, 3, 1, 5], [1, 5, 0, 3], [5, 0, 3, 1]]


def test_every_corpus_is_judged_once_by_one_process(tmp_path):
    finish(tmp_path, "order-0")
    (tmp_path / "order-3").mkdir()
    with storage.folder_lock(tmp_path / "order-3"):
        result = run_code(RUN, tmp_path, "judge")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "order, seed 1: 1 of 1 right",
        "order, seed 2: 1 of 1 right",
    ]
    result = run_code(RUN, tmp_path, "judge")  # resumes
    assert (result.returncode, result.stdout) == (0, "order, seed 3: 1 of 1 right\n"), result.stderr
    tries = {path.parent.name: path.name for path in tmp_path.rglob("try*")}
    assert tries == {f"order-{seed}": "try0" for seed in (1, 2, 3)}


def test_a_stopped_check_stops_its_processes_and_continues(tmp_path):
    process = start_code(RUN, tmp_path, "wait")
    waiting = tmp_path / "order-1" / "waiting"
    while not waiting.exists():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGINT, process.stderr  # as Python ends by a KeyboardInterrupt
    assert not storage.is_locked(waiting.parent)
    result = run_code(RUN, tmp_path, "judge")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 4), result.stderr


def test_a_corpus_that_another_process_judges_is_left_to_it(tmp_path):
    (tmp_path / "order-0").mkdir()
    with storage.folder_lock(tmp_path / "order-0"):
        result = warm.run_code(ELSEWHERE, tmp_path)
    assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scenarios=unknown"], "Expected scenarios out of nothing, "),
        (["--corpus_seeds=-1"], "Expected --corpus_seeds=<numbers>. Received: corpus_seeds='-1'"),
        (["--quick", "--corpus_seeds=3"], "Expected either --quick or --corpus_seeds"),
        (["--scenarios=speed_twice", "--quick", "--trainings=9"], "Expected 9 trainings of the recipe in "),
    ],
)
def test_wrong_flags_are_reported_in_one_line(arguments, message, tmp_path):
    finish(tmp_path, "speed_twice-0", answer="no", differ=0)
    result = check(tmp_path, *arguments)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {message}"), result.stderr
    assert len(result.stderr.splitlines()) == 1
