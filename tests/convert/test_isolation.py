"""A video that crashes, hangs or eats memory costs itself alone: the real converter, real workers."""

import functools
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

from tests.conftest import REPOSITORY, build, child_pids, convert_command, plan_of, run_module, write_video
from tests.waiting import MAX_SECS, wait_for
from ucf50_tfrecord import building, manifest
from ucf50_tfrecord.convert import engines
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import DecodeLimits

# Runs at the start of every Python process: a decoder that ends badly on files of certain names.
SITECUSTOMIZE = """
import ctypes, os, time
from ucf50_tfrecord.convert import decode

pick_frames = decode.pick_frames

def decode_badly(file, suffix, *arguments, **options):
    name = os.readlink(f"/proc/self/fd/{file.fileno()}")
    if "segfault" in name:
        ctypes.string_at(0)
    if "abort" in name:
        os.abort()
    if "hang" in name:
        time.sleep(600)
    if "eat" in name:
        eaten = []
        while True:
            eaten.append(bytearray(1 << 20))
    return pick_frames(file, suffix, *arguments, **options)

decode.pick_frames = decode_badly
"""
REASONS = {
    "segfault": ("crash", "its process crashed with SIGSEGV"),
    "abort": ("crash", "its process crashed with SIGABRT"),
    "hang": ("timeout", "it took longer than 2 s"),
    "eat": ("memory", "it needed more than 300 MiB of memory"),
}


@pytest.fixture
def bad_decoder(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{REPOSITORY}")


def test_files_that_end_their_decoder_cost_themselves_alone(tmp_path, videos_dir, bad_decoder):
    videos = shutil.copytree(videos_dir, tmp_path / "videos")
    source = videos / "Left" / "v_Left_g01_c01.avi"
    bad = {
        f"Right/{name}_g{group:02d}_c{clip:02d}.avi": REASONS[name]
        for group, name in enumerate(REASONS, start=1)
        for clip in ((7, 8) if name == "abort" else (7,))
    }
    for path in bad:
        shutil.copy(source, videos / path)
    data = tmp_path / "data"
    result = run_module(
        "pipelines.convert",
        f"--videos={videos}",
        f"--data={data}",
        "--name=small",
        "--size=16x24",
        "--frames=5",
        "--workers=2",
        "--shard_mib=1",
        "--video_timeout_secs=2",
        "--video_memory_mib=300",
        "--max_quarantined=0.5",
    )
    assert result.returncode == 0, result.stderr
    built = manifest.load(str(data))
    assert (built.num_videos, built.num_clips) == (35, 30)
    found = {item.relative_path: (item.cause, item.reason) for item in built.quarantined}
    assert found == bad
    for path, (_, reason) in found.items():
        assert f"quarantined: {path}: {reason} (--verify retries)" in result.stderr
    # The clips of all other videos are those of a set without the bad ones.
    whole = build(videos_dir, tmp_path / "whole")
    assert {s.filename: s.sha256 for s in built.shards} == {s.filename: s.sha256 for s in whole.shards}


@pytest.mark.slow
def test_too_little_memory_never_makes_another_clip(tmp_path):
    """FFmpeg goes on without the frames for which it gets no memory; no such clip may come out."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (10, 1440, 2560, 3), dtype=np.uint8)
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / name / "large.mp4", frames, codec="libx264")
    planned = plan_of(tmp_path / "videos")
    results = {}
    for memory_mib in (16, 64, 120, 2048):
        data = tmp_path / str(memory_mib)
        run = functools.partial(engines.run_local, num_workers=1, limits=DecodeLimits(memory_mib=memory_mib))
        try:
            built = building.build_dataset(planned, str(data), run=run)
        except UserError as error:
            assert f"it needed more than {memory_mib} MiB" in str(error)
            results[memory_mib] = None
        else:
            assert {item.cause for item in built.quarantined} <= {"memory"}
            results[memory_mib] = built.num_clips, built.fingerprint
    assert results[16] is None and results[2048][0] == 2
    assert {result for result in results.values() if result and result[0] == 2} == {results[2048]}


def test_failures_are_tried_again_where_shards_are_verified(tmp_path, videos_dir, monkeypatch):
    videos = shutil.copytree(videos_dir, tmp_path / "videos")
    shutil.copy(videos / "Left" / "v_Left_g01_c01.avi", videos / "Left" / "abort_g01_c07.avi")
    with monkeypatch.context() as patch:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        patch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{REPOSITORY}")
        assert build(videos, tmp_path / "data").num_clips == 30
    assert build(videos, tmp_path / "data").num_clips == 30
    assert build(videos, tmp_path / "data", verify=True).num_clips == 31


def test_a_worker_that_is_killed_loses_nothing(tmp_path, videos_dir):
    """Kills both worker processes; the conversion goes on and its result is the same."""
    videos = tmp_path / "videos"
    for copy in range(20):
        shutil.copytree(videos_dir / "Left", videos / f"class{copy}")
    process = subprocess.Popen(convert_command(videos, tmp_path / "data"), cwd=REPOSITORY)
    wait_for(lambda: list(tmp_path.glob("data/*.tfrecord-*.json")), process=process, poll_secs=0.002)
    workers = child_pids(process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=MAX_SECS) == 0 and len(workers) == 2
    subprocess.run(convert_command(videos, tmp_path / "whole"), cwd=REPOSITORY, check=True)
    built, whole = (manifest.load(str(tmp_path / name)) for name in ("data", "whole"))
    assert built.shards == whole.shards and not built.quarantined
