import re
import shutil

import pytest

from tests.conftest import run_module
from ucf50_tfrecord import manifest


@pytest.mark.parametrize(
    "folder, name",
    [
        ("/data/UCF50/", "ucf50"),
        ("/data/my set (2)", "my_set_2"),
        ("/data/50-classes", "videos_50_classes"),
        ("/data/日本", "videos"),
    ],
)
def test_a_dataset_is_named_after_its_folder(folder, name):
    assert manifest.default_name(folder) == name


def test_it_converts_then_has_nothing_to_do_then_refuses_another_format(videos_dir, tmp_path):
    command = [
        "pipelines.convert",
        f"--videos={videos_dir}",
        f"--data={tmp_path / 'set'}",
        "--size=16x24",
        "--frames=5",
    ]
    first = run_module(*command)
    assert first.returncode == 0, first.stderr
    assert "Converting 30 of 30 videos" in first.stdout
    assert "30 videos, 30 clips, 0 quarantined, 3 classes, folds 1-5, 5 shards" in first.stdout
    assert re.search(r"; \d+\.\d videos/s\)", first.stdout)
    second = run_module(*command)
    assert (
        second.returncode == 0 and "nothing to convert" in second.stdout and "Converting" not in second.stdout
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    other = run_module(*command[:-2], "--size=24x16", "--frames=6")
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert (
        "holds shards of another format: --size is 24x16, but the shards have 16x24; --frames is 6, but the shards have 5"
        in other.stderr
    )
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}


def test_quarantined_videos_and_strays_are_named(videos_dir, tmp_path):
    videos = shutil.copytree(videos_dir, tmp_path / "videos")
    (videos / "Left" / "broken.avi").write_bytes(b"x")
    (videos / "readme.txt").write_bytes(b"x")
    command = ["pipelines.convert", f"--videos={videos}", f"--data={tmp_path / 'set'}"]
    refused = run_module(*command)
    assert refused.returncode == 2
    assert "1 of 31 videos gave no clip, more than the fraction --max_quarantined=0.01" in refused.stderr
    result = run_module(*command, "--max_quarantined=0.05")
    assert result.returncode == 0 and "nothing to convert" in result.stdout, result.stderr
    assert "31 videos, 30 clips, 1 quarantined" in result.stdout
    assert "quarantined: Left/broken.avi: InvalidDataError" in result.stderr
    assert "warning: 1 files and folders ignored, no videos: readme.txt" in result.stderr


def test_a_group_of_too_many_digits_is_refused_before_anything_is_written(videos_dir, tmp_path):
    videos = shutil.copytree(videos_dir, tmp_path / "videos")
    (videos / "Left" / "v_Left_g01_c01.avi").rename(videos / "Left" / f"v_Left_g{'1' * 23}_c01.avi")
    result = run_module("pipelines.convert", f"--videos={videos}", f"--data={tmp_path / 'set'}")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "Expected a recording group of at most 9999 in the file name of the video " in result.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "Pass --videos="),
        (["--videos=nowhere"], "Cannot read the videos' folder nowhere"),
        (["--videos={videos}", "--size=big"], "Expected a size such as 64 or 112x96 .* Received: size='big'"),
        (["--videos={videos}", "--frames=0"], "Expected 1 to 10000 frames per clip. Received: num_frames=0"),
        (["--videos={videos}", "--workers=0"], "Expected at least 1 worker"),
        (["--videos={videos}", "--video_timeout_secs=inf"], "Expected timeout_secs above 0, to 1000000"),
        (["--videos={videos}", "--video_memory_mib=3"], "Expected memory_mib from 16 to 1048576"),
        (["--videos={videos}", "--jpeg_quality=80"], "Expected an encoding with jpeg if there is"),
        (["--videos={videos}", "--clips_per_video=0"], "Expected clips_per_video from 1 to 1000"),
        (["--videos={videos}", "--name=Ä"], "Expected a name of letters"),
        (["--videos={videos}", "--fold_by=actor"], "flag --fold_by=actor"),
        (["--videos={videos}", "--sizes=3"], "Unknown command line flag 'sizes'"),
        (["--videos={videos}", "stray"], r"Expected flags only. Received: arguments=\['stray'\]"),
    ],
)
def test_a_mistake_ends_with_one_clear_message(videos_dir, tmp_path, flags, message):
    result = run_module(
        "pipelines.convert", f"--data={tmp_path / 'set'}", *(flag.format(videos=videos_dir) for flag in flags)
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert re.search(message, result.stdout + result.stderr)
    assert not (tmp_path / "set").exists()
