"""Measures how fast videos are converted, in comparison with other decoders.

  python -m benchmarks.convert --videos=/data/UCF50

Each method makes 15 frames of 64x64 from each of the same videos, in a process
of its own on one core. Trust the ratios: the methods take turns, so other work
slows all alike. "decode everything" converts no frame to pixels; no method that
decodes a video in order can be faster.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks import measuring
from benchmarks.measuring import in_fresh_process
from pipelines import console, terminal
from tools import shards
from ucf50_tfrecord.convert import catalog, decode, sampling
from ucf50_tfrecord.jobs import Catalog
from ucf50_tfrecord.labels import as_tuple
from ucf50_tfrecord.specs import ClipFormat, to_json

_VIDEOS = flags.DEFINE_string("videos", None, "Folder of class folders.", required=True)
_MAX_VIDEOS = flags.DEFINE_integer("max_videos", 60, "Videos to measure on, evenly chosen.", lower_bound=1)
_CONVERSION_VIDEOS = flags.DEFINE_integer(
    "conversion_videos", 1000, "Videos of the whole conversion: those of --videos, repeated.", lower_bound=2
)
_LONG_FRAMES = flags.DEFINE_integer(
    "long_frames", 108_000, "Frames of the video for the memory measurement: an hour.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements per method.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "bench_results/convert.json", "File for the figures.")

FORMAT = ClipFormat()
Method = Callable[[str], object]


# A method takes the path of a video and returns its frames, uint8 [T, H, W, 3]; decode_everything returns
# only the number of frames.


def ours(path: str) -> np.ndarray:
    """Decodes a video with this project's decoder; returns the frames of its clip."""
    return decode.decode_file(path, FORMAT)[0].frames


def decode_everything(path: str) -> int:
    """Decodes all frames of a video with PyAV, without converting them to pixels; returns their number."""
    import av

    with av.open(path, metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def pyav_all_to_arrays(path: str) -> np.ndarray:
    """Converts every frame of a video to an array with PyAV; returns evenly spaced ones."""
    import av

    with av.open(path, metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [
            frame.to_ndarray(format="rgb24", width=FORMAT.width, height=FORMAT.height)
            for frame in container.decode(video=0)
        ]
    return np.stack([frames[i] for i in sampling.even_indices(len(frames), FORMAT.num_frames)])


def opencv_seek(path: str) -> np.ndarray:
    """Seeks to evenly spaced frames of a video with OpenCV; returns them."""
    import cv2

    capture, indices = _open_with_opencv(path)
    frames = []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        read, frame = capture.read()
        if read:
            frames.append(_opencv_pixels(frame))
    return np.stack(frames)


def opencv_grab(path: str) -> np.ndarray:
    """Decodes a video in order with OpenCV; returns evenly spaced frames."""
    capture, indices = _open_with_opencv(path)
    frames: list[np.ndarray] = []
    for index in range(indices[-1] + 1):
        if not capture.grab():
            break
        if index in indices:
            frames.append(_opencv_pixels(capture.retrieve()[1]))
    return np.stack(frames)


def _open_with_opencv(path: str) -> tuple[Any, list[int]]:
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return capture, sampling.even_indices(count, FORMAT.num_frames).tolist()


def _opencv_pixels(frame: np.ndarray) -> np.ndarray:
    import cv2

    frame = cv2.resize(frame, (FORMAT.width, FORMAT.height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def decord_batch(path: str) -> np.ndarray:
    """Returns evenly spaced frames of a video, read by decord's get_batch."""
    import decord

    reader = decord.VideoReader(path, width=FORMAT.width, height=FORMAT.height, num_threads=1)
    return reader.get_batch(sampling.even_indices(len(reader), FORMAT.num_frames)).asnumpy()


def torchcodec_frames(path: str) -> np.ndarray:
    """Returns evenly spaced frames of a video, read by torchcodec's get_frames_at."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    size = Resize((FORMAT.height, FORMAT.width))
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, transforms=[size])
    indices = sampling.even_indices(len(decoder), FORMAT.num_frames).tolist()
    return decoder.get_frames_at(indices).data.numpy()


METHODS: dict[str, Method] = {
    "ours": ours,
    "decode everything (PyAV)": decode_everything,
    "every frame to an array (PyAV)": pyav_all_to_arrays,
    "seek to each frame (OpenCV)": opencv_seek,
    "grab all, retrieve some (OpenCV)": opencv_grab,
    "get_batch (decord)": decord_batch,
    "get_frames_at (torchcodec)": torchcodec_frames,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one method of decoding, on one core."""

    name: str
    videos_per_sec: float  # median over the rounds
    ours_ratio: float  # median ratio of its time to that of this project's decoder; above 1, ours is faster
    peak_mb: float  # of its process, the largest of the rounds


def measure(name: str, paths: list[str]) -> tuple[float, float]:
    """Decodes videos by a method of METHODS on one core. Runs in a fresh process.

    Returns the seconds taken and the process's peak memory in MB.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    method = METHODS[name]
    method(paths[0])  # not timed: imports packages and fills tables
    started = time.perf_counter()
    for path in paths:
        method(path)
    secs = time.perf_counter() - started
    return secs, measuring.peak_mb(resource.RUSAGE_SELF)


def measure_all(paths: list[str], rounds: int) -> list[Row]:
    """Measures each method of METHODS whose package is installed, on the same videos."""
    methods = {}
    for name, method in METHODS.items():
        try:
            in_fresh_process(method, paths[0])
        except (ImportError, OSError) as error:  # torchcodec needs a system's FFmpeg
            terminal.say(f"not measured: {name}: {str(error).splitlines()[0]}")
        else:
            methods[name] = functools.partial(in_fresh_process, measure, name, paths)
    found = measuring.in_turn(methods, rounds=rounds, description="measuring")
    secs = {name: [taken for taken, _ in runs] for name, runs in found.items()}
    return [
        Row(
            name=name,
            videos_per_sec=len(paths) / statistics.median(secs[name]),
            ours_ratio=measuring.median_ratio(secs[name], secs["ours"]),
            peak_mb=max(peak for _, peak in found[name]),
        )
        for name in methods
    ]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The cost of a whole conversion, its start-up included."""

    num_workers: int
    num_videos: int
    secs: float
    worker_peak_mb: float  # peak memory of the decoding process that used the most


def repeat_videos(found: Catalog, count: int, folder: str) -> None:
    """Makes a set of `count` videos in a folder: links, under new names, to the videos of a catalogue."""
    step = max(1, len(found.videos) // count)  # so that the set covers all classes
    for number in range(count):
        video = found.videos[number * step % len(found.videos)]
        source = pathlib.Path(found.videos_dir, video.relative_path)
        [class_name] = as_tuple(video.class_name)
        name = f"v_{class_name}_g{video.group or 1:02d}_c{number:06d}{source.suffix}"
        target = pathlib.Path(folder, class_name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())


def measure_conversion(videos_dir: str, num_workers: int) -> Conversion:
    """Measures a whole conversion, from finding the videos to writing the manifest. Call it in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        built = shards.convert(videos_dir, folder, FORMAT, num_workers=num_workers, name="bench")
        secs = time.perf_counter() - started
    peak_mb = measuring.peak_mb(resource.RUSAGE_CHILDREN)
    return Conversion(num_workers, built.num_videos, secs, peak_mb)


def measure_workers(videos_dir: str, rounds: int) -> list[Conversion]:
    """Converts a folder of videos with one worker and with two; returns the rounds of median duration."""
    runs = {n: functools.partial(in_fresh_process, measure_conversion, videos_dir, n) for n in (1, 2)}
    taken = measuring.in_turn(runs, rounds=rounds, description="converting")
    return [sorted(c, key=lambda item: item.secs)[len(c) // 2] for c in taken.values()]


def measure_long_video(num_frames: int) -> float:
    """Makes a clip of a video of `num_frames` frames in a fresh process; returns its peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "long.avi")
        in_fresh_process(write_long_video, path, num_frames)
        return in_fresh_process(measure, "ours", [path])[1]


def write_long_video(path: str, num_frames: int) -> None:
    """Writes a video of `num_frames` frames, which repeat 12 random pictures of 64x48 pixels."""
    import av

    frames = [
        av.VideoFrame.from_ndarray(np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8))
        for i in range(12)
    ]
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            frame = frames[number % len(frames)]
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    found = catalog.find_videos(_VIDEOS.value)
    step = max(1, len(found.videos) // _MAX_VIDEOS.value)
    paths = [os.path.join(_VIDEOS.value, v.relative_path) for v in found.videos[::step]][: _MAX_VIDEOS.value]
    rows = measure_all(paths, _ROUNDS.value)
    terminal.say(f"{len(paths)} videos, {FORMAT}, one core, median of {_ROUNDS.value} rounds")
    terminal.say(f"{'':<34}{'videos/s':>9}{'ours is':>9}{'peak MB':>9}")
    for row in rows:
        terminal.say(f"{row.name:<34}{row.videos_per_sec:>9.1f}{row.ours_ratio:>8.2f}x{row.peak_mb:>9.0f}")
    with tempfile.TemporaryDirectory() as folder:
        repeat_videos(found, _CONVERSION_VIDEOS.value, folder)
        one, two = measure_workers(folder, _ROUNDS.value)
    terminal.say(
        f"whole conversion of {one.num_videos} videos: {one.secs:.1f} s with 1 worker, "
        f"{two.secs:.1f} s with 2, {two.num_videos / two.secs:.1f} videos/s ({one.secs / two.secs:.2f}x), "
        f"peak of a worker {two.worker_peak_mb:.0f} MB"
    )
    long_peak_mb = measure_long_video(_LONG_FRAMES.value)
    terminal.say(f"a video of {_LONG_FRAMES.value} frames: peak {long_peak_mb:.0f} MB")
    measuring.write_figures(
        _OUTPUT.value,
        {
            "decoder": decode.decoder_version(),
            "num_videos": len(paths),
            "rows": to_json(rows),
            "conversions": to_json([one, two]),
            "long_video": {"num_frames": _LONG_FRAMES.value, "peak_mb": long_peak_mb},
        },
    )


if __name__ == "__main__":
    console.run(main)
