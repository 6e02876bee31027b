"""Kills, full disks and several converters at once: what comes out equals an undisturbed run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import REPOSITORY, child_pids, convert_command, run_module
from tests.waiting import wait_for
from ucf50_tfrecord import manifest


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory, videos_dir):
    """200 videos in 5 folds: enough that a conversion is caught at work."""
    videos = tmp_path_factory.mktemp("many") / "videos"
    for copy in range(20):
        shutil.copytree(videos_dir / "Left", videos / f"class{copy:02d}")
    return videos


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, many_videos):
    """The content of every shard of an undisturbed run, by name, and how long that took."""
    data = tmp_path_factory.mktemp("whole") / "data"
    started = time.monotonic()
    subprocess.run(convert_command(many_videos, data), cwd=REPOSITORY, check=True, capture_output=True)
    secs = time.monotonic() - started
    shards = contents(data)
    assert len(shards) > 60  # with their sidecars
    return shards, secs


def contents(data):
    """Shard files by name; sidecars and the manifest too, for they must be equal as well."""
    return {path.name: path.read_bytes() for path in data.iterdir() if not path.name.startswith(".lock")}


# Four seeds are one of each kind of interruption.
@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 24))]
)
def test_a_kill_at_any_moment_loses_nothing(tmp_path, many_videos, undisturbed, seed):
    """Kills the converter, or one of its workers, or interrupts it, at a seeded moment."""
    whole, secs = undisturbed
    data = tmp_path / "data"
    rng = random.Random(seed)
    how = ["kill", "worker", "interrupt", "terminate"][seed % 4]
    process = subprocess.Popen(
        convert_command(many_videos, data),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(secs * rng.uniform(0.1, 1.0))
    if how == "worker":
        for pid in child_pids(process.pid)[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all was done already
    else:
        signals = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
        process.send_signal(signals[how])
    _, errors = process.communicate(timeout=60)
    if how != "kill":
        assert process.returncode in (0, 2, 130, -signal.SIGINT, -signal.SIGTERM), errors
        # A signal may come while Python still starts, or already ends.
        assert "Traceback" not in errors or "convert_shard" not in errors, errors
    # A manifest stands for a whole set, and what stands under a shard's name is whole.
    if manifest.exists(str(data)):
        assert contents(data) == whole
    for path in data.glob("videos-fold*"):
        assert path.read_bytes() == whole[path.name]
    again = subprocess.run(convert_command(many_videos, data), cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert contents(data) == whole


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))


def test_a_shard_that_cannot_be_written_ends_clearly_and_goes_on_later(tmp_path, many_videos, undisturbed):
    data = tmp_path / "data"
    command = convert_command(many_videos, data)
    refused = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, preexec_fn=limit_file_size
    )
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert f"error: Cannot write {data}" in refused.stderr and "File too large" in refused.stderr
    assert not list(data.glob(".tmp-*")) and not manifest.exists(str(data))
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    assert contents(data) == undisturbed[0]


def test_a_full_disk_ends_clearly_and_goes_on_later(tmp_path, many_videos, undisturbed):
    """On a file system of 10 MB of its own, for which the kernel must allow namespaces."""
    data = tmp_path / "data"
    data.mkdir()
    small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=10m none {data}"
    if shutil.which("unshare") is None or subprocess.run([*small, mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    # What was written before the disk was full is copied out, to go on with.
    kept = tmp_path / "kept"
    script = f'{mount} && {{ "$@"; status=$?; cp -r {data} {kept}; exit $status; }}'
    refused = subprocess.run(
        [*small, script, "sh", *convert_command(many_videos, data)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "error: Cannot write" in refused.stderr and "No space left on device" in refused.stderr
    assert not list(kept.glob(".tmp-*")) and len(list(kept.glob("*.json"))) > 3
    again = subprocess.run(convert_command(many_videos, kept), cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0 and "Converting 200 of" not in again.stdout
    assert contents(kept) == undisturbed[0]


def test_two_converters_at_once_do_no_harm(tmp_path, many_videos, undisturbed):
    data = tmp_path / "data"
    processes = [
        subprocess.Popen(
            convert_command(many_videos, data),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes and set(codes) <= {0, 2}
    assert all(code == 0 or "Another process is writing" in text for code, text in zip(codes, errors))
    assert contents(data) == undisturbed[0]


def test_four_tasks_one_killed_and_run_again(tmp_path, many_videos, undisturbed):
    data = tmp_path / "data"

    def task(index):
        flags = [f"--task_index={index}", "--task_count=4"]
        return subprocess.Popen(
            convert_command(many_videos, data, *flags),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    tasks = [task(index) for index in range(4)]
    wait_for(lambda: list(data.glob("*.tfrecord-*.json")), poll_secs=0.01)
    tasks[2].kill()
    outputs = [process.communicate(timeout=500) for process in tasks]
    assert [process.returncode for process in tasks] == [0, 0, -signal.SIGKILL, 0], outputs
    assert all("This task's part is done" in outputs[i][0] for i in (0, 1, 3))
    assert not manifest.exists(str(data))
    refused = run_module(
        "pipelines.convert", f"--videos={many_videos}", f"--data={data}", "--shard_mib=1", "--finalize"
    )
    assert refused.returncode == 2 and "shards are missing" in refused.stderr
    again = task(2)
    output, errors = again.communicate(timeout=500)
    assert again.returncode == 0 and "200 videos, 200 clips" in output, errors
    assert contents(data) == undisturbed[0]
    # Without the manifest, --finalize writes it.
    (data / "manifest.json").unlink()
    final = run_module(
        "pipelines.convert", f"--videos={many_videos}", f"--data={data}", "--shard_mib=1", "--finalize"
    )
    assert final.returncode == 0 and "nothing to convert" in final.stdout
    assert contents(data) == undisturbed[0]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--task_index=1"], "--task_index and --task_count together"),
        (["--finalize", "--task_index=1", "--task_count=2"], "no --task_index"),
        (["--finalize", "--verify"], "no --task_index, --verify or"),
        (["--task_index=2", "--task_count=2"], "a task_index from 0 to task_count - 1"),
        (["--task_index=-1", "--task_count=2"], "a task_index from 0 to task_count - 1"),
    ],
)
def test_a_mistaken_task_is_refused(tmp_path, videos_dir, flags, message):
    result = run_module("pipelines.convert", f"--videos={videos_dir}", f"--data={tmp_path / 'data'}", *flags)
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / "data").exists()
