import errno
import os

import pytest

from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    with storage.atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        with storage.atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_reported_with_the_path(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(UserError, match=f"Cannot write {path}: No space left"):
        with storage.atomic_write(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        storage.write_json(tmp_path / "file" / "x.json", {})


def test_json_round_trip_has_one_form(tmp_path):
    storage.write_json(tmp_path / "a", {"b": 1, "a": ["ü"]})
    storage.write_json(tmp_path / "b", {"a": ["ü"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert storage.read_json(tmp_path / "a") == {"a": ["ü"], "b": 1}


def test_unreadable_json_is_named(tmp_path):
    with pytest.raises(storage.MissingError, match="Cannot read .*missing"):
        storage.read_json(tmp_path / "missing")
    (tmp_path / "deep").write_text("[" * 200_000)
    with pytest.raises(UserError, match="deep is not valid JSON"):
        storage.read_json(tmp_path / "deep")
    (tmp_path / "torn").write_text('{"a": ')
    with pytest.raises(UserError, match="torn is not valid JSON"):
        storage.read_json(tmp_path / "torn")


def test_names_that_are_not_utf8_survive_json(tmp_path):
    name = b"caf\xe9.avi".decode("utf-8", "surrogateescape")
    storage.write_json(tmp_path / "a", [name])
    assert storage.read_json(tmp_path / "a") == [name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make the folder .*file/a/b: Not a directory"):
        storage.make_folder(tmp_path / "file" / "a" / "b")


def test_a_lock_is_held_by_one_and_then_free(tmp_path):
    with storage.folder_lock(tmp_path):
        with pytest.raises(UserError, match="Another process is writing"):
            with storage.folder_lock(tmp_path):
                pass
    with storage.folder_lock(tmp_path):
        pass


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="Cannot lock the folder"):
        with storage.folder_lock(tmp_path):
            pass


def write_folder(path, content=b"new"):
    with storage.atomic_folder(path, names=["data", "mark"], mark="mark") as folder:
        (folder / "mark").touch()
        (folder / "data").mkdir()
        (folder / "data" / "file").write_bytes(content)
        assert content not in [file.read_bytes() for file in path.rglob("file")]


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "folder"
    for content in (b"first", b"second"):
        write_folder(path, content)
        assert (path / "data" / "file").read_bytes() == content
        assert os.listdir(path.parent) == ["folder"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    write_folder(tmp_path / "folder", b"old")
    with pytest.raises(UserError, match="Cannot write the folder .*folder: No space left"):
        with storage.atomic_folder(tmp_path / "folder", names=["data", "mark"], mark="mark") as folder:
            (folder / "data").mkdir()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (tmp_path / "folder" / "data" / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    write_folder(path)  # it was empty
    (path / "mine").touch()
    with pytest.raises(
        UserError, match="new, empty or written by this before. Received: .*folder, which holds mine"
    ):
        write_folder(path)
    (path / "mine").unlink()
    (path / "mark").unlink()
    with pytest.raises(UserError, match="which holds no mark"):
        write_folder(path)
    assert os.listdir(tmp_path) == ["folder"] and (path / "data" / "file").exists()


def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "named pipe"), ("folder", "folder")):
        for read in (storage.read_json, storage.read_bytes, storage.sha256):
            with pytest.raises(
                UserError, match=f"a regular file. Received: {tmp_path}/{name}, which is a {kind}"
            ):
                read(tmp_path / name)
    with pytest.raises(UserError, match="/dev/zero, which is a device"):
        storage.read_json("/dev/zero")


def test_a_file_is_read_up_to_a_size(tmp_path):
    (tmp_path / "a").write_bytes(b"[1, 2]")
    assert storage.read_json(tmp_path / "a", max_bytes=6) == [1, 2]
    with pytest.raises(UserError, match="a file of at most 5 bytes. Received: .*/a, which has more"):
        storage.read_json(tmp_path / "a", max_bytes=5)
    assert storage.read_bytes(tmp_path / "a", 1, 4, max_bytes=1) == b"1, "


def is_earlier(names):
    return "earlier" in names


def test_a_claimed_folder_is_known_by_its_marker(tmp_path):
    folder = tmp_path / "deep" / "folder"
    storage.check_own(folder, "a cache", is_earlier)
    assert not folder.exists()
    storage.claim_folder(folder, "a cache", is_earlier)
    (folder / "anything").touch()
    storage.claim_folder(folder, "a cache", is_earlier)
    with pytest.raises(
        UserError, match="a folder for a comparison: .* holds files of another kind: 'a cache'"
    ):
        storage.claim_folder(folder, "a comparison", is_earlier)


def test_a_folder_of_something_else_is_not_claimed(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match=f"Received: {tmp_path}, which holds other files, such as 'mine'"):
        storage.claim_folder(tmp_path, "a cache", is_earlier)
    assert os.listdir(tmp_path) == ["mine"]
    (tmp_path / "earlier").touch()
    storage.claim_folder(tmp_path, "a cache", is_earlier)


def test_chosen_files_are_removed_and_folders_never(tmp_path):
    for name in ("a1", "b1"):
        (tmp_path / name).touch()
    (tmp_path / "a2").mkdir()
    (tmp_path / "a3").symlink_to(tmp_path / "b1")
    storage.remove_files(tmp_path, lambda name: name.startswith("a"))
    assert sorted(os.listdir(tmp_path)) == ["a2", "b1"]
