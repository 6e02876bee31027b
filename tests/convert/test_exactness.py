"""What the converter decodes equals, bit for bit, decoding everything in order and then picking.

The reference below shares no code with the converter.
"""

import dataclasses
import fractions
import random
import re

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from tests.conftest import real_folder
from ucf50_tfrecord.convert import container, decode
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=15, height=24, width=40)


def decode_all(path):
    """Decodes all frames of a video in order."""
    frames = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"flags": "+bitexact"}
        for packet in container.demux(stream):
            try:
                frames += packet.decode()
            except av.error.InvalidDataError:
                pass
    return frames


def to_picture(frame):
    """Scales and turns a frame."""
    flags = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    width, height = (24, 40) if frame.rotation % 180 else (40, 24)
    scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation=flags, threads=1)
    return np.rot90(scaled.to_ndarray(), frame.rotation // 90)


def pick_by_index(frames, count):
    """The nearest to evenly spaced positions, halves up."""
    half = fractions.Fraction(1, 2)
    return [int(fractions.Fraction(i * (len(frames) - 1), count - 1) + half) for i in range(count)]


def pick_by_time(frames, count):
    """The nearest to evenly spaced times; of two equally near the later, of simultaneous ones the first."""
    shown = [frame.pts for frame in frames]
    if None in shown:
        return pick_by_index(frames, count)
    shown = [max(shown[: i + 1]) for i in range(len(shown))]
    picked = []
    for i in range(count):
        target = shown[0] + fractions.Fraction((shown[-1] - shown[0]) * i, count - 1)
        best = min(shown, key=lambda time: (abs(time - target), -time))
        picked.append(shown.index(best))
    return picked


def check(path, pick=pick_by_index, **options):
    clip_format = dataclasses.replace(FORMAT, **options)
    frames = decode_all(path)
    if not frames:
        with pytest.raises(decode.VideoError):
            decode.decode_file(path, clip_format)
        return
    clips = decode.decode_file(path, clip_format)
    expected = pick(frames, 15 * len(clips))
    for k, clip in enumerate(clips):
        indices = expected[k :: len(clips)]
        assert clip.frame_indices.tolist() == indices, path
        pictures = with_neighbours(frames, indices, clip_format.motion_frames)
        np.testing.assert_array_equal(clip.frames, pictures, err_msg=str(path))


def with_neighbours(frames, indices, count):
    """The frames of a clip, each with the `count` frames after it in its channels; the last frame repeats."""
    last = len(frames) - 1
    return np.stack(
        [
            np.concatenate([to_picture(frames[min(i + k, last)]) for k in range(count + 1)], axis=2)
            for i in indices
        ]
    )


@pytest.fixture
def ways(monkeypatch):
    """Records how each video was decoded: True for selectively."""
    taken = []
    pick = decode._Picker.pick_selectively

    def spy(*arguments):
        picked = pick(*arguments)
        taken.append(picked is not None)
        return picked

    monkeypatch.setattr(decode._Picker, "pick_selectively", spy)
    return taken


def moving_noise(num_frames, height=64, width=96):
    rng = np.random.default_rng(0)
    world = rng.integers(0, 256, (height, width + 2 * num_frames, 3), dtype=np.uint8)
    return np.stack([world[:, 2 * i : 2 * i + width] for i in range(num_frames)])


def encode(path, frames, codec, *, codec_options=None, tag=None, **attributes):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=codec_options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = attributes.pop("pix_fmt", "yuv420p")
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        if tag:
            stream.codec_context.codec_tag = tag
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("num_frames", [1, 5, 15, 40, 200])
@pytest.mark.parametrize("gop_size", [1, 12, 300])
def test_xvid_without_b_frames_is_decoded_selectively(tmp_path, ways, num_frames, gop_size):
    path = tmp_path / "x.avi"
    encode(path, moving_noise(num_frames), "mpeg4", tag="XVID", gop_size=gop_size)
    check(path)
    assert ways == [True]


@pytest.mark.parametrize("max_b_frames", [1, 2])
@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_b_frames_are_decoded_in_order(tmp_path, ways, suffix, max_b_frames):
    path = tmp_path / f"x.{suffix}"
    encode(path, moving_noise(60), "mpeg4", max_b_frames=max_b_frames, gop_size=12)
    check(path)
    assert True not in ways


@pytest.mark.parametrize(
    "codec, suffix, options",
    [
        ("libx264", "mp4", {"bf": "3", "g": "25"}),
        ("libx264", "mkv", {"bf": "2", "x264-params": "open-gop=1:keyint=20"}),
        ("libx265", "mp4", {"x265-params": "open-gop=1:keyint=20:log-level=none"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("mjpeg", "avi", {}),
        ("mpeg2video", "mpg", {"bf": "2"}),
        ("mpeg1video", "mpg", {}),
        ("ffv1", "mkv", {}),
    ],
)
def test_other_codecs(tmp_path, ways, codec, suffix, options):
    path = tmp_path / f"x.{suffix}"
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encode(path, moving_noise(70), codec, codec_options=options, pix_fmt=pix_fmt)
    check(path)
    assert not ways


def remux(source, target, keep=lambda number: True, change=lambda number, data: data, keyframes=None):
    """Copies a video packet by packet."""
    with av.open(str(source)) as container, av.open(str(target), "w") as copy:
        stream = container.streams.video[0]
        output = copy.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if keep(number):
                changed = av.Packet(change(number, bytes(packet)))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.is_keyframe = packet.is_keyframe if keyframes is None else number in keyframes
                changed.stream = output
                copy.mux(changed)


def not_coded(data: bytes) -> bytes:
    """Makes a P-frame's header say "not coded", as encoders write for a frame like the last one."""
    start = data.index(b"\x00\x00\x01\xb6") + 4
    bits = int.from_bytes(data[start : start + 8], "big")
    # Two bits of type, the seconds (none passed), a marker, five bits of time (25 frames a
    # second), a marker: the next bit is vop_coded.
    assert not bits >> (64 - 3) & 1
    position = 64 - (2 + 1 + 1 + 5 + 1) - 1
    return data[:start] + (bits & ~(1 << position)).to_bytes(8, "big")[:2]


@pytest.mark.parametrize("skipped, selectively", [({5, 17, 18, 40}, True), ({5, 40, 79}, False)])
def test_frames_that_are_not_coded_are_counted_out(tmp_path, ways, skipped, selectively):
    whole, path = tmp_path / "whole.avi", tmp_path / "x.avi"
    encode(whole, moving_noise(80), "mpeg4", tag="XVID", gop_size=12)
    remux(whole, path, change=lambda number, data: not_coded(data) if number in skipped else data)
    check(path)
    assert (True in ways) == selectively


def test_lying_and_missing_keyframe_flags_are_not_believed(tmp_path, ways):
    whole = tmp_path / "whole.avi"
    encode(whole, moving_noise(80), "mpeg4", gop_size=12)
    for name, keyframes in (("all", set(range(80))), ("none but one", {0}), ("wrong", {0, 5, 30})):
        path = tmp_path / f"{name}.mp4"
        remux(whole, path, keyframes=keyframes)
        check(path)
    assert True not in ways


@pytest.mark.parametrize(
    "header",
    [
        b"\x00\x00\x01\xb2XviD0001",  # user data: another encoder's build
        b"\x00\x00\x01\xb5\x0d\x20\x20\x20\x20",  # visual object: other colours
    ],
)
def test_headers_that_change_on_the_way_are_not_skipped(tmp_path, ways, header):
    """They set the decoder's state for all frames to come, also where theirs is not wanted."""
    whole, path = tmp_path / "whole.avi", tmp_path / "x.avi"
    encode(whole, moving_noise(200), "mpeg4", tag="XVID", gop_size=2)
    start = b"\x00\x00\x01\xb6"
    remux(
        whole, path, change=lambda number, data: data.replace(start, header + start) if number == 2 else data
    )
    check(path)
    assert True not in ways


def test_lost_packets(tmp_path):
    whole = tmp_path / "whole.avi"
    encode(whole, moving_noise(80), "mpeg4", tag="XVID", gop_size=12)
    for name, lost in (("first", {0}), ("keyframe", {24}), ("some", {3, 30, 31, 32, 60})):
        path = tmp_path / f"{name}.avi"
        remux(whole, path, keep=lambda number: number not in lost)
        check(path)


@pytest.mark.parametrize("num_frames", [1, 2, 16, 200])
@pytest.mark.parametrize("motion_frames", [1, 2])
def test_neighbours_are_the_frames_right_after_each_frame(tmp_path, ways, num_frames, motion_frames):
    path = tmp_path / "x.avi"
    encode(path, moving_noise(num_frames), "mpeg4", tag="XVID", gop_size=12)
    check(path, motion_frames=motion_frames)
    check(path, motion_frames=motion_frames, clips_per_video=2)
    check(path, pick_by_time, motion_frames=motion_frames, clips_per_video=3, spacing="time")
    assert ways == [True] * 3


def test_neighbours_are_exact_in_all_ways_of_decoding(tmp_path):
    for suffix, codec, options in (("mp4", "mpeg4", {"bf": "2"}), ("mkv", "libx264", {"bf": "3"})):
        path = tmp_path / f"x.{suffix}"
        encode(path, moving_noise(60), codec, codec_options=options)
        check(path, motion_frames=2)
    whole, lost = tmp_path / "whole.avi", tmp_path / "lost.avi"
    encode(whole, moving_noise(90), "mpeg4", tag="XVID", gop_size=12)
    remux(whole, lost, keep=lambda number: number not in (20, 21, 57, 88))
    check(lost, motion_frames=2)  # frames are chosen again after the first pass
    remux(whole, lost, change=lambda number, data: not_coded(data) if number % 7 == 3 else data)
    check(lost, motion_frames=2)  # what follows a frame is the next packet that yields one


def test_damaged_videos(tmp_path):
    """Seeded flips of bits, half of them in the headers of frames, most of which are not wanted."""
    whole = tmp_path / "whole.avi"
    encode(whole, moving_noise(120), "mpeg4", tag="XVID", gop_size=2)
    content = whole.read_bytes()
    first = content.index(b"movi")
    headers = [match.start() for match in re.finditer(rb"\x00\x00\x01[\x20\xb0-\xb6]", content)]
    rng = random.Random(0)
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 10])):
            anywhere, header = rng.randrange(first, len(content)), rng.choice(headers) + rng.randrange(12)
            damaged[rng.choice([anywhere, header])] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del damaged[rng.randrange(first + 1000, len(damaged)) :]
        path = tmp_path / f"{number}.avi"
        path.write_bytes(damaged)
        check(path)


def test_a_long_video_is_read_again_instead_of_kept(tmp_path, monkeypatch, ways):
    path = tmp_path / "x.avi"
    encode(path, moving_noise(80), "mpeg4", tag="XVID", gop_size=12)
    monkeypatch.setattr(container, "_MAX_KEPT_BYTES", 10_000)
    check(path)
    ordered = tmp_path / "x.mp4"
    encode(ordered, moving_noise(80), "libx264", codec_options={"bf": "3"})
    check(ordered)
    assert ways == [True]


def test_real_clips_are_exact_and_nearly_all_selective(ways):
    files = sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))
    for path in files:
        check(path)
    assert len(files) == 278 and sum(ways) >= 265


def odd_videos():
    files = [path for path in sorted(real_folder("ODD_VIDEOS").iterdir()) if path.is_file()]
    assert len(files) > 50
    return [path for path in files if path.name != "pixeltable__pixeltable--bad_video.mp4"]


def test_real_odd_videos_are_exact():
    for path in odd_videos():
        check(path)


def test_by_time_and_with_several_clips_they_are_exact_too(ways):
    for path in odd_videos() + sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))[::10]:
        check(path, pick_by_time, spacing="time", clips_per_video=2)
    assert sum(ways) >= 20


def test_neighbours_in_real_videos_are_exact():
    for path in odd_videos() + sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))[::10]:
        check(path, pick_by_time, spacing="time", clips_per_video=2, motion_frames=2)
