"""Prediction as users run it."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image
from scipy import special

from tests import warm
from tests.conftest import child_pids, run_module, write_numbered_video
from tests.inference.test_selection import make_held_out
from tests.untrained import replace_predictions
from ucf50_tfrecord.specs import printable


def test_folders_of_good_and_bad_videos(tmp_path, videos_dir, pool_run):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    results = run_dir / "predictions"
    results.mkdir()
    for name in ("07-of-before.png", "08-by-path.png", "mine.png"):
        (results / name).touch()
    listed = ("07-of-before.png", "mine.png", "/elsewhere/08-by-path.png", "../config.json")
    earlier = {"videos": [*({"timeline": name} for name in listed), {"error": "none"}]}
    (results / "predictions.json").write_text(json.dumps(earlier))
    source = videos_dir / "Left" / "v_Left_g01_c01.avi"
    videos = tmp_path / "Left, and more"
    shutil.copytree(videos_dir / "Right", videos / "Right")
    shutil.copy(source, os.fsencode(videos) + b"/na\xefve.avi")
    (videos / "cut.avi").write_bytes(source.read_bytes()[:700])
    (videos / "notes.txt").write_text("no video")
    write_numbered_video(videos / "long.mkv", 250)
    flags = [f"--video={videos}", f"--run={run_dir}", "--top=2", "--json"]
    result = warm.run_module("pipelines.predict", *flags)
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert document == json.loads((results / "predictions.json").read_text())
    kept = ["08-by-path.png", "12-long.png", "mine.png", "predictions.json"]
    assert sorted(path.name for path in results.iterdir()) == [".ucf50-tfrecord", *kept]
    assert (run_dir / "config.json").exists()
    found = {os.path.basename(video["path"]): video for video in document["videos"]}
    assert len(found) == 13
    # Each of them, and nothing else, is found.
    cut, long, naive = (found.pop(name) for name in ("cut.avi", "long.mkv", "na\udcefve.avi"))
    assert found.keys() == {path.name for path in (videos_dir / "Right").iterdir()}
    assert cut["cause"] == "contents" and cut["error"]
    assert f"not predicted: {videos}/cut.avi: {cut['error']}" in result.stderr
    assert "ignored, no videos: notes.txt" in result.stderr
    # 10 s is longer than any of the run's videos, which last about one.
    assert len(long["windows"]) > 10
    with Image.open(results / long["timeline"]) as picture:
        assert picture.width == 1440
    for video in (long, naive, *found.values()):
        assert len(video["top"]) == 2 and len(video["probabilities"]) == 3
        assert sum(video["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert video is long or ("timeline" not in video and len(video["windows"]) == 1)
    num_right = sum(video["top"][0]["class"] == "Right" for video in found.values())
    assert f"Right about {num_right} of the 10 videos" in result.stderr
    check_document(document)
    check_table(result.stderr, {video["path"]: video for video in (long, naive, *found.values())})


def check_document(document):
    """It says what its numbers depend on."""
    assert document["run"]["weights"] == "last" and document["clip_format"]["num_frames"] == 5
    assert document["calibration"]["temperature"] == 1.0
    assert document["calibration"]["reason"] == "there are 12 held-out clips, and 30 are needed"
    assert {"python", "tensorflow", "keras", "numpy", "av"} <= document["versions"].keys()
    assert "libavcodec" in document["decoder"] and document["code"]["version"]
    assert document["classes"] == ["Left", "Middle", "Right"]


def check_table(text, videos):
    """Two lines a video, 79 columns wide, with the document's classes and probabilities."""
    lines = text.splitlines()
    rows = [line for line in lines if re.search(r" (Left|Middle|Right) +\d\.\d{3}$", line)]
    assert {len(row) for row in rows} == {79} and len(rows) == 2 * len(videos)
    for (first, second), (path, video) in zip(zip(rows[::2], rows[1::2]), sorted(videos.items())):
        assert printable(path).endswith(first[:40].strip().removeprefix("…"))
        assert second.startswith(f"  {video['secs']:.1f} s")
        shown = [(row.split()[-2], float(row.split()[-1])) for row in (first, second)]
        assert shown == [(top["class"], round(top["probability"], 3)) for top in video["top"]]


def test_a_mistake_ends_with_one_clear_message():
    result = run_module("pipelines.predict", "--video=/nowhere.avi,", "--run=/nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: There is no video or folder /nowhere.avi\n"


def test_an_interruption_ends_it_and_its_workers(tmp_path, pool_run, videos_dir):
    (tmp_path / "videos").mkdir()
    for number in range(3000):
        (tmp_path / "videos" / f"{number}.avi").symlink_to(videos_dir / "Left" / "v_Left_g01_c01.avi")
    flags = [f"--video={tmp_path / 'videos'}", f"--run={pool_run}", f"--output={tmp_path / 'found'}"]
    process = warm.start_module("pipelines.predict", *flags, env=os.environ | {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 120
    while f"\n  {22 / 25:.1f} s" not in process.stdout and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = child_pids(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    assert workers and not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    assert not list(tmp_path.glob("ucf50-frames-*")) and os.listdir(tmp_path / "found") == [".ucf50-tfrecord"]


def predict_answers(run_dir, videos, *flags):
    """Predicts videos; returns predictions.json, all printed lines, and the entries of the videos by their names."""
    result = warm.run_module("pipelines.predict", f"--video={videos}", f"--run={run_dir}", "--json", *flags)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    return document, result.stderr.splitlines(), {os.path.basename(v["path"]): v for v in document["videos"]}


@pytest.fixture
def answering_run(pool_run, tmp_path):
    """A run whose stored predictions, of 40 groups, are right where they are confident."""
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    held_out = make_held_out()
    replace_predictions(run_dir, held_out.logits, held_out.labels, held_out.units)
    return run_dir


def test_doubtful_videos_get_no_answer_and_the_reason(answering_run, videos_dir, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(videos_dir / "Right", videos / "Right")
    write_numbered_video(videos / "long.mkv", 250)
    document, lines, found = predict_answers(answering_run, videos, "--max_error=0.2", "--top=2")
    rules = document["answers"]
    threshold, energy = rules["selection"]["threshold"], rules["known"]["threshold"]
    assert (rules["num_clips"], rules["num_groups"], rules["max_error"]) == (1000, 40, 0.2)
    assert 0 < rules["selection"]["error"] < 0.2 < rules["selection"]["coverage"]["value"] < 1
    assert 0 < rules["augrc"]["value"] < rules["aurc"]["value"] < 0.5
    for video in found.values():
        logits = np.array([row for window in video["windows"] for row in window["logits"]])
        assert video["unknown_score"] == pytest.approx(-special.logsumexp(logits, axis=1).mean(), abs=1e-5)
        assert video["confident"] == (max(video["probabilities"]) >= threshold)
        assert video["known"] == (video["unknown_score"] <= energy)
        assert "the threshold for at most 20% errors" in video["confident_reason"]
        assert ("the threshold rests on single clips" in video["known_reason"]) == (len(video["windows"]) > 1)
    doubtful = [video for video in found.values() if not video["confident"]]
    assert sum("NO ANSWER. Most probable:" in line for line in lines) == len(doubtful)
    text = " ".join(line.strip() for line in lines)
    for video in doubtful:
        reason = video["confident_reason"]
        assert f" {reason[0].upper()}{reason[1:]}." in text
    num_answered = len(found) - len(doubtful)
    assert f"Answered {num_answered} of {len(found)} videos" in text
    assert f"Answers: at a confidence of {threshold:.3f} or more, for at most 0.2 wrong." in text
    assert f"it answers {rules['selection']['coverage']['value']:.3f} [" in text


def test_a_run_with_few_groups_answers_nothing(pool_run, videos_dir, tmp_path):
    flags = ["--max_error=0.1", f"--output={tmp_path / 'found'}"]
    document, lines, found = predict_answers(pool_run, videos_dir / "Right", *flags)
    assert document["answers"]["selection"]["threshold"] is None
    assert {video["confident"] for video in found.values()} == {False}
    text = " ".join(line.strip() for line in lines)
    assert (
        "Answers: none; no threshold is known to keep errors at or below 10%: 12 held-out clips of 2 groups are too few "
        "to show it."
    ) in text
    assert "Answered 0 of 10 videos." in text


def test_without_a_limit_or_predictions_nothing_is_judged(pool_run, videos_dir, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    (run_dir / "predictions.jsonl").unlink()
    document, lines, found = predict_answers(run_dir, videos_dir / "Right" / "v_Right_g01_c01.avi")
    [video] = found.values()
    assert (video["confident"], video["confident_reason"]) == (None, "no limit on errors was requested")
    assert (video["known"], video["known_reason"]) == (None, "the run holds no predictions.jsonl")
    assert document["answers"]["selection"] is None
    assert not any("NO ANSWER" in line or "Answered" in line for line in lines)
    assert "Unknown classes: not judged; the run holds no predictions.jsonl." in lines


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan"])
def test_a_wrong_limit_on_errors_ends_it(pool_run, videos_dir, tmp_path, value):
    video, output = videos_dir / "Right" / "v_Right_g01_c01.avi", tmp_path / "found"
    flags = [f"--video={video}", f"--run={pool_run}", f"--output={output}", f"--max_error={value}"]
    result = warm.run_module("pipelines.predict", *flags)
    assert (result.returncode, result.stdout) == (2, "") and not output.exists()
    said = result.stderr.splitlines()[-1]
    assert said == f"error: Expected max_error above 0, to below 1. Received: max_error={float(value)}"
