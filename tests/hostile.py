"""Writes hostile files, named like videos, by which FFmpeg would open other files or connect to hosts.

Also detects whether it did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np

from tests.conftest import write_video

_IN_OPEN = 0x20


def write_hostile_files(folder: pathlib.Path, canary: pathlib.Path, port: int) -> list[pathlib.Path]:
    """Writes files that make FFmpeg open a canary or connect to this machine, unless it is restricted.

    Args:
      folder: the folder to write into.
      canary: path of the canary, a video that no program may open.
      port: port of this machine that no program may connect to.

    Returns:
      The paths of those files that have the suffix of a video.
    """
    address = f"127.0.0.1:{port}"
    texts = {
        "playlist.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n",
        "script_g01_c01.avi": "ffconcat version 1.0\nfile playlist.m3u8\n",
        "direct_g01_c02.avi": f"ffconcat version 1.0\nfile '{canary}'\n",
        "playlist_g01_c03.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n",
        "remote.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n",
        "remote_g01_c04.mkv": "ffconcat version 1.0\nfile remote.m3u8\n",
        "subtitles_g01_c05.avi": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"
        "timestamp: 00:00:00:000, filepos: 000000000\n",
        "subtitles_g01_c05.sub": "x" * 4096,
        "session_g01_c06.avi": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts if name.endswith((".avi", ".mp4", ".mkv"))]


def write_canary(path: pathlib.Path) -> pathlib.Path:
    """Writes a canary, a video that FFmpeg must not open on behalf of a hostile file; returns its path."""
    write_video(path, np.full((20, 32, 48, 3), 200, np.uint8), codec="mpeg2video")
    return path


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """Listens on a TCP port of this machine while the block runs.

    Yields:
      A tuple of the port's number and a list, to which the first bytes of each connection are added.
    """
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        received.append(connection.recv(1 << 10))

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], received
        server.shutdown(socket.SHUT_RDWR)


class OpenCount:
    """Counts how often any process opens one of the given files, through Linux inotify.

    `read` returns the number of opens since its last call.
    """

    def __init__(self, *paths: pathlib.Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK)
        assert self._file >= 0
        for path in paths:
            assert libc.inotify_add_watch(self._file, os.fsencode(path), _IN_OPEN) >= 0

    def read(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._file, 1 << 16):
                while content:
                    name_length = struct.unpack_from("=I", content, 12)[0]
                    content = content[16 + name_length :]
                    count += 1
        return count
