"""The command that tests runs on corrupted clips, on a run of random weights."""

import json
import shutil

import pytest

from tests.warm import run_module

# The untrained model averages over frames, so the order of frames changes nothing.
NAMES = ("hue", "jumble", "frame_rate")


@pytest.fixture
def run_dir(pool_run, tmp_path):
    return shutil.copytree(pool_run, tmp_path / "pool")


def command(run_dir, *flags):
    return run_module("pipelines.robustness", f"--run={run_dir}", *flags)


def test_a_run_is_tested_and_a_second_test_reads_what_the_first_one_kept(run_dir, tmp_path):
    flags = [f"--corruptions={','.join(NAMES)}", f"--recoded={tmp_path / 'kept'}"]
    result = command(run_dir, *flags)
    assert result.returncode == 0, result.stderr
    folder = run_dir / "robustness-last-1-2"
    found = json.loads((folder / "robustness.json").read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert found["plain"][0] == pytest.approx(summary["accuracy"]) and found["num_clips"] == 12
    assert set(found["corruptions"]) == set(NAMES) and set(found["families"]) == {
        "spatial",
        "temporal",
        "codec",
    }
    assert found["corruptions"]["jumble"]["mean"]["accuracy"] == found["plain"]
    pages = {name: (folder / name).read_bytes() for name in ("robustness.html", "robustness.md")}
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert {"heat_map_pool.png", "curves.png", *(f"clip_{name}.png" for name in NAMES)} == pictures
    kept = {path: path.stat().st_mtime_ns for path in (folder / "predictions").iterdir()}
    assert {path.stem for path in kept} == set(NAMES)
    # As after a test that was stopped before its last corruption.
    lost = folder / "predictions" / "hue.json"
    content = lost.read_bytes()
    lost.unlink()
    assert command(run_dir, *flags).returncode == 0
    assert lost.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path != lost)
    assert pages == {name: (folder / name).read_bytes() for name in pages}
    lost.write_text(content.decode().replace("[[", "[[99, ", 1))
    result = command(run_dir, *flags)
    assert result.returncode == 2 and "hue.json" in result.stderr and "Traceback" not in result.stderr


def test_several_runs_get_one_report(pool_run, tmp_path):
    runs = [str(shutil.copytree(pool_run, tmp_path / name)) for name in ("one", "other")]
    output = tmp_path / "joint"
    result = run_module(
        "pipelines.robustness", f"--runs={','.join(runs)}", "--corruptions=grey,stride", f"--output={output}"
    )
    assert result.returncode == 0, result.stderr
    text = (output / "robustness.md").read_text()
    assert "Robustness of one, other" in text and "other: all corruptions" in text
    assert (tmp_path / "one" / "robustness-last-1-2" / "robustness.html").is_file()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--corruptions=snow"], "Received: snow"),
        (["--corruptions=codec", "--videos=/nowhere"], "no folder /nowhere of videos"),
        (["--folds=77"], "folds out of 1-5"),
    ],
)
def test_mistakes_are_explained(run_dir, flags, message):
    result = command(run_dir, *flags)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (run_dir / "robustness-last-1-2" / "robustness.json").exists()
