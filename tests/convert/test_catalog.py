import hashlib
import os

import pytest

from tests.conftest import CLASSES, raises_with_remedies
from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.errors import UserError


def make_files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_ucf_names_give_class_and_group(videos_dir):
    found = catalog.find_videos(videos_dir)
    assert found.classes == CLASSES and len(found.videos) == 30 and found.warnings == ()
    video = found.videos[0]
    assert (video.video_id, video.group, video.label) == ("Left/v_Left_g01_c01", 1, 0)
    assert video.relative_path == "Left/v_Left_g01_c01.avi"
    assert video.num_bytes == (videos_dir / video.relative_path).stat().st_size


def test_other_names_have_no_group(tmp_path):
    make_files(tmp_path, "b/x.mp4", "a/y_g1.MKV", "a/deep/er/z.webm")
    found = catalog.find_videos(tmp_path)
    assert [(v.video_id, v.group, v.label) for v in found.videos] == [
        ("a/deep/er/z", None, 0),
        ("a/y_g1", None, 0),
        ("b/x", None, 1),
    ]


@pytest.mark.parametrize("group", ["10000", "1" * 23])
def test_a_group_beyond_the_largest_fold_is_an_error_that_names_the_video(tmp_path, group):
    make_files(tmp_path, "a/v_a_g9999_c01.avi", f"b/v_b_g{group}_c01.avi")
    with pytest.raises(UserError) as raised:
        catalog.find_videos(tmp_path)
    assert str(raised.value) == (
        f"Expected a recording group of at most 9999 in the file name of the video {tmp_path}/b/v_b_g{group}_c01.avi. "
        f"Received: group={group}"
    )
    (tmp_path / "b" / f"v_b_g{group}_c01.avi").rename(tmp_path / "b" / "v_b_g00000_c01.avi")
    assert [video.group for video in catalog.find_videos(tmp_path).videos] == [9999, 0]


def test_labels_are_the_sorted_names_whatever_the_file_system_says(tmp_path, monkeypatch):
    make_files(tmp_path, "B/1.avi", "a/1.avi", "C/2.avi", "C/1.avi")
    expected = catalog.find_videos(tmp_path)
    assert expected.classes == ("B", "C", "a")
    walk = os.walk

    def backwards(*args, **kwargs):
        return ((folder, dirs, files[::-1]) for folder, dirs, files in walk(*args, **kwargs))

    monkeypatch.setattr(os, "walk", backwards)
    assert catalog.find_videos(tmp_path) == expected


def test_strays_are_counted_and_hidden_files_ignored(tmp_path):
    make_files(tmp_path, "a/1.avi", "a/readme.txt", "a/.DS_Store", ".hidden/1.avi", "list.csv", "b/2.avi")
    found = catalog.find_videos(tmp_path)
    assert len(found.videos) == 2 and found.classes == ("a", "b")
    assert found.warnings == ("2 files and folders ignored, no videos: list.csv, a/readme.txt",)


def test_an_empty_class_is_an_error_unless_skipped(tmp_path):
    make_files(tmp_path, "a/1.avi", "b/2.avi")
    (tmp_path / "empty").mkdir()
    with raises_with_remedies("1 class folders of .* hold no video: empty.*--skip_empty_classes"):
        catalog.find_videos(tmp_path)
    found = catalog.find_videos(tmp_path, skip_empty_classes=True)
    assert found.classes == ("a", "b") and "1 empty class folders left out: empty" in found.warnings[0]


def test_two_files_of_one_id_are_an_error_that_names_both(tmp_path):
    make_files(tmp_path, "a/1.avi", "a/1.mp4", "b/1.avi")
    with pytest.raises(UserError, match="1 video ids belong to more than one file: a/1.avi and a/1.mp4"):
        catalog.find_videos(tmp_path)


@pytest.mark.parametrize(
    "names, found",
    [([], "no videos"), (["1.avi", "2.avi"], "2 videos outside class folders"), (["a/1.txt"], "no videos")],
)
def test_a_folder_of_another_layout_is_explained(tmp_path, names, found):
    make_files(tmp_path, *names)
    with pytest.raises(UserError, match=f"to hold one folder per class.*found {found}"):
        catalog.find_videos(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="Cannot read the videos' folder .*nowhere: No such file"):
        catalog.find_videos(tmp_path / "nowhere")


def test_linked_class_folders_count_and_loops_do_not_hang(tmp_path):
    make_files(tmp_path / "elsewhere", "1.avi")
    root = make_files(tmp_path / "root", "b/2.avi")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "loop").symlink_to(root / "b")
    found = catalog.find_videos(root)
    assert [v.video_id for v in found.videos] == ["a/1", "b/2"]
    assert "b/loop" in found.warnings[0]


def test_links_to_nowhere_and_pipes_are_passed_over(tmp_path):
    make_files(tmp_path, "a/1.avi", "b/1.avi")
    (tmp_path / "a" / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    os.mkfifo(tmp_path / "b" / "pipe.avi")
    found = catalog.find_videos(tmp_path)
    assert [v.video_id for v in found.videos] == ["a/1", "b/1"]
    assert found.warnings == ("2 files and folders ignored, no videos: a/gone.avi, b/pipe.avi",)


def test_hidden_links_are_ignored_like_other_hidden_entries(tmp_path):
    make_files(tmp_path, "a/1.avi", "b/1.avi", "elsewhere.txt")
    for name in (".folder", "a/.folder", "a/.file.avi", "a/.gone"):
        target = {".folder": "b", ".file.avi": "b/1.avi", ".gone": "nowhere"}[name.rpartition("/")[2]]
        (tmp_path / name).symlink_to(tmp_path / target)
    found = catalog.find_videos(tmp_path)
    assert [v.video_id for v in found.videos] == ["a/1", "b/1"]
    assert found.warnings == ("1 files and folders ignored, no videos: elsewhere.txt",)


def test_checksums_are_those_of_the_contents(tmp_path):
    make_files(tmp_path, "a/1.avi", "b/1.avi")
    assert {v.sha256 for v in catalog.find_videos(tmp_path).videos} == {None}
    found = catalog.find_videos(tmp_path, checksum=True)
    assert {v.sha256 for v in found.videos} == {hashlib.sha256(b"x").hexdigest()}


def test_one_class_is_too_few(tmp_path):
    make_files(tmp_path, "a/1.avi")
    with pytest.raises(UserError, match="at least 2 class folders with videos in .*; found only a"):
        catalog.find_videos(tmp_path)
