import dataclasses

import pytest

from tests.device_checks.made_up import check
from ucf50_tfrecord.device_checks import isolated
from ucf50_tfrecord.device_checks.outcomes import CHECKS, Clock, Options, Status

OPTIONS = Options(data_dir="", models=("lstm",), batch_size=0, secs=60.0)


def statuses(results):
    return {name: [result.status for result in found] for name, found in results.items()}


def test_a_check_that_raises_or_crashes_has_failed_and_the_others_go_on():
    told, names = [], ("raises", "crashes", "fails", "works")
    listener = isolated.Listener(
        start=lambda check, number, total: told.append((check.about, number, total)),
        doing=told.append,
        finish=lambda result: told.append(result.status),
    )
    results = isolated.run_all(
        {name: check(name) for name in names}, OPTIONS, max_secs=60.0, listener=listener
    )
    assert statuses(results) == {
        "raises": [Status.OK, Status.FAILED],
        "crashes": [Status.FAILED],
        "fails": [Status.FAILED],
        "works": [Status.OK],
    }
    assert results["raises"][1].reason == "KeyError: 'a name\\x1b[1m'"
    assert results["crashes"][0].reason == "its process exited with status 3"
    assert told[:4] == [("what raises", 1, 4), "working", Status.OK, Status.FAILED]


def test_the_time_is_divided_by_weight_and_what_is_left_goes_to_the_others():
    heavy = dataclasses.replace(check("works"), weight=3)
    results = isolated.run_all({"light": check("works"), "heavy": heavy}, OPTIONS, max_secs=400.0)
    light, heavy = (results[name][0].figures["secs"] for name in ("light", "heavy"))
    assert light == pytest.approx(100, abs=1) and 300 < heavy < 400


def test_a_check_that_hangs_is_killed():
    [done, killed] = isolated.run(check("hangs"), OPTIONS, max_silent_secs=10.0)
    assert (done.status, killed.status) == (Status.OK, Status.FAILED)
    assert killed.reason == "no answer within 10 s"


@pytest.mark.parametrize(
    "num_gpus, min_gpus, reason",
    [(0, 1, "there is no GPU"), (1, 2, "there is only one GPU"), (0, 0, ""), (2, 2, "")],
)
def test_a_check_without_its_gpus_is_not_run(num_gpus, min_gpus, reason):
    options = dataclasses.replace(OPTIONS, gpus=("0", "1")[:num_gpus])
    results = isolated.run_all({"made up": check("works", min_gpus=min_gpus)}, options, max_secs=60.0)
    [result] = results["made up"]
    assert (result.status, result.reason) == (Status.NOT_CHECKED if reason else Status.OK, reason)


def test_no_check_is_run_when_the_time_is_over():
    [result] = isolated.run_all({"made up": check("fails")}, OPTIONS, max_secs=-1.0)["made up"]
    assert (result.status, result.reason) == (Status.NOT_CHECKED, "the time is over")


def test_measurements_share_the_time_that_is_left_within_bounds():
    assert Clock(100.0).part(4, least=1.0, most=30.0) == pytest.approx(25, abs=0.5)
    assert Clock(100.0).part(4, least=1.0, most=5.0) == 5.0
    assert Clock(-1.0).part(4, least=1.0, most=5.0) == 1.0
    assert Clock(-1.0).left() == 0.0


def test_checks_that_a_cpu_can_make_need_no_gpu():
    needed = {name for name, check in CHECKS.items() if check.min_gpus}
    assert needed == {"replicas", "cudnn"}
