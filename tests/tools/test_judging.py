import pytest

from tools import judging
from tools.judging import Bar, Corpus, Draws, Judged
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.specs import to_json

# The right answer, the answer, whether that is right, and whether it is a false claim.
CASES = [
    ("yes", "yes", True, False),
    ("yes", "no", False, True),
    ("yes", "cannot tell", False, False),
    ("no", "yes", False, True),
    ("no", "no", True, False),
    ("no", "cannot tell", True, False),
    ("cannot tell", "yes", False, True),
    ("cannot tell", "no", False, True),
    ("cannot tell", "cannot tell", True, False),
]


def judged(expected, answer, kind="needs_order", scenario="order", text=""):
    return Judged(scenario=scenario, seed=0, kind=kind, expected=expected, answer=answer, text=text)


def draws(num_draws, num_differ, *, kind="models_differ", set_size=3):
    return Draws(
        scenario="speed_twice",
        seed=0,
        kind=kind,
        num_trainings=8,
        set_size=set_size,
        num_draws=num_draws,
        num_differ=num_differ,
        num_by_groups=num_draws // 2,
    )


def bars(cases, some_draws=()):
    """Returns the bars by name: (count, total, whether it is met)."""
    return {bar.name: (bar.count, bar.total, bar.is_met) for bar in judging.find_bars(cases, some_draws)}


@pytest.mark.parametrize("expected, answer, is_right, is_false_claim", CASES)
def test_verdicts_are_right_missed_or_false_claims(expected, answer, is_right, is_false_claim):
    one = judged(expected, answer)
    assert (one.is_right, one.is_false_claim) == (is_right, is_false_claim)


def test_the_table_counts_planted_absent_and_undecidable_causes(capsys):
    judging.print_table([judged(*case[:2]) for case in CASES] + [judged("yes", "yes")])
    [_, head, row] = capsys.readouterr().out.splitlines()
    assert head.replace("too short", "short").replace("cannot tell", "unknown").split() == (
        ["planted", "found", "denied", "power", "absent", "claimed", "short", "answered", "unknown"]
    )
    assert row.split() == ["needs_order", "4", "2", "1", "50%", "3", "1", "3", "2", "3"]
    judging.print_table([judged("no", "no")])
    assert capsys.readouterr().out.split()[-9:] == ["0", "0", "0", "–", "1", "0", "0", "0", "0"]


def test_false_claims_are_counted_overall_and_by_kind_among_its_nulls():
    nineteen = [judged("no", "no")] * 18 + [judged("no", "yes")]
    assert bars(nineteen) == {"False claims": (1, 19, False)}  # too few for a bar of the kind
    twenty = [judged("no", "no")] * 18 + [judged("cannot tell", "no"), judged("cannot tell", "cannot tell")]
    of_kind = "False claims of needs_order without a planted cause"
    assert bars(twenty) == {"False claims": (1, 20, True), of_kind: (1, 20, True)}
    others = [judged("no", "no", kind="uses_background")] * 50 + [judged("yes", "yes")] * 50
    both = bars(twenty + others + [judged("no", "yes")])
    assert both["False claims"] == (2, 121, True)
    assert both[of_kind] == (2, 21, False)
    assert both["False claims of uses_background without a planted cause"] == (0, 50, True)


def test_undecided_verdicts_are_no_false_claims_but_do_not_find_planted_causes():
    found = bars([judged("yes", "yes")] * 17 + [judged("yes", "cannot tell")] * 2 + [judged("yes", "no")])
    assert found == {"False claims": (1, 20, True), "Planted causes that are found": (17, 20, False)}
    assert bars([judged("yes", "yes")] * 18 + [judged("yes", "cannot tell")] * 2) == {
        "False claims": (0, 20, True),
        "Planted causes that are found": (18, 20, True),
    }


def test_answers_of_the_audit_do_not_dilute_false_claims_of_verdicts():
    audits = [judged("no", "no", kind=judging.AUDIT)] * 98 + [judged("no", "yes", kind=judging.AUDIT)]
    found = bars([judged("no", "no"), judged("no", "yes"), *audits])
    assert found == {
        "False claims": (1, 2, False),
        f"False claims of {judging.AUDIT} without a planted cause": (1, 99, True),
    }


def test_draws_of_one_recipe_have_a_bar_by_kind_from_200_on():
    name = "Draws of one recipe's trainings that models_differ tells from each other"
    assert bars([], [draws(100, 50), draws(99, 50)]) == {}
    assert bars([], [draws(100, 10), draws(100, 0)]) == {name: (10, 200, True)}
    assert bars([], [draws(100, 10), draws(100, 1)]) == {name: (11, 200, False)}
    pairs = draws(300, 300, set_size=1)  # single trainings are shown, not judged
    assert bars([], [pairs, draws(200, 0), draws(200, 11, kind="needs_order")]) == {
        name: (0, 200, True),
        name.replace("models_differ", "needs_order"): (11, 200, False),
    }


def test_a_bar_is_a_sentence():
    assert Bar("False claims", 3, 50, 0.05).text == "False claims: 3 of 50 (6.0%); 5% are allowed."
    found = Bar("Planted causes that are found", 9, 10, 0.9, is_minimum=True)
    assert found.text == "Planted causes that are found: 9 of 10 (90.0%); at least 90% are required."


def test_the_summary_of_a_corpus_shows_wrong_verdicts_and_draws(capsys):
    wrong = [judged("yes", "no", text="It does not."), judged("yes", "cannot tell", text="Cannot tell.")]
    judging.print_corpus(Corpus(judged=(judged("no", "no"), *wrong), draws=(draws(100, 4),)))
    assert capsys.readouterr().out.splitlines() == [
        "order, seed 0: 1 of 3 right",
        "  FALSE needs_order: It does not.",
        "  missed needs_order: Cannot tell.",
        "  models_differ: 4 of 100 draws of 3 against 3 out of 8 trainings differ; 50 by a test with groups alone",
    ]


def test_judged_verdicts_are_read_back_as_written(tmp_path):
    corpus = Corpus(judged=tuple(judged(*case[:2]) for case in CASES), draws=(draws(100, 4),))
    storage.write_json(tmp_path / "judged.json", to_json(corpus))
    assert parsing.read(tmp_path / "judged.json", Corpus, "judged verdicts") == corpus
