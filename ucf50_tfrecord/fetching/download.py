"""Downloads one large file: resumes after a cut, tries again with growing waits, and notices a changed file.

Certificates are always verified. A URL without encryption is accepted for this machine only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import pathlib
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.fetching import formats
from ucf50_tfrecord.fetching.listener import FetchListener
from ucf50_tfrecord.settings import Range, check_settings, setting
from ucf50_tfrecord.specs import format_bytes

_CHUNK_BYTES = 1 << 20
_MAX_WAIT_SECS, _MAX_DOUBLINGS = 60.0, 16
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
# Answers that pass: too slow, too early, too many requests; and every error of a server, from 500 on.
_PASSING = frozenset({408, 425, 429})
_OK, _PARTIAL, _RANGE_REFUSED = 200, 206, 416
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d{1,18})-(?P<last>\d{1,18})/(?P<size>\d{1,18}|\*)")


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
    """How a download deals with a bad connection.

    stall_secs, num_tries, wait_secs: see their help.
    ca_file: path of certificates (PEM) that are trusted besides those of the system; None for no others.
    """

    stall_secs: float = setting(
        30.0,
        "Seconds without an answer or a byte after which the download connects again.",
        Range(0, 3600, excludes_low=True),
    )
    num_tries: int = setting(
        10, "Tries in a row that bring nothing new, after which the download stops.", Range(1, 10000)
    )
    wait_secs: float = setting(
        1.0, "Seconds until the first new try; doubled with each, up to a minute.", Range(0, _MAX_WAIT_SECS)
    )
    ca_file: str | None = setting(
        None,
        "File of certificates (PEM) to trust besides the system's, if the server does not send all it should.",
    )

    def __post_init__(self):
        check_settings(self)


@dataclasses.dataclass(frozen=True)
class _Edition:
    """The edition of a file on a server, by which a download that is resumed recognizes it.

    etag, last_modified: as the server states them; "" if it does not.
    num_bytes: the file's size; None if the server does not state it.
    """

    url: parsing.Name
    etag: str = ""
    last_modified: str = ""
    num_bytes: parsing.Count | None = None

    @property
    def condition(self) -> str:
        """The value of If-Range; "" if the server states nothing that identifies the file's bytes."""
        return self.last_modified if self.etag.startswith("W/") or not self.etag else self.etag


class _CutError(Exception):
    """Raised if a transfer stops for a reason that may pass; `wait_secs` is what the server asks for."""

    def __init__(self, reason: str, wait_secs: float = 0.0):
        super().__init__(reason)
        self.wait_secs = wait_secs


def check_url(url: str) -> None:
    """Checks that a URL is encrypted (https), or that of a server on this machine.

    Raises:
      UserError: if it is another URL.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _THIS_MACHINE
    expect(parts.scheme == "https" and parts.hostname or local, "a URL that begins with https://", url=url)


def download(
    url: str,
    path: pathlib.Path,
    *,
    num_bytes: int | None,
    max_bytes: int,
    options: DownloadOptions,
    listener: FetchListener,
) -> None:
    """Downloads a file; continues with what an earlier call left, if the server still has the same edition.

    What has arrived is in `<path>.part`, the edition in `<path>.json`. The file is renamed to `path` once it is
    complete. A file at `path` that came from the same URL is not downloaded again. The caller must hold the
    folder's lock.

    Args:
      url: the file's address.
      path: where the file is written.
      num_bytes: the file's expected size; None accepts the size that the server states.
      max_bytes: largest size of the file.
      options: when to connect again, and which certificates to trust.
      listener: receives the progress.

    Raises:
      UserError: if the server refuses, sends something else than an archive of that size, or nothing new after
        several tries; if its certificate is not valid; or if the file cannot be written.
    """
    check_url(url)
    transfer = _Transfer(url, path, num_bytes, max_bytes, options, listener)
    if not path.exists():
        transfer.run()


class _Transfer:
    """The transfer of one file, in one or more tries. What is left from another URL is discarded at once."""

    def __init__(
        self,
        url: str,
        path: pathlib.Path,
        num_bytes: int | None,
        max_bytes: int,
        options: DownloadOptions,
        listener: FetchListener,
    ):
        self._url, self._path, self._options, self._listener = url, path, options, listener
        self._num_bytes, self._max_bytes = num_bytes, max_bytes
        self._part = path.with_name(f"{path.name}.part")
        self._state = path.with_name(f"{path.name}.json")
        self._opener = _opener(url, options.ca_file)
        self._edition = self._read_edition()

    def run(self) -> None:
        """Tries until the file is complete."""
        num_failed, longest = 0, self._length()
        while cut := self._cut_of_try():
            reached = self._length()
            num_failed = 0 if reached > longest else num_failed + 1
            longest = max(longest, reached)
            if num_failed >= self._options.num_tries:
                raise UserError(
                    f"Cannot download {self._url}: {cut}; {num_failed} tries in a row brought nothing new. The "
                    f"{format_bytes(reached)} that have arrived are kept, and the same command continues"
                ) from cut
            wait = self._options.wait_secs * 2 ** min(max(0, num_failed - 1), _MAX_DOUBLINGS)
            wait = min(max(wait, cut.wait_secs), _MAX_WAIT_SECS)
            self._listener.retry(str(cut), wait)
            time.sleep(wait)
        os.replace(self._part, self._path)

    def _cut_of_try(self) -> _CutError | None:
        """Tries once to complete the file; returns the reason if the transfer stopped and may be tried again."""
        try:
            self._try_once()
        except _CutError as cut:
            return cut
        return None

    def _read_edition(self) -> _Edition:
        """Returns the edition of the bytes that an earlier call left; discards those of another URL."""
        try:
            edition = parsing.read(self._state, _Edition, "the state of a download", max_bytes=1 << 16)
        except UserError:  # missing or damaged: nothing tells where the bytes came from
            edition = None
        if edition is None or edition.url != self._url:
            self._discard()
            return _Edition(self._url)
        return edition

    def _length(self) -> int:
        return storage.file_size(self._part) or 0

    def _discard(self) -> None:
        with _explained_writing(self._part):
            for path in (self._part, self._state, self._path):
                path.unlink(missing_ok=True)

    def _restart(self, reason: str) -> None:
        self._discard()
        self._edition = _Edition(self._url)
        self._listener.restart(reason)

    def _try_once(self) -> None:
        """Transfers the rest of the file.

        Raises:
          _CutError: if the transfer stops for a reason that may pass.
        """
        start = self._length()
        if start and start == self._edition.num_bytes:
            return
        headers = {"User-Agent": "ucf50-tfrecord", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self._edition.condition:
                headers["If-Range"] = self._edition.condition
        try:
            request = urllib.request.Request(self._url, headers=headers)
            with self._opener.open(request, timeout=self._options.stall_secs) as response:
                self._receive(response, start)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, start)
        except (OSError, http.client.HTTPException) as error:
            raise _cut(self._url, error) from error

    def _refused(self, error: urllib.error.HTTPError, start: int) -> None:
        """Handles an answer that is an error. Raises _CutError if the error may pass, else UserError."""
        if error.code == _RANGE_REFUSED and start:
            self._restart("the server's file does not have the range that is missing")
            raise _CutError("the server refused the range of bytes")
        if error.code in _PASSING or error.code >= 500:
            wait = error.headers.get("Retry-After", "")
            raise _CutError(
                f"the server answered {error.code}", float(wait) if re.fullmatch(r"\d{1,5}", wait) else 0
            )
        raise UserError(f"Cannot download {self._url}: the server answered {error.code} ({error.reason})")

    def _receive(self, response: Any, start: int) -> None:
        """Appends the body of an answer to the partial file, after its headers are checked."""
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise UserError(f"Cannot download {self._url}: the server sent a web page in place of the file")
        found, begins_at = _edition_of(response, self._url, self._edition)
        if begins_at is None or response.status not in (_OK, _PARTIAL):
            raise _CutError(
                f"the server answered {response.status} with another range than the one asked for"
            )
        if begins_at and not _is_same(self._edition, found):
            self._restart("the file on the server has changed")
            raise _CutError("the file on the server has changed")
        if begins_at != start:
            if begins_at:
                raise _CutError("the server sent another range than the one asked for")
            self._restart(
                "the server sent the file from its first byte"
                if _is_same(self._edition, found)
                else "the file on the server has changed"
            )
        self._check_size(found.num_bytes, begins_at)
        self._edition = found
        storage.write_json(self._state, dataclasses.asdict(found))
        self._listener.start("downloading", found.num_bytes or 0, unit="B", done=begins_at)
        self._append(response, begins_at)

    def _check_size(self, num_bytes: int | None, start: int) -> None:
        """Raises UserError if a size that the server states is not the expected one, or the disk is too small."""
        if num_bytes is None:
            return
        if self._num_bytes not in (None, num_bytes):
            raise UserError(
                f"Expected {self._url} to have {self._num_bytes} bytes. Received: a server that states {num_bytes}",
                Remedy(Action.SET, "if it is published anew, accept its size", archive_bytes=0),
            )
        expect(
            num_bytes <= self._max_bytes, f"a file of at most {self._max_bytes} bytes", num_bytes=num_bytes
        )
        free = shutil.disk_usage(self._part.parent).free
        if num_bytes - start > free:
            raise UserError(
                f"Cannot download {self._url} into {self._part.parent}: {format_bytes(num_bytes - start)} are "
                f"missing, and {format_bytes(free)} are free"
            )

    def _append(self, response: Any, start: int) -> None:
        """Appends the body of an answer to the partial file.

        Raises:
          _CutError: if the body ends early.
        """
        limit = self._edition.num_bytes or self._num_bytes or self._max_bytes
        with _explained_writing(self._part), open(self._part, "ab") as file:
            num_written = start
            while chunk := _read(response, self._url):
                if num_written + len(chunk) > limit:
                    raise UserError(f"Cannot download {self._url}: the server sent more than {limit} bytes")
                if num_written == 0:
                    formats.check_beginning(chunk, self._url)
                file.write(chunk)
                file.flush()  # so that a killed process loses nothing
                num_written += len(chunk)
                self._listener.update(len(chunk))
            os.fsync(file.fileno())
        expected = self._edition.num_bytes or self._num_bytes
        if expected is not None and num_written < expected:
            raise _CutError(f"the connection ended after {num_written} of {expected} bytes")


def _edition_of(response: Any, url: str, known: _Edition) -> tuple[_Edition, int | None]:
    """Reads from the headers of an answer which edition of the file it holds.

    Returns:
      A tuple of the edition, and the position in the file of the answer's first byte; None if it is not stated.
    """
    headers = response.headers
    num_bytes, first = response.length, 0
    if response.status == _PARTIAL:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        size = match["size"] if match else "*"
        num_bytes = known.num_bytes if size == "*" else int(size)
        first = int(match["first"]) if match else None
    edition = _Edition(
        url, headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip(), num_bytes
    )
    return edition, first


def _is_same(known: _Edition, found: _Edition) -> bool:
    """Tells whether two editions agree in all that is stated of both."""
    pairs = zip(dataclasses.astuple(known), dataclasses.astuple(found))
    return all(
        ours == theirs for ours, theirs in pairs if ours not in ("", None) and theirs not in ("", None)
    )


def _read(response: Any, url: str) -> bytes:
    """Returns the next bytes of an answer's body, b"" at its end. Raises _CutError if the connection fails."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _cut(url, error) from error


def _cut(url: str, error: Exception) -> _CutError:
    """Returns the _CutError for a failure of the network.

    Raises:
      UserError: if the failure is a certificate that is not valid, which another try does not change.
    """
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise UserError(
            f"Cannot download {url}: the server's certificate cannot be verified ({reason.verify_message}). Nothing "
            "was downloaded",
            Remedy(
                Action.SET,
                "to trust one more certificate, such as one that the server does not send",
                ca_file=...,
            ),
            Remedy(Action.SET, "to use a file that a browser downloaded", archive=...),
        ) from error
    if isinstance(reason, TimeoutError):
        return _CutError("the server stopped sending")
    return _CutError(" ".join(str(reason).split()) or type(reason).__name__)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to URLs that check_url accepts."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str, ca_file: str | None) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # also an ssl.SSLError: no certificates in the file
            raise UserError(f"Cannot read certificates from {ca_file}: {error.strerror or error}") from error
    handlers: list[Any] = [urllib.request.HTTPSHandler(context=context), _Redirects()]
    if urllib.parse.urlsplit(url).hostname in _THIS_MACHINE:
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy would be another machine
    return urllib.request.build_opener(*handlers)


@contextlib.contextmanager
def _explained_writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}") from error
