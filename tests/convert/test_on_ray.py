"""Conversion on a Ray cluster: real nodes and videos."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, build, run_code, run_module
from tests.two_nodes import two_nodes
from tests.waiting import MAX_SECS, wait_for

pytest.importorskip("ray")
FLAGS = ("--name=small", "--size=16x24", "--frames=5", "--engine=ray")
WITHOUT_RAY = """
import sys
from pipelines import console, convert
sys.modules["ray"] = None
console.run(convert.main)
"""


def convert(videos_dir, data, *flags):
    return run_module("pipelines.convert", f"--videos={videos_dir}", f"--data={data}", *FLAGS, *flags)


def check_same_shards(folder, local):
    assert len(local.shards) == 5
    for shard in local.shards:
        for name in (shard.filename, f"{shard.filename}.json"):
            made, expected = (pathlib.Path(data, name) for data in (folder, local.data_dir))
            assert made.read_bytes() == expected.read_bytes(), name


def is_decoding(pid):
    """Tells whether a process is one of those in which workers.IsolatedPool decodes videos."""
    try:
        return b"worker_process.serve" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(3 * MAX_SECS)
def test_a_killed_node_costs_its_shard_one_retry_and_changes_no_byte(tmp_path, videos_dir):
    local = build(videos_dir, tmp_path / "local")
    with two_nodes() as nodes:
        command = [sys.executable, "-m", "pipelines.convert", f"--videos={videos_dir}", *FLAGS]
        process = subprocess.Popen(
            [*command, f"--data={tmp_path / 'ray'}", f"--ray_address={nodes.address}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        stopped = wait_for(lambda: [pid for pid in nodes.descendants(0) if is_decoding(pid)])
        for pid in stopped:  # so that the node's shard is not done before it is killed
            os.kill(pid, signal.SIGSTOP)
        nodes.kill(0)
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=MAX_SECS)
    assert process.returncode == 0, output
    assert "30 videos, 30 clips, 0 quarantined" in output
    check_same_shards(tmp_path / "ray", local)


SHOW_RESTRICTIONS = """
import ray
from ucf50_tfrecord import ray_cluster, workers

def restrictions():
    with workers.IsolatedPool(1 << 30) as pool:
        return str(pool.start())

with ray_cluster.connected("local"):
    print([restrictions(), ray.get(ray.remote(restrictions).remote())])
"""


@pytest.mark.slow
def test_decoding_processes_are_as_restricted_as_without_ray():
    result = run_code(SHOW_RESTRICTIONS, check=True)
    here, in_ray = eval(result.stdout.strip().splitlines()[-1])
    assert here == in_ray


@pytest.mark.slow
def test_ray_on_this_host_writes_the_same_and_stops(tmp_path, videos_dir):
    result = convert(videos_dir, tmp_path / "ray")
    assert result.returncode == 0, result.stderr
    check_same_shards(tmp_path / "ray", build(videos_dir, tmp_path / "local"))
    again = convert(videos_dir, tmp_path / "ray")
    assert again.returncode == 0 and "nothing to convert" in again.stdout


@pytest.mark.slow
def test_shards_that_no_node_can_convert_are_an_error(tmp_path, videos_dir):
    result = convert(videos_dir, tmp_path / "ray", "--cpus_per_job=1000")
    assert result.returncode == 2 and "Expected a Ray node with 1000 CPUs" in result.stderr
    assert "Traceback" not in result.stderr


def test_flags_of_other_engines_are_refused(tmp_path, videos_dir):
    assert "no --workers with --engine=ray" in convert(videos_dir, tmp_path / "a", "--workers=2").stderr
    for flag in ("--ray_address=auto", "--cpus_per_job=2"):
        refused = convert(videos_dir, tmp_path / "a", "--engine=local", flag)
        assert refused.returncode == 2 and "Expected --engine=ray with --" in refused.stderr
    assert not (tmp_path / "a").exists()


def test_a_missing_package_is_named_with_its_extra(tmp_path, videos_dir):
    result = run_code(WITHOUT_RAY, f"--videos={videos_dir}", f"--data={tmp_path / 'a'}", *FLAGS)
    assert result.returncode == 2 and "tools.install ray" in result.stderr
    assert not (tmp_path / "a").exists()
