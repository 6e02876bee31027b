"""The command that tells whether a stream has drifted, on runs of random weights."""

import json
import shutil

import numpy as np
import pytest

from tests.warm import run_module


@pytest.fixture
def run_dir(pool_run, tmp_path):
    return shutil.copytree(pool_run, tmp_path / "pool")


def command(run_dir, *flags):
    return run_module("pipelines.monitor", f"--run={run_dir}", *flags)


def test_videos_and_their_predictions_give_the_same_results(run_dir, videos_dir, tmp_path):
    stream = shutil.copytree(videos_dir / "Left", tmp_path / "stream")
    (stream / "broken.avi").write_bytes(b"RIFF")
    result = run_module("pipelines.predict", f"--run={run_dir}", f"--video={stream}")
    assert result.returncode == 1, result.stderr
    flags = ["--by=batch", "--batch_videos=6", f"--prometheus={tmp_path / 'drift.prom'}"]
    seen = command(run_dir, f"--video={stream}", *flags)
    # 6 recordings are too few for a test, so nothing has drifted; the broken video does not stop it.
    assert seen.returncode == 0, seen.stderr
    assert f"not predicted: {stream}/broken.avi" in seen.stderr
    assert "nothing is tested" in " ".join(seen.stdout.split())
    folder = run_dir / "monitor"
    found = json.loads((folder / "monitor.json").read_text())
    assert [(batch["videos"], batch["failed"]) for batch in found["batches"]] == [(5, 1), (5, 0)]
    names = {path.name for path in folder.iterdir()}
    assert {
        "monitor.html",
        "monitor.md",
        "figures",
        "tensorboard",
        "monitor.json",
        ".ucf50-tfrecord",
    } <= names
    assert "ucf50_monitor_drift{" in (tmp_path / "drift.prom").read_text()
    again = command(run_dir, f"--predictions={run_dir / 'predictions' / 'predictions.json'}", *flags)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "monitor.json").read_text()) == found
    by_day = command(run_dir, f"--predictions={run_dir / 'predictions' / 'predictions.json'}", "--by=day")
    assert by_day.returncode == 0, by_day.stderr


def write_held_out(run_dir, num_groups):
    """Replaces a run's predictions by those of made-up clips, which are in no shard."""
    rng = np.random.default_rng(0)
    lines = [
        {
            "clip_id": f"Left/v_Left_g{group:02d}_c{clip:02d}",
            "perturbation": "none",
            "fold": 1,
            "group": group,
            "label": 0,
            "logits": rng.normal(size=3).round(6).tolist(),
        }
        for group in range(num_groups)
        for clip in range(3)
    ]
    (run_dir / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_predictions(run_dir, path, videos):
    config = json.loads((run_dir / "config.json").read_text())
    typical, longest = config["video_secs"]
    document = {
        "run": {"fingerprint": config["fingerprint"], "model": config["model"]["name"], "weights": "last"}
        | {"seed": config["train"]["seed"]},
        "classes": config["classes"],
        "windows": {"whole_secs": longest, "window_secs": typical, "stride_secs": typical / 2},
        "calibration": {"temperature": 1.0},
        "videos": videos,
    }
    path.write_text(json.dumps(document))


def test_drift_has_an_exit_status_of_its_own(run_dir, tmp_path):
    write_held_out(run_dir, 30)
    path = tmp_path / "predictions.json"
    videos = [{"path": f"{number}.avi", "probabilities": [0.01, 0.01, 0.98]} for number in range(60)]
    write_predictions(run_dir, path, videos)
    output = tmp_path / "out"
    result = command(run_dir, f"--predictions={path}", f"--output={output}")
    assert result.returncode == 3, result.stderr
    text = " ".join(result.stdout.split())
    assert "60 videos: drift: softmax, classes, confidence" in text
    assert "left out, because those of the run's clips are unknown" in text
    found = json.loads((output / "monitor.json").read_text())
    assert found["drift"] and set(found["batches"][0]["tests"]) == {"softmax", "classes", "confidence"}
    assert not (run_dir / "monitor").exists() and not (run_dir / "monitor_reference.json").exists()


def test_mistakes_are_explained_and_write_nothing(run_dir, tmp_path):
    path = tmp_path / "predictions.json"
    write_predictions(run_dir, path, [{"path": "a.avi", "probabilities": [2, 0, 0]}])
    for flags, message in (
        ([], "either --video"),
        (["--video=x", f"--predictions={path}"], "either --video"),
        ([f"--predictions={path}"], "probabilities"),
        ([f"--predictions={tmp_path / 'none.json'}"], "none.json"),
    ):
        result = command(run_dir, *flags)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
        assert not (run_dir / "monitor" / "monitor.json").exists()
