"""Official splits: the publishers' files become folds, and malformed files are errors that name the line."""

import json
import shutil

import pytest

from tests.conftest import CLASSES, raises_with_remedies, run_module
from tests.convert.test_plan import make_plan
from ucf50_tfrecord import manifest
from ucf50_tfrecord.convert import lists, official_splits
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import FoldRule, parse_folds, to_json

TRAIN = "x/v_x_g08_c01.avi 1\r\ny/v_y_g08_c01.avi 2\r\n"
TEST = "x/v_x_g01_c01.avi\r\ny/v_y_g01_c01.avi\r\n"
FOLDS = {"x/v_x_g01_c01": 2, "x/v_x_g08_c01": 1, "y/v_y_g01_c01": 2, "y/v_y_g08_c01": 1}


def write_ucf(folder, train=TRAIN, test=TEST, split=1):
    """Writes the files of a split as UCF101 has them."""
    folder.mkdir(exist_ok=True)
    (folder / "classInd.txt").write_text("1 x\n2 y\n")
    (folder / f"trainlist0{split}.txt").write_text(train)
    (folder / f"testlist0{split}.txt").write_text(test)
    return folder


def write_hmdb(folder, split=1, **classes):
    """Writes the files of a split as HMDB51 has them, by class."""
    folder.mkdir(exist_ok=True)
    for name, text in classes.items():
        (folder / f"{name}_test_split{split}.txt").write_text(text)
    return folder


@pytest.fixture
def videos(tmp_path):
    for name in (*FOLDS, "x/v_x_g09_c01", "z/v_z_g01_c01"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / f"{name}.avi").touch()
    shutil.rmtree(tmp_path / "videos" / "z")
    return tmp_path / "videos"


def find(videos, folder, split=1, **options):
    return lists.find_videos(videos, rule=FoldRule(split_files=str(folder), official_split=split), **options)


def folds_of(found):
    return {video.video_id: video.fold for video in found.videos}


def test_the_split_of_ucf101_becomes_folds_with_names(tmp_path, videos):
    found = find(videos, write_ucf(tmp_path / "splits"))
    assert folds_of(found) == FOLDS and found.classes == ("x", "y")
    assert [(named.number, named.name) for named in found.fold_names] == [(1, "train"), (2, "test")]
    assert [video.group for video in found.videos] == [1, 8, 1, 8]
    assert found.warnings == ("1 of 5 videos are not in the split and left out: x/v_x_g09_c01.avi",)


def test_the_split_of_hmdb51_leaves_out_videos_of_use_0(tmp_path, videos):
    (videos / "y" / "#20_(a)&b!.avi").touch()
    x = "v_x_g08_c01.avi 1 \nv_x_g01_c01.avi 2 \nv_x_g09_c01.avi 0 \n"
    y = "#20_(a)&b!.avi 1\nv_y_g01_c01.avi 2\nv_y_g08_c01.avi 1\n"
    found = find(videos, write_hmdb(tmp_path / "splits", x=x, y=y))
    assert folds_of(found) == FOLDS | {"y/#20_(a)&b!": 1}
    assert found.warnings == ("1 of 6 videos are not in the split and left out: x/v_x_g09_c01.avi",)


def test_the_number_chooses_the_split(tmp_path, videos):
    folder = write_ucf(tmp_path / "splits")
    write_ucf(folder, TEST, TRAIN, split=3)
    assert folds_of(find(videos, folder, split=3)) == {name: 3 - fold for name, fold in FOLDS.items()}
    with pytest.raises(
        UserError, match=r"Expected trainlist02.txt and testlist02.txt \(UCF101\), or <class>_"
    ):
        find(videos, folder, split=2)


def test_a_split_gives_the_shards_of_a_list_that_says_the_same(tmp_path, videos):
    rows = [f"{name}.avi,{name[0]},{('train', 'test')[fold - 1]}\n" for name, fold in FOLDS.items()]
    (videos / "list.csv").write_text("path,label,split\n" + "".join(rows))
    listed = lists.find_videos(videos / "list.csv")
    found = find(videos, write_ucf(tmp_path / "splits"))
    assert found.videos == listed.videos and make_plan(found).jobs == make_plan(listed).jobs
    assert make_plan(found).fold_names == make_plan(listed).fold_names != ()


def test_class_folders_that_a_split_does_not_name_are_a_warning(tmp_path, videos):
    (videos / "z").mkdir()
    (videos / "z" / "1.avi").touch()
    _, warning = find(videos, write_ucf(tmp_path / "splits")).warnings
    assert warning == "The split has no video of 1 class folders: z"


def test_a_missing_video_is_an_error_or_left_out(tmp_path, videos):
    (videos / "x" / "v_x_g08_c01.avi").rename(videos / "x" / "other.avi")
    (videos / "x" / "v_x_g09_c01.avi").unlink()
    folder = write_ucf(tmp_path / "splits")
    message = (
        "splits has a mistake. trainlist01.txt, line 1: path: The video 'x/v_x_g08_c01.avi' does not exist"
    )
    with raises_with_remedies(f"{message}.*--skip_missing_videos"):
        find(videos, folder)
    left_out, missing = find(videos, folder, skip_missing=True).warnings
    assert left_out.endswith("left out: x/other.avi")
    assert missing == "1 videos do not exist and are left out: x/v_x_g08_c01.avi"


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.avi", "Expected <class>/<video>. Received: 'a.avi'"),
        ("/etc/a.avi", "Expected <class>/<video>"),
        ("../a.avi", "Expected <class>/<video>"),
        ("x/../../a.avi", "Expected <class>/<video>"),
        ("x/.a.avi", "Expected <class>/<video>"),
        ("x/a.avi 1 2", "Expected the name of a video. Received: 'a.avi 1'"),
        ("x/a.txt 1", "Expected the name of a video"),
        ("x/a\x1b.avi", r"Received: 'x/a\\\\x1b.avi'"),
        ("x/" + "a" * 300 + ".avi", "Expected <class>/<video>"),
        ("x/" + " " * 10_000 + "a.avi", "Expected <class>/<video>"),
        ("x/v_x_g08_c01.avi", "'x/v_x_g08_c01.avi' is already in trainlist01.txt, line 1"),
    ],
)
def test_a_malformed_line_of_ucf101_is_named(tmp_path, videos, line, message):
    folder = write_ucf(tmp_path / "splits", test=f"{TEST}\n{line}\n")
    with pytest.raises(UserError, match=f"{folder} has a mistake. testlist01.txt, line 4: .*{message}"):
        find(videos, folder)


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "x/a.avi 1", "../a.avi 1", "1", "a.avi 1 2"])
def test_a_malformed_line_of_hmdb51_is_named(tmp_path, videos, line):
    folder = write_hmdb(tmp_path / "splits", x=f"v_x_g08_c01.avi 1\n{line}\n", y="v_y_g01_c01.avi 2\n")
    with pytest.raises(UserError, match=f"{folder} has a mistake. x_test_split1.txt, line 2: Expected "):
        find(videos, folder)


def test_files_of_a_wrong_kind_are_refused(tmp_path, videos, monkeypatch):
    folder = write_ucf(tmp_path / "splits")
    with pytest.raises(UserError, match=r"Received: found=\['trainlist01.txt', 'testlist01.txt', 'x_test_sp"):
        find(videos, write_hmdb(folder, x=""))
    (folder / "x_test_split1.txt").unlink()
    with pytest.raises(UserError, match=r"for train and for test in .* Received: found=\['train'\]"):
        find(videos, write_ucf(folder, test=""))
    (folder / "testlist01.txt").write_bytes(b"x/\xff.avi")
    with pytest.raises(UserError, match="testlist01.txt is not UTF-8 text, at byte 2"):
        find(videos, folder)
    (folder / "testlist01.txt").unlink()
    with pytest.raises(
        UserError, match=r"Expected trainlist01.txt and testlist01.txt .*found=\['trainlist01"
    ):
        find(videos, folder)
    with pytest.raises(UserError, match="Cannot read the folder of split files .*: No such file"):
        find(videos, tmp_path / "nothing")
    monkeypatch.setattr(official_splits, "_MAX_FILE_BYTES", 20)
    with pytest.raises(UserError, match="a file of at most 20 bytes. Received: .*trainlist01.txt"):
        find(videos, write_ucf(folder))
    monkeypatch.setattr(official_splits, "_MAX_FILE_BYTES", 100)
    monkeypatch.setattr(official_splits, "_MAX_BYTES", 50)
    with pytest.raises(UserError, match="at most 50 characters in the files of"):
        find(videos, folder)
    monkeypatch.setattr(official_splits, "_MAX_FILES", 0)
    with pytest.raises(UserError, match="at most 0 files"):
        find(videos, write_hmdb(tmp_path / "others", x=""))


def test_a_split_needs_a_folder_of_class_folders_and_folds_by_group(tmp_path, videos):
    rule = FoldRule(split_files=str(write_ucf(tmp_path / "splits")))
    (videos / "list.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="a folder of class folders, .*with split_files"):
        lists.find_videos(videos / "list.csv", rule=rule)
    with pytest.raises(UserError, match="fold_by=group with split_files"):
        FoldRule(split_files="a", fold_by="video")
    with pytest.raises(UserError, match="split_files with official_split"):
        FoldRule(official_split=2)
    with pytest.raises(UserError, match="official_split from 1 to 3"):
        FoldRule(split_files="a", official_split=4)
    assert {"split_files", "official_split"}.isdisjoint(to_json(FoldRule()))


def test_a_conversion_and_its_repair_use_the_split(tmp_path, videos_dir):
    names = sorted(path.relative_to(videos_dir).as_posix() for path in videos_dir.rglob("*.avi"))
    test = [name for name in names if "_g01_" in name]
    train = [name for name in names if "_g02_" in name]
    folder = write_ucf(tmp_path / "splits", "\n".join(train), "\n".join(test))
    data = tmp_path / "data"
    command = ["pipelines.convert", f"--videos={videos_dir}", f"--data={data}", "--workers=1", "--size=32"]
    result = run_module(*command, f"--split_files={folder}")
    assert result.returncode == 0, result.stderr
    assert f"{len(names) - len(test + train)} of {len(names)} videos are not in the split" in result.stderr
    made = manifest.load(str(data))
    assert made.num_videos == len(test + train) and made.classes == CLASSES
    assert parse_folds("test", made.fold_numbers) == (2,)
    assert json.loads((data / "manifest.json").read_text())["fold_rule"]["split_files"] == str(folder)
    assert manifest.repair_remedy(made).details["split_files"] == str(folder)
    moved = folder.rename(tmp_path / "moved")
    result = run_module(*command, f"--split_files={moved}")
    assert result.returncode == 0, result.stderr
    for flags, message in (
        ((f"--split_files={moved}", "--official_split=2"), "--official_split is 2, but the shards have 1"),
        ((), "--official_split is none, but the shards have 1"),
    ):
        result = run_module(*command, *flags)
        assert result.returncode == 2 and message in result.stderr
