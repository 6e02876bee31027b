"""Opens streams of video: standard input, FIFOs, character devices, and addresses of http and https.

This trusted process opens a stream, and the worker process that decodes it gets one open file. So FFmpeg needs no
protocol, and nothing in a stream can make it open anything else. Cameras (V4L2) and RTSP would need system calls and
sockets in the worker's sandbox; a program such as ffmpeg must pipe them in.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import ssl
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ucf50_tfrecord import remote
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.inference.decoding import STANDARD_INPUT

_V4L2_MAJOR = 81  # Documentation/admin-guide/devices.txt of Linux
_CHUNK_BYTES = 1 << 16
_WATCH_SECS = 0.2
_CONNECT_SECS = 10.0
_JOIN_SECS = 5.0


class Stream:
    """An open stream.

    name: the stream's name for messages: "-", a path or a URL.
    """

    def __init__(self, name: str, file: BinaryIO, pump: _Pump | None = None):
        self.name, self._file, self._pump = name, file, pump

    def take_file(self) -> BinaryIO:
        """Returns the open file, which the caller must close: while it is open, the sender does not see the end."""
        return self._file

    def problem(self) -> str:
        """Returns the reason why a stream broke off that has ended; "" if it ended by itself."""
        if self._pump is None:
            return ""
        self._pump.join(_JOIN_SECS)
        return self._pump.problem

    def close(self) -> None:
        """Closes the stream; its sender gets an error."""
        self._file.close()
        if self._pump:
            self._pump.close()


def check(name: str) -> None:
    """Checks that a stream's name is of a kind that can be opened, without opening it.

    Raises:
      UserError: if it is not.
    """
    if name == STANDARD_INPUT:
        if os.isatty(0):
            raise UserError(
                "Standard input is a terminal. Expected a stream of video that another program pipes in"
            )
    elif remote.is_remote(name.lower()):
        _check_url(name)
    else:
        _check_path(name)


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        command = ("ffmpeg", "-i", url, "-an", "-c", "copy", "-f", "mpegts", "-")
        raise UserError(
            f"Streams of {parts.scheme}:// are not opened here, because decoding processes have no sockets",
            Remedy(Action.PIPE, command=command),
        )
    try:
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_valid = False
    if not is_valid or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError(
            f"Expected an address such as http://host/path, other characters as %XX. Received: {url}"
        )
    if "@" in parts.netloc:
        raise UserError(
            f"Expected an address without a password. Received one for {parts.hostname}. A program that logs in can "
            "pipe the stream in"
        )


def _check_path(path: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"There is no stream {path}") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _V4L2_MAJOR:
        raise UserError(
            f"{path} is a camera (V4L2), which is not opened here, because decoding processes may not control devices",
            Remedy(Action.PIPE, command=("ffmpeg", "-f", "v4l2", "-i", path, "-c", "copy", "-f", "nut", "-")),
        )
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        raise UserError(
            f"Expected a stream. Received: {path}, a file or a folder",
            Remedy(Action.SET, "to predict recorded videos", live=False),
        )
    if not stat.S_ISFIFO(status.st_mode) and not stat.S_ISCHR(status.st_mode):
        raise UserError(f"Expected a FIFO, a device, an http address or -. Received: {path}")


@contextlib.contextmanager
def opened(name: str, wait_secs: float, should_stop: Callable[[], bool]) -> Iterator[Stream | None]:
    """Opens a stream whose name `check` accepts, and closes it at the end of the block.

    Args:
      name: "-" for standard input, the path of a FIFO or character device, or an http or https address. Redirects of
        a server are not followed, and its certificate is verified.
      wait_secs: largest time in which nothing arrives, also before a writer opens a FIFO.
      should_stop: called regularly while a FIFO has no writer; tells whether to give up.

    Yields:
      The stream; None if should_stop told to give up.

    Raises:
      UserError: if the stream cannot be opened.
    """
    if remote.is_remote(name.lower()):
        stream: Stream | None = _open_url(name, wait_secs)
    else:
        stream = _open_path(name, wait_secs, should_stop)
    try:
        yield stream
    finally:
        if stream:
            stream.close()


def _open_path(name: str, wait_secs: float, should_stop: Callable[[], bool]) -> Stream | None:
    try:
        if name == STANDARD_INPUT:
            return Stream(name, open(os.dup(0), "rb", buffering=0))
        # A blocking call would wait for a FIFO's writer without an end.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = open(os.open(name, flags), "rb", buffering=0)
    except OSError as error:
        raise UserError(f"Cannot read {name}: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        if file.isatty():
            raise UserError(f"{name} is a terminal. Expected a stream of video")
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) and not _await_writer(
            file, name, wait_secs, should_stop
        ):
            return None
        os.set_blocking(file.fileno(), True)
        stack.pop_all()
    return Stream(name, file)


def _await_writer(file: BinaryIO, name: str, wait_secs: float, should_stop: Callable[[], bool]) -> bool:
    """Waits until a writer has opened a FIFO and written. Returns whether one has, before should_stop told to stop.

    Raises:
      UserError: if nothing arrives in time.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)  # and POLLHUP, once a writer has come and gone
    deadline = time.monotonic() + wait_secs
    while not poll.poll(_WATCH_SECS * 1000):
        if should_stop():
            return False
        if time.monotonic() >= deadline:
            raise UserError(f"{name}: nothing arrived for {wait_secs:g} s")
    return True


def _open_url(url: str, wait_secs: float) -> Stream:
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_CONNECT_SECS, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_CONNECT_SECS)
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.connect()
        connection.request("GET", target, headers={"Accept-Encoding": "identity", "Connection": "close"})
        sock = connection.sock
        response = connection.getresponse()
        sock.settimeout(wait_secs)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise UserError(f"Cannot read {url}: {_reason(error, _CONNECT_SECS)}") from error
    if response.status != http.client.OK:
        response.close()
        connection.close()
        where = response.getheader("Location") if 300 <= response.status < 400 else None
        redirect = f", a redirect to {where}; redirects are not followed" if where else ""
        raise UserError(f"Cannot read {url}: the server answers with status {response.status}{redirect}")
    ours, theirs = os.pipe()
    pump = _Pump(response, sock, theirs, wait_secs)
    pump.start()
    return Stream(url, open(ours, "rb", buffering=0), pump)


def _reason(error: Exception, wait_secs: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing arrived for {wait_secs:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


class _Pump(threading.Thread):
    """Copies the body of an answer over HTTP into a pipe.

    problem: the reason why the answer broke off; "" if it did not.
    """

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket, pipe: int, wait_secs: float):
        super().__init__(daemon=True)
        self._response, self._socket, self._wait_secs = response, sock, wait_secs
        self._pipe = open(pipe, "wb", buffering=0)
        self.problem = ""

    def run(self) -> None:
        with self._pipe:
            while not self.problem:
                content = self._receive()
                if not content or not self._send(content):
                    return

    def close(self) -> None:
        """Ends the transfer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self.join(_JOIN_SECS)
        self._response.close()

    def _receive(self) -> bytes:
        try:
            content = self._response.read1(_CHUNK_BYTES)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.problem = _reason(error, self._wait_secs)
            return b""
        if not content and self._response.length:
            self.problem = f"the connection ended {self._response.length} bytes early"
        return content

    def _send(self, content: bytes) -> bool:
        """Writes to the pipe; returns whether anybody still reads it."""
        unwritten = memoryview(content)
        try:
            while unwritten:
                unwritten = unwritten[self._pipe.write(unwritten) :]
        except BrokenPipeError:
            return False
        return True
