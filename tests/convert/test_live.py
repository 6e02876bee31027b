"""Streams are cut as recorded videos are, without keeping more of them than one window."""

import os
import random
import threading

import numpy as np
import pytest

from tests.conftest import write_numbered_video, write_video
from ucf50_tfrecord import record
from ucf50_tfrecord.convert import live, sampling
from ucf50_tfrecord.convert.container import Undecodable, VideoError
from ucf50_tfrecord.convert.live import Progress, StreamCutter, Window
from ucf50_tfrecord.convert.sampling import Timeline
from ucf50_tfrecord.specs import ClipFormat, WindowSpec

FORMAT = ClipFormat(num_frames=4, height=16, width=16)
WINDOWS = WindowSpec(whole_secs=0.0, window_secs=2.0, stride_secs=1.0)


def picture(number):
    """A frame that carries its number."""
    return np.full((16, 16, 3), [number % 256, number // 256 % 256, number // 65536], np.uint8)


def cut_live(times, clip_format, windows, *, time_base_secs=0.001, frame_rate=25.0):
    """Returns the windows of frames that arrive one by one, and the largest number of frames that were kept."""
    cutter = StreamCutter(clip_format, windows, time_base_secs, frame_rate)
    found, most = [], 0
    for number, time in enumerate(times):
        found += cutter.add(time, picture(number))
        most = max(most, len(cutter._pictures))
    found += cutter.finish()
    return found, most


def cut_recorded(times, clip_format, windows, *, time_base_secs=0.001, frame_rate=25.0):
    """Returns start, end and clips of the windows that prediction cuts a recorded video into."""
    timeline = Timeline(times, time_base_secs, frame_rate)
    indices = sampling.choose_window_frames(timeline, clip_format, windows)
    clips = np.stack([picture(i) for i in indices.ravel().tolist()]).reshape(*indices.shape, 16, 16, 3)
    if clip_format.motion_frames:
        clips = record.stack_neighbours(clips, clip_format)
    spans = sampling.cut_windows(timeline, windows)
    return [(*span, clip.tobytes()) for span, clip in zip(spans, clips, strict=True)]


def random_times(rng):
    """Returns times in ms: with gaps, equal ones, and ones that go back a little."""
    times, now = [], rng.choice([0, -500, 10**9])
    for _ in range(rng.randint(1, 300)):
        now += rng.choice([40, 40, 40, 0, 33, 1, 400, -60, rng.choice([40, 7000, 10**7])])
        times.append(now)
    return times


@pytest.mark.parametrize("seed", range(60))
def test_windows_of_a_stream_are_those_of_a_recorded_video(seed):
    rng = random.Random(seed)
    clip_format = ClipFormat(
        num_frames=rng.choice([1, 4, 7]),
        height=16,
        width=16,
        clips_per_video=rng.choice([1, 2]),
        spacing=rng.choice(["index", "time"]),
        motion_frames=rng.choice([0, 0, 2]),
    )
    windows = WindowSpec(
        whole_secs=0.0,
        window_secs=rng.choice([0.4, 2.0, 5.04]),
        stride_secs=rng.choice([0.1, 0.5, 1.0, 3.0]),
    )
    times, rate = random_times(rng), rng.choice([0.0, 25.0, 29.97])
    if rng.random() < 0.2:
        times, rate = [None] * len(times), 29.97
    found, _ = cut_live(times, clip_format, windows, frame_rate=rate)
    spans = [(window.start_us, window.end_us, window.clips) for window in found]
    assert spans == cut_recorded(times, clip_format, windows, frame_rate=rate)


def test_no_more_than_a_window_is_kept():
    found, most = cut_live(range(0, 40 * 5000, 40), FORMAT, WINDOWS)
    assert len(found) == 199 and most <= 50 + 2


def test_a_window_comes_as_soon_as_a_later_frame_is_shown():
    cutter = StreamCutter(FORMAT, WINDOWS, 0.001, 25.0)
    numbers = [number for number in range(200) if list(cutter.add(40 * number, picture(number)))]
    assert numbers == [51, 76, 101, 126, 151, 176]


def test_a_clock_that_is_set_back_goes_on():
    """As when a sender starts again: no frame is kept until the clock has caught up, and none is lost."""
    times = [*range(0, 40 * 1000, 40), *range(0, 40 * 1000, 40)]
    found, most = cut_live(times, FORMAT, WINDOWS)
    together, _ = cut_live(range(0, 40 * 2000, 40), FORMAT, WINDOWS)
    assert found == together and most <= 50 + 2


def test_frames_without_times_and_rate_are_refused():
    with pytest.raises(VideoError, match="no times, and it states no frame rate"):
        list(StreamCutter(FORMAT, WINDOWS, 0.001, 0.0).add(None, picture(0)))


def decode(content, windows=WINDOWS, clip_format=FORMAT):
    """Decodes bytes that arrive through a pipe."""
    ours, theirs = os.pipe()

    def write():
        with open(theirs, "wb", buffering=0) as pipe:
            for first in range(0, len(content), 5000):
                pipe.write(content[first : first + 5000])

    writer = threading.Thread(target=write)
    writer.start()
    with open(ours, "rb", buffering=0) as file:
        found = list(live.decode_stream(clip_format, windows, "-", file))
    writer.join()
    return found


def numbered(folder, suffix=".mkv"):
    """Returns the bytes of a video of 155 frames that carry their numbers."""
    write_numbered_video(folder / f"155{suffix}", 155)
    return (folder / f"155{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".nut"])
def test_a_pipe_is_decoded_frame_by_frame(tmp_path, suffix):
    parts = decode(numbered(tmp_path, suffix))
    windows = [part for part in parts if isinstance(part, Window)]
    starts = [0, 25, 50, 75, 100, 105]
    assert [(window.start_us, window.end_us) for window in windows] == [
        (40_000 * start, 40_000 * (start + 50)) for start in starts
    ]
    for start, window in zip(starts, windows):
        clips = np.frombuffer(window.clips, np.uint8).reshape(1, *FORMAT.shape)
        assert clips[0, :, 0, 0, 0].tolist() == (start + sampling.even_indices(50, 4)).tolist()
        assert (window.num_frames, window.frame_rate) == (50, 25.0)
    assert parts[-1] == Progress(155, 6_200_000)


def test_a_lossy_encoding_changes_the_frames_as_in_training(tmp_path):
    write_video(
        tmp_path / "noise.mkv", np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    )
    jpeg = ClipFormat(num_frames=4, height=16, width=16, encoding="jpeg", jpeg_quality=60)
    content = (tmp_path / "noise.mkv").read_bytes()
    raw, compressed = (
        np.frombuffer(decode(content, clip_format=clip_format)[0].clips, np.uint8).reshape(-1, 16, 16, 3)
        for clip_format in (FORMAT, jpeg)
    )
    assert (raw != compressed).any()
    assert all((record.as_read(one, jpeg) == other).all() for one, other in zip(raw, compressed, strict=True))


def test_a_container_that_ends_with_its_index_is_refused_with_the_reason(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 256, 256, 3), dtype=np.uint8)
    write_video(tmp_path / "index.mp4", noise)
    *_, failed = decode((tmp_path / "index.mp4").read_bytes())
    assert isinstance(failed, Undecodable)
    assert "expected video in a container that can be read from its start, such as MPEG-TS" in failed.reason


def test_a_writer_that_dies_in_mid_frame_ends_the_stream(tmp_path):
    content = numbered(tmp_path)
    *_, progress = decode(content[: len(content) // 2])
    assert isinstance(progress, Progress) and 60 < progress.num_frames < 90


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it ended before anything arrived"),
        (b"no video" * 1000, "expected video in a container that can be read from its start"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "found the format concat"),
    ],
)
def test_garbage_is_refused_with_the_reason(content, reason):
    [failed] = decode(content)
    assert isinstance(failed, Undecodable) and reason in failed.reason
