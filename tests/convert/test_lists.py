import json
import re
import shutil

import pytest

from tests.conftest import make_videos, raises_with_remedies, run_module
from tests.convert.test_plan import make_plan
from ucf50_tfrecord import manifest
from ucf50_tfrecord.convert import catalog, lists, plan
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.jobs import Segment
from ucf50_tfrecord.shards import Named
from ucf50_tfrecord.specs import FoldRule

# Computed before there were lists.
FINGERPRINTS = {1: "1f1cd53e65d23034", 18: "c007ef6ea90e6500"}


def write(folder, text, name="list.csv"):
    """Writes a list, and an empty file for each of the names in it that end in .avi."""
    path = folder / name
    path.write_text(text)
    for word in re.findall(r"[\w./]+\.avi", text):
        if ".." not in word and not word.startswith("/") and not (folder / word).exists():
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
            (folder / word).touch()
    return path


def find(folder, text, name="list.csv", **rule):
    return lists.find_videos(write(folder, text, name), rule=FoldRule(**rule))


def lines_of(folder):
    """Returns the lines of a list of a folder's videos."""
    paths = sorted(folder.rglob("*.avi"))
    return [f"{path.relative_to(folder).as_posix()},{path.parent.name}\n" for path in paths]


def test_a_list_of_a_folders_videos_gives_the_same_shards(tmp_path, videos_dir):
    folder = tmp_path / "videos"
    shutil.copytree(videos_dir, folder)
    (folder / "list.csv").write_text("path,label\n" + "".join(reversed(lines_of(folder))))
    listed, found = lists.find_videos(folder / "list.csv"), catalog.find_videos(folder)
    assert listed.videos == found.videos and listed.classes == found.classes
    assert make_plan(listed).jobs == make_plan(found).jobs
    assert make_plan(listed).origin == str(folder / "list.csv")


def test_fingerprints_of_folders_are_those_of_earlier_versions(tmp_path):
    for name in ("a/v_a_g01_c01.avi", "b/x.y.mkv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    planned = make_plan(lists.find_videos(tmp_path))
    assert {job.fold: job.fingerprint[:16] for job in planned.jobs} == FINGERPRINTS


def test_all_columns_are_read(tmp_path):
    text = (
        "label,path,id,group,fold,start,end\r\nrun,a/x.avi,one,7,2,,\r\n\r\n"
        '"jump, high",b.avi,,8,3,1.5,2\r\nrun,b.avi,,8,3,,0.25\r\n'
    )
    found = find(tmp_path, text)
    assert found.classes == ("jump, high", "run") and found.videos_dir == str(tmp_path)
    assert [(v.video_id, v.relative_path, v.label, v.group, v.fold, v.segment) for v in found.videos] == [
        ("jump, high/b@1.5-2", "b.avi", 0, 8, 3, Segment(start_us=1_500_000, end_us=2_000_000)),
        ("run/b@0-0.25", "b.avi", 1, 8, 3, Segment(start_us=0, end_us=250_000)),
        ("run/one", "a/x.avi", 1, 7, 2, None),
    ]
    assert [plan.fold_of(video, FoldRule()) for video in found.videos] == [3, 3, 2]


def test_json_lines_hold_the_same(tmp_path):
    rows = [{"path": "a.avi", "label": "x", "group": 1, "split": "test"}, {"path": "b.avi", "label": "y"}]
    rows[1] |= {"group": 2, "split": "train", "start": 1, "end": 2.5}
    found = find(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "list.jsonl")
    table = "path,label,group,split,start,end\na.avi,x,1,test,,\nb.avi,y,2,train,1,2.5\n"
    assert found.videos == find(tmp_path, table).videos
    assert found.fold_names == (Named(name="train", number=1), Named(name="test", number=2))


def test_every_mistake_is_named_with_its_line_and_column(tmp_path):
    text = (
        "path,label,start,end,fold\na.avi,x,nan,,\na.avi,x,2,1,1\na.avi,x;;y,,,1\n,x,,,\na.avi,x\n"
        '"a\n.avi",x,,,\na.avi,../x,,,\n'
    )
    with pytest.raises(UserError) as raised:
        find(tmp_path, text)
    assert str(raised.value) == (
        f"{tmp_path}/list.csv has 7 mistakes. line 2: start: Expected float >= 0.0. Received: 'nan'; "
        "line 3: Expected an end after the start. Received: end=1.0; "
        "line 4: Expected a name before, between and after each separator of labels. Received: label='x;;y'; "
        "line 5: Expected a field path. Received: none; "
        "line 6: Expected 5 values. Received: 2; and 2 more"
    )


@pytest.mark.parametrize(
    "line, mistake",
    [
        ("[1]", "Expected object. Received: a list of 1"),
        ("{", "Expected a JSON object. Received: "),
        ('{"path": "a.avi", "label": ["x", "x"]}', "Expected each label of a video once"),
        (
            '{"path": "a.avi", "label": ["x;y"]}',
            "Expected labels without ';' in a list. Received: label='x;y'",
        ),
        ('{"path": "a.avi", "label": ["x", ""]}', "Expected a name before, between and after each separator"),
        ('{"path": "a.avi", "label": []}', "label: Expected .* Received: a list of 0"),
        ('{"path": "a.avi", "label": ["x", 1]}', r"label\[1\]: Expected str. Received: 1"),
        ('{"path": "a.avi", "label": "x", "start": "1"}', r"start: Expected float \| null. Received: '1'"),
        ('{"path": "a.avi", "label": "x", "lable": 1}', "Expected columns out of .*Received: 'lable'"),
        ('{"path": "a.avi", "label": "x", "group": -1}', "Expected a group of 0 or more. Received: group=-1"),
        ('{"path": "a.avi", "label": "x", "fold": 1, "split": "a"}', "split or fold, not both"),
        ('{"path": "a\\u0000.avi", "label": "x"}', "Expected a path of printable characters"),
    ],
)
def test_mistakes_in_json_lines(tmp_path, line, mistake):
    with pytest.raises(UserError, match=f"list.jsonl has a mistake. line 2: .*{mistake}"):
        find(tmp_path, f'{{"path": "a.avi", "label": "x"}}\n{line}\n', "list.jsonl")


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,lable\n", "Expected a column label in the first line of "),
        ("", "Expected a column path"),
        ("path,label,lenght\n", "Expected columns out of path, label, .*Received: columns=.'lenght'"),
        ("path,label,label\n", "Expected distinct columns"),
        ("path,label\n", "list.csv names no video"),
        ('path,label\n"a.avi,x\n', "is not valid CSV, at line 2"),
        ("path,label\na.avi,x\n", "Expected at least 2 classes in .*Received: classes=.'x'."),
        ("path,label\na.avi,x\nb.avi,y\n./a.avi,x\n", "line 4: path: 'a.avi' is already in line 2"),
        ("path,label,id\na.avi,x,i\nb.avi,x,i\nc.avi,y,\n", "line 3: id: 'x/i' is already the id of line 2"),
        ("path,label,fold\na.avi,x,1\nb.avi,y,\n", "line 3: fold: Expected a fold, as other videos have one"),
        ("path,label,fold\na.avi,x,1\nb.avi,y,test\n", "line 2: fold: Expected a name without a comma"),
        ("path,label,fold\na.avi,x,10000\nb.avi,y,1\n", "Expected folds up to number 9999"),
        ("path,label\na.avi,x\nb.av,y\n", "line 3: path: The video 'b.av' does not exist"),
        ("path,label\na.avi,x\n.,y\n", "line 3: path: Expected a path in the folder of the list"),
        ("path,label\na.avi,x\nb/../../c.avi,y\n", "line 3: path: Expected a path in the folder of the list"),
        ("path,label\na.avi,x\n/dev/null,y\n", "line 3: path: Expected a regular file"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        find(tmp_path, text)


def test_missing_videos_are_an_error_unless_skipped(tmp_path):
    path = write(tmp_path, "path,label\na.avi,x\nb.avi,y\nc.avi,y\n")
    (tmp_path / "c.avi").unlink()
    with raises_with_remedies("'c.avi' does not exist. To leave out such videos: --skip_missing_videos"):
        lists.find_videos(path)
    found = lists.find_videos(path, skip_missing=True)
    assert [video.relative_path for video in found.videos] == ["a.avi", "b.avi"]
    assert found.warnings == ("1 videos do not exist and are left out: c.avi",)


def test_absolute_paths_are_accepted_and_listed(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    outside = tmp_path / "c.avi"
    outside.touch()
    (folder / "a2.avi").touch()
    found = find(folder, f"path,label\na.avi,x\n{outside},y\n{folder}/b/../a2.avi,x\n")
    assert [video.relative_path for video in found.videos] == ["a.avi", "a2.avi", str(outside)]
    assert found.warnings == (f"1 videos are outside the list's folder, at absolute paths: {outside}",)


def test_groups_with_names_get_numbers_in_alphabetical_order(tmp_path):
    text = "path,label,group\na.avi,x,red\nb.avi,y,blue\nc.avi,x,red\nd.avi,y,\n"
    found = find(tmp_path, text)
    assert [video.group for video in found.videos] == [2, 2, 1, None]
    names = (Named(name="blue", number=1), Named(name="red", number=2))
    assert found.group_names == names
    assert make_plan(found).fold_names == make_plan(found).group_names == names
    assert make_plan(found, fold_rule=FoldRule(fold_by="video")).fold_names == ()


def test_a_group_in_two_folds_is_a_warning(tmp_path):
    text = "path,label,group,split\na.avi,x,1,train\nb.avi,y,1,test\nc.avi,x,2,train\n"
    [warning] = find(tmp_path, text).warnings
    assert warning.startswith("1 of 2 groups have videos in more than one fold")


@pytest.mark.parametrize("name", ["list.csv", "."])
def test_a_pattern_finds_groups_in_lists_and_folders(tmp_path, name):
    write(tmp_path, "path,label\nx/cam2_1.avi,x\ny/cam10_1.avi,y\ny/other.avi,y\n")
    rule = FoldRule(group_pattern=r"(?P<group>cam\d+)_")
    found = lists.find_videos(tmp_path / name, rule=rule)
    assert [video.group for video in found.videos] == [2, 1, None]
    assert [named.name for named in found.group_names] == ["cam10", "cam2"]
    numbers = lists.find_videos(tmp_path / name, rule=FoldRule(group_pattern=r"cam(?P<group>\d+)_"))
    assert [video.group for video in numbers.videos] == [2, 10, None] and numbers.group_names == ()
    with pytest.raises(UserError, match="finds no group in the paths of"):
        lists.find_videos(tmp_path / name, rule=FoldRule(group_pattern="(?P<group>nothing)"))


@pytest.mark.parametrize("pattern, message", [("(", "regular expression"), (r"cam\d", "a group named group")])
def test_a_wrong_pattern_is_refused(pattern, message):
    with pytest.raises(UserError, match=message):
        FoldRule(group_pattern=pattern)


def test_videos_without_a_group_are_a_warning_with_a_remedy(tmp_path, videos_dir):
    found = find(tmp_path, "path,label\nv_x_g01_c01.avi,x\nb.avi,y\n")
    leak = plan.find_leak(found, FoldRule())
    assert leak.startswith("1 of 2 videos have no known recording group")
    with raises_with_remedies("--group_pattern=…"):
        raise UserError(str(leak), *leak.remedies)
    assert plan.find_leak(found, FoldRule(fold_by="video")) is None
    assert plan.find_leak(catalog.find_videos(videos_dir), FoldRule()) is None
    assert plan.find_leak(find(tmp_path, "path,label,fold\na.avi,x,1\nb.avi,y,2\n"), FoldRule()) is None


def test_folders_of_splits_become_folds(tmp_path):
    write(tmp_path, "train/x/1.avi,train/y/2.avi,test/x/1.avi,test/y/deep/3.avi,test/notes.txt", "notes")
    (tmp_path / "test" / "notes.txt").touch()
    found = lists.find_videos(tmp_path)
    assert [(video.video_id, video.fold) for video in found.videos] == [
        ("x/test/1", 2),
        ("x/train/1", 1),
        ("y/test/deep/3", 2),
        ("y/train/2", 1),
    ]
    assert found.warnings == ("1 files and folders ignored, no videos: test/notes.txt",)
    assert make_plan(found).fold_names == (Named(name="train", number=1), Named(name="test", number=2))
    (tmp_path / "train" / "0.avi").touch()  # now train and test are classes
    assert lists.find_videos(tmp_path).classes == ("test", "train")


def test_a_converted_list_is_trained_on_by_its_names(tmp_path):
    folder = make_videos(tmp_path / "videos", clips=1)
    splits = ["train", "train", "train", "val", "test"]
    lines = [f"{line.strip()},{splits[number % 5]},0.2,0.6\n" for number, line in enumerate(lines_of(folder))]
    path = folder / "my list.csv"
    path.write_text("path,label,split,start,end\n" + "".join(lines))
    data = tmp_path / "data"
    command = ["pipelines.convert", f"--videos={path}", f"--data={data}", "--frames=5", "--size=16x24"]
    done = run_module(*command, "--workers=1")
    assert done.returncode == 0, done.stderr
    built = manifest.load(str(data))
    assert built.name == "my_list" and built.videos_list == str(path) and built.num_clips == 15
    assert built.fold_numbers == {"train": 1, "val": 2, "test": 3}
    assert manifest.repair_remedy(built).details["videos_dir"] == str(path)
    again = run_module(*command, "--workers=1")
    assert "nothing to convert" in again.stdout
    path.write_text(path.read_text().replace("0.2,0.6", "0.2,0.7", 1))
    assert "converting 9 of 15 videos" in run_module(*command, "--workers=1").stdout.lower()
