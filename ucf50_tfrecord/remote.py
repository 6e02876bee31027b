"""Reads and writes files in object stores and on web servers, by URL: s3://, gs://, az://, https://, …

A URL's scheme is the part before "://". Files are reached through fsspec if its package for the scheme is
installed (the extra `remote`), else through TensorFlow's file systems: gs:// is built in, and tensorflow-io
(the extra `io`) adds other schemes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any, Protocol

from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.texts import tensorflow_reason

_CONNECT_SECS, _READ_SECS = 10, 30
_MAX_ATTEMPTS = 3
_CHUNK_BYTES = 8 << 20
_PARTIAL_CONTENT = 206
# Packages whose exceptions, like OSError, report failures of networks and servers.
_NETWORK_PACKAGES = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "pyarrow"}


def is_remote(path: str | os.PathLike) -> bool:
    """Tells whether a path is a URL."""
    return re.match(r"[a-z][a-z0-9+]*://", str(path)) is not None


def needs_tensorflow(path: str | os.PathLike) -> bool:
    """Tells whether a path is a URL for TensorFlow's file systems, because fsspec does not know its scheme."""
    return is_remote(path) and not _knows_fsspec(_scheme(str(path)))


def read(url: str, start: int = 0, end: int | None = None, *, max_bytes: int = 1 << 30) -> bytes:
    """Reads a remote file, or a range of its bytes.

    Args:
      url: the file's URL.
      start: first byte of the range.
      end: the byte after the range; None reads to the end of the file.
      max_bytes: largest number of bytes to read, whatever the server sends.

    Raises:
      FileNotFoundError: if the file does not exist.
      UserError: if the file cannot be read, or no installed package reaches URLs of this scheme.
    """
    end = start + max_bytes if end is None else min(end, start + max_bytes)
    with _explained("read", url):
        return _store(_scheme(url)).read(url, start, end)


def read_chunks(url: str, start: int, end: int) -> Iterator[bytes]:
    """Yields a remote file's bytes from `start` to before `end`, in chunks. Raises the errors of `read`."""
    with _explained("read", url):
        chunks = _store(_scheme(url)).read_chunks(url, start, end)
    while True:
        with _explained("read", url):
            chunk = next(chunks, b"")
        if not chunk:
            return
        yield chunk


def size(url: str) -> int:
    """Returns the size of a remote file in bytes. Raises the errors of `read`."""
    with _explained("read", url):
        return _store(_scheme(url)).size(url)


def write(url: str, content: bytes) -> None:
    """Writes a remote file, which appears as a whole or not at all.

    Raises:
      UserError: if the file cannot be written.
    """
    with _explained("write", url), _no_place_is_an_error():
        _store(_scheme(url)).write(url, content)


def upload(path: str | os.PathLike, url: str) -> None:
    """Copies a local file to a URL. Raises the errors of `write`."""
    with _explained("write", url), _no_place_is_an_error():
        _store(_scheme(url)).upload(os.fspath(path), url)


def remove(url: str) -> None:
    """Removes a remote file if it exists. Raises the errors of `write`."""
    with _explained("remove", url), contextlib.suppress(FileNotFoundError):
        _store(_scheme(url)).remove(url)


def list_names(url: str) -> list[str]:
    """Returns the names of the files directly in a remote folder; an empty list if the folder does not exist.

    Raises:
      UserError: if the folder cannot be listed.
    """
    with _explained("list", url), contextlib.suppress(FileNotFoundError):
        return _store(_scheme(url)).list_names(url)
    return []


def load_tf_filesystem(url: str) -> None:
    """Makes sure that TensorFlow can read URLs of the same scheme as `url`; imports tensorflow-io if needed.

    Raises:
      UserError: if TensorFlow cannot read URLs of this scheme.
    """
    import tensorflow as tf

    scheme = _scheme(url)
    if scheme == "s3":  # TensorFlow reads these variables when it opens the first file
        if endpoint := s3_endpoint():
            os.environ["S3_ENDPOINT"] = endpoint
        # Without this setting, each read first asks the server for the file's size.
        os.environ.setdefault("S3_DISABLE_MULTI_PART_DOWNLOAD", "1")
        os.environ.setdefault("S3_CONNECT_TIMEOUT_MSEC", str(_CONNECT_SECS * 1000))
        os.environ.setdefault("S3_REQUEST_TIMEOUT_MSEC", str(_READ_SECS * 1000))
        # With the default settings, each request to a server that does not answer takes a minute.
        os.environ.setdefault("AWS_RETRY_MODE", "standard")
        os.environ.setdefault("AWS_MAX_ATTEMPTS", str(_MAX_ATTEMPTS))
    if scheme in tf.io.gfile.get_registered_schemes():
        return
    with contextlib.suppress(ImportError, NotImplementedError, tf.errors.OpError):
        importlib.import_module("tensorflow_io")
    if scheme not in tf.io.gfile.get_registered_schemes():
        raise _no_file_system(scheme)


def s3_endpoint() -> str | None:
    """Returns the URL of the S3 server that an environment variable names; None means Amazon's server.

    Raises:
      UserError: if the variable's value is not a URL.
    """
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT"):
        if endpoint := os.environ.get(name):
            if not re.match(r"https?://", endpoint):
                raise UserError(
                    f"Expected a URL in the environment's {name}, such as http://{endpoint}. "
                    f"Received: {name}={endpoint}"
                )
            return endpoint
    return None


class _Store(Protocol):
    """Access to remote files by URLs of one scheme.

    The methods raise FileNotFoundError for missing files, and the exceptions of the library that they use.
    """

    def read_chunks(self, url: str, start: int, end: int) -> Iterator[bytes]:
        while start < end and (content := self.read(url, start, min(start + _CHUNK_BYTES, end))):
            yield content
            start += len(content)

    def read(self, url: str, start: int, end: int) -> bytes: ...

    def size(self, url: str) -> int: ...

    def write(self, url: str, content: bytes) -> None: ...

    def upload(self, path: str, url: str) -> None: ...

    def remove(self, url: str) -> None: ...

    def list_names(self, url: str) -> list[str]: ...


class _Fsspec(_Store):
    def __init__(self, scheme: str):
        import fsspec

        self._files = fsspec.filesystem(scheme, use_listings_cache=False, **_options(scheme))

    def read(self, url: str, start: int, end: int) -> bytes:
        return self._files.cat_file(url, start=start, end=end)[: end - start]

    def size(self, url: str) -> int:
        num_bytes = self._files.info(url)["size"]
        if num_bytes is None:
            raise OSError("the server does not state its size")
        return num_bytes

    def write(self, url: str, content: bytes) -> None:
        self._files.pipe_file(url, content)

    def upload(self, path: str, url: str) -> None:
        self._files.put_file(path, url)

    def remove(self, url: str) -> None:
        self._files.rm_file(url)

    def list_names(self, url: str) -> list[str]:
        found = self._files.ls(url, detail=True)
        return [os.path.basename(item["name"]) for item in found if item["type"] == "file"]


class _Http(_Fsspec):
    """Files on web servers.

    A server may ignore the requested range or send without end, so a response is read only as far as needed.
    """

    def read(self, url: str, start: int, end: int) -> bytes:
        return b"".join(self.read_chunks(url, start, end))

    def read_chunks(self, url: str, start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return
        headers = {"Range": f"bytes={start}-{end - 1}"}
        # block_size=0 gives a stream; any size but 0 avoids a request for the file's size.
        with self._files.open(url, "rb", block_size=0, size=1, headers=headers) as stream:
            num_skipped = 0 if stream.r.status == _PARTIAL_CONTENT else start
            num_wanted = end - start
            while num_wanted and (content := stream.read(_CHUNK_BYTES)):
                wanted = content[num_skipped : num_skipped + num_wanted]
                num_skipped = max(0, num_skipped - len(content))
                num_wanted -= len(wanted)
                if wanted:
                    yield wanted


class _Gfile(_Store):
    """Remote files through TensorFlow's file systems (tf.io.gfile)."""

    def __init__(self):
        import tensorflow as tf

        self._gfile, self._errors = tf.io.gfile, tf.errors

    def read(self, url: str, start: int, end: int) -> bytes:
        with self._translated(url), self._gfile.GFile(url, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def size(self, url: str) -> int:
        with self._translated(url):
            return self._gfile.stat(url).length

    def write(self, url: str, content: bytes) -> None:
        with self._translated(url), self._gfile.GFile(url, "wb") as file:
            file.write(content)

    def upload(self, path: str, url: str) -> None:
        with self._translated(url):
            self._gfile.copy(path, url, overwrite=True)

    def remove(self, url: str) -> None:
        with self._translated(url):
            self._gfile.remove(url)

    def list_names(self, url: str) -> list[str]:
        with self._translated(url):
            return [name for name in self._gfile.listdir(url) if not name.endswith("/")]

    @contextlib.contextmanager
    def _translated(self, url: str) -> Iterator[None]:
        try:
            yield
        except self._errors.NotFoundError as error:
            _check_server(url)
            raise FileNotFoundError(tensorflow_reason(error)) from error
        except self._errors.OpError as error:
            raise OSError(tensorflow_reason(error)) from error


def _check_server(url: str) -> None:
    """Raises OSError if a URL's S3 server does not answer; tensorflow-io reports that as a missing file."""
    endpoint = s3_endpoint() if _scheme(url) == "s3" else None
    if endpoint:
        server = urllib.parse.urlsplit(endpoint)
        address = server.hostname, server.port or {"http": 80, "https": 443}[server.scheme]
        socket.create_connection(address, _CONNECT_SECS).close()


@functools.cache
def _store(scheme: str) -> _Store:
    if not _knows_fsspec(scheme):
        try:
            load_tf_filesystem(f"{scheme}://")
        except ImportError as error:
            raise _no_file_system(scheme) from error
        return _Gfile()
    try:
        return _Http(scheme) if scheme in ("http", "https") else _Fsspec(scheme)
    except UserError:
        raise
    except ValueError as error:  # such as a missing account name
        raise UserError(f"Cannot reach {scheme}:// URLs: {error}") from error


def _knows_fsspec(scheme: str) -> bool:
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):  # not installed, or unknown to fsspec
        return False
    return True


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("s3", "s3a"):
        timeouts = {"connect_timeout": _CONNECT_SECS, "read_timeout": _READ_SECS}
        retries = {"retries": {"max_attempts": _MAX_ATTEMPTS}}
        return {"endpoint_url": s3_endpoint(), "config_kwargs": timeouts | retries}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECS, sock_read=_READ_SECS)
        return {"client_kwargs": {"timeout": timeout}}
    if scheme in ("file", "local"):
        return {"auto_mkdir": True}  # like object stores, which have no folders
    return {}


def _no_file_system(scheme: str) -> UserError:
    return UserError(
        f"This TensorFlow has no file system for {scheme}:// URLs",
        Remedy(Action.INSTALL, "to copy shards with any TensorFlow", extras="convert,train,remote"),
        Remedy(
            Action.INSTALL,
            "to stream them, in an environment of its own (TensorFlow 2.16 or 2.17)",
            extras="convert,train,io",
        ),
    )


def _scheme(url: str) -> str:
    return url.split("://", 1)[0]


@contextlib.contextmanager
def _no_place_is_an_error() -> Iterator[None]:
    """Turns the block's FileNotFoundError into an OSError, since a missing bucket is no missing file to a writer."""
    try:
        yield
    except FileNotFoundError as error:
        raise OSError(str(error) or "it does not exist") from error


@contextlib.contextmanager
def _explained(doing: str, url: str) -> Iterator[None]:
    """Turns the block's network and server errors into UserErrors; keeps FileNotFoundError.

    Args:
      doing: the action for the message "Cannot <action> <url>", such as "read".
      url: the file's URL.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except NotImplementedError as error:
        raise UserError(f"Cannot {doing} {url}: {_scheme(url)}:// can only be read") from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _NETWORK_PACKAGES:
            raise
        raise UserError(
            f"Cannot {doing} {url}: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
