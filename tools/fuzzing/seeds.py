"""Makes seeds: small intact videos in many containers and codecs, which a fuzz campaign damages.

The same build of PyAV always makes the same seeds.
"""

from __future__ import annotations

import dataclasses
import pathlib

import av
import numpy as np

from ucf50_tfrecord.convert import catalog
from ucf50_tfrecord.errors import UserError, expect

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 20
# Larger videos are left out: tools.fuzzing.reference decodes all of their frames, which takes seconds.
MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The encoding of a seed (an intact video), in FFmpeg's names."""

    suffix: str
    codec: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)  # of the encoder
    pix_fmt: str = "yuv420p"
    container: str | None = None  # None derives it from the suffix
    movie_flags: str = ""
    size: tuple[int, int] = (HEIGHT, WIDTH)


# Without x264's look-ahead: it runs on other threads, whose timing changes the bytes.
_X264 = {"x264-params": "no-mbtree=1:rc-lookahead=0:threads=1"}

RECIPES = (
    Recipe(".avi", "mpeg4", {"g": "6"}),
    Recipe(".avi", "mpeg4", {"g": "12", "bf": "2"}),
    Recipe(".avi", "mjpeg", pix_fmt="yuvj420p"),
    Recipe(".avi", "msmpeg4"),
    Recipe(".avi", "huffyuv", pix_fmt="rgb24"),
    Recipe(".avi", "cinepak", pix_fmt="rgb24"),
    Recipe(".mp4", "libx264", _X264 | {"bf": "2", "g": "8"}),
    Recipe(".mp4", "libx264", _X264 | {"g": "8"}, movie_flags="frag_keyframe+empty_moov"),
    Recipe(".mp4", "libx265", {"x265-params": "log-level=none:pools=none:frame-threads=1"}),
    Recipe(".mp4", "mpeg4", {"g": "6"}),
    Recipe(".mov", "prores_ks", pix_fmt="yuv422p10le"),
    Recipe(".3gp", "h263", size=(96, 128)),
    Recipe(".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    Recipe(".webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    Recipe(".mkv", "ffv1", pix_fmt="bgr0"),
    Recipe(".mkv", "libx264", _X264 | {"bf": "3"}),
    Recipe(".mpg", "mpeg1video", {"bf": "2"}),
    Recipe(".mpg", "mpeg2video"),
    Recipe(".ts", "libx264", _X264 | {"g": "8"}),
    Recipe(".ts", "mpeg2video"),
    Recipe(".m2v", "mpeg2video", container="mpeg2video"),
    Recipe(".mjpeg", "mjpeg", pix_fmt="yuvj420p"),
    Recipe(".flv", "flv"),
    Recipe(".wmv", "wmv2", container="asf"),
    Recipe(".ogv", "ffv1", pix_fmt="bgr0", container="nut"),
    Recipe(".rm", "rv10", container="rm"),
    Recipe(".mxf", "mpeg2video", container="mxf"),
    Recipe(".gif", "gif", pix_fmt="rgb8"),
    Recipe(".y4m", "wrapped_avframe", container="yuv4mpegpipe"),
)


@dataclasses.dataclass(frozen=True)
class Seed:
    """An intact video that a fuzz campaign damages: its file name, its suffix and its bytes."""

    name: str
    suffix: str
    content: bytes


def make_seeds(folder: pathlib.Path) -> list[Seed]:
    """Encodes one video for each of RECIPES into a folder and returns them as seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = []
    for number, recipe in enumerate(RECIPES):
        path = folder / f"{number:02d}-{recipe.codec}{recipe.suffix}"
        encode(path, recipe, moving_noise(*recipe.size, seed=number))
        seeds.append(Seed(path.name, recipe.suffix, path.read_bytes()))
    return seeds


def read_seeds(folder: str) -> list[Seed]:
    """Reads the videos of at most MAX_BYTES in a folder and its subfolders, as seeds.

    Raises:
      UserError: if there is no such folder, or no such video in it.
    """
    if not pathlib.Path(folder).is_dir():
        raise UserError(f"Expected a folder of videos for --seeds. Received: {folder}")
    videos, _ = catalog.list_videos(pathlib.Path(folder))
    small = [path for path in videos if path.is_file() and path.stat().st_size <= MAX_BYTES]
    expect(small, f"--seeds=<a folder with videos of at most {MAX_BYTES >> 10} KiB>", seeds=folder)
    return [Seed(path.name, path.suffix.lower(), path.read_bytes()) for path in small]


def moving_noise(height: int, width: int, *, seed: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Returns frames of a random pattern that moves, uint8 [num_frames, height, width, 3]; no two are equal."""
    rng = np.random.default_rng(seed)
    world = rng.integers(0, 200, (height // 8, (width + 2 * num_frames) // 8 + 1, 3), dtype=np.uint8)
    world = world.repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([world[:, 2 * i : 2 * i + width] for i in range(num_frames)])


def encode(path: pathlib.Path, recipe: Recipe, frames: np.ndarray) -> None:
    """Writes frames, uint8 [T, H, W, 3], as a video with a recipe's encoding."""
    options = {"fflags": "+bitexact"} | ({"movflags": recipe.movie_flags} if recipe.movie_flags else {})
    with av.open(str(path), "w", format=recipe.container, options=options) as container:
        stream = container.add_stream(recipe.codec, rate=25, options=recipe.options | {"flags": "+bitexact"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = recipe.pix_fmt
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format=recipe.pix_fmt)))
        container.mux(stream.encode(None))
