"""Renders a corpus of video files whose classes differ only in frame order.

  python -m tools.make_demo_videos --output=data/demo_videos

The demo corpus has eight classes in four pairs. Each clip has a twin in the
pair's other class: the same frames backwards, in the same group. So a model
that is blind to frame order cannot exceed an accuracy of 0.5, whatever it
learns of appearance. No pair is the mirror image of another, so horizontally
flipped training clips keep their class.

The files are like UCF50's: v_<Class>_gNN_cNN.avi, MPEG-4 (tag XVID) in AVI, a
keyframe every 12 frames, 25 groups. Each group has its own background, colours,
sizes and speeds.

The following command renders a corpus of tools.scenarios instead, whose classes
differ by a known cause:

  python -m tools.make_demo_videos --output=data/order --scenario=order
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from absl import flags

from pipelines import console, terminal
from tools import processes, scenario_clips, scenarios
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import ClipFormat

HEIGHT, WIDTH = 120, 160  # pixels
FRAME_RATE = 25
GOP_FRAMES = 12
FINEST_QUANTIZER = 2  # FFmpeg's default minimum
DEFAULT_FRAMES = ClipFormat.num_frames  # so each frame is sampled once


@dataclasses.dataclass(frozen=True)
class Look:
    """The background and the actor that all recordings of a group share."""

    background: np.ndarray  # float32 [H, W, 3], 0 to 255
    color: np.ndarray  # float32 [3]
    radius: float  # pixels
    round_shape: bool


# A scene takes a time t in [0, 1] and a random generator. It returns (x, y, radius) of each part of the actor
# at that time: x and y as fractions of the picture, radius as a multiple of Look.radius.
Scene = Callable[[float, np.random.Generator], list[tuple[float, float, float]]]


def grow(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """One part that grows in place."""
    return [(rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6), 0.4 + 1.8 * t)]


def rise(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """One part that rises from the bottom."""
    return [(rng.uniform(0.25, 0.75), 0.85 - 0.7 * t, 1.0)]


def part(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Two parts that separate towards the sides."""
    y, gap = rng.uniform(0.35, 0.65), 0.06 + 0.34 * t
    return [(0.5 - gap, y, 0.8), (0.5 + gap, y, 0.8)]


def scatter(t: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Five parts that separate in all directions."""
    angles = rng.uniform(0, 2 * np.pi) + np.arange(5) * (2 * np.pi / 5)
    reach = 0.04 + 0.36 * t
    return [(0.5 + reach * np.cos(a) * HEIGHT / WIDTH, 0.5 + reach * np.sin(a), 0.45) for a in angles]


# By pair of classes, the scene. The second class shows the clips of the first one in reverse.
PAIRS: dict[tuple[str, str], Scene] = {
    ("Grow", "Shrink"): grow,
    ("Rise", "Sink"): rise,
    ("Part", "Meet"): part,
    ("Scatter", "Gather"): scatter,
}


def render(pair: tuple[str, str], *, group: int, clip: int, seed: int) -> np.ndarray:
    """Renders a recording of a pair of classes: uint8 [frames, H, W, 3], 2 to 3 seconds."""
    look = _look(seed, group)
    rng = np.random.default_rng([seed, 1, list(PAIRS).index(pair), group, clip])
    num_frames = int(rng.integers(2 * FRAME_RATE, 3 * FRAME_RATE + 1))
    speed = rng.uniform(0.8, 1.25)  # above 1 the action ends before the clip
    scene_seed = int(rng.integers(2**31))
    frames = []
    for i in range(num_frames):
        t = min(1.0, speed * i / (num_frames - 1))
        parts = PAIRS[pair](t, np.random.default_rng(scene_seed))
        noise = rng.normal(0, 3, (HEIGHT, WIDTH, 1))
        frames.append(np.clip(_draw(look, parts) + noise, 0, 255).astype(np.uint8))
    return np.stack(frames)


def write_twins(folder: pathlib.Path, item: tuple[tuple[str, str], int, int], *, seed: int) -> None:
    """Writes a recording (pair, group, clip) as a video of the pair's first class, and reversed, of the second."""
    pair, group, clip = item
    frames = render(pair, group=group, clip=clip, seed=seed)
    for class_name, ordered in zip(pair, (frames, frames[::-1])):
        write_video(_video_path(folder, class_name, group, clip), ordered)


def write_clip(
    folder: pathlib.Path,
    item: tuple[str, int, int],
    *,
    scenario: scenarios.Scenario,
    seed: int,
    num_frames: int,
) -> None:
    """Writes a scenario's clip (class name, group, clip) as a video."""
    numbers = {"group": item[1], "clip": item[2], "seed": seed, "num_frames": num_frames}
    frames = scenario_clips.render_clip(scenario, item[0], **numbers)
    write_video(_video_path(folder, *item), frames, exact=True)


def write_video(path: pathlib.Path, frames: np.ndarray, *, exact: bool = False) -> None:
    """Writes frames, uint8 [frames, H, W, 3], as a video: XviD-style MPEG-4 in AVI.

    If `exact`, every frame is a keyframe of equal quality. Otherwise frames are predicted from the frame
    before and hold traces of it, which would show even an order-blind model how the actor moves.
    """
    options = {"fflags": "+bitexact"}  # no library versions in the header
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE, options={"flags": "+bitexact"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 1 if exact else GOP_FRAMES
        stream.bit_rate = 600_000
        if exact:
            stream.codec_context.qmin = stream.codec_context.qmax = FINEST_QUANTIZER
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def make_corpus(output: str | os.PathLike, *, groups: int, clips: int, seed: int, workers: int) -> int:
    """Renders the demo corpus: four pairs of classes. A class shows the frames of its pair's other in reverse order.

    Args:
      output: the corpus's folder, which must not exist yet. It appears once the corpus is complete.
      groups: number of recording groups.
      clips: number of clips per class and group.
      seed: seed of all randomness.
      workers: number of rendering processes; with 1, this process renders.

    Returns:
      The number of videos.

    Raises:
      UserError: if `output` exists already.
    """
    write = functools.partial(write_twins, seed=seed)
    items = list(itertools.product(PAIRS, range(1, groups + 1), range(1, clips + 1)))
    return 2 * _write_corpus(output, write, items, workers)


def make_scenario(
    output: str | os.PathLike,
    scenario: scenarios.Scenario,
    *,
    groups: int,
    clips: int,
    seed: int,
    num_frames: int,
    workers: int,
) -> int:
    """Renders a scenario's corpus, whose classes differ by a known cause, in clips of `num_frames` frames.

    The other arguments and the result are those of make_corpus. If the scenario has a frequent class, that class
    has several times as many clips.

    Raises:
      UserError: if `output` exists already, or the scenario needs another number of frames.
    """
    write = functools.partial(write_clip, scenario=scenario, seed=seed, num_frames=num_frames)
    items = [
        (name, group, clip)
        for name in scenario.classes
        for group in range(1, groups + 1)
        for clip in range(1, scenario.num_clips(name, clips) + 1)
    ]
    return _write_corpus(output, write, items, workers)


def _write_corpus(
    output: str | os.PathLike,
    write: Callable[[pathlib.Path, Any], None],
    items: Sequence[tuple[Any, int, int]],
    workers: int,
) -> int:
    """Calls `write` with a folder and each item (name, group, clip), and returns the number of calls."""
    target = pathlib.Path(output)
    if target.exists():
        raise UserError(f"{target} exists already; remove it, or choose another --output")
    with (
        storage.atomic_folder(target, names=(), mark="") as partial,
        _mapper(workers) as run,
        console.progress_bar(len(items), "clip", "rendering") as bar,
    ):
        for _ in run(functools.partial(write, partial), items):
            bar.update()
    return len(items)


@contextlib.contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    """Yields a function like `map` that runs in `workers` processes; if `workers` is 1, in this process."""
    if workers == 1:
        yield map
        return
    with processes.pool(workers) as pool:
        yield pool.map


def _video_path(folder: pathlib.Path, class_name: str, group: int, clip: int) -> pathlib.Path:
    """Returns the path of a clip's video, named as in UCF50; makes the class's folder if needed."""
    (folder / class_name).mkdir(parents=True, exist_ok=True)
    return folder / class_name / f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def _look(seed: int, group: int) -> Look:
    rng = np.random.default_rng([seed, 0, group])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    background = np.zeros((HEIGHT, WIDTH, 3), np.float32) + rng.uniform(50, 150, 3)
    for _ in range(4):  # a few soft waves make every group's place unique
        wave = np.sin(x * rng.uniform(-0.12, 0.12) + y * rng.uniform(-0.12, 0.12) + rng.uniform(0, 6.28))
        background += wave[..., np.newaxis] * rng.uniform(-25, 25, 3)
    color = rng.uniform(0, 255, 3)
    while np.linalg.norm(color - background.mean(axis=(0, 1))) < 160:  # until the actor contrasts with it
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


def define_flags() -> None:
    """Defines the flags. Called only when run as a program: importers define flags of the same names."""
    default = "Default: data/demo_videos, or data/<scenario>."
    flags.DEFINE_string("output", None, f"The corpus's folder; must not exist yet. {default}")
    flags.DEFINE_integer("groups", 25, "Recording groups.", 1, 99)
    flags.DEFINE_integer(
        "clips", 2, "Clips per class and group; a scenario's frequent class has more.", 1, 99
    )
    flags.DEFINE_integer("seed", 0, "Seed of all randomness.", lower_bound=0)
    flags.DEFINE_integer("workers", None, "Rendering processes. Default: one per core.", lower_bound=1)
    names = sorted(scenarios.SCENARIOS)
    flags.DEFINE_enum("scenario", None, names, "Renders a corpus with a known cause instead.")
    flags.DEFINE_integer("frames", None, f"Frames per clip of a scenario. Default: {DEFAULT_FRAMES}.")


def main() -> None:
    args = flags.FLAGS
    output = args.output or f"data/{args.scenario or 'demo_videos'}"
    options = {"groups": args.groups, "clips": args.clips, "seed": args.seed}
    options["workers"] = args.workers or os.cpu_count()
    if args.scenario is None:
        expect(args.frames is None, "--frames with a --scenario only", frames=args.frames)
        title, num_classes = "Demo corpus", 2 * len(PAIRS)
        num_videos = make_corpus(output, **options)
    else:
        num_frames = DEFAULT_FRAMES if args.frames is None else args.frames
        expect(num_frames >= 4, "at least 4 frames", frames=num_frames)
        scenario = scenarios.SCENARIOS[args.scenario]
        title, num_classes = f"{args.scenario}: {scenario.description.rstrip('.')}", len(scenario.classes)
        num_videos = make_scenario(output, scenario, num_frames=num_frames, **options)
    terminal.say(f"{title}: {output} ({num_videos} videos, {num_classes} classes, {args.groups} groups)")


if __name__ == "__main__":
    define_flags()
    console.run(main)
