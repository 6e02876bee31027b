"""The commands on clips with motion frames."""

import json

import pytest

from tests.untrained import write_run
from tests.warm import run_module


@pytest.fixture(scope="module")
def motion_run(videos_dir, tmp_path_factory):
    """An untrained run of two_path on clips whose frames have one neighbour each."""
    folder = tmp_path_factory.mktemp("motion")
    made = run_module(
        "pipelines.convert",
        f"--videos={videos_dir}",
        f"--data={folder / 'data'}",
        *("--workers=1", "--size=16", "--frames=4", "--motion_frames=1"),
    )
    assert made.returncode == 0, made.stderr
    return write_run(folder / "run", folder / "data", name="two_path")


def test_an_export_takes_frames_with_their_neighbours(motion_run, tmp_path):
    result = run_module(
        "pipelines.export",
        f"--run={motion_run}",
        f"--output={tmp_path / 'out'}",
        "--formats=saved_model,tflite",
    )
    assert result.returncode == 0, result.stderr
    noted = json.loads((tmp_path / "out" / "export.json").read_text())
    assert noted["input"]["shape"] == [None, 4, 16, 16, 6]
    assert noted["export"]["own"]["num_other"] == 0 and noted["export"]["own"]["largest"] < 1e-4
    assert "np.zeros((1, 4, 16, 16, 6), np.uint8)" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_robustness_refuses_motion_frames(motion_run, tmp_path):
    result = run_module("pipelines.robustness", f"--run={motion_run}", f"--output={tmp_path / 'out'}")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "Expected clips without motion frames" in result.stderr and "motion_frames=1" in result.stderr
    assert not (tmp_path / "out").exists()
