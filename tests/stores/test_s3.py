"""Datasets on a real S3 endpoint (moto's server), in an environment of `make test-io` or `make test-remote`."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.s3_endpoint import BUCKET, Endpoint
from tests.conftest import REPOSITORY, convert_command, run_module
from tests.pipelines.test_train import final_weights
from ucf50_tfrecord import manifest

pytest.importorskip("boto3", reason="make test-io and make test-remote bring boto3 and moto")

URL = f"s3://{BUCKET}/some/set"
SIZE = ("--size=16x24", "--frames=5")
MAX_FAILURE_SECS = 120


def methods() -> list[str]:
    """The ways to read that work here: tensorflow-io is there for TensorFlow 2.17 only."""
    try:
        import tensorflow_io  # noqa: F401
    except ImportError:
        return ["copy"]
    return ["copy", "stream"]


def objects(endpoint: Endpoint) -> dict[str, tuple]:
    listed = endpoint.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"]: (item["LastModified"], item["ETag"]) for item in listed}


@pytest.fixture(scope="module")
def endpoint():
    endpoint = Endpoint()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in endpoint.environment.items():
            patch.setenv(name, value)
        endpoint.start()
        yield endpoint
    endpoint.kill()


@pytest.fixture(scope="module")
def staging(tmp_path_factory):
    return tmp_path_factory.mktemp("staging") / "set"


@pytest.fixture(scope="module")
def published(endpoint, staging, videos_dir):
    """Converts to the endpoint, as often as it is asked for."""

    def convert(*flags: str) -> subprocess.CompletedProcess:
        command = convert_command(videos_dir, URL, f"--staging={staging}", *SIZE, *flags)
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    assert f"Copied to {URL}" in convert().stdout
    return convert


def train_command(data, run, method="copy", cache=""):
    """Trains so that shards are needed again and again: a few at a time, a small cache."""
    flags = (
        "--model=lstm --epochs=12 --batch_size=4 --val_folds=1 --shuffle_shards=1 --cache=none "
        f"--checkpoint_secs=0 --fetch={method} --fetch_cache={cache} --fetch_cache_gib=0.0001"
    )
    return [sys.executable, "-m", "pipelines.train", f"--data={data}", f"--run={run}", *flags.split()]


@pytest.fixture(scope="module")
def undisturbed(published, staging, tmp_path_factory):
    """A run from the local shards."""
    run = tmp_path_factory.mktemp("runs") / "local"
    done = subprocess.run(train_command(staging, run), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run


def test_the_copy_is_sound_and_sent_once(published, endpoint, staging):
    local, there = manifest.load(str(staging)), manifest.load(URL)
    assert there.fingerprint == local.fingerprint and there.data_dir == URL
    names = {path.name for path in staging.iterdir() if not path.name.startswith(".")}
    before = objects(endpoint)
    assert {key.removeprefix("some/set/") for key in before} == names
    published()
    assert objects(endpoint) == before


def test_verify_finds_what_is_damaged_and_repair_sends_it_again(published, endpoint, staging):
    shard = manifest.load(URL).shards[3].filename
    content = bytearray((staging / shard).read_bytes())
    content[900] ^= 1
    endpoint.client().put_object(Bucket=BUCKET, Key=f"some/set/{shard}", Body=bytes(content))
    found = run_module("pipelines.verify", f"--data={URL}")
    assert found.returncode == 1
    assert f"damaged: {URL}/{shard}: the record at byte 0 is damaged" in found.stderr
    published("--verify")
    assert run_module("pipelines.verify", f"--data={URL}").returncode == 0


def test_shards_of_another_format_are_not_replaced(published, videos_dir, staging):
    command = convert_command(videos_dir, URL, f"--staging={staging}-other", "--size=8", "--frames=5")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and f"{URL} holds shards of another format" in done.stderr
    assert not pathlib.Path(f"{staging}-other").exists()


def test_inspect_shows_what_is_there(published, tmp_path):
    done = run_module("tools.inspect_data", f"--data={URL}", f"--sheet={tmp_path / 'sheet.png'}")
    assert done.returncode == 0, done.stderr
    assert f"{URL}\n  30 clips" in done.stdout and (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize("method", methods())
def test_a_run_whose_endpoint_dies_ends_clearly_and_goes_on_exactly(
    published, endpoint, undisturbed, tmp_path, method
):
    command = train_command(URL, tmp_path / "run", method, tmp_path / "cache")
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch   2"):
            break
    time.sleep(0.05)
    endpoint.kill()
    started = time.monotonic()
    try:
        _, errors = process.communicate(timeout=MAX_FAILURE_SECS)
    finally:
        endpoint.start()
        published()  # an empty one, at the same address
    print(method, "failed after", round(time.monotonic() - started, 1), "s:", errors.splitlines()[-1:])
    assert process.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert last.startswith(f"error: Cannot read {URL}") and "Traceback" not in errors

    resumed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "pure virtual" not in resumed.stderr
    found, expected = final_weights(tmp_path / "run"), final_weights(undisturbed)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (tmp_path / "run", undisturbed)]
    assert summaries[0]["accuracy"] == summaries[1]["accuracy"]
    cached = sum(path.stat().st_size for path in tmp_path.glob("cache/*.tfrecord"))
    assert cached <= 0.0001 * 2**30

    evaluated = run_module(
        "pipelines.evaluate",
        f"--run={tmp_path / 'run'}",
        f"--fetch={method}",
        f"--fetch_cache={tmp_path / 'cache'}",
    )
    assert evaluated.returncode == 0, evaluated.stderr


def test_sigterm_while_shards_are_fetched_saves_and_ends_well(published, tmp_path):
    command = train_command(URL, tmp_path / "run", "copy", tmp_path / "cache")
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch   1"):
            break
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "To go on:" in output, errors


@pytest.mark.skipif("stream" in methods(), reason="this TensorFlow streams")
def test_a_tensorflow_without_s3_says_what_to_do(published, tmp_path):
    done = subprocess.run(
        train_command(URL, tmp_path / "run", "stream"), cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "has no file system for s3:// URLs. To copy shards with any TensorFlow: " in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_bucket_that_is_not_there_is_named(published, staging, videos_dir):
    done = run_module("pipelines.verify", "--data=s3://other/set", env=os.environ)
    assert done.returncode == 2 and "error: s3://other/set holds no manifest.json" in done.stderr
    command = convert_command(videos_dir, "s3://other/set", f"--staging={staging}", *SIZE)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Cannot write s3://other/set/")


@pytest.mark.skipif("stream" not in methods(), reason="this TensorFlow does not stream")
def test_the_benchmark_of_fetching_measures_every_way(videos_dir, tmp_path):
    output = tmp_path / "fetch.json"
    done = run_module(
        "benchmarks.fetch",
        f"--videos={videos_dir}",
        f"--remote_python={sys.executable}",
        "--size=16",
        "--rounds=1",
        "--epochs=2",
        f"--output={output}",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [row["name"] for row in rows if row["name"] not in done.stdout] == [] and len(rows) == 5
    streamed = next(row for row in rows if row["name"].startswith("--fetch=stream"))
    assert streamed["first_epoch_stream_ratio"] == streamed["later_stream_ratio"] == 1
    assert all(row["later_clips_per_sec"] > 0 and row["first_batch_secs"] > 0 for row in rows)
