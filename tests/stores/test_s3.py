"""Datasets on a real S3 endpoint (moto's server), in an environment of `make test-io` or `make test-remote`."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import REPOSITORY, convert_command, run_module
from tests.pipelines.test_train import final_weights
from ucf50_tfrecord import manifest

boto3 = pytest.importorskip("boto3", reason="make test-io and make test-remote bring boto3 and moto")

URL = "s3://bucket/some/set"
SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False).start()
while True:
    time.sleep(60)
"""
SIZE = ("--size=16x24", "--frames=5")
MAX_FAILURE_SECS = 120


def methods() -> list[str]:
    """The ways to read that work here: tensorflow-io is there for TensorFlow 2.17 only."""
    try:
        import tensorflow_io  # noqa: F401
    except ImportError:
        return ["copy"]
    return ["copy", "stream"]


class Endpoint:
    """A server that can be killed and started again, empty, at the same address."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None
                time.sleep(0.1)
        self.client().create_bucket(Bucket="bucket")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self):
        return boto3.client("s3", endpoint_url=self.url)

    def objects(self) -> dict[str, tuple]:
        listed = self.client().list_objects_v2(Bucket="bucket").get("Contents", [])
        return {item["Key"]: (item["LastModified"], item["ETag"]) for item in listed}


@pytest.fixture(scope="module")
def endpoint():
    endpoint = Endpoint()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint.url)
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
    before = endpoint.objects()
    assert {key.removeprefix("some/set/") for key in before} == names
    published()
    assert endpoint.objects() == before


def test_verify_finds_what_is_damaged_and_repair_sends_it_again(published, endpoint, staging):
    shard = manifest.load(URL).shards[3].filename
    content = bytearray((staging / shard).read_bytes())
    content[900] ^= 1
    endpoint.client().put_object(Bucket="bucket", Key=f"some/set/{shard}", Body=bytes(content))
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
    assert "has no file system for s3:// URLs. Two ways out: pip install '.[remote]'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_bucket_that_is_not_there_is_named(published, staging, videos_dir):
    done = run_module("pipelines.verify", "--data=s3://other/set", env=os.environ)
    assert done.returncode == 2 and "error: s3://other/set holds no manifest.json" in done.stderr
    command = convert_command(videos_dir, "s3://other/set", f"--staging={staging}", *SIZE)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Cannot write s3://other/set/")
