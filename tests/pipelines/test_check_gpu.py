"""The whole program `python -m pipelines.check_gpu`, on a CPU."""

import json
import os

import pytest

from tests.conftest import run_code, run_module
from ucf50_tfrecord import storage

WITHOUT_GPUS = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
SMALL = ("--models=seed_pool", "--size=16", "--frames=2", "--clips=32", "--batch_size=8", "--trainings=1")


def check(path, *flags):
    return run_module("pipelines.check_gpu", f"--output={path}", *SMALL, *flags, env=WITHOUT_GPUS)


def statuses(path):
    written = json.loads(path.read_text())
    return written["status"], {
        name: [result["status"] for result in found] for name, found in written["checks"].items()
    }


def test_without_a_gpu_it_says_so_and_succeeds(tmp_path):
    path = tmp_path / "results" / "check.json"
    result = check(path, "--checks=devices,replicas,cudnn,resident")
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == "There is no GPU on this machine: only what a CPU can show is checked."
    assert "    training seed_pool on clips kept on the CPU …" in lines
    assert "pixels of kept clips 0 differ, of 16 clips    none               ok" in lines
    assert lines[-2:] == ["1 ok, 0 FAILED, 4 not checked", f"Results: {path}"]
    assert max(map(len, lines[:-1])) <= 80
    assert statuses(path) == (
        0,
        {
            "devices": ["not checked"],
            "replicas": ["not checked"],
            "cudnn": ["not checked"],
            "resident": ["not checked", "ok"],
        },
    )


@pytest.mark.slow
@pytest.mark.timeout(600)  # ten processes load TensorFlow, one after another
def test_all_that_a_cpu_can_show_is_checked(tmp_path):
    path = tmp_path / "check.json"
    result = check(path, "--trainings=1,2")
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    status, found = statuses(path)
    assert status == 0 and found["replicas_cpu"] == ["ok"]
    assert found["precisions"] == ["ok", "ok", "not checked"]
    assert found["speed"] == ["not checked"] * 3 and found["sharing"] == ["ok", "not checked"]
    speed = json.loads(path.read_text())["checks"]["speed"][0]["figures"]
    assert speed["clips_per_sec"] > 0 and 0 <= speed["wait_fraction"] < 1
    assert speed["operations_per_clip"] > 0 and speed["fraction_of_peak"] is None


MADE_UP = """
import sys
from pipelines import check_gpu, console
from tests.device_checks.made_up import check
names = sys.argv.pop().split(",")
check_gpu.CHECKS.clear()
check_gpu.CHECKS.update({name: check(name) for name in names})
sys.argv.append("--checks=" + ",".join(names))
console.run(check_gpu.main)
"""


@pytest.mark.parametrize(
    "names, expected", [("works", 0), ("works,fails", 1), ("raises,works", 1), ("crashes", 1)]
)
def test_a_check_that_fails_gives_status_1(tmp_path, names, expected):
    path = tmp_path / "check.json"
    result = run_code(MADE_UP, f"--output={path}", *SMALL, names, env=WITHOUT_GPUS)
    assert result.returncode == expected, result.stdout + result.stderr
    assert statuses(path)[0] == expected
    if "fails" in names:
        assert "FAILED: it is" in result.stdout and "1 ok, 1 FAILED, 0 not checked" in result.stdout


NAN = """
import sys
from pipelines import check_gpu
from ucf50_tfrecord.device_checks.outcomes import judge
result = judge("loss", False, found="", expected="", figures={"losses": [1.0, float("nan")], "most": float("inf")})
check_gpu.write_results(sys.argv[1], {"made up": [result]}, gpus=["0"], secs=1.0)
"""


def test_numbers_that_json_does_not_have_are_texts(tmp_path):
    path = tmp_path / "check.json"
    run_code(NAN, path, check=True)
    written = storage.read_json(path)  # refuses NaN
    assert written["checks"]["made up"][0]["figures"] == {"losses": [1.0, "nan"], "most": "inf"}
    assert (written["gpus"], written["status"]) == (1, 1)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--checks=cudnn,speeds", "checks out of devices, replicas_cpu, "),
        ("--models=features_lstm", "models out of bilstm, "),
        ("--trainings=2", "numbers from 1 on, 1 among them"),
        ("--size=4", "a height of 8 to 4096"),
    ],
)
def test_a_wrong_flag_is_one_message(tmp_path, flag, message):
    result = check(tmp_path / "check.json", flag)
    assert (
        result.returncode == 2 and result.stderr.startswith("error: Expected ") and message in result.stderr
    )
    assert not (tmp_path / "check.json").exists()
