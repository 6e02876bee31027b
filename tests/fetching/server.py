"""A web server of one file that misbehaves as it is told: it cuts, stalls, lies, and changes the file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import re
import ssl
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class Answer:
    """How one request is answered.

    after: bytes of the body after which the server cuts or stalls; None for no such thing.
    stalls: whether it stalls there until the server ends; otherwise it cuts the connection.
    ignores_range: whether it sends the whole file, whatever is asked for.
    shifted: by how many bytes the range is shifted that it sends in place of the one asked for.
    stated: the size of the file that it states; None states the true one, 0 none.
    status: an HTTP status to answer with in place of the file; headers: of that answer.
    kind: the content type.
    """

    after: int | None = None
    stalls: bool = False
    ignores_range: bool = False
    shifted: int = 0
    stated: int | None = None
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    kind: str = "application/octet-stream"


class Server:
    """The file of a web server.

    url: the file's URL.
    content: the file's bytes; they may be changed at any time.
    answers: how the next requests are answered; later ones get what they ask for.
    ranges: the Range header of each request so far, "" if it had none.
    validators: whether the server states what identifies the file's edition: ETag and Last-Modified.
    """

    def __init__(self, content: bytes):
        self.url, self.content = "", content
        self.answers: list[Answer] = []
        self.ranges: list[str] = []
        self.validators = True
        self.done = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _HttpServer

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server.state
        state.ranges.append(self.headers.get("Range", ""))
        answer = state.answers.pop(0) if state.answers else Answer()
        if answer.status:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        self._send_file(state, answer)

    def _send_file(self, state: Server, answer: Answer) -> None:
        content = state.content
        size = len(content) if answer.stated is None else answer.stated
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"' if state.validators else ""
        start = self._start(etag, answer)
        if start >= len(content):
            self.send_response(416)
            self.end_headers()
            return
        start += answer.shifted if start else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", answer.kind)
        if etag:
            self.send_header("ETag", etag)
        if size:
            self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{size or '*'}")
        self.end_headers()
        body = content[start:] if answer.after is None else content[start : start + answer.after]
        with contextlib.suppress(OSError):  # the client may have gone
            self.wfile.write(body)
            self.wfile.flush()
            if answer.stalls:
                state.done.wait()

    def _start(self, etag: str, answer: Answer) -> int:
        """The first byte to send, by the request's headers."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        expected = self.headers.get("If-Range")
        if not asked or answer.ignores_range or expected not in (None, etag):
            return 0
        return int(asked[1])


class _HttpServer(http.server.ThreadingHTTPServer):
    state: Server

    def handle_error(self, request, client_address) -> None:
        pass  # such as a client that does not trust the certificate


@contextlib.contextmanager
def serving(content: bytes, *, name: str = "set.zip", tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serves a file on this machine while the block runs; by https if a TLS context is given."""
    state = Server(content)
    with _HttpServer(("127.0.0.1", 0), _Handler) as server:
        server.state = state
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "https" if tls else "http"
        state.url = f"{scheme}://localhost:{server.server_address[1]}/{name}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.done.set()
            server.shutdown()
            thread.join()
