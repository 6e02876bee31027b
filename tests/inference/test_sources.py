"""Real FIFOs, devices and servers on this machine: which streams are opened, and why others are not."""

import os
import pty
import ssl
import threading

import pytest

from tests.conftest import raises_with_remedies
from tests.fetching.server import Answer, serving
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.inference import sources

CONTENT = bytes(range(256)) * 2000


def never():
    return False


def read(name, wait_secs=10.0):
    """Reads a stream to its end; returns its bytes and the reason why it broke off."""
    with sources.opened(name, wait_secs, never) as stream, stream.take_file() as file:
        return file.read(), stream.problem()


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "rtsp://cam/1",
            r"Streams of rtsp:// .* To pipe it in: ffmpeg -i rtsp://cam/1 -an -c copy -f mpegts - \| .*",
        ),
        ("RTMP://cam/$1", r"Streams of rtmp:// .*ffmpeg -i 'RTMP://cam/\$1' -an"),
        ("http://", "Expected an address such as http://host/path"),
        ("http://host:port/", "Expected an address"),
        ("http://host/a b", "Expected an address"),
        ("http://host/\r\nHost: other", "Expected an address"),
        ("http://höst/", "Expected an address"),
        ("https://me:secret@host/", "Expected an address without a password. Received one for host"),
        ("nowhere", "There is no stream nowhere"),
        ("x" * 300, "Cannot read x*: File name too long"),
        (".", "a file or a folder. To predict recorded videos: --nolive"),
        (__file__, "a file or a folder. To predict recorded videos: --nolive"),
    ],
)
def test_names_of_other_things_are_refused(name, message):
    with raises_with_remedies(message):
        sources.check(name)


def test_a_password_is_not_shown():
    with pytest.raises(UserError) as raised:
        sources.check("https://me:secret@host/")
    assert "secret" not in str(raised.value)


def test_a_camera_is_refused_with_the_pipe_to_use(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_V4L2_MAJOR", os.major(os.stat("/dev/null").st_rdev))
    with raises_with_remedies(
        r"ffmpeg -f v4l2 -i /dev/null -c copy -f nut - \| .*predict --live --video=- --run=…"
    ):
        sources.check("/dev/null")


def test_names_of_streams_are_accepted(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in (
        tmp_path / "fifo",
        "/dev/zero",
        "http://host/a?b",
        "HTTPS://host:8443/a",
        "http://[::1]:80/",
    ):
        sources.check(str(name))


def test_a_terminal_is_no_stream():
    ours, theirs = pty.openpty()
    try:
        with (
            pytest.raises(UserError, match="is a terminal"),
            sources.opened(os.ttyname(theirs), 1.0, never),
        ):
            pass
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_fifo_is_read_to_its_end(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(CONTENT))
    writer.start()
    assert read(str(path)) == (CONTENT, "")
    writer.join()


def test_a_fifo_without_a_writer_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with (
        pytest.raises(UserError, match="fifo: nothing arrived for 0.5 s"),
        sources.opened(str(tmp_path / "fifo"), 0.5, never),
    ):
        pass
    with sources.opened(str(tmp_path / "fifo"), 60.0, lambda: True) as stream:
        assert stream is None


def test_a_server_is_read_to_its_end():
    with serving(CONTENT) as server:
        assert read(server.url) == (CONTENT, "")


@pytest.mark.parametrize(
    "answer, message",
    [
        (
            Answer(status=302, headers={"Location": "http://elsewhere/"}),
            "status 302, a redirect to http://elsewhere/; redirects are not followed",
        ),
        (Answer(status=404), "the server answers with status 404"),
        (Answer(status=206), "the server answers with status 206"),
    ],
)
def test_other_answers_than_a_stream_are_refused(answer, message):
    with serving(CONTENT) as server:
        server.answers = [answer]
        with pytest.raises(UserError, match=message), sources.opened(server.url, 5.0, never):
            pass
        assert len(server.ranges) == 1


def test_a_connection_that_is_cut_or_stalls_is_told_from_an_end():
    with serving(CONTENT) as server:
        server.answers = [Answer(after=3000), Answer(after=3000, stalls=True)]
        assert read(server.url) == (CONTENT[:3000], f"the connection ended {len(CONTENT) - 3000} bytes early")
        assert read(server.url, 0.5) == (CONTENT[:3000], "nothing arrived for 0.5 s")


def test_a_stream_may_be_closed_before_its_end():
    with serving(CONTENT) as server:
        server.answers = [Answer(after=10, stalls=True)]
        with sources.opened(server.url, 600.0, never) as stream:
            assert os.read(stream.take_file().fileno(), 10) == CONTENT[:10]
    assert not [thread for thread in threading.enumerate() if isinstance(thread, sources._Pump)]


def test_nobody_listens():
    with (
        pytest.raises(UserError, match="ConnectionRefusedError"),
        sources.opened("http://127.0.0.1:9/", 5.0, never),
    ):
        pass


def test_a_certificate_is_verified(certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{certificate}.crt", certificate)
    with (
        serving(CONTENT, tls=tls) as server,
        pytest.raises(UserError, match=r"its certificate is not valid: self.signed certificate"),
        sources.opened(server.url, 5.0, never),
    ):
        pass


def test_https_is_read(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{certificate}.crt", certificate)
    with serving(CONTENT, tls=tls) as server:
        assert read(server.url) == (CONTENT, "")
        server.answers = [Answer(after=10, stalls=True)]
        with sources.opened(server.url, 600.0, never) as stream:
            assert os.read(stream.take_file().fileno(), 10) == CONTENT[:10]
    assert not [thread for thread in threading.enumerate() if isinstance(thread, sources._Pump)]
