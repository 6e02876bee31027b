"""Evaluation of a run on another data set, as users run it."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.conftest import build, make_videos, real_folder
from tests.warm import run_module

NAMES = {"Left": "LEFT", "Middle": "mid_dle", "Right": "Up"}  # the other set's names of the class folders


@pytest.fixture(scope="module")
def others_dir(tmp_path_factory) -> pathlib.Path:
    """The folder of another set of videos: 10 clips of each class, 2 of which have other names, 1 is unknown."""
    return copy_videos(tmp_path_factory, {})


@pytest.fixture(scope="module")
def ungrouped_dir(tmp_path_factory) -> pathlib.Path:
    """The same videos, whose names tell no recording groups."""
    return copy_videos(tmp_path_factory, {"v_": "", "_g": "-"})


def copy_videos(tmp_path_factory, replaced: dict[str, str]) -> pathlib.Path:
    source, folder = (
        make_videos(tmp_path_factory.mktemp("made")),
        tmp_path_factory.mktemp("other") / "Other Set",
    )
    for path in source.glob("*/*.avi"):
        name = path.name
        for old, new in {path.parent.name: f"new{path.parent.name}", **replaced}.items():
            name = name.replace(old, new)
        (folder / NAMES[path.parent.name]).mkdir(parents=True, exist_ok=True)
        path.rename(folder / NAMES[path.parent.name] / name)
    return folder


@pytest.fixture
def run_dir(pool_run, tmp_path) -> pathlib.Path:
    return shutil.copytree(pool_run, tmp_path / "run")


def evaluate(run_dir, *flags, status=0):
    result = run_module("pipelines.evaluate", f"--run={run_dir}", *flags)
    assert result.returncode == status and "Traceback" not in result.stderr, result.stderr
    return result


def test_another_set_of_videos_is_converted_matched_and_scored(run_dir, others_dir, tmp_path):
    result = evaluate(run_dir, f"--videos={others_dir}", f"--data={tmp_path / 'others'}")
    assert "Converting 30 of 30 videos" in result.stdout
    shown = " ".join(result.stdout.split())
    assert "2 of its 3 classes are among the 3 classes of the run. They have 20 of the clips." in shown
    assert "Matched with another name: LEFT -> Left, mid_dle -> Middle." in result.stdout
    assert (
        "95% intervals are over 5 groups of this data set and 2 groups of the run's held-out clips." in shown
    )
    assert "Up" in result.stdout.partition("unknown class")[2] and "warning: " not in result.stderr
    folder = run_dir / "evaluation-last-on-others"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["num_clips"], summary["folds"], summary["weights"]) == (30, [1, 2, 3, 4, 5], "last")
    assert summary["class_map"] == {"LEFT": "Left", "mid_dle": "Middle", "Up": None}
    assert summary["num_clips_named_as_in_training"] == 0
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    shared = [line for line in lines if line["label"] is not None]
    assert len(lines) == 30 and len(shared) == summary["here"]["num_clips"] == 20
    assert summary["accuracy"] == pytest.approx(
        np.mean([line["predicted"] == line["label"] for line in shared])
    )
    own = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    right = [
        line["predicted"] == line["label"]
        for line in own
        if line["perturbation"] == "none" and line["class"] != "Right"
    ]
    assert summary["own"]["all_outputs"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert sum(summary["unknown_classes"][0]["predicted"].values()) == 10

    again = evaluate(run_dir, f"--data={tmp_path / 'others'}", "--folds=2-3", "--weights=best")
    assert "the run's own scores are left out" in again.stderr and "--weights=best" in again.stderr
    found = json.loads((run_dir / "evaluation-best-on-others" / "summary.json").read_text())
    assert found["own"] is None and found["num_clips"] == 12


def test_classes_are_mapped_by_a_file(run_dir, others_dir, tmp_path):
    data = f"--data={tmp_path / 'others'}"
    class_map = tmp_path / "map.csv"
    class_map.write_text("Up,Right\nLEFT,\n")
    result = evaluate(run_dir, f"--videos={others_dir}", data, f"--class_map={class_map}")
    assert "Matched with another name: Up -> Right, mid_dle -> Middle." in result.stdout
    class_map.write_text("Up,Wrong\n")
    result = evaluate(run_dir, data, f"--class_map={class_map}", status=2)
    assert "no classes of the run: 'Wrong'. Expected some of: 'Left', 'Middle', 'Right'" in result.stderr
    class_map.write_text("Down,Right\n")
    result = evaluate(run_dir, data, f"--class_map={class_map}", status=2)
    assert "no classes of the other data set: 'Down'" in result.stderr


def test_videos_without_groups_are_units_of_their_own(run_dir, ungrouped_dir, tmp_path):
    result = evaluate(run_dir, f"--videos={ungrouped_dir}", f"--data={tmp_path / 'others'}")
    shown = " ".join(result.stdout.split())
    assert "over 20 videos of this data set and 2 groups of the run's held-out clips." in shown
    assert "Not all names of its videos tell a recording group." in shown


def test_sets_that_share_no_class_are_refused_before_videos_are_converted(run_dir, others_dir, tmp_path):
    strange = shutil.copytree(others_dir, tmp_path / "strange")
    (strange / "LEFT").rename(strange / "Tai Chi")
    shutil.rmtree(strange / "mid_dle")
    result = evaluate(run_dir, f"--videos={strange}", f"--data={tmp_path / 'data'}", status=2)
    assert "Its classes: 'Tai Chi', 'Up'. The run's classes: 'Left', 'Middle', 'Right'" in result.stderr
    assert "--class_map=…" in result.stderr
    assert not (tmp_path / "data").exists() and not list(run_dir.glob("evaluation-*"))


def test_clips_that_may_be_training_clips_are_counted(run_dir, videos_dir, tmp_path):
    """With --videos, the run's own videos in another encoding are another data set, too."""
    data = f"--data={tmp_path / 'again'}"
    result = evaluate(run_dir, f"--videos={videos_dir}", data, "--encoding=png")
    assert "18 of 30 clips have the class and the name of a clip that the run was trained on" in result.stderr
    assert "To leave out the training folds: --folds=1-2" in result.stderr
    held_out = evaluate(run_dir, f"--videos={videos_dir}", data, "--encoding=png", "--folds=1-2")
    assert "warning: " not in held_out.stderr
    summary = json.loads((run_dir / "evaluation-last-on-again" / "summary.json").read_text())
    assert (
        summary["here"]["all_outputs"] == summary["own"]["all_outputs"]
    )  # the same pixels: PNG loses nothing


def test_data_of_the_same_videos_is_the_runs_own_set(run_dir, videos_dir, tmp_path):
    build(videos_dir, tmp_path / "png", encoding="png")
    result = evaluate(run_dir, f"--data={tmp_path / 'png'}")
    assert "holds other shards than those the run was trained on" in result.stderr
    assert json.loads((run_dir / "evaluation-last-1-2" / "summary.json").read_text())["num_clips"] == 12
    class_map = tmp_path / "map.json"
    class_map.write_text('{"Left": "Left"}')
    result = evaluate(run_dir, f"--class_map={class_map}", status=2)
    assert "no class_map for the run's own data set" in result.stderr


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--size=32"], "Expected clips of 5x16x24, as of the run"),
        (["--features=MobileNetV2"], "no flags of features, which follow from the run"),
        (["--class_map=nowhere.csv"], "Cannot read nowhere.csv"),
        (["--finalize"], "instead of --videos with --task_index or --finalize"),
    ],
)
def test_mistakes_are_explained_before_videos_are_converted(run_dir, others_dir, tmp_path, flags, message):
    result = evaluate(run_dir, f"--videos={others_dir}", f"--data={tmp_path / 'data'}", *flags, status=2)
    assert message in result.stderr and not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_run_of_six_classes_is_evaluated_on_real_clips_of_eight(tmp_path):
    source = real_folder("UCF50_VIDEOS")
    for number, folder in enumerate(sorted(source.iterdir())):
        for path in folder.glob("*.avi"):
            is_early = int(path.name.partition("_g")[2][:2]) < 14
            if number < 6 and is_early:
                target = tmp_path / "six" / folder.name
            elif number < 6:
                target = tmp_path / "others" / f"{folder.name[:3].lower()} {folder.name[3:].upper()}"
            else:
                target = tmp_path / "others" / folder.name
            target.mkdir(parents=True, exist_ok=True)
            (target / path.name).symlink_to(path)
    run_dir = tmp_path / "run"
    trained = run_module(
        "pipelines.train",
        f"--videos={tmp_path / 'six'}",
        f"--data={tmp_path / 'data'}",
        f"--run={run_dir}",
        "--size=32",
        "--frames=4",
        "--model=frame_pool",
        "--epochs=2",
    )
    assert trained.returncode == 0, trained.stderr
    evaluate(run_dir, f"--videos={tmp_path / 'others'}", f"--data={tmp_path / 'others-data'}")
    summary = json.loads((run_dir / "evaluation-last-on-others-data" / "summary.json").read_text())
    assert sum(name is None for name in summary["class_map"].values()) == 2
    assert len(summary["unknown_classes"]) == 2 and summary["here"]["unit"] == "groups"
    assert summary["here"]["num_clips"] + summary["unknown_classes"][0]["num_clips"] < summary["num_clips"]
