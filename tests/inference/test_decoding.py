"""The frames of each window, on videos whose frames carry their number; the cost of bad files."""

import contextlib
import os
import tempfile

import numpy as np
import pytest

from tests.conftest import REPOSITORY, child_pids, write_numbered_video
from tests.convert.test_isolation import SITECUSTOMIZE
from ucf50_tfrecord.convert.sampling import even_indices
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec

FORMAT = ClipFormat(num_frames=5, height=16, width=24)
WINDOWS = WindowSpec(whole_secs=3.0, window_secs=2.0, stride_secs=1.0)


def video_file(path):
    return decoding.VideoFile(path=str(path))


def decode(path, tmp_path, clip_format=FORMAT, windows=WINDOWS):
    """Decodes a video in this process, and parses the answer as of a worker."""
    with open(path, "rb") as file, open(tmp_path / "frames", "w+b", buffering=0) as frames:
        answer = decoding.decode_windows(clip_format, windows, video_file(path), file, frames)
        kept = open(tmp_path / "frames", "rb", buffering=0)
        return decoding._parse_windows(clip_format, kept, video_file(path), answer)


def read_numbers(decoded, clip_format=FORMAT):
    """The numbers that the frames of each window's clips carry, and how many frames the file holds."""
    num_bytes = os.fstat(decoded.frames.fileno()).st_size
    frames = np.frombuffer(os.pread(decoded.frames.fileno(), num_bytes, 0), np.uint8)
    frames = frames.reshape(-1, *clip_format.shape[1:])
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0][decoded.places].tolist(), len(frames)


def test_windows_hold_evenly_spaced_frames_of_their_own_time(tmp_path):
    """155 frames at 25 per second: 50 per window, a new one every 25, the last ends with the video."""
    write_numbered_video(tmp_path / "numbered.mkv", 155)
    decoded = decode(tmp_path / "numbered.mkv", tmp_path)
    starts = [0, 25, 50, 75, 100, 105]
    numbers, num_stored = read_numbers(decoded)
    assert numbers == [[(start + even_indices(50, 5)).tolist()] for start in starts]
    assert decoded.windows_us == [(start * 40_000, (start + 50) * 40_000) for start in starts]
    assert (decoded.num_frames, decoded.end_us) == (155, 155 * 40_000)
    # No frame is decoded or stored twice, however many windows take it.
    assert num_stored == len({number for [clip] in numbers for number in clip})


@pytest.mark.parametrize("spacing", ["index", "time"])
def test_a_window_gives_as_many_clips_as_a_video_does(tmp_path, spacing):
    write_numbered_video(tmp_path / "numbered.mkv", 100)
    two = ClipFormat(num_frames=5, height=16, width=24, clips_per_video=2, spacing=spacing)
    numbers, _ = read_numbers(decode(tmp_path / "numbered.mkv", tmp_path, two), two)
    spread = even_indices(50, 10)
    assert numbers == [
        [(start + spread[0::2]).tolist(), (start + spread[1::2]).tolist()] for start in (0, 25, 50)
    ]


def test_a_short_video_is_one_window(tmp_path):
    write_numbered_video(tmp_path / "numbered.mkv", 75)
    whole = decode(tmp_path / "numbered.mkv", tmp_path)
    assert read_numbers(whole)[0] == [[even_indices(75, 5).tolist()]]
    assert whole.windows_us == [(0, 3_000_000)]
    shorter = WindowSpec(whole_secs=2.9, window_secs=2.0, stride_secs=1.0)
    assert len(decode(tmp_path / "numbered.mkv", tmp_path, windows=shorter).windows_us) == 2


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("a/1.avi", "a/b/2.MP4", "a/b/.hidden.avi", "a/notes.txt", "strange.bin"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "a" / "pipe.avi")
    paths = [str(tmp_path / name) for name in ("strange.bin", "a", "a/1.avi")]
    found, [warning] = decoding.find_videos(paths)
    assert [video.path for video in found] == [
        str(tmp_path / name) for name in ("strange.bin", "a/1.avi", "a/b/2.MP4")
    ]
    assert warning.endswith("ignored, no videos: notes.txt, pipe.avi")
    with pytest.raises(UserError, match="There is no video or folder .*nowhere"):
        decoding.find_videos([str(tmp_path / "nowhere")])
    for path in (tmp_path / "empty", tmp_path / "a" / "pipe.avi"):
        with pytest.raises(UserError, match="Expected a video, or a folder of videos"):
            decoding.find_videos([str(path)])
    with pytest.raises(UserError, match="Cannot read x*: File name too long"):
        decoding.find_videos(["x" * 300])
    with pytest.raises(UserError, match="no video or folder https://host/a.mp4"):
        decoding.find_videos(["https://host/a.mp4"])


def test_a_full_disk_is_explained(tmp_path):
    write_numbered_video(tmp_path / "numbered.mkv", 75)
    video = video_file(tmp_path / "numbered.mkv")
    with open(video.path, "rb") as file, open("/dev/full", "wb", buffering=0) as full:
        answer = decoding.decode_windows(FORMAT, WINDOWS, video, file, full)
        failed = decoding._parse_windows(FORMAT, full, video, answer)
    where = f"(in {tempfile.gettempdir()}, TMPDIR)"
    reason = f"its frames cannot be written: No space left on device {where}"
    assert failed == decoding.Failed(reason, "room")


@pytest.mark.parametrize("places", [b"", b"\0" * 8 * 4, b"\xff" * 8 * 5, (9).to_bytes(8, "little") * 5])
def test_windows_of_missing_frames_are_refused(tmp_path, places):
    (tmp_path / "frames").write_bytes(bytes(16 * 24 * 3 * 9))
    answer = decoding._Windows(places=places, windows_us=[(0, 1)], num_frames=9, end_us=1, frame_rate=25.0)
    with open(tmp_path / "frames", "rb") as frames, pytest.raises(ValueError):
        decoding._parse_windows(FORMAT, frames, decoding.VideoFile(path="a.avi"), answer)


def test_bad_videos_cost_themselves_alone(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{REPOSITORY}")
    write_numbered_video(tmp_path / "good.mkv", 20)
    for name in ("segfault", "hang"):
        (tmp_path / f"{name}.mkv").write_bytes((tmp_path / "good.mkv").read_bytes())
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "last.mkv").write_bytes((tmp_path / "good.mkv").read_bytes())
    names = ["good.mkv", "segfault.mkv", "hang.mkv", "text.avi", "last.mkv"]
    waited = []
    decoder = decoding.Decoder(
        clip_format=FORMAT,
        windows=WINDOWS,
        limits=DecodeLimits(timeout_secs=1.5),
        num_workers=3,
        on_wait=waited.append,
    )
    found, files = {}, []
    for video, result in decoder([video_file(tmp_path / name) for name in names]):
        found[os.path.basename(video.path)] = result
        if isinstance(result, decoding.DecodedVideo):
            assert read_numbers(result)[0] == [[even_indices(20, 5).tolist()]]
            files.append(result.frames)
    assert list(found) == names and len(files) == 2
    assert {name: result.cause for name, result in found.items() if isinstance(result, decoding.Failed)} == {
        "segfault.mkv": "crash",
        "hang.mkv": "timeout",
        "text.avi": "contents",
    }
    assert all(file.closed for file in files) and waited


def test_leaving_stops_the_workers(tmp_path):
    write_numbered_video(tmp_path / "good.mkv", 20)
    before = set(child_pids(os.getpid()))
    decoder = decoding.Decoder(clip_format=FORMAT, windows=WINDOWS, limits=DecodeLimits(), num_workers=2)
    with contextlib.closing(decoder([video_file(tmp_path / "good.mkv")] * 20)) as decoded:
        _, result = next(decoded)
        assert set(child_pids(os.getpid())) - before
    assert not set(child_pids(os.getpid())) - before
    assert result.frames.closed


def test_frames_have_no_name_that_a_killed_process_could_leave(tmp_path, monkeypatch):
    write_numbered_video(tmp_path / "good.mkv", 20)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    decoder = decoding.Decoder(clip_format=FORMAT, windows=WINDOWS, limits=DecodeLimits(), num_workers=1)
    for _, result in decoder([video_file(tmp_path / "good.mkv")]):
        assert os.fstat(result.frames.fileno()).st_size and not os.listdir(tmp_path / "temporary")
