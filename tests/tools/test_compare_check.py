"""The check counts verdicts. It runs in a process of its own, since it defines flags that others define too."""

import json

from tests.warm import run_code

# Planted or not, the answer, whether that is right, and whether it is a false claim.
CASES = [
    (True, "yes", True, False),
    (True, "no", False, True),
    (True, "cannot tell", False, False),
    (False, "yes", False, True),
    (False, "no", True, False),
    (False, "cannot tell", True, False),
]
JUDGE = """
import json, sys
from tools.compare_check import Judged, print_table

judged = [
    Judged(scenario="order", seed=0, kind="needs_order", expected=expected, answer=answer, text="")
    for expected, answer, *_ in json.loads(sys.argv[1])
]
print_table(judged)
print(json.dumps([[one.is_right, one.is_false_claim] for one in judged]))
"""
# Whether the sequence model is to be ahead, which model is ahead, the answer, and the two columns as above.
PAIRS = [
    (True, "lstm", "yes", True, False),
    (True, "frame_pool", "yes", False, True),
    (True, "frame_pool", "cannot tell", False, False),
    (True, "frame_pool", "no", False, True),
    (False, "lstm", "yes", False, True),
    (False, "frame_pool", "yes", False, True),
    (False, "frame_pool", "no", True, False),
]
JUDGE_PAIRS = """
import json, sys
from tests.report.tiny import tiny_verdict
from tools.compare_check import judge_verdicts

found = []
for expected, ahead, answer, *_ in json.loads(sys.argv[1]):
    behind = {"lstm": "frame_pool", "frame_pool": "lstm"}[ahead]
    verdict = tiny_verdict("models_differ", ahead, behind, answer=answer)
    [judged] = judge_verdicts([verdict], {"models_differ": expected}, scenario="order", seed=0)
    found.append([judged.is_right, judged.is_false_claim])
print(json.dumps(found))
"""


def test_verdicts_are_counted_as_right_missed_or_false_claims():
    result = run_code(JUDGE, json.dumps(CASES))
    assert result.returncode == 0, result.stderr
    *_, table, judged = result.stdout.splitlines()
    assert json.loads(judged) == [[is_right, is_false_claim] for *_, is_right, is_false_claim in CASES]
    # Planted, found, denied; absent, claimed; cannot tell.
    assert table.split() == ["needs_order", "3", "1", "1", "3", "1", "2"]


def test_only_the_model_that_should_be_ahead_satisfies_a_scenario():
    result = run_code(JUDGE_PAIRS, json.dumps(PAIRS))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[is_right, is_false_claim] for *_, is_right, is_false_claim in PAIRS]
