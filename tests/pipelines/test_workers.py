"""Training with several workers as users run it: started together, stopped, killed, started again."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipelines import devices
from pipelines import launch as launch_lib
from tests.conftest import REPOSITORY, child_pids, is_running, run_module
from tests.pipelines.test_train import final_weights

FLAGS = [
    "--model=seed_pool",
    "--batch_size=3",
    "--precision=float32",
    "--epochs=3",
    "--val_folds=1,2",
    "--checkpoint_secs=0.05",
    "--dropout=0.2",
]
# Heartbeats stop counting after ten seconds; the rest is for a busy machine.
LOST_SECS = 45


def popen(*arguments, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def launch(*train_flags, workers=2):
    return popen("pipelines.launch", f"--workers={workers}", "--", *train_flags)


def start_workers(*train_flags):
    """Two workers without the launcher, as on two machines."""
    environments = launch_lib.worker_environments(2, [])
    return [
        popen("pipelines.train", "--strategy=multi_worker", *train_flags, **environment)
        for environment in environments
    ]


def wait_for_checkpoint(run_dir, *, after=0):
    """Waits until training has gone beyond a step; returns the step of the newest checkpoint."""
    import tensorflow as tf

    from ucf50_tfrecord.training import checkpoint

    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        for path in checkpoint.find(run_dir / "checkpoints" / "last")[:1]:
            # It may be unfinished, or gone already.
            with contextlib.suppress(tf.errors.OpError, ValueError):
                step = int(tf.train.load_variable(path, "step/.ATTRIBUTES/VARIABLE_VALUE"))
                if step > after:
                    return step
        time.sleep(0.01)
    raise TimeoutError(run_dir)


@pytest.fixture(scope="module")
def undisturbed(videos_dir, tmp_path_factory):
    """A run of two workers from videos, and what it printed."""
    folder = tmp_path_factory.mktemp("workers")
    data = [f"--videos={videos_dir}", f"--data={folder / 'set'}", "--size=16", "--frames=3"]
    process = launch(*data, f"--run={folder / 'run'}", *FLAGS)
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr
    return folder, stdout, stderr


def test_workers_convert_train_and_write_once(undisturbed):
    folder, stdout, stderr = undisturbed
    assert stdout.count("Converting 30 of 30 videos") == 1
    assert re.findall(r"^epoch +(\d)/3 ", stdout, re.MULTILINE) == ["1", "2", "3"]
    # A busy machine keeps training waiting for input, which is told.
    warnings = [line for line in stderr.splitlines() if "of its time for input" not in line]
    assert stdout.count("frames in order") == 1 and not warnings
    assert "of free host memory for each of 2 workers" in stdout
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["num_workers"], summary["num_devices"], summary["num_clips"]) == (2, 2, 12)
    assert len((folder / "run" / "predictions.jsonl").read_text().splitlines()) == 24
    assert len(list((folder / "run" / "tensorboard" / "train").iterdir())) == 1


@pytest.mark.slow
def test_workers_that_are_stopped_or_killed_go_on_to_the_same_weights(undisturbed, tmp_path):
    """First one worker of two is asked to stop, then one is killed; the third start comes to the end."""
    folder, _, _ = undisturbed
    run_dir = tmp_path / "run"
    flags = [f"--data={folder / 'set'}", f"--run={run_dir}", *FLAGS]

    launcher = launch(*flags)
    stopped_after = wait_for_checkpoint(run_dir)
    os.kill(sorted(child_pids(launcher.pid))[1], signal.SIGTERM)
    stdout, stderr = launcher.communicate(timeout=500)
    assert launcher.returncode == 0, stderr
    step = int(re.search(r"Stopped at step (\d+) and saved", stdout)[1])
    assert stopped_after < step < 18 and wait_for_checkpoint(run_dir) == step

    workers = start_workers(*flags)
    wait_for_checkpoint(run_dir, after=step)
    workers[1].kill()
    killed = time.monotonic()
    _, stderr = workers[0].communicate(timeout=LOST_SECS)
    assert time.monotonic() - killed < LOST_SECS
    assert workers[0].returncode == 2 and "Traceback" not in stderr
    [error] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"Worker 1 \(localhost:\d+\) has exited .* the same command again", error)
    workers[1].communicate()
    assert not (run_dir / "summary.json").exists()

    last = launch(*flags)
    _, stderr = last.communicate(timeout=500)
    assert last.returncode == 0, stderr
    expected, found = final_weights(folder / "run"), final_weights(run_dir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    "flags, variables, message",
    [
        (
            ["--strategy=multi_worker"],
            {},
            "Neither was found. To start workers on this machine: make train WORKERS=2 or",
        ),
        (["--strategy=multi_worker"], {"TF_CONFIG": "{"}, "Cannot use TF_CONFIG='{': it is not JSON"),
        (
            [],
            {
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
                )
            },
            "With several workers pass --run=<folder>",
        ),
    ],
)
def test_a_worker_explains_mistakes_before_tensorflow_is_loaded(
    data_dir, tmp_path, flags, variables, message
):
    result = run_module("pipelines.train", f"--data={data_dir}", *flags, env={**os.environ, **variables})
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    "workers, flags, message",
    [
        (0, [], "Expected at least 1 worker"),
        (2, ["--strategy=mirrored"], "Expected a --strategy of multi_worker or auto"),
        (2, ["--data=nowhere"], "nowhere holds no manifest.json"),
        (2, ["--epochs=0"], "Expected"),
    ],
)
def test_the_launcher_explains_mistakes(data_dir, workers, flags, message):
    result = run_module("pipelines.launch", f"--workers={workers}", "--", f"--data={data_dir}", *flags)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr


LAUNCHER = """
import os, sys
from pipelines import launch as launch_lib
environments = [{**os.environ, "INDEX": str(index)} for index in range(3)]
status, was_signalled = launch_lib.run_workers([sys.executable, "-c", sys.argv[1]], environments)
print("was signalled:", was_signalled)
sys.exit(status)
"""
WORKER = """
import os, signal, sys, time
index = int(os.environ["INDEX"])
def stop(*_):
    sys.stderr.write(f"stopped {index}\\n"); sys.exit(0)  # one write, which no other worker's line can cut
signal.signal(signal.SIGTERM, stop)
print("ready", index, flush=True)
print("warning: said by all", file=sys.stderr)
"""


def start_launcher(rest):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, WORKER + rest],
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_signal_reaches_all_workers(tmp_path):
    launcher = start_launcher(f"open(f'{tmp_path}/{{index}}', 'x').close()\ntime.sleep(60)")
    assert launcher.stdout.readline() == "ready 0\n"
    deadline = time.monotonic() + 30
    while len(os.listdir(tmp_path)) < 3 and time.monotonic() < deadline:  # until the others are ready too
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    stdout, stderr = launcher.communicate(timeout=20)
    assert launcher.returncode == 0 and stdout == "was signalled: True\n"
    assert sorted(stderr.splitlines()) == [
        "stopped 0",
        "warning: said by all",
        "worker 1: stopped 1",
        "worker 2: stopped 2",
    ]


@pytest.mark.parametrize(
    "end, status, message",
    [
        ("sys.exit(7)", 7, "error: worker 1 exited with status 7, see above"),
        ("os.kill(os.getpid(), 9)", 137, "worker 1 was killed by SIGKILL, .* Run the same command again"),
    ],
)
def test_when_one_worker_ends_badly_the_others_end_too(end, status, message):
    started = time.monotonic()
    launcher = start_launcher(f"time.sleep(0.5)\nif index == 1: {end}\ntime.sleep(60)")
    _, stderr = launcher.communicate(timeout=30)
    assert launcher.returncode == status and time.monotonic() - started < 20
    assert re.search(message, stderr)


def test_no_worker_outlives_its_launcher():
    launcher = start_launcher("time.sleep(60)")
    assert launcher.stdout.readline() == "ready 0\n"
    deadline = time.monotonic() + 30
    while len(workers := child_pids(launcher.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    launcher.kill()
    launcher.communicate()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 3 and not any(map(is_running, workers))


def test_workers_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    first, second = launch_lib.worker_environments(2, devices.visible_gpus())
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4,5", "6,7")
    assert first["TF_NUM_INTRAOP_THREADS"] == "4"
    configs = [json.loads(environment["TF_CONFIG"]) for environment in (first, second)]
    assert configs[0]["cluster"] == configs[1]["cluster"] and len(set(configs[0]["cluster"]["worker"])) == 2
    assert [config["task"]["index"] for config in configs] == [0, 1]
    with pytest.raises(ValueError, match="a GPU for each of 6 workers. Received: gpus=5"):
        launch_lib.worker_environments(6, devices.visible_gpus())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.visible_gpus() == []


def test_mistakes_show_before_anything_is_converted(videos_dir, tmp_path):
    data = [f"--videos={videos_dir}", f"--data={tmp_path / 'set'}"]
    result = run_module("pipelines.launch", "--workers=2", "--", *data, "--val_folds=3-1")
    assert result.returncode == 2 and "Expected folds such as 1-5,9" in result.stderr
    assert not (tmp_path / "set").exists()
