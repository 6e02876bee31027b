import hashlib
import io
import os
import random
import shutil
import stat
import sys
import zipfile

import pytest

from tests.fetching import rar
from tests.fetching.helpers import PLACES, VIDEOS, Remembering, make_zip
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.fetching import unpackers
from ucf50_tfrecord.fetching.unpack import unpack

LINK = stat.S_IFLNK | 0o777
MAKERS = {"zip": make_zip, "rar4": rar.write_rar4, "rar5": rar.write_rar5}
UNPACKERS = unpackers._UNPACKERS
each_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
with_modes = pytest.mark.parametrize("make", [make_zip, rar.write_rar4], ids=["zip", "rar4"])


def unpacked(archive: bytes, tmp_path, *, max_bytes=1 << 30, listener=None):
    """Unpacks an archive into <tmp_path>/videos; returns the result."""
    path = tmp_path / "archive"
    path.write_bytes(archive)
    for name in ("videos", "inner"):
        (tmp_path / name).mkdir()
    return unpack(
        path,
        tmp_path / "videos",
        tmp_path / "inner",
        max_bytes=max_bytes,
        listener=listener or Remembering(),
    )


def refuses(archive: bytes, tmp_path, text, **options):
    """Expects that an archive is refused, and that nothing is written outside of the two folders."""
    with pytest.raises(UserError, match=text):
        unpacked(archive, tmp_path, **options)
    assert {path.name for path in tmp_path.iterdir()} <= {"archive", "videos", "inner"}


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@each_kind
def test_videos_land_in_their_class_folders_with_their_checksums(tmp_path, make):
    listener = Remembering()
    result = unpacked(make(VIDEOS), tmp_path, listener=listener)
    assert contents(tmp_path / "videos") == PLACES
    assert result.sums == {name: hashlib.sha256(content).hexdigest() for name, content in PLACES.items()}
    assert result.num_bytes == listener.num_units == sum(map(len, PLACES.values()))
    assert result.num_ignored == 0 and listener.steps == [("unpacking", 0)]


@each_kind
@pytest.mark.parametrize("above", ["", "deep/er/", "archive (1)/UCF50/", "back\\slash\\"])
def test_any_folders_may_be_above_the_class_folders(tmp_path, make, above):
    unpacked(make({f"{above}{name}": content for name, content in PLACES.items()}), tmp_path)
    assert contents(tmp_path / "videos") == PLACES


@each_kind
def test_hidden_files_and_others_than_videos_are_left_out(tmp_path, make):
    others = ["UCF50/readme.txt", "__MACOSX/UCF50/Biking/._v.avi", ".trash/Biking/v.avi", "alone.avi"]
    result = unpacked(make(VIDEOS | dict.fromkeys(others, b"x")), tmp_path)
    assert contents(tmp_path / "videos") == PLACES and result.num_ignored == 4


@each_kind
def test_archives_in_an_archive_are_unpacked_as_in_hmdb51(tmp_path, make):
    wave = {"wave/one_wave_1.avi": b"1", "wave/two.avi": b"22"}
    inner = {"hmdb/wave.rar": rar.write_rar4(wave), "hmdb/run.zip": make_zip({"a.avi": b"333"})}
    result = unpacked(make(inner), tmp_path)
    assert contents(tmp_path / "videos") == wave | {"run/a.avi": b"333"} and len(result.sums) == 3
    assert not contents(tmp_path / "inner")


def test_archives_deeper_than_that_are_refused(tmp_path):
    deep = make_zip({"deepest.zip": make_zip({"a/1.avi": b""})})
    refuses(make_zip({"deep.zip": deep}), tmp_path, "archives in an archive that hold no archives themselves")


@each_kind
def test_a_video_that_is_there_twice_is_written_once(tmp_path, make):
    copies = {f"again/{name}": content for name, content in VIDEOS.items()}
    unpacked(make(VIDEOS | copies), tmp_path)
    assert contents(tmp_path / "videos") == PLACES


@each_kind
def test_two_different_videos_of_one_name_are_refused(tmp_path, make):
    archive = make(VIDEOS | {"again/Biking/v_Biking_g01_c01.avi": b"other"})
    refuses(archive, tmp_path, "two different videos Biking/v_Biking_g01_c01.avi")


@each_kind
@pytest.mark.parametrize(
    "name",
    [
        "../evil.avi",
        "a/../../evil.avi",
        "/tmp/evil/a.avi",
        "..\\..\\evil.avi",
        "\\\\host\\share\\a.avi",
        "C:\\evil\\a.avi",
        "a/b\x1b[2J.avi",
        "a/b\nc.avi",
        "a/..",
        "../readme.txt",
    ],
)
def test_names_that_lead_outside_or_do_not_print_are_refused(tmp_path, make, name):
    refuses(make(VIDEOS | {name: b"evil"}), tmp_path, "is not safe to unpack: it holds a file named")
    assert not contents(tmp_path / "videos")


@with_modes
@pytest.mark.parametrize("mode", [LINK, stat.S_IFLNK])
def test_symbolic_links_are_refused(tmp_path, make, mode):
    archive = make(VIDEOS | {"UCF50/Biking/link.avi": b"/etc/passwd"}, modes={"UCF50/Biking/link.avi": mode})
    refuses(archive, tmp_path, "'UCF50/Biking/link.avi' in it is no regular file, such as a link")


def test_symbolic_links_of_rar5_are_refused(tmp_path):
    archive = rar.write_rar5(VIDEOS, links={"UCF50/Biking/link.avi": "/etc/passwd"})
    refuses(archive, tmp_path, "'UCF50/Biking/link.avi' in it is no regular file, such as a link")


@pytest.mark.parametrize("mode", [stat.S_IFIFO, stat.S_IFCHR])
def test_devices_in_a_zip_are_refused(tmp_path, mode):
    refuses(make_zip(VIDEOS | {"a/b.avi": b""}, modes={"a/b.avi": mode}), tmp_path, "is no regular file")


@each_kind
def test_files_larger_than_expected_are_refused_before_any_is_written(tmp_path, make):
    text = "its files have 12006 bytes, and at most 12005 are expected"
    refuses(make(VIDEOS), tmp_path, text, max_bytes=12005)
    assert not contents(tmp_path / "videos")


def test_archives_in_an_archive_share_its_limit(tmp_path):
    inner = {f"{name}.zip": make_zip({f"{name}/a.avi": bytes(10**6)}) for name in ("one", "two")}
    refuses(make_zip(inner), tmp_path, "is not safe to unpack: its files have 1000000", max_bytes=1_500_000)


def test_a_zip_that_holds_more_than_it_states_is_cut_off(tmp_path):
    archive = bytearray(make_zip({"a/bomb.avi": bytes(10**7)}))
    for position in (archive.index(b"PK\x01\x02") + 24, archive.index(b"PK\x03\x04") + 22):
        archive[position : position + 4] = (1000).to_bytes(4, "little")
    refuses(bytes(archive), tmp_path, "is damaged")
    assert sum(map(len, contents(tmp_path / "videos").values())) <= 1000


def test_a_rar_that_holds_less_than_it_states_is_damaged(tmp_path):
    name = next(iter(VIDEOS))
    refuses(rar.write_rar4(VIDEOS, sizes={name: 10**6}), tmp_path, "is damaged")


@each_kind
def test_a_changed_byte_of_a_video_is_found_by_its_crc(tmp_path, make):
    store = make_stored_zip if make is make_zip else make
    archive = bytearray(store(VIDEOS))
    content = next(iter(VIDEOS.values()))
    archive[archive.index(content) + 1500] ^= 1
    refuses(bytes(archive), tmp_path, "is damaged")


def make_stored_zip(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@each_kind
def test_a_cut_archive_is_damaged(tmp_path, make):
    archive = make(VIDEOS)
    refuses(archive[: len(archive) // 2], tmp_path, "is damaged")


@each_kind
def test_random_damage_is_an_error_or_changes_no_video(tmp_path, make):
    """An error of the archive, never another one: with 150 damages per kind."""
    archive, rng = make(VIDEOS), random.Random(0)
    failed = 0
    for number in range(150):
        damaged = bytearray(archive)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            unpacked(bytes(damaged), folder)
            assert set(contents(folder / "videos").values()) <= set(VIDEOS.values())
        except UserError:
            failed += 1
        shutil.rmtree(folder)
    assert failed > 40 and not any(tmp_path.iterdir())


def test_encrypted_files_are_refused(tmp_path):
    archive = bytearray(make_zip(VIDEOS))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    refuses(bytes(archive), tmp_path, "in it is encrypted")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ucf50_tfrecord.fetching.archives._MAX_ENTRIES", 3)
    for make in MAKERS.values():
        (tmp_path / make.__name__).mkdir()
        refuses(make(VIDEOS), tmp_path / make.__name__, "an archive of at most 3 files")


@each_kind
def test_an_archive_without_videos_is_an_error(tmp_path, make):
    refuses(make({"readme/readme.txt": b"x"}), tmp_path, "an archive with videos in class folders")


@pytest.mark.parametrize("content", [b"", b"Ra", b"<!DOCTYPE html>", b"7z\xbc\xaf\x27\x1c" + bytes(40)])
def test_other_files_are_no_archives(tmp_path, content):
    refuses(content, tmp_path, "Expected a RAR or ZIP archive")


def test_too_small_a_disk_is_noticed_before_the_first_file(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    refuses(make_zip(VIDEOS), tmp_path, "are needed, and 0.0 MB are free")
    assert not contents(tmp_path / "videos")


# An empty file that calls itself compressed: it needs an unpacker, which finds nothing to decompress.
COMPRESSED = rar.write_rar4(VIDEOS | {"UCF50/readme.txt": b""}, methods={"UCF50/readme.txt": rar.COMPRESSED})


def installed():
    return [tool.name for tool in UNPACKERS if unpackers._works(tool)]


@pytest.mark.parametrize("name", [tool.name for tool in UNPACKERS])
def test_the_unpackers_of_this_machine_are_used(tmp_path, monkeypatch, name):
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    only(monkeypatch, name)
    result = unpacked(COMPRESSED, tmp_path)
    assert contents(tmp_path / "videos") == PLACES and result.num_ignored == 1


def only(monkeypatch, name):
    tools = [tool for tool in UNPACKERS if tool.name == name]
    monkeypatch.setattr("ucf50_tfrecord.fetching.unpackers._UNPACKERS", tools)


@pytest.fixture
def fake(tmp_path_factory, monkeypatch):
    """Puts a program into PATH that plays bsdtar: a shell script that answers the question for its version."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "all").write_bytes(b"".join(VIDEOS.values()))
    only(monkeypatch, "bsdtar")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(script: str):
        (folder / "bsdtar").write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{script}\n')
        (folder / "bsdtar").chmod(0o755)

    return write


def test_an_unpackers_output_is_split_into_the_files(tmp_path, fake):
    fake('exec cat "${0%/*}/all"')
    unpacked(COMPRESSED, tmp_path)
    assert contents(tmp_path / "videos") == PLACES


@pytest.mark.parametrize(
    "script, text",
    [
        ('exec head -c 9000 "${0%/*}/all"', "or bsdtar cannot decompress it"),
        ("exec head -c 20000 /dev/zero", "has another size or CRC-32 than stated, or bsdtar cannot"),
        ("exec cat /dev/zero", "has another size or CRC-32 than stated, or bsdtar cannot"),
        ('exec cat "${0%/*}/all" "${0%/*}/all"', "bsdtar found other files"),
        ("echo unsupported filter >&2; exit 1", "bsdtar cannot unpack the archive .*: unsupported filter"),
        ("exit 3", "bsdtar cannot unpack the archive .*: its process exited with status 3"),
        ("kill -9 $$", "bsdtar cannot unpack the archive .*: its process was killed by SIGKILL"),
    ],
)
def test_an_unpacker_that_fails_or_lies_is_found_out(tmp_path, fake, script, text):
    fake(script)
    refuses(COMPRESSED, tmp_path, text)


def test_an_unpacker_can_neither_write_files_nor_start_programs(tmp_path, fake):
    fake(f'echo owned > {tmp_path}/evil; (true) && echo owned; exec cat "${{0%/*}}/all"')
    refuses(COMPRESSED, tmp_path, "annot unpack the archive|another size")


def test_solid_archives_need_an_unpacker_that_reads_them(tmp_path, fake, monkeypatch):
    fake('exec cat "${0%/*}/all"')
    monkeypatch.setattr("ucf50_tfrecord.fetching.unpackers._UNPACKERS", UNPACKERS)
    monkeypatch.setenv("PATH", os.environ["PATH"].split(":")[0])  # no other unpacker
    solid = rar.write_rar4(
        VIDEOS | {"UCF50/readme.txt": b""}, methods={"UCF50/readme.txt": rar.COMPRESSED}, solid=True
    )
    refuses(solid, tmp_path, "Expected a program that unpacks solid RAR archives")


def test_a_program_of_the_same_name_with_other_abilities_is_not_used(monkeypatch, tmp_path):
    """Such as unrar-free, which Debian also installs as unrar."""
    (tmp_path / "unrar").write_text("#!/bin/sh\nexit 64\n")
    (tmp_path / "unrar").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="Install the package unar of Debian.*p7zip cannot unpack RAR"):
        unpackers.find()


def test_a_rar_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rarfile", None)
    refuses(rar.write_rar4(VIDEOS), tmp_path, "needs a package that is missing")
