"""Writes hostile files, named like videos, by which FFmpeg would open other files or connect to hosts."""

from __future__ import annotations

import pathlib

import numpy as np

from tests.conftest import write_video


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
