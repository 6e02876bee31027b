"""Streams through real pipes and worker processes: what a caller gets if it is fast, slow, or stops."""

import contextlib
import os
import pathlib
import threading
import time

import numpy as np
import pytest

from tests.conftest import child_pids, is_running
from ucf50_tfrecord.convert.sampling import even_indices
from ucf50_tfrecord.inference import decoding, sources
from ucf50_tfrecord.inference.live import LiveWindows
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec

FORMAT = ClipFormat(num_frames=5, height=16, width=24)
WINDOWS = WindowSpec(whole_secs=0.0, window_secs=2.0, stride_secs=1.0)
HEAD = b"YUV4MPEG2 W48 H32 F25:1 Ip A1:1 C420jpeg\n"  # each frame: a line, then its pixels


def frames(first, stop):
    """Frames of a stream without compression, whose grey values count."""
    return b"".join(
        b"FRAME\n" + bytes([16 + i % 200]) * (48 * 32) + b"\x80" * (48 * 16) for i in range(first, stop)
    )


def never():
    return False


@contextlib.contextmanager
def reading(tmp_path, *, windows=WINDOWS, stall_secs=30.0, memory_mib=2048):
    """Yields the windows of a FIFO, and its open writing end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = []

    def start():
        writer.append(open(path, "wb", buffering=0))
        writer[0].write(HEAD + frames(0, 2))

    thread = threading.Thread(target=start)
    thread.start()
    with sources.opened(str(path), 30.0, never) as stream:
        thread.join()
        with (
            LiveWindows(
                stream,
                FORMAT,
                windows,
                limits=DecodeLimits(memory_mib=memory_mib),
                stall_secs=stall_secs,
            ) as found,
            writer[0],
        ):
            yield found, writer[0]


def test_a_fast_caller_gets_every_window(tmp_path):
    with reading(tmp_path) as (found, writer):
        windows, first = found(never), 2
        for start in range(0, 500, 25):
            writer.write(frames(first, start + 52))
            first = start + 52
            window = next(windows)
            assert (window.start_us, window.end_us) == (40_000 * start, 40_000 * (start + 50))
            clips = np.frombuffer(window.clips, np.uint8).reshape(-1, *FORMAT.shape)
            grey = clips[0, :, 0, 0, 0].astype(int)
            chosen = 16 + (start + even_indices(50, 5)) % 200
            assert np.abs(grey - (chosen - 16) * 255 / 219).max() <= 3  # 16 to 235 in YUV
        writer.close()
        assert [(window.start_us, window.end_us) for window in windows] == [(19_080_000, 21_080_000)]
        assert (found.num_dropped, found.num_frames, found.failed) == (0, first, None)


def test_a_slow_caller_gets_the_newest_window(tmp_path):
    with reading(tmp_path) as (found, writer):
        writer.write(frames(2, 1000))
        writer.close()
        while not found._has_ended:
            time.sleep(0.02)
        [window] = found(never)
        assert (window.start_us, window.end_us) == (38_000_000, 40_000_000)
        assert (found.num_dropped, found.num_frames, found.end_us) == (38, 1000, 40_000_000)


def test_memory_does_not_grow_with_the_stream(tmp_path):
    def resident_bytes():
        [pid] = set(child_pids(os.getpid())) - before
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = set(child_pids(os.getpid()))
    with reading(tmp_path) as (found, writer):
        sizes, part = [], frames(0, 2000)
        for _ in range(8):
            writer.write(part)
            sizes.append(resident_bytes())
        writer.close()
        list(found(never))
        assert found.num_frames == 16_002
    # One frame has 1152 bytes, so 12,000 of them have 14 MB.
    assert max(sizes[2:]) - sizes[1] < 4 << 20


def test_a_stream_without_frames_is_given_up(tmp_path):
    with reading(tmp_path, stall_secs=1.0) as (found, writer):
        writer.write(frames(2, 60))
        assert len(list(found(never))) == 1
        assert found.failed == decoding.Failed("no frame arrived for 1 s", "stall")


def test_leaving_stops_the_worker_and_its_sender(tmp_path):
    before = set(child_pids(os.getpid()))
    with reading(tmp_path) as (found, writer):
        writer.write(frames(2, 100))
        next(found(never))
        [pid] = set(child_pids(os.getpid())) - before
        assert list(found(lambda: True)) == []
        found.__exit__()
        assert not is_running(pid)
        with pytest.raises(BrokenPipeError):
            writer.write(frames(0, 1000))
        assert found.failed is None


def test_windows_that_need_too_much_memory_end_the_stream(tmp_path):
    """As with a window of a day, or many frames that are shown at the same time."""
    day = WindowSpec(whole_secs=0.0, window_secs=86_400.0, stride_secs=1.0)
    with reading(tmp_path, windows=day, memory_mib=16) as (found, writer):
        part = frames(0, 1000)
        with pytest.raises(BrokenPipeError):
            while True:
                writer.write(part)
        assert list(found(never)) == []
        assert found.failed == decoding.Failed("it needed more than 16 MiB of memory", "memory")
