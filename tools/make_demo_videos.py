"""Renders a corpus of real video files that only temporal order tells apart.

  python -m tools.make_demo_videos --output=data/demo_videos

Eight classes in four pairs. Each clip of one class has a twin in its partner: the same
frames backwards, in the same group. So a model that does not see order cannot score
above 0.5, whatever it learns of appearance. No pair is another's mirror image, so that
mirrored training clips keep their class.

The files look like UCF50's: v_<Class>_gNN_cNN.avi, MPEG-4 (tag XVID) in AVI, a keyframe
every 12 frames, 25 groups, each with a background, colours, sizes and speeds of its own.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Callable

import av
import numpy as np
from absl import flags

from pipelines import console
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import UserError, expect

_OUTPUT = flags.DEFINE_string("output", "data/demo_videos", "The corpus's folder; must not exist yet.")
_GROUPS = flags.DEFINE_integer("groups", 25, "Recording groups.")
_CLIPS = flags.DEFINE_integer("clips", 2, "Clips a class and group.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all that is drawn by chance.")
_WORKERS = flags.DEFINE_integer("workers", None, "Processes that render. Default: one a core.")

HEIGHT, WIDTH = 120, 160  # pixels
FRAME_RATE = 25
GOP_FRAMES = 12


@dataclasses.dataclass(frozen=True)
class Look:
    """What a group's recordings share: their place and their actor."""

    background: np.ndarray  # float32 [H, W, 3], 0 to 255
    color: np.ndarray  # float32 [3]
    radius: float  # pixels
    round_shape: bool


# A scene says where the actor's parts are at time t in [0, 1]: (x, y, radius) each, with
# x and y in shares of the picture and radius in shares of the look's.
Scene = Callable[[float, np.random.Generator], list[tuple[float, float, float]]]


def grow(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    return [(rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6), 0.4 + 1.8 * t)]


def rise(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    return [(rng.uniform(0.25, 0.75), 0.85 - 0.7 * t, 1.0)]


def part(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    y, gap = rng.uniform(0.35, 0.65), 0.06 + 0.34 * t
    return [(0.5 - gap, y, 0.8), (0.5 + gap, y, 0.8)]


def scatter(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    angles = rng.uniform(0, 2 * np.pi) + np.arange(5) * (2 * np.pi / 5)
    reach = 0.04 + 0.36 * t
    return [(0.5 + reach * np.cos(a) * HEIGHT / WIDTH, 0.5 + reach * np.sin(a), 0.45) for a in angles]


# (forwards, backwards): the second class shows the first one's clips in reverse.
PAIRS: dict[tuple[str, str], Scene] = {
    ("Grow", "Shrink"): grow,
    ("Rise", "Sink"): rise,
    ("Part", "Meet"): part,
    ("Scatter", "Gather"): scatter,
}


@dataclasses.dataclass(frozen=True)
class Take:
    """One recording, from which a pair's two twins are written."""

    folder: str
    pair: tuple[str, str]
    group: int
    clip: int
    seed: int


def render(take: Take) -> np.ndarray:
    """Renders a take: uint8 [frames, H, W, 3], 2 to 3 seconds."""
    pair_number = list(PAIRS).index(take.pair)
    look = _look(take.seed, take.group)
    rng = np.random.default_rng([take.seed, 1, pair_number, take.group, take.clip])
    num_frames = int(rng.integers(2 * FRAME_RATE, 3 * FRAME_RATE + 1))
    speed = rng.uniform(0.8, 1.25)  # above 1 the action ends before the clip does
    scene_seed = int(rng.integers(2**31))
    frames = []
    for i in range(num_frames):
        t = min(1.0, speed * i / (num_frames - 1))
        parts = PAIRS[take.pair](t, np.random.default_rng(scene_seed))
        noise = rng.normal(0, 3, (HEIGHT, WIDTH, 1))
        frames.append(np.clip(_draw(look, parts) + noise, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_twins(take: Take) -> int:
    """Writes a take forwards into the pair's first class, backwards into its second."""
    frames = render(take)
    for class_name, ordered in zip(take.pair, (frames, frames[::-1])):
        folder = pathlib.Path(take.folder, class_name)
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"v_{class_name}_g{take.group:02d}_c{take.clip:02d}.avi", ordered)
    return 2


def write_video(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes uint8 [frames, H, W, 3] as XviD-style MPEG-4 in AVI."""
    options = {"fflags": "+bitexact"}  # no library versions in the header
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE, options={"flags": "+bitexact"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = GOP_FRAMES
        stream.bit_rate = 600_000
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def make_corpus(output: str, *, groups: int, clips: int, seed: int, workers: int) -> int:
    """Renders the whole corpus, which appears at `output` once it is complete.

    Returns:
      The number of videos.

    Raises:
      UserError: if `output` exists already.
    """
    target = pathlib.Path(output)
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or choose another --output")
    storage.make_folder(target.absolute().parent)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    takes = [
        Take(str(partial), pair, group, clip, seed)
        for group in range(1, groups + 1)
        for pair in PAIRS
        for clip in range(1, clips + 1)
    ]
    context = multiprocessing.get_context("spawn")
    try:
        with (
            concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool,
            console.progress_bar(2 * len(takes), "video", "rendering the demo corpus") as bar,
        ):
            for written in pool.map(write_twins, takes):
                bar.update(written)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return 2 * len(takes)


def _look(seed: int, group: int) -> Look:
    rng = np.random.default_rng([seed, 0, group])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    background = np.zeros((HEIGHT, WIDTH, 3), np.float32) + rng.uniform(50, 150, 3)
    for _ in range(4):  # a few soft waves: no two groups share a place
        wave = np.sin(x * rng.uniform(-0.12, 0.12) + y * rng.uniform(-0.12, 0.12) + rng.uniform(0, 6.28))
        background += wave[..., np.newaxis] * rng.uniform(-25, 25, 3)
    color = rng.uniform(0, 255, 3)
    while np.linalg.norm(color - background.mean(axis=(0, 1))) < 160:  # the actor must stand out
        color = rng.uniform(0, 255, 3)
    return Look(background, color, rng.uniform(11, 17), bool(rng.integers(2)))


def _draw(look: Look, parts: list[tuple[float, float, float]]) -> np.ndarray:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    picture = look.background
    for part_x, part_y, scale in parts:
        dx, dy = np.abs(x - part_x * WIDTH), np.abs(y - part_y * HEIGHT)
        distance = np.hypot(dx, dy) if look.round_shape else np.maximum(dx, dy)
        cover = np.clip(look.radius * scale - distance + 0.5, 0, 1)[..., np.newaxis]  # smooth edge
        picture = picture * (1 - cover) + look.color * cover
    return picture


def main() -> None:
    workers = os.cpu_count() if _WORKERS.value is None else _WORKERS.value
    expect(workers >= 1, "at least 1 worker", workers=workers)
    expect(1 <= _GROUPS.value <= 99, "1 to 99 groups", groups=_GROUPS.value)
    expect(1 <= _CLIPS.value <= 99, "1 to 99 clips", clips=_CLIPS.value)
    expect(_SEED.value >= 0, "a seed of 0 or more", seed=_SEED.value)
    num_videos = make_corpus(
        _OUTPUT.value, groups=_GROUPS.value, clips=_CLIPS.value, seed=_SEED.value, workers=workers
    )
    print(
        f"Demo corpus: {_OUTPUT.value} ({num_videos} videos, {2 * len(PAIRS)} classes, {_GROUPS.value} groups)"
    )


if __name__ == "__main__":
    console.run(main)
