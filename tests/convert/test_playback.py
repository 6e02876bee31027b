"""Clips that play backward hold the frames of those that play forward, in reverse order."""

import csv
import dataclasses

import numpy as np
import pytest

from tests.conftest import raises_with_remedies, run_module, write_numbered_video, write_video
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.choices import Playback, Spacing
from ucf50_tfrecord.convert import decode, lists
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.jobs import Segment
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=7, height=16, width=24)


@pytest.mark.parametrize(
    "changes", [{}, {"clips_per_video": 3}, {"spacing": Spacing.TIME}, {"num_frames": 1}]
)
@pytest.mark.parametrize("segment", [None, Segment(start_us=400_000, end_us=1_630_000)])
def test_both_directions_have_the_same_frames(tmp_path, changes, segment):
    path = tmp_path / "numbered.mkv"
    write_numbered_video(path, 50)
    clip_format = dataclasses.replace(FORMAT, **changes)
    forward = decode.decode_file(path, clip_format, segment)
    backward = decode.decode_file(path, clip_format, segment, Playback.BACKWARD)
    assert len(forward) == len(backward) == clip_format.clips_per_video
    for clip, reverse in zip(forward, backward):
        np.testing.assert_array_equal(reverse.frames, clip.frames[::-1])
        assert reverse.frame_indices.tolist() == clip.frame_indices.tolist()[::-1]
        last = 49 if segment is None else 40  # the last frame before 1.63 s
        times = [40_000 * (last - index) for index in reverse.frame_indices.tolist()]
        assert reverse.timestamps_us.tolist() == times and times == sorted(times)
        assert reverse.end_us == clip.end_us


def test_neighbours_are_the_frames_played_next(tmp_path):
    path = tmp_path / "numbered.mkv"
    write_numbered_video(path, 50)
    clip_format = dataclasses.replace(FORMAT, motion_frames=2)
    segment = Segment(start_us=400_000, end_us=1_640_000)  # frames 10 to 40
    [clip] = decode.decode_file(path, clip_format, segment, Playback.BACKWARD)
    shown = clip.frames[:, 0, 0, ::3].tolist()
    assert shown[0] == [40, 39, 38] and shown[1] == [35, 34, 33] and shown[-1] == [10, 10, 10]


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A folder of two classes of videos, and the list of both directions that the tool makes of it."""
    folder = tmp_path_factory.mktemp("listed")
    noise = np.random.default_rng(0)
    for name in ("a/v_a_g01_c01", "a/v_a_g02_c01", "b/v_b_g01_c01", "b/v_b_g03_c01"):
        frames = noise.integers(0, 255, (20, 32, 48, 3), dtype=np.uint8)
        write_video(folder / "videos" / f"{name}.avi", frames)
    result = run_module(
        "tools.list_directions", f"--videos={folder / 'videos'}", f"--list={folder / 'directions.csv'}"
    )
    assert result.returncode == 0, result.stderr
    assert "8 clips of 4 videos are listed in" in result.stdout
    return folder


def test_a_list_of_both_directions_gives_mirrored_clips_in_one_fold(listed, tmp_path):
    result = run_module(
        "pipelines.convert",
        f"--videos={listed / 'directions.csv'}",
        f"--data={tmp_path / 'data'}",
        "--size=16x24",
        "--frames=5",
    )
    assert result.returncode == 0, result.stderr
    made = manifest.load(tmp_path / "data")
    assert made.classes == ("backward", "forward") and made.folds == (1, 2, 3) and made.num_clips == 8
    clips, folds = {}, {}
    for path in sorted((tmp_path / "data").glob("*.tfrecord-*-of-?????")):
        for _, payload in tfrecord.read_file(path):
            decoded = record.decode(payload)
            clip_id = record.clip_id_and_labels(payload)[0]
            clips[clip_id], folds[clip_id] = decoded[record.VIDEO], decoded["fold"]
    for name in ("a/v_a_g01_c01", "a/v_a_g02_c01", "b/v_b_g01_c01", "b/v_b_g03_c01"):
        forward, backward = (f"{direction}/{name}" for direction in ("forward", "backward"))
        np.testing.assert_array_equal(clips[backward], clips[forward][::-1])
        assert not np.array_equal(clips[backward], clips[forward])
        assert folds[forward] == folds[backward]


def test_the_list_keeps_groups_folds_segments_and_files_elsewhere(tmp_path, listed):
    (tmp_path / "named.csv").write_text(
        "path,label,group,split,start,end,id\n"
        f"{listed}/videos/a/v_a_g01_c01.avi,x,hall,train,0.1,0.5,one\n"
        f"{listed}/videos/b/v_b_g01_c01.avi,y,yard,test,0.2,,two\n"
    )
    result = run_module(
        "tools.list_directions", f"--videos={tmp_path / 'named.csv'}", f"--list={tmp_path / 'both.csv'}"
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "both.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["label"]) for row in rows] == [
        ("x/one", "forward"),
        ("x/one", "backward"),
        ("y/two", "forward"),
        ("y/two", "backward"),
    ]
    before, after = (lists.find_videos(tmp_path / name) for name in ("named.csv", "both.csv"))
    for video in before.videos:
        copies = [copy for copy in after.videos if copy.video_id.endswith(video.video_id)]
        assert {copy.playback for copy in copies} == set(Playback)
        for copy in copies:
            for field in ("relative_path", "group", "fold", "segment"):
                assert getattr(copy, field) == getattr(video, field)
    assert (after.group_names, after.fold_names) == (before.group_names, before.fold_names)


def test_an_existing_list_stays(listed):
    result = run_module(
        "tools.list_directions", f"--videos={listed / 'videos'}", f"--list={listed / 'directions.csv'}"
    )
    assert result.returncode == 2 and "directions.csv exists already" in result.stderr


def test_another_direction_is_named_with_its_line(tmp_path):
    (tmp_path / "list.csv").write_text("path,label,playback\na.avi,x,reverse\n")
    with pytest.raises(UserError, match=r"line 2: .*\('forward', 'backward'\).*'reverse'"):
        lists.read_list(tmp_path / "list.csv")


def test_a_direction_listed_twice_is_named(tmp_path):
    text = "path,label,id,playback\na.avi,x,1,\nb.avi,y,2,\na.avi,x,3,forward\na.avi,y,4,backward\n"
    (tmp_path / "list.csv").write_text(text)
    for name in ("a.avi", "b.avi"):
        (tmp_path / name).touch()
    with raises_with_remedies("line 4: path: 'a.avi' is already in line 2"):
        lists.find_videos(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text(text.replace("a.avi,x,3,forward\n", ""))
    assert len(lists.find_videos(tmp_path / "list.csv").videos) == 3
