"""Writes hostile files: texts named like videos that make FFmpeg open other files or connect to hosts.

A canary is a video that only such a text names. If a program opens it, the program has obeyed the text.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import shutil
from typing import NamedTuple

import numpy as np

from tools.fuzzing import seeds
from ucf50_tfrecord.convert import catalog

CANARY_COLOUR = (255, 0, 255)
# A frame shows a canary if its mean distance from CANARY_COLOUR is smaller.
_MAX_DISTANCE = 40
# Folder names at the start of a relative path that turn it into a URL.
PROTOCOLS = ("http:", "rtmp:", "file:", "tcp:", "subfile,,start,0,end,0,,:", "concat:", "cache:", "async:")


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Traps for programs that read hostile files: videos not to be opened and a port not to be connected to.

    folder: folder of the canaries, videos of one colour (CANARY_COLOUR) that no program may open.
    port: number of a port of this machine.
    """

    folder: pathlib.Path
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def path(self, suffix: str) -> str:
        return str(self.folder / f"canary{suffix}")


def make_canaries(folder: pathlib.Path, port: int) -> Canaries:
    """Writes canaries in several containers into a new folder."""
    frames = np.full((seeds.NUM_FRAMES, seeds.HEIGHT, seeds.WIDTH, 3), CANARY_COLOUR, np.uint8)
    folder.mkdir(parents=True)
    for recipe in (
        seeds.Recipe(".avi", "mpeg4"),
        seeds.Recipe(".mp4", "libx264"),
        seeds.Recipe(".ts", "mpeg2video"),
        seeds.Recipe(".gif", "gif", pix_fmt="rgb8"),
        seeds.Recipe(".mpg", "mpeg1video"),
    ):
        seeds.encode(folder / f"canary{recipe.suffix}", recipe, frames)
    return Canaries(folder, port)


def is_canary(frames: np.ndarray) -> bool:
    """Returns whether any of the frames, uint8 [T, H, W, 3], shows a canary."""
    distance = np.abs(frames.astype(np.int16) - np.array(CANARY_COLOUR, np.int16))
    return bool((distance.mean(axis=(1, 2, 3)) < _MAX_DISTANCE).any())


class Attack(NamedTuple):
    """A hostile file that was written for a fuzz campaign, and the files beside it that no program may open."""

    path: pathlib.Path
    how: str
    watched: list[pathlib.Path]


# Each function of _ATTACKS returns the text of a hostile file at a path. It may write files beside it, and then
# also returns those that no program may open.


def ffconcat(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """An FFmpeg concatenation script that names a canary, a URL or a playlist written beside it."""
    playlist = path.with_suffix(".m3u8")
    playlist.write_text(_playlist(canaries.path(".ts")))
    mp4, url = f"file:{canaries.path('.mp4')}", f"http://{canaries.host}/a.ts"
    named = rng.choice((canaries.path(".avi"), mp4, url, playlist.name))
    option = rng.choice(("", "option safe 0\n"))
    return f"ffconcat version 1.0\n{option}file '{named}'\n", [playlist]


def hls(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """An HLS playlist in which the segment, the key or the map is a URL or a canary."""
    segment, url = canaries.path(".ts"), f"http://{canaries.host}/a.ts"
    named = rng.choice((segment, f"file://{segment}", url, "../../canary.ts"))
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="http://{canaries.host}/key"\n'
    return _playlist(named, rng.choice(("", key, f'#EXT-X-MAP:URI="{canaries.path(".mp4")}"\n'))), []


def vobsub(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """A subtitle index. FFmpeg's demuxer for it opens the .sub file of the same name."""
    beside = path.with_suffix(".sub")
    shutil.copy(canaries.path(".mpg"), beside)
    head = "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\nid: en, index: 0\n"
    return f"{head}timestamp: 00:00:00:000, filepos: 000000000\n", [beside]


def sdp(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """A session description (SDP) of an RTP stream from this machine's watched port."""
    head = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    media = f"m=video {canaries.port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    return f"{head}a=control:rtsp://{canaries.host}/x\n{media}", []


def dash(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """A DASH manifest whose base URL names a canary or the watched port."""
    named = rng.choice((f"file://{canaries.path('.mp4')}", f"http://{canaries.host}/a.mp4"))
    text = (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration='
        f'"PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{named}'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    )
    return text, []


def image_sequence(
    path: pathlib.Path, canaries: Canaries, rng: random.Random
) -> tuple[str, list[pathlib.Path]]:
    """A picture whose name is also a pattern (%03d), with a canary under the pattern's first name."""
    shutil.copy(canaries.path(".gif"), str(path).replace("%03d", "000"))
    return "GIF89a", []


def redirection(path: pathlib.Path, canaries: Canaries, rng: random.Random) -> tuple[str, list[pathlib.Path]]:
    """A redirection file, in one of several old formats; it names a URL or a canary."""
    texts = (
        f"[Reference]\nRef1=http://{canaries.host}/a.asf\n",
        f"rtsp://{canaries.host}/a\n",
        f"http://{canaries.host}/a.avi\n",
        f"{canaries.path('.avi')}\n",
        f"#!genshi\n<smil><body><video src='{canaries.path('.avi')}'/></body></smil>\n",
    )
    return rng.choice(texts), []


_ATTACKS = (ffconcat, ffconcat, hls, vobsub, sdp, dash, image_sequence, redirection)


def write_attack(folder: pathlib.Path, stem: str, canaries: Canaries, rng: random.Random) -> Attack:
    """Writes a random hostile file, named `stem` with a video's suffix, and the files it refers to."""
    attack = rng.choice(_ATTACKS)
    suffix = rng.choice(sorted(catalog.VIDEO_SUFFIXES))
    path = folder / (f"{stem}-%03d.gif" if attack is image_sequence else f"{stem}{suffix}")
    text, watched = attack(path, canaries, rng)
    path.write_text(text)
    return Attack(path, f"{attack.__name__} as {path.suffix}", watched)


def _playlist(named: str, more: str = "") -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:1\n{more}#EXTINF:1,\n{named}\n#EXT-X-ENDLIST\n"
