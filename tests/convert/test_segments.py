"""The clips of a segment equal, bit for bit, those of decoding the whole video in order and cutting."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.conftest import real_folder
from tests.convert.test_exactness import (
    decode_all,
    encode,
    moving_noise,
    odd_videos,
    pick_by_index,
    remux,
    with_neighbours,
)
from ucf50_tfrecord.convert import container, decode
from ucf50_tfrecord.jobs import Segment
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=5, height=24, width=40)
CODECS = {
    "h264": ("libx264", "mp4", {"bf": "3", "g": "12"}),
    "h264 open": ("libx264", "mkv", {"bf": "2", "x264-params": "open-gop=1:keyint=12:scenecut=0"}),
    "h264 refresh": ("libx264", "mkv", {"x264-params": "intra-refresh=1:keyint=12"}),
    "h264 stream": ("libx264", "ts", {"bf": "2", "g": "12"}),
    "hevc open": ("libx265", "mp4", {"x265-params": "open-gop=1:keyint=12:log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "av1": ("libsvtav1", "mkv", {"preset": "12", "g": "12"}),
    "mpeg2": ("mpeg2video", "mpg", {"bf": "2", "g": "12"}),
    "mpeg1": ("mpeg1video", "mpg", {"g": "12"}),
    "mpeg4 with B": ("mpeg4", "mp4", {"bf": "2", "g": "12"}),
    "xvid": ("mpeg4", "avi", {"g": "12"}),
    "mjpeg": ("mjpeg", "avi", {}),
    "ffv1": ("ffv1", "mkv", {"g": "12"}),
    "vp8": ("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "flv": ("flv", "flv", {"g": "12"}),
    "gif": ("gif", "gif", {}),
}
# Decoded from a keyframe on or selectively, so that little before a segment is decoded.
STARTS_LATE = set(CODECS) - {"h264 refresh", "av1", "vp8", "flv", "gif", "ffv1"}


def write(path, name, num_frames=80):
    codec, _, options = CODECS[name]
    pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    encode(path, moving_noise(num_frames), codec, codec_options=options, pix_fmt=pix_fmt)


def check(path, segment, clip_format=FORMAT):
    """Compares a segment's clip with the cut out of all frames; returns whether there are frames in it."""
    frames = decode_all(path)
    times = [round(float((frame.pts - frames[0].pts) * frame.time_base) * 1e6) for frame in frames]
    times = list(itertools.accumulate(times, max))
    end = float("inf") if segment.end_us is None else segment.end_us
    inside = [i for i, time in enumerate(times) if segment.start_us <= time < end]
    if not inside:
        with pytest.raises(decode.VideoError, match="no frame from"):
            decode.decode_file(path, clip_format, segment)
        return False
    [clip] = decode.decode_file(path, clip_format, segment)
    indices = [inside[i] for i in pick_by_index(inside, FORMAT.num_frames)]
    assert clip.frame_indices.tolist() == indices, path
    pictures = with_neighbours(frames[: inside[-1] + 1], indices, clip_format.motion_frames)
    np.testing.assert_array_equal(clip.frames, pictures, err_msg=f"{path} {segment}")
    assert clip.timestamps_us[0] >= 0 and clip.end_us <= end - segment.start_us
    return True


@pytest.fixture
def decoded(monkeypatch):
    """Counts the packets that are decoded."""
    packets = []
    decode_packet = container.Container.decode

    def spy(self, packet):
        if packet is not None:
            packets.append(packet)
        return decode_packet(self, packet)

    monkeypatch.setattr(container.Container, "decode", spy)
    return packets


@pytest.mark.parametrize("name", CODECS)
def test_a_segment_equals_the_cut_out_of_all_frames(tmp_path, decoded, name):
    path = tmp_path / f"x.{CODECS[name][1]}"
    write(path, name)
    for start, end in ((0, 1), (0.5, 0.9), (1.92, 2.5), (2.0, None), (2.41, 2.46), (3.1, 99)):
        segment = Segment(start_us=round(start * 1e6), end_us=None if end is None else round(end * 1e6))
        assert check(path, segment)
    assert not check(path, Segment(start_us=5_000_000, end_us=None))
    decoded.clear()
    assert check(path, Segment(start_us=2_600_000, end_us=2_700_000))
    assert (len(decoded) < 30) == (name in STARTS_LATE), len(decoded)


@pytest.mark.parametrize("name", ["h264 open", "mpeg4 with B", "xvid", "ffv1"])
def test_neighbours_in_a_segment_never_lie_beyond_its_end(tmp_path, name):
    path = tmp_path / f"x.{CODECS[name][1]}"
    write(path, name)
    clip_format = dataclasses.replace(FORMAT, motion_frames=2)
    for start_us, end_us in ((0, 900_000), (1_920_000, 2_500_000), (2_410_000, 2_460_000), (3_100_000, None)):
        assert check(path, Segment(start_us=start_us, end_us=end_us), clip_format)


@pytest.mark.parametrize("name", ["h264", "hevc open", "vp9", "mpeg2", "mpeg4 with B", "xvid"])
def test_lying_keyframe_flags_give_no_wrong_frame(tmp_path, name):
    whole, path = tmp_path / f"whole.{CODECS[name][1]}", tmp_path / "x.mkv"
    write(whole, name)
    for keyframes in (set(range(80)), {0}, {0, 5, 30, 53}):
        remux(whole, path, keyframes=keyframes)
        for start_us in (300_000, 1_500_000, 2_300_000):
            check(path, Segment(start_us=start_us, end_us=start_us + 400_000))


def test_segments_of_real_clips_are_exact():
    files = sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))[::8]
    for path in files:
        assert check(path, Segment(start_us=1_000_000, end_us=1_500_000))
    assert len(files) > 30


def test_segments_of_real_odd_videos_are_exact():
    checked = [check(path, Segment(start_us=700_000, end_us=1_900_000)) for path in whole_videos()]
    assert sum(checked) >= 20


def whole_videos():
    """Yields the odd videos that decode to frames with times."""
    for path in odd_videos():
        frames = decode_all(path)
        if frames and all(frame.pts is not None for frame in frames):
            yield path
