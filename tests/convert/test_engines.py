import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import (
    REPOSITORY,
    build,
    convert_command,
    flip_bit,
    make_videos,
    plan_of,
    real_folder,
    run_module,
    write_numbered_video,
)
from tests.waiting import MAX_SECS, wait_for
from ucf50_tfrecord import building, manifest, record, storage, tfrecord
from ucf50_tfrecord.convert import engines, plan
from ucf50_tfrecord.errors import UserError


def hashes(built):
    return {shard.filename: shard.sha256 for shard in built.shards}


@pytest.fixture
def videos(tmp_path, videos_dir):
    """A copy of the small set that a test may change."""
    return shutil.copytree(videos_dir, tmp_path / "videos")


def test_one_and_two_workers_write_the_same_bytes(tmp_path, videos_dir):
    one, two = (build(videos_dir, tmp_path / str(n), workers=n) for n in (1, 2))
    assert hashes(one) == hashes(two)
    for shard in one.shards:
        assert (tmp_path / "1" / shard.filename).read_bytes() == (
            tmp_path / "2" / shard.filename
        ).read_bytes()


def test_the_surroundings_do_not_matter(tmp_path, videos_dir):
    """Locale, hash seed, time zone and the folder one stands in change no byte."""
    plain = build(videos_dir, tmp_path / "plain")
    for number, variables in enumerate(
        [
            {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
            {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "PYTHONOPTIMIZE": "1", "PYTHONUTF8": "1"},
        ]
    ):
        data = tmp_path / str(number)
        command = ["-m", "pipelines.convert", f"--videos={os.path.relpath(videos_dir, tmp_path)}"]
        subprocess.run(
            [sys.executable, *command, f"--data={data}", "--name=small", "--size=16x24", "--frames=5"],
            cwd=tmp_path,
            env={**os.environ, **variables, "PYTHONPATH": str(REPOSITORY)},
            check=True,
            capture_output=True,
        )
        assert manifest.load(str(data)).shards == plain.shards


def test_pixels_reach_the_shard(tmp_path):
    for name in ("a", "b"):
        write_numbered_video(tmp_path / "videos" / name / "v.mkv", 41, first=100)
    built = build(tmp_path / "videos", tmp_path / "data")
    for shard in built.shards:
        for _, payload in tfrecord.read_file(tmp_path / "data" / shard.filename):
            features = record.decode(payload)
            assert features["frame_index"] == [0, 10, 20, 30, 40]
            np.testing.assert_array_equal(features["video"][:, 3, 5, 1], [100, 110, 120, 130, 140])


def test_nothing_is_converted_twice(tmp_path, videos):
    first = build(videos, tmp_path / "data")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.tfrecord-*")}
    assert build(videos, tmp_path / "data") == first
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").glob("*.tfrecord-*")}


@pytest.mark.parametrize(
    "damage", ["shard missing", "shard cut", "sidecar missing", "sidecar torn", "manifest missing"]
)
def test_what_is_missing_is_made_again_and_only_that(tmp_path, videos, damage):
    data = tmp_path / "data"
    first = build(videos, data)
    shard = data / first.shards[2].filename
    other = data / first.shards[3].filename
    untouched = other.stat().st_ino
    sidecar = pathlib.Path(manifest.sidecar_path(str(data), shard.name))
    {
        "shard missing": shard.unlink,
        "shard cut": lambda: os.truncate(shard, 1000),
        "sidecar missing": sidecar.unlink,
        "sidecar torn": lambda: os.truncate(sidecar, 20),
        "manifest missing": (data / "manifest.json").unlink,
    }[damage]()
    assert build(videos, data) == first == manifest.load(str(data))
    assert other.stat().st_ino == untouched


def test_a_changed_set_rewrites_the_shards_it_touches(tmp_path, videos):
    data = tmp_path / "data"
    before = build(videos, data)
    (videos / "Left" / "v_Left_g02_c01.avi").unlink()
    shutil.copy(videos / "Left" / "v_Left_g01_c01.avi", videos / "Left" / "v_Left_g07_c01.avi")
    after = build(videos, data)
    assert after.folds == (1, 2, 3, 4, 5, 7)
    changed = {name for name, value in hashes(after).items() if hashes(before).get(name) != value}
    assert {name[:12] for name in changed} == {"small-fold02", "small-fold07"}
    assert hashes(build(videos, tmp_path / "fresh")) == hashes(after)
    names = {path.name for path in data.glob("*.tfrecord-*")}
    assert names == {path.name for path in (tmp_path / "fresh").glob("*.tfrecord-*")}


def test_leftovers_of_other_plans_go_and_other_files_stay(tmp_path, videos):
    data = tmp_path / "data"
    data.mkdir()
    ours = [
        "small-fold09.tfrecord-00000-of-00001",
        "small-fold09.tfrecord-00000-of-00001.json",
        ".tmp-0123abcd-small-fold01.tfrecord-00000-of-00001",
    ]
    others = ["notes.txt", "other-fold01.tfrecord-00000-of-00001", "small.tfrecord-00000-of-00001"]
    for name in ours + others:
        (data / name).touch()
    build(videos, data)
    assert not any((data / name).exists() for name in ours)
    assert all((data / name).exists() for name in others)


def test_a_broken_video_is_quarantined_and_the_others_are_converted(tmp_path, videos):
    (videos / "Left" / "v_Left_g01_c09.avi").write_bytes(b"not a video")
    built = build(videos, tmp_path / "data")
    assert (built.num_videos, built.num_clips) == (31, 30)
    [item] = built.quarantined
    assert item.relative_path == "Left/v_Left_g01_c09.avi" and "InvalidDataError" in item.reason
    assert manifest.load(str(tmp_path / "data")) == built


def test_an_unreadable_video_is_tried_again(tmp_path, videos, monkeypatch):
    hidden = tmp_path / "hidden.avi"
    video = videos / "Left" / "v_Left_g02_c01.avi"
    plan_shards = plan.plan_shards

    def hide_after_planning(*args, **options):
        planned = plan_shards(*args, **options)
        video.rename(hidden)
        return planned

    with monkeypatch.context() as patch:
        patch.setattr(plan, "plan_shards", hide_after_planning)
        built = build(videos, tmp_path / "data")
    assert built.num_clips == 29 and built.quarantined[0].cause == "unreadable"
    hidden.rename(video)
    built = build(videos, tmp_path / "data")
    assert built.num_clips == 30 and not built.quarantined


def test_tasks_finish_a_set_with_an_unreadable_video(tmp_path, videos):
    """Its shard would be tried again by the next conversion, but every task has had its try."""
    planned = plan_of(videos)
    (videos / "Left" / "v_Left_g02_c01.avi").unlink()
    run = functools.partial(engines.run_local, num_workers=1)
    data = str(tmp_path / "data")
    assert building.build_part(planned, data, task=(0, 2), run=run) is None
    built = building.build_part(planned, data, task=(1, 2), run=run)
    assert built.num_clips == 29 and [item.cause for item in built.quarantined] == ["unreadable"]
    assert building.finalize(planned, data) == built == manifest.load(data)


ODD_NAMES = [
    b"-rf.avi",
    b"--help.avi",
    b" spaces  inside .avi",
    b"'quotes\" `and` $HOME.avi",
    b"new\nline\ttab.avi",
    b"not utf-8 caf\xe9.avi",
    "日本語 🎬.avi".encode(),
    b"percent %s {} %(x)d #1.avi",
    b"a" * 250 + b".avi",
    b"v_Left_g01_c01.copy.avi",
]


ODD_CLASSES = [b"-x", b"caf\xe9 \n'", b"b" * 255]


def test_odd_names_are_converted(tmp_path, videos):
    for name in ODD_NAMES:
        shutil.copy(videos / "Left" / "v_Left_g02_c01.avi", os.fsencode(videos) + b"/Left/" + name)
    for class_name in ODD_CLASSES:
        folder = os.fsencode(videos) + b"/" + class_name
        os.mkdir(folder)
        for name in ODD_NAMES:
            shutil.copy(videos / "Left" / "v_Left_g02_c01.avi", folder + b"/" + name)
    result = run_module(
        "pipelines.convert", f"--videos={videos}", f"--data={tmp_path / 'data'}", "--name=small"
    )
    assert result.returncode == 0, result.stderr
    built = manifest.load(str(tmp_path / "data"))
    assert built.num_clips == 70 and not built.quarantined
    assert set(map(os.fsdecode, ODD_CLASSES)) <= set(built.classes)
    reports = [manifest.load_report(built.data_dir, shard.filename) for shard in built.shards]
    odd = {class_name + b"/" + name for class_name in (b"Left", *ODD_CLASSES) for name in ODD_NAMES}
    stems = {os.fsdecode(path.rsplit(b".", 1)[0]) for path in odd}
    assert stems <= {clip_id for report in reports for clip_id in report.clip_ids}
    paths = [
        record.decode(payload)["clip/data_path"][0]
        for shard in built.shards
        for _, payload in tfrecord.read_file(tmp_path / "data" / shard.filename)
    ]
    assert odd <= set(paths)
    again = run_module(
        "pipelines.convert", f"--videos={videos}", f"--data={tmp_path / 'data'}", "--name=small"
    )
    assert again.returncode == 0 and "nothing to convert" in again.stdout


def test_reasons_stand_on_one_line_each(tmp_path, videos):
    (videos / "Left" / "two\nlines.avi").write_bytes(b"")
    result = run_module(
        "pipelines.convert", f"--videos={videos}", f"--data={tmp_path / 'data'}", "--max_quarantined=0.1"
    )
    assert result.returncode == 0
    assert "quarantined: Left/two\\nlines.avi: InvalidDataError" in result.stderr


def run_without_privileges(*arguments):
    """Runs a module as somebody who cannot read what permissions forbid; root else can."""
    command = [sys.executable, "-m", *arguments]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads everything, and there is no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_a_video_that_may_not_be_read_is_quarantined_and_a_folder_is_an_error(tmp_path, videos):
    arguments = (
        "pipelines.convert",
        f"--videos={videos}",
        f"--data={tmp_path / 'data'}",
        "--max_quarantined=1",
    )
    secret = videos / "Left" / "v_Left_g02_c01.avi"
    secret.chmod(0)
    result = run_without_privileges(*arguments)
    assert result.returncode == 0, result.stderr
    assert "quarantined: Left/v_Left_g02_c01.avi: PermissionError: Permission denied" in result.stderr
    secret.chmod(0o644)
    result = run_without_privileges(*arguments)
    assert result.returncode == 0 and "30 clips, 0 quarantined" in result.stdout
    (videos / "Left").chmod(0)
    result = run_without_privileges(*arguments)
    (videos / "Left").chmod(0o755)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert f"Cannot read the folder {videos / 'Left'}: Permission denied" in result.stderr


def converted(before, data):
    """Names the shards that were written again."""
    return {
        path.name
        for path in data.glob("*.tfrecord-*-of-?????")
        if path.stat().st_ino != before.get(path.name)
    }


def inodes(data):
    return {path.name: path.stat().st_ino for path in data.glob("*.tfrecord-*-of-?????")}


def test_a_touched_video_rewrites_its_shard_unless_contents_are_compared(tmp_path, videos):
    data = tmp_path / "data"
    build(videos, data, checksum=True)
    first = videos / "Left" / "v_Left_g01_c01.avi"
    os.utime(first, ns=(1, 1))
    before = inodes(data)
    build(videos, data, checksum=True)
    assert not converted(before, data)
    build(videos, data)
    assert {name[:12] for name in converted(before, data)} == {"small-fold01"}


def test_a_change_that_keeps_size_and_time_is_found_by_contents(tmp_path, videos):
    data = tmp_path / "data"
    build(videos, data, checksum=True)
    video = videos / "Left" / "v_Left_g03_c01.avi"
    times = video.stat().st_atime_ns, video.stat().st_mtime_ns
    flip_bit(video, video.stat().st_size // 2)
    os.utime(video, ns=times)
    before = inodes(data)
    build(videos, data)
    assert not converted(before, data)
    build(videos, data, checksum=True)
    assert {name[:12] for name in converted(before, data)} == {"small-fold03"}


def test_what_was_made_without_checksums_is_converted_again(tmp_path, videos):
    data = tmp_path / "data"
    first = build(videos, data)
    before = inodes(data)
    assert build(videos, data, checksum=True) == first == manifest.load(str(data))
    assert len(converted(before, data)) == len(first.shards)


def test_overwrite_replaces_another_format_name_or_set(tmp_path, videos):
    data = tmp_path / "data"
    build(videos, data)
    command = [
        "pipelines.convert",
        f"--videos={videos}",
        f"--data={data}",
        "--name=other",
        "--size=24x16",
        "--frames=6",
    ]
    refused = run_module(*command, "--resize=pad")
    assert refused.returncode == 2
    for flag in ("name", "size", "frames", "resize"):
        assert f"--{flag} is" in refused.stderr
    assert "to replace them: --overwrite" in refused.stderr
    assert run_module(*command, "--overwrite").returncode == 0
    built = manifest.load(str(data))
    assert (built.name, built.format.shape) == ("other", (6, 24, 16, 3))
    assert not list(data.glob("small-*"))
    other = make_videos(tmp_path / "other", clips=1)
    assert build(other, data, overwrite=True).num_clips == 15
    assert not list(data.glob("other-*"))
    (data / "manifest.json").write_text("{}")
    assert build(other, data, overwrite=True).num_clips == 15


def test_the_shards_of_other_videos_are_not_overwritten(tmp_path, videos):
    first = build(videos, tmp_path / "data")
    other = make_videos(tmp_path / "other", clips=1)
    with pytest.raises(UserError, match=f"holds shards made from {videos}, not from {other}"):
        build(other, tmp_path / "data")
    assert manifest.load(str(tmp_path / "data")) == first
    moved = videos.rename(tmp_path / "moved")
    assert hashes(build(moved, tmp_path / "data")) == hashes(first)


def test_a_second_converter_of_one_folder_is_refused(tmp_path, videos):
    (tmp_path / "data").mkdir()
    with storage.folder_lock(tmp_path / "data"):
        with pytest.raises(UserError, match="Another process is writing"):
            build(videos, tmp_path / "data")


@pytest.mark.parametrize("name", ["manifest.json", "features.json", "label.labels.txt"])
def test_what_a_kill_at_the_very_end_leaves_is_removed(tmp_path, videos, name):
    first = build(videos, tmp_path / "data")
    (tmp_path / "data" / "manifest.json").unlink()
    (tmp_path / "data" / f".tmp-0123abcd-{name}").touch()
    (tmp_path / "data" / ".tmp-notes").touch()  # not ours
    assert build(videos, tmp_path / "data") == first
    assert [path.name for path in (tmp_path / "data").glob(".tmp*")] == [".tmp-notes"]


def test_verify_finds_a_flipped_byte(tmp_path, videos):
    first = build(videos, tmp_path / "data")
    path = tmp_path / "data" / first.shards[1].filename
    flip_bit(path, 500)
    damaged = storage.sha256(path)
    build(videos, tmp_path / "data")
    assert storage.sha256(path) == damaged
    build(videos, tmp_path / "data", verify=True)
    assert storage.sha256(path) == first.shards[1].sha256
    assert manifest.load(str(tmp_path / "data")) == first


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_no_worker_outlives_the_converter_and_the_next_one_goes_on(tmp_path, videos_dir, signum):
    videos = tmp_path / "videos"
    for copy in range(20):  # 40 shards, so that most are still to do when the first is complete
        shutil.copytree(videos_dir / "Left", videos / f"class{copy}")
    data = tmp_path / "data"
    command = convert_command(videos, data)
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(data.glob("*.tfrecord-*.json")), process=process, poll_secs=0.002)
    process.send_signal(signum)
    assert process.wait(timeout=MAX_SECS) != 0
    wait_for(lambda: not processes_of(process.pid, videos))
    assert not manifest.exists(str(data))
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    subprocess.run(
        [*command, f"--data={tmp_path / 'whole'}"], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert hashes(manifest.load(str(data))) == hashes(manifest.load(str(tmp_path / "whole")))
    assert not list(data.glob(".tmp-*"))


def processes_of(converter, videos):
    """Returns the command lines that name the converter's process or its videos: its own and its workers'."""
    markers = f"={converter}".encode(), os.fsencode(videos)
    lines = [read(path) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
    return [line for line in lines if any(marker in line for marker in markers)]


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # the process ended meanwhile
        return b""


def test_a_set_without_any_clip_is_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / "x.avi").write_bytes(b"not a video")
    with pytest.raises(UserError, match="None of the 2 videos gave a clip; the first, .*InvalidDataError"):
        build(tmp_path / "videos", tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {".lock"}


def test_fold_by_video_spreads_a_group(tmp_path):
    videos = make_videos(tmp_path / "videos", clips=4)
    built = build(videos, tmp_path / "data", fold_by="video")
    assert built.folds == (1, 2, 3, 4) and built.num_clips == 60
    groups = [set(manifest.load_report(built.data_dir, shard.filename).groups) for shard in built.shards]
    assert sum(1 in held for held in groups) > 1


def test_real_videos_convert_without_loss(tmp_path):
    built = build(real_folder("UCF50_VIDEOS"), tmp_path / "data", workers=2)
    assert (built.num_videos, built.num_clips, len(built.classes)) == (278, 278, 8)
    assert built.folds == tuple(range(4, 26))


def test_a_folder_of_something_else_is_not_converted_into(tmp_path, videos):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("features.json", "manifest.json", "thesis.tex"):
        (data / name).write_text("mine")
        with pytest.raises(
            UserError, match=f"a folder for shards: .*{data}, which holds other files, such as '{name}'"
        ):
            build(videos, data, overwrite=True)
        assert {path.name for path in data.iterdir()} == {name} and (data / name).read_text() == "mine"
        (data / name).unlink()
    (data / ".lock-task-0-of-2").touch()  # of a conversion that was stopped early
    assert build(videos, data).num_clips


def test_a_folder_with_a_shards_name_is_left_alone(tmp_path, videos):
    data = tmp_path / "data"
    (data / "small-fold09.tfrecord-00000-of-00001").mkdir(parents=True)
    (data / ".lock-task-mine").touch()
    build(videos, data)
    assert (data / "small-fold09.tfrecord-00000-of-00001").is_dir() and (data / ".lock-task-mine").exists()
