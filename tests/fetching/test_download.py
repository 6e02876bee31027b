import random

import pytest

from tests.conftest import raises_with_remedies
from tests.fetching.helpers import Remembering
from tests.fetching.server import Answer, serving
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.fetching.download import DownloadOptions, check_url, download

CONTENT = b"Rar!\x1a\x07\x00" + random.Random(0).randbytes(3 << 20)
OTHER = b"Rar!\x1a\x07\x00" + random.Random(1).randbytes(3 << 20)
FAST = DownloadOptions(stall_secs=0.5, num_tries=3, wait_secs=0)


@pytest.fixture
def server():
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.rar"


def fetch(server, path, *, num_bytes=None, max_bytes=1 << 30, options=FAST):
    listener = Remembering()
    download(server.url, path, num_bytes=num_bytes, max_bytes=max_bytes, options=options, listener=listener)
    return listener


def fails(server, path, text, **options):
    with pytest.raises(UserError, match=text):
        fetch(server, path, **options)
    assert not path.exists()


def part(path):
    return path.with_name(f"{path.name}.part")


def leave_part(server, path, num_bytes):
    """Leaves a partial file, as a download does that is interrupted."""
    before = server.answers
    server.answers = [Answer(after=num_bytes), *[Answer(status=503)] * 3]
    fails(server, path, "the same command continues")
    assert part(path).stat().st_size == num_bytes
    server.answers = before
    server.ranges.clear()


def test_a_file_arrives_whole(server, path):
    listener = fetch(server, path, num_bytes=len(CONTENT))
    assert path.read_bytes() == CONTENT and not part(path).exists()
    assert listener.num_units == len(CONTENT) and listener.steps == [("downloading", 0)]
    fetch(server, path)
    assert len(server.ranges) == 1  # it is not downloaded again


def test_a_download_resumes_after_cuts_and_stalls(server, path):
    server.answers = [Answer(after=1 << 20), Answer(after=1000, stalls=True), Answer(status=503)]
    listener = fetch(server, path, num_bytes=len(CONTENT))
    assert path.read_bytes() == CONTENT
    first, second = 1 << 20, (1 << 20) + 1000
    assert server.ranges == ["", f"bytes={first}-", f"bytes={second}-", f"bytes={second}-"]
    assert listener.retries == [
        f"the connection ended after {first} of {len(CONTENT)} bytes",
        "the server stopped sending",
        "the server answered 503",
    ]
    assert listener.num_units == len(CONTENT)  # nothing was transferred twice


def test_the_next_call_resumes_what_an_earlier_one_left(server, path):
    leave_part(server, path, 1 << 20)
    listener = fetch(server, path)
    assert path.read_bytes() == CONTENT and server.ranges == [f"bytes={1 << 20}-"]
    assert listener.steps == [("downloading", 1 << 20)]


def test_a_download_that_was_complete_but_for_its_name_transfers_nothing(server, path):
    fetch(server, path)
    path.rename(part(path))
    fetch(server, path)
    assert path.read_bytes() == CONTENT and len(server.ranges) == 1


@pytest.mark.parametrize("validators", [True, False])
def test_a_file_that_changes_between_tries_is_never_mixed(server, path, validators):
    """Without validators, another size tells."""
    server.validators = validators
    leave_part(server, path, 1 << 20)
    server.content = OTHER if validators else OTHER + b"more"
    listener = fetch(server, path)
    assert path.read_bytes() == server.content
    assert listener.restarts == ["the file on the server has changed"]


def test_a_server_that_ignores_the_condition_is_found_out_by_the_edition(server, path, monkeypatch):
    leave_part(server, path, 1 << 20)
    server.content = OTHER
    monkeypatch.setattr(
        "tests.fetching.server._Handler._start",
        lambda self, etag, answer: int((self.headers.get("Range") or "bytes=0-")[6:-1]),
    )
    listener = fetch(server, path)
    assert path.read_bytes() == OTHER and listener.restarts == ["the file on the server has changed"]


def test_a_server_that_ignores_ranges_sends_the_file_again(server, path):
    server.answers = [Answer(after=1 << 20), Answer(ignores_range=True)]
    listener = fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert listener.restarts == ["the server sent the file from its first byte"]


def test_a_server_that_sends_another_range_is_not_believed(server, path):
    server.answers = [Answer(after=1 << 20), Answer(shifted=5), Answer(shifted=-5)]
    assert len(fetch(server, path).retries) == 3
    assert path.read_bytes() == CONTENT


def test_a_download_without_progress_ends_and_keeps_what_has_arrived(server, path):
    server.answers = [Answer(after=1 << 20), *[Answer(after=0)] * 50]
    fails(server, path, "3 tries in a row brought nothing new. The 1.0 MB that have arrived are kept")
    assert part(path).stat().st_size == 1 << 20 and len(server.ranges) == 4


def test_a_server_that_always_begins_again_does_not_count_as_progress(server, path):
    server.answers = [Answer(after=1 << 20, ignores_range=True)] * 50
    fails(server, path, "3 tries in a row brought nothing new")
    assert len(server.ranges) == 4


def test_tries_that_bring_something_do_not_count(server, path):
    server.answers = [Answer(after=200_000)] * 10
    assert len(fetch(server, path).retries) == 10
    assert path.read_bytes() == CONTENT


def test_a_range_behind_the_end_begins_again(server, path):
    server.validators = False
    leave_part(server, path, 1 << 20)
    server.content = CONTENT[: 1 << 10]
    listener = fetch(server, path)
    assert path.read_bytes() == server.content
    assert listener.restarts == ["the server's file does not have the range that is missing"]


def test_another_url_does_not_continue_the_file(server, path):
    leave_part(server, path, 1 << 20)
    with serving(OTHER) as other:
        fetch(other, path)
        assert path.read_bytes() == OTHER and other.ranges == [""]
        fetch(server, path)
    assert path.read_bytes() == CONTENT and server.ranges == [""]


@pytest.mark.parametrize("state", [None, b"{", b'{"url": 3}'])
def test_a_part_whose_state_is_lost_is_not_continued(server, path, state):
    leave_part(server, path, 1 << 20)
    file = path.with_name(f"{path.name}.json")
    file.unlink() if state is None else file.write_bytes(state)
    fetch(server, path)
    assert path.read_bytes() == CONTENT and server.ranges == [""]


@pytest.mark.parametrize("stated", [100, len(CONTENT) + 1])
def test_a_stated_size_that_is_not_the_published_one_is_an_error(server, path, stated):
    server.answers = [Answer(stated=stated)]
    text = f"to have {len(CONTENT)} bytes. Received: a server that states {stated}. .*accept its size: --archive_bytes=0"
    with raises_with_remedies(text):
        fetch(server, path, num_bytes=len(CONTENT))
    assert not path.exists() and not part(path).exists()


def test_a_stated_size_above_the_limit_is_an_error(server, path):
    fails(server, path, "a file of at most 1000 bytes", max_bytes=1000)


def test_a_body_that_is_longer_than_it_may_be_is_cut_off(server, path):
    server.answers = [Answer(stated=0)]  # a body that ends with the connection
    fails(server, path, "the server sent more than 1000000 bytes", max_bytes=10**6)
    assert part(path).stat().st_size <= 10**6


def test_a_body_without_a_size_is_complete_when_it_has_the_published_one(server, path):
    server.answers = [Answer(stated=0, after=1 << 20), Answer(stated=0)]
    assert len(fetch(server, path, num_bytes=len(CONTENT)).retries) == 1
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_the_file(server, path, kind):
    server.content = b"<!DOCTYPE html><title>Under maintenance</title>"
    server.answers = [Answer(kind=kind)]
    fails(server, path, "the server sent a web page|which begins with b'<!DOCTYPE html>")
    server.content = CONTENT
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_refusal_ends_the_download_at_once(server, path):
    server.answers = [Answer(status=404)]
    fails(server, path, r"the server answered 404 \(Not Found\)")
    assert len(server.ranges) == 1


def test_a_busy_server_is_given_the_time_that_it_asks_for(server, path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.answers = [Answer(status=429, headers={"Retry-After": wait}) for wait in ("7", "86400", "soon")]
    fetch(server, path, options=DownloadOptions(wait_secs=1, num_tries=9))
    assert slept == [7, 60, 4]


def test_waits_double_up_to_a_minute(server, path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    server.answers = [Answer(status=500)] * 8
    fetch(server, path, options=DownloadOptions(wait_secs=1, num_tries=9))
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "ftp://localhost/a",
        "file:///etc/passwd",
        "https:///a",
        "http://localhost.com/a",
    ],
)
def test_only_encrypted_urls_and_this_machine_are_accepted(url, tmp_path):
    with pytest.raises(UserError, match="a URL that begins with https://"):
        check_url(url)


@pytest.mark.parametrize("target", ["http://example.com/set.rar", "file:///etc/passwd"])
def test_redirections_to_other_urls_are_refused(server, path, target):
    server.answers = [Answer(status=302, headers={"Location": target})]
    fails(server, path, "a URL that begins with https://|is not allowed")


def test_redirections_on_this_machine_are_followed(server, path):
    server.answers = [Answer(status=302, headers={"Location": server.url})]
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_tried_again(path):
    with serving(b"") as gone:
        pass
    fails(gone, path, "Connection refused; 3 tries in a row")


def test_too_small_a_disk_is_noticed_before_the_download(server, path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    fails(server, path, "3.1 MB are missing, and 0.0 MB are free")
    assert not part(path).exists()


def test_a_folder_that_cannot_be_written_is_named(server, path):
    part(path).mkdir()
    with pytest.raises(UserError, match=f"Cannot write {part(path)}: Is a directory"):
        fetch(server, path)


def test_proxies_are_not_asked_for_this_machine(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://localhost:9")
    monkeypatch.delenv("no_proxy", raising=False)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
