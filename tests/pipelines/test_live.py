"""Prediction of streams as users run it."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from scipy import special

from pipelines import terminal
from tests import warm
from tests.conftest import child_pids, is_running, write_video
from tests.fetching.server import Answer, serving

WINDOW = ["--window_secs=2", "--stride_secs=0.5"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A video of 10 s at 25 frames per second, whose frames differ, as it may be piped."""
    path = tmp_path_factory.mktemp("recorded") / "long.ts"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (250, 4, 6, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    write_video(path, frames, codec="mpeg2video")
    return path


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "stream")
    return tmp_path / "stream"


@contextlib.contextmanager
def writing(path, content, *, hold=None, delay=0.0):
    """Writes bytes into a FIFO in parts, and closes it once the event `hold` is set."""

    def write():
        with contextlib.suppress(BrokenPipeError), open(path, "wb", buffering=0) as pipe:
            for first in range(0, len(content), 4096):
                pipe.write(content[first : first + 4096])
                time.sleep(delay)
            if hold:
                hold.wait()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        if hold:
            hold.set()
        thread.join()


def predict(run_dir, video, *flags):
    return warm.run_module("pipelines.predict", f"--run={run_dir}", f"--video={video}", *flags)


def counts(text):
    """The numbers of predicted and dropped windows, by the summary."""
    text = " ".join(text.split())
    found = re.search(r"(\d+) windows? predicted(?:, (\d+) dropped)?", text)
    return int(found[1]), int(found[2] or 0)


def test_live_windows_are_those_of_the_recorded_video(pool_run, recorded, fifo, tmp_path):
    with writing(fifo, recorded.read_bytes(), delay=0.01):
        live = predict(pool_run, fifo, "--live", "--json", "--top=2", *WINDOW)
    assert live.returncode == 0, live.stderr
    offline = predict(pool_run, recorded, "--json", f"--output={tmp_path / 'found'}", *WINDOW)
    [video] = json.loads(offline.stdout)["videos"]
    expected = {window["start_secs"]: window for window in video["windows"]}
    found = [json.loads(line) for line in live.stdout.splitlines()]
    num_predicted, num_dropped = counts(live.stderr)
    assert len(found) == num_predicted and num_predicted + num_dropped == len(expected) == 17
    for entry in found:
        window = expected[entry["start_secs"]]
        assert entry["end_secs"] == window["end_secs"] and entry["num_frames"] == 50
        np.testing.assert_allclose(entry["probabilities"], window["probabilities"], atol=1e-5)
        np.testing.assert_allclose(entry["logits"], window["logits"], rtol=1e-4)
        assert [top["probability"] for top in entry["top"]] == sorted(entry["probabilities"])[:0:-1]
        assert entry["known"] in (True, False) and entry["confident"] is None
    assert "The stream ended after 10.0 s: 250 frames," in live.stderr
    assert "Windows of 2.0 s, one every 0.5 s." in " ".join(live.stderr.split())


def test_live_windows_average_the_views_of_a_clip(pool_run, recorded, fifo, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    config["train"]["augment"]["horizontal_flip"] = True  # then the views are a clip and its mirror image
    (run_dir / "config.json").write_text(json.dumps(config))
    flags = ["--json", "--test_views=2", "--nocalibrate", *WINDOW]
    with writing(fifo, recorded.read_bytes(), delay=0.01):
        live = predict(run_dir, fifo, "--live", *flags)
    assert live.returncode == 0, live.stderr
    offline = predict(run_dir, recorded, f"--output={tmp_path / 'found'}", *flags)
    [video] = json.loads(offline.stdout)["videos"]
    expected = {window["start_secs"]: window for window in video["windows"]}
    found = [json.loads(line) for line in live.stdout.splitlines()]
    assert len(found) == counts(live.stderr)[0] > 0
    for entry in found:
        logits = np.array(entry["logits"])
        assert logits.shape == (2, 3) and np.abs(logits[0] - logits[1]).max() > 1e-3
        np.testing.assert_allclose(logits, expected[entry["start_secs"]]["logits"], rtol=1e-4)
        np.testing.assert_allclose(
            entry["probabilities"], special.softmax(logits, axis=1).mean(axis=0), atol=1e-5
        )


def test_without_json_each_window_is_a_line(pool_run, recorded, fifo):
    with writing(fifo, recorded.read_bytes()):
        result = predict(pool_run, fifo, "--live", *WINDOW)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if re.match(r" +\d+\.\d s  ", line)]
    assert len(lines) == counts(result.stdout)[0]
    for line in lines:
        assert re.fullmatch(r" +\d+\.\d s  (\w+ \d\.\d{3}  ){2}\w+ \d\.\d{3}(  \(may be unknown\))?", line)


# Runs an entry point whose standard input is the file that the first argument names.
FROM_FILE = """
import os, runpy, sys
os.dup2(os.open(sys.argv.pop(1), os.O_RDONLY), 0)
runpy.run_module("pipelines.predict", run_name="__main__", alter_sys=True)
"""


def test_standard_input_is_a_stream(pool_run, recorded):
    flags = [f"--run={pool_run}", "--video=-", "--live", *WINDOW]
    result = warm.run_code(FROM_FILE, recorded, *flags)
    assert result.returncode == 0, result.stderr
    assert "The stream ended after 10.0 s: 250 frames," in result.stdout


def test_a_server_is_a_stream(pool_run, recorded):
    content = recorded.read_bytes()
    with serving(content, name="live.ts") as server:
        server.answers = [
            Answer(),
            Answer(status=301, headers={"Location": "/other"}),
            Answer(after=len(content) // 2),
        ]
        result = predict(pool_run, server.url, "--live", *WINDOW)
        assert (result.returncode, counts(result.stdout)[0] > 0) == (0, True)
        result = predict(pool_run, server.url, "--live", *WINDOW)
        assert result.returncode == 2 and "redirects are not followed" in result.stderr
        result = predict(pool_run, server.url, "--live", *WINDOW)
        assert result.returncode == 2 and "The stream broke off after" in result.stdout
        assert re.search(r"error: http://.*: the connection ended \d+ bytes early", result.stderr)
        assert len(server.ranges) == 3


def test_a_stream_that_is_cut_in_mid_frame_ends(pool_run, recorded, fifo):
    content = recorded.read_bytes()
    with writing(fifo, content[: len(content) // 2 + 77]):
        result = predict(pool_run, fifo, "--live", *WINDOW)
    assert result.returncode == 0, result.stderr
    assert "The stream ended after" in result.stdout and counts(result.stdout)[0]


def test_garbage_and_silence_are_errors(pool_run, recorded, fifo):
    with writing(fifo, b"no video" * 10_000):
        result = predict(pool_run, fifo, "--live")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert f"error: {fifo}: expected video in a container that can be read from its start" in result.stderr
    with writing(fifo, recorded.read_bytes(), hold=threading.Event()):
        result = predict(pool_run, fifo, "--live", "--stall_secs=1.5", *WINDOW)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert f"error: {fifo}: no frame arrived for 1.5 s" in result.stderr
        assert "The stream broke off after" in result.stdout and counts(result.stdout)[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(pool_run, recorded, fifo, signum):
    with writing(fifo, recorded.read_bytes(), hold=threading.Event()):
        flags = [f"--run={pool_run}", f"--video={fifo}", "--live", "--stall_secs=600", *WINDOW]
        process = warm.start_module("pipelines.predict", *flags)
        deadline = time.monotonic() + 120
        while not re.search(r"^ +\d+\.\d s  ", process.stdout, re.MULTILINE) and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = child_pids(process.pid)
        process.send_signal(signum)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Stopped after" in output and "Traceback" not in errors
    assert workers and not any(map(is_running, workers))


def test_streams_are_refused_without_live(fifo):
    for name in (fifo, "-", "http://localhost/a.ts"):
        result = warm.run_module("pipelines.predict", "--run=/nowhere", f"--video={name}")
        assert result.returncode == 2
        assert "To predict a stream, in the command `predict`: --live\n" in result.stderr


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--video=rtsp://cam/1"],
            r"ffmpeg -i rtsp://cam/1 -an -c copy -f mpegts - \| .*predict --live --video=-",
        ),
        (["--video=/dev/zero", "--output=x"], "--live stores nothing"),
        (["--video=setup.cfg"], "a file or a folder. To predict recorded videos: --nolive"),
        ([], "Pass --video=<a stream"),
    ],
)
def test_a_mistake_ends_before_the_model_is_loaded(flags, message):
    result = warm.run_module("pipelines.predict", "--run=/nowhere", "--live", *flags)
    assert result.returncode == 2 and re.search(message, result.stderr), result.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_line_that_is_rewritten(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "12")
    terminal.rewrite("one\x1b[31m")
    terminal.rewrite("動作動作動作")
    terminal.say("")
    assert screen.getvalue() == "\rone\\x1b[31m\x1b[K\r動作動作動\x1b[K\n"
