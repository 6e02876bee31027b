import dataclasses
import json
import subprocess

import pytest

from tests.conftest import raises_with_remedies
from tests.fetching import rar
from tests.fetching.helpers import PLACES, VIDEOS, Remembering, make_zip
from tests.fetching.server import Answer, serving
from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import VideoSet
from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.fetching import video_set
from ucf50_tfrecord.fetching.download import DownloadOptions, check_url
from ucf50_tfrecord.fetching.sources import SOURCES
from ucf50_tfrecord.fetching.video_set import FetchOptions
from ucf50_tfrecord.specs import to_json

FAST = DownloadOptions(stall_secs=0.5, num_tries=2, wait_secs=0)


@pytest.fixture
def server():
    with serving(make_zip(VIDEOS)) as running:
        yield running


@pytest.fixture
def output(tmp_path):
    return tmp_path / "sets" / "UCF50"


def source(server):
    return dataclasses.replace(SOURCES[VideoSet.UCF50], url=server.url, num_bytes=len(server.content))


def fetch(server, output, **options):
    listener = Remembering()
    options = FetchOptions(download=FAST, **options)
    return video_set.fetch(source(server), output, options, listener), listener


def test_every_set_has_a_source_that_is_encrypted():
    assert set(SOURCES) == set(VideoSet)
    for found in SOURCES.values():
        check_url(found.url)
        assert found.page.startswith("https://") and found.max_bytes > (found.num_bytes or 0)
    assert (SOURCES["ucf50"].num_videos, SOURCES["ucf50"].num_classes) == (6681, 50)


def test_a_set_is_fetched_with_its_checksums_and_nothing_else(server, output):
    fetched, _ = fetch(server, output)
    assert (fetched.num_videos, fetched.num_classes) == (4, 2)
    assert fetched.num_bytes == sum(map(len, PLACES.values()))
    assert [path.name for path in output.parent.iterdir()] == ["UCF50"]
    files = {
        path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()
    }
    assert json.loads(files.pop("dataset_about.json")) == to_json(SOURCES[VideoSet.UCF50].about)
    lines = files.pop("SHA256SUMS").decode().splitlines()
    assert files == PLACES and lines == sorted(lines, key=lambda line: line[66:]) and len(lines) == 4
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=output, check=True)


def test_the_catalog_copes_with_the_misspelled_billiards_and_the_list(server, output):
    fetch(server, output)
    found = catalog.find_videos(output)
    assert found.classes == ("Biking", "Billiards") and found.warnings == ()
    assert [(video.video_id, video.group) for video in found.videos[2:]] == [
        ("Billiards/v_Billards_g01_c01", 1),
        ("Billiards/v_Billards_g02_c01", 2),
    ]


def test_a_second_call_checks_the_files_and_downloads_nothing(server, output):
    fetch(server, output)
    fetched, listener = fetch(server, output)
    assert fetched.was_complete and (fetched.num_videos, fetched.num_classes) == (4, 2)
    assert len(server.ranges) == 1 and listener.steps == [("checking", 0)] and listener.num_units == 4


def test_damaged_missing_and_added_videos_are_found(server, output):
    fetch(server, output)
    names = sorted(PLACES)
    (output / names[0]).write_bytes(b"other")
    (output / names[1]).unlink()
    (output / "Biking" / "own.avi").write_bytes(b"mine")
    text = (
        f"2 of 4 videos are missing or damaged, and 1 are not listed: {names[0]}, {names[1]}, Biking/own.avi"
    )
    with pytest.raises(UserError, match=text):
        fetch(server, output)
    assert (output / "Biking" / "own.avi").exists() and len(server.ranges) == 1


@pytest.mark.parametrize(
    "line", ["abc  Biking/a.avi", f"{'0' * 64}  ../a.avi", f"{'0' * 64}  /etc/passwd", ""]
)
def test_a_list_that_leads_elsewhere_is_refused(server, output, line):
    fetch(server, output)
    with open(output / "SHA256SUMS", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match="Expected a sha256 and the path of a video in line 5 of"):
        fetch(server, output)


def test_a_folder_with_other_files_is_left_alone(server, output):
    output.mkdir(parents=True)
    (output / "notes.txt").write_text("mine")
    with raises_with_remedies("which holds 'notes.txt'. Try: another --output"):
        fetch(server, output)
    assert [path.name for path in output.parent.rglob("*")] == ["UCF50", "notes.txt"] and not server.ranges


def test_a_work_folder_with_other_files_is_left_alone(server, output):
    work = output.with_name("UCF50-download")
    work.mkdir(parents=True)
    (work / "UCF50.zip").write_text("mine")
    with pytest.raises(UserError, match="Expected a folder for the download of a video set"):
        fetch(server, output)
    assert (work / "UCF50.zip").read_text() == "mine"


def test_an_empty_folder_is_filled(server, output):
    output.mkdir(parents=True)
    fetch(server, output)
    assert (output / "SHA256SUMS").exists()


@pytest.mark.parametrize("make", [make_zip, rar.write_rar4, rar.write_rar5])
def test_an_archive_that_is_there_is_unpacked_and_kept(server, output, tmp_path, make):
    path = tmp_path / "mine"  # without a suffix: its first bytes tell its kind
    path.write_bytes(make(VIDEOS))
    fetched, _ = fetch(server, output, archive=str(path))
    assert fetched.num_videos == 4 and path.exists() and not server.ranges
    assert [entry.name for entry in output.parent.iterdir()] == ["UCF50"]


def test_an_archive_that_is_not_there_is_an_error_before_any_folder(server, output, tmp_path):
    for path in (tmp_path / "gone.zip", tmp_path):
        with pytest.raises(UserError, match="Expected the file of an archive"):
            fetch(server, output, archive=str(path))
    assert not output.parent.exists()


def test_a_failed_archive_of_ones_own_leaves_nothing(server, output, tmp_path):
    path = tmp_path / "mine.zip"
    path.write_bytes(make_zip(VIDEOS | {"../evil.avi": b""}))
    with pytest.raises(UserError, match="is not safe to unpack") as raised:
        fetch(server, output, archive=str(path))
    assert not raised.value.remedies and not any(output.parent.iterdir()) and path.exists()


def test_an_archive_with_one_class_is_refused_as_a_conversion_would(server, output):
    server.content = make_zip({"UCF50/Biking/v.avi": b"x"})
    with pytest.raises(UserError, match="at least 2 class folders"):
        fetch(server, output)
    assert not output.exists()


def test_a_downloaded_archive_that_cannot_be_unpacked_stays_until_a_restart(server, output):
    whole = server.content
    server.content = whole[: len(whole) // 2]
    for _ in range(2):
        with raises_with_remedies(
            "is damaged.* The archive stays: .*UCF50.zip. To download it again: --restart"
        ):
            fetch(server, output)
    assert len(server.ranges) == 1  # the second call tried to unpack the same file
    work = output.with_name("UCF50-download")
    assert storage.list_folder(work) >= {"UCF50.zip"} and not (work / "unpacked").exists()
    server.content = whole
    fetch(server, output, restart=True)
    assert [path.name for path in output.parent.iterdir()] == ["UCF50"]


def test_an_archive_is_kept_on_request(server, output):
    fetch(server, output, keep_archive=True)
    kept = output.with_name("UCF50-download") / "UCF50.zip"
    assert kept.read_bytes() == server.content and not (kept.parent / "unpacked").exists()


def test_what_a_killed_process_left_is_removed(server, output):
    work = output.with_name("UCF50-download")
    storage.claim_folder(work, "the download of a video set", lambda names: False)
    (work / "unpacked" / "Old").mkdir(parents=True)
    (work / "unpacked" / "Old" / "v.avi").write_bytes(b"half")
    fetch(server, output)
    assert not (output / "Old").exists() and not work.exists()


def test_two_fetches_at_once_do_not_mix(server, output):
    work = output.with_name("UCF50-download")
    storage.claim_folder(work, "the download of a video set", lambda names: False)
    with storage.folder_lock(work), pytest.raises(storage.LockedError):
        fetch(server, output)
    fetch(server, output)


def test_a_rar_is_not_downloaded_if_nothing_could_unpack_it(server, output, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    server.url = server.url.replace(".zip", ".rar")
    with pytest.raises(
        UserError, match="Expected a program that unpacks RAR archives: unrar, unar or bsdtar"
    ):
        fetch(server, output)
    assert not server.ranges and not output.parent.exists()


def test_nothing_is_kept_of_a_download_that_brought_nothing(server, output):
    server.answers = [Answer(status=404)]
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(server, output)
    assert not any(output.parent.iterdir())
