"""Files by URL, in stores that need no server; tests/stores has a real one."""

import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.web import serving
from ucf50_tfrecord import remote, storage
from ucf50_tfrecord.errors import UserError


@pytest.fixture(params=["memory", "file"])
def folder(request, tmp_path):
    """A folder that is not there yet."""
    return f"{request.param}://{tmp_path}/some/set"


def test_files_are_written_read_listed_and_removed(folder, tmp_path):
    assert remote.list_names(folder) == []
    (tmp_path / "local").write_bytes(b"0123456789")
    remote.upload(tmp_path / "local", f"{folder}/a")
    remote.write(f"{folder}/b", b"b")
    remote.write(f"{folder}/deeper/c", b"c")
    assert sorted(remote.list_names(folder)) == ["a", "b"]
    assert remote.read(f"{folder}/a") == b"0123456789" and remote.size(f"{folder}/a") == 10
    assert remote.read(f"{folder}/a", 3, 5) == b"34" and remote.read(f"{folder}/a", 7) == b"789"
    remote.remove(f"{folder}/a")
    remote.remove(f"{folder}/a")  # no more than to be rid of it
    for call in (remote.read, remote.size):
        with pytest.raises(FileNotFoundError):
            call(f"{folder}/a")


class Refusing(MemoryFileSystem):
    """As object stores are to who mistypes a bucket's name."""

    def put_file(self, *_arguments, **_options):
        raise FileNotFoundError("The specified bucket does not exist")

    pipe_file = put_file


class WithoutAccount(MemoryFileSystem):
    def __init__(self, **options):
        super().__init__(**options)
        raise ValueError("Must provide an account_name")


def register(kind):
    """Has fsspec know a store; returns the scheme."""
    scheme = f"x{uuid.uuid4().hex}"  # fsspec and remote keep what they have made
    fsspec.register_implementation(scheme, kind)
    return scheme


def test_a_bucket_that_is_not_there_is_a_users_mistake(tmp_path):
    (tmp_path / "local").touch()
    url = f"{register(Refusing)}://bukcet/set/a"
    for call in (lambda: remote.write(url, b""), lambda: remote.upload(tmp_path / "local", url)):
        with pytest.raises(UserError, match=f"Cannot write {url}: The specified bucket does not exist"):
            call()


def test_what_a_store_misses_is_told():
    scheme = register(WithoutAccount)
    with pytest.raises(UserError, match=f"Cannot reach {scheme}:// URLs: Must provide an account_name"):
        remote.read(f"{scheme}://container/a")


def test_an_endpoint_that_is_no_url_is_told_and_nothing_else_tried(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: MemoryFileSystem)
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL, such as http://localhost:9000"):
        remote.read("s3a://bucket/a")


def test_parts_are_right_from_a_server_that_knows_no_ranges(tmp_path, monkeypatch):
    content = bytes(range(200))
    with serving(tmp_path) as server:
        server.behaviour["a"] = content
        assert remote.read(f"{server.url}/a", 50, 60) == content[50:60]
        assert storage.read_bytes(f"{server.url}/a", 190, 200) == content[190:]
        monkeypatch.setattr(remote, "_CHUNK_BYTES", 30)
        with storage.local_copy(f"{server.url}/a") as copy:
            assert copy.read_bytes() == content


class Failing:
    def read(self, url, start, end):
        raise OSError("no answer\n\t when reading it")


def test_a_failure_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(remote, "_store", lambda scheme: Failing())
    with pytest.raises(UserError, match="^Cannot read gs://bucket/x: no answer when reading it$"):
        remote.read("gs://bucket/x")


def test_a_body_without_end_is_read_as_far_as_it_is_wanted(tmp_path):
    with serving(tmp_path) as server:
        server.behaviour["a"] = ...
        with pytest.raises(
            UserError, match="a file of at most 1000000 bytes. Received: http.*/a, which has more"
        ):
            storage.read_bytes(f"{server.url}/a", max_bytes=1_000_000)
        assert remote.read(f"{server.url}/a", 100, 300) == bytes(200)
        assert sum(map(len, remote.read_chunks(f"{server.url}/a", 5, 1_000_000))) == 999_995
        assert server.num_bytes_sent["a"] < 64 << 20
