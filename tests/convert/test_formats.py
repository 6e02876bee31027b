"""Colour, shape, time and the clips of a video: against values known beforehand."""

import fractions

import av
import numpy as np
import pytest

from tests.conftest import build, real_folder, write_numbered_video, write_video
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.convert import decode, sampling
from ucf50_tfrecord.specs import ClipFormat
from ucf50_tfrecord.tfrecord import Place

SMALL = ClipFormat(num_frames=5, height=16, width=24)
COLOURS = [
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
    (220, 220, 40),
    (128, 128, 128),
    (255, 255, 255),
    (0, 0, 0),
]
# Kr and Kb, and FFmpeg's number, of each matrix. Source: ITU-T H.273, table 4.
MATRICES = {"601": (0.299, 0.114, 5), "709": (0.2126, 0.0722, 1), "2020": (0.2627, 0.0593, 9)}


def to_yuv(colour, matrix, full_range, bits):
    """ITU-T H.273's equations 38 to 40 and 20 to 27."""
    kr, kb, _ = MATRICES[matrix]
    red, green, blue = (value / 255 for value in colour)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / 2 / (1 - kb), (red - luma) / 2 / (1 - kr)
    if full_range:
        peak = 2**bits - 1
        return [round(peak * luma), *(round(peak * value + 2 ** (bits - 1)) for value in chroma)]
    step = 2 ** (bits - 8)
    return [round(step * (16 + 219 * luma)), *(round(step * (128 + 224 * value)) for value in chroma)]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [*MATRICES, None])
def test_range_matrix_and_depth(tmp_path, matrix, full_range, pix_fmt):
    """Without a matrix it is BT.601's, as everywhere in FFmpeg."""
    path = tmp_path / "x.mkv"
    bits = 10 if "10" in pix_fmt else 12 if "12" in pix_fmt else 8
    tags = {"colorspace": MATRICES[matrix][2] if matrix else 2, "color_range": 2 if full_range else 1}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 63, 47, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for colour in COLOURS:
            frame = av.VideoFrame(63, 47, pix_fmt)
            frame.colorspace, frame.color_range = tags["colorspace"], tags["color_range"]
            for plane, value in zip(frame.planes, to_yuv(colour, matrix or "601", full_range, bits)):
                samples = np.full(
                    plane.buffer_size // (2 if bits > 8 else 1), value, "<u2" if bits > 8 else "u1"
                )
                plane.update(samples.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    [clip] = decode.decode_file(path, ClipFormat(num_frames=len(COLOURS), height=16, width=24))
    difference = np.abs(clip.frames.astype(int) - np.array(COLOURS)[:, np.newaxis, np.newaxis])
    assert difference.max() <= 4


@pytest.mark.parametrize("pix_fmt", ["bgra", "yuva420p", "yuva444p"])
def test_alpha_is_dropped(tmp_path, pix_fmt):
    codec, suffix = ("ffv1", "mkv")
    path = tmp_path / f"x.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        rgba = np.zeros((32, 48, 4), np.uint8)
        rgba[..., :3] = (200, 30, 90)
        rgba[:, :24, 3] = 255
        for _ in range(5):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pix_fmt))
            )
        container.mux(stream.encode(None))
    [clip] = decode.decode_file(path, SMALL)
    assert np.abs(clip.frames.astype(int) - (200, 30, 90)).max() <= 5


def test_palettes(tmp_path):
    path = tmp_path / "x.gif"
    frames = np.zeros((6, 32, 48, 3), np.uint8)
    frames[:, :16], frames[:, 16:] = (255, 0, 0), (0, 0, 255)
    write_video(path, frames, codec="gif", pix_fmt="bgr8", rate=10)
    [clip] = decode.decode_file(path, SMALL)
    assert np.abs(clip.frames[:, :7].astype(int) - (255, 0, 0)).max() <= 36
    assert np.abs(clip.frames[:, 9:].astype(int) - (0, 0, 255)).max() <= 85


@pytest.mark.parametrize("quarter_turns", range(4))
def test_rotation_is_applied(tmp_path, quarter_turns):
    """Of a red corner at the top left, shown turned counter-clockwise."""
    path = tmp_path / "x.mp4"
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:24, :24] = (250, 20, 20)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.set_display_rotation(90 * quarter_turns)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert round(next(container.decode(video=0)).rotation) % 360 == 90 * quarter_turns
    [clip] = decode.decode_file(path, ClipFormat(num_frames=2, height=16, width=16))
    corners = {0: (2, 2), 1: (13, 2), 2: (13, 13), 3: (2, 13)}
    for turns, (y, x) in corners.items():
        assert (clip.frames[0, y, x, 0] > 200) == (turns == quarter_turns)


def striped(path, *, height, width, pixel_aspect=1):
    """Left and right eighths red, top and bottom eighths blue, the middle green."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:] = (0, 255, 0)
    frame[: height // 8], frame[-height // 8 :] = (0, 0, 255), (0, 0, 255)
    frame[:, : width // 8], frame[:, -width // 8 :] = (255, 0, 0), (255, 0, 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.sample_aspect_ratio = fractions.Fraction(pixel_aspect)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decode_first(path, **options):
    [clip] = decode.decode_file(path, ClipFormat(num_frames=1, **options))
    return clip.frames[0].astype(int)


RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)


def test_crop_keeps_the_middle(tmp_path):
    striped(tmp_path / "wide.mp4", height=64, width=128)
    image = decode_first(tmp_path / "wide.mp4", height=32, width=32, resize="crop")
    assert np.abs(image[1, 16] - BLUE).max() <= 8  # nothing cut above
    assert np.abs(image[16, 0] - GREEN).max() <= 8 and np.abs(image[16, 31] - GREEN).max() <= 8  # red cut off
    striped(tmp_path / "tall.mp4", height=128, width=64)
    image = decode_first(tmp_path / "tall.mp4", height=32, width=48, resize="crop")
    assert np.abs(image[16, 1] - RED).max() <= 8
    assert np.abs(image[0, 24] - GREEN).max() <= 8 and np.abs(image[31, 24] - GREEN).max() <= 8


def test_pad_keeps_everything_and_adds_black(tmp_path):
    striped(tmp_path / "wide.mp4", height=64, width=128)
    image = decode_first(tmp_path / "wide.mp4", height=32, width=32, resize="pad")
    assert (image[:8] == BLACK).all() and (image[24:] == BLACK).all()
    assert np.abs(image[8, 16] - BLUE).max() <= 8 and np.abs(image[16, 0] - RED).max() <= 8
    striped(tmp_path / "tall.mp4", height=128, width=64)
    image = decode_first(tmp_path / "tall.mp4", height=32, width=48, resize="pad")
    assert (image[:, :16] == BLACK).all() and (image[:, 32:] == BLACK).all()
    assert np.abs(image[16, 16] - RED).max() <= 8 and np.abs(image[0, 24] - BLUE).max() <= 8


def test_pixels_that_are_not_square_count_as_shown(tmp_path):
    """64x64 pixels, each twice as wide as high: shown 2:1."""
    striped(tmp_path / "x.mp4", height=64, width=64, pixel_aspect=2)
    image = decode_first(tmp_path / "x.mp4", height=32, width=32, resize="pad")
    assert (image[:8] == BLACK).all() and (image[24:] == BLACK).all() and (image[8:24].sum(-1) > 0).all()


@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("size", [(16, 24), (24, 16), (17, 23)])
@pytest.mark.parametrize("shown", [(16, 24), (240, 320), (1, 1000), (1000, 1), (81, 121)])
def test_fitted_sizes_keep_the_aspect_ratio(shown, size, resize):
    height, width = sampling.fit_size((shown[0], fractions.Fraction(shown[1])), size, resize)
    sides = {"crop": (height >= size[0], width >= size[1]), "pad": (height <= size[0], width <= size[1])}
    assert all(sides[resize]) and (height == size[0] or width == size[1])
    assert abs(height * shown[1] - width * shown[0]) <= max(shown[0], shown[1])
    image = np.full((min(height, 3000), min(width, 3000), 3), 7, np.uint8)
    assert sampling.place_centred(image, *size).shape == (*size, 3)


def test_spacing_by_time_follows_the_clock(tmp_path):
    """Ten frames in the first 0.4 s, then one a second: by time, the late ones are picked."""
    path = tmp_path / "x.mkv"
    times_ms = [40 * i for i in range(10)] + [1400, 2400, 3400, 4400]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    by_index, by_time = (
        decode.decode_file(path, ClipFormat(num_frames=5, height=16, width=24, spacing=spacing))[0]
        for spacing in ("index", "time")
    )
    assert by_index.frame_indices.tolist() == by_index.frames[:, 3, 5, 1].tolist() == [0, 3, 7, 10, 13]
    # 0, 1.1, 2.2, 3.3 and 4.4 s.
    assert by_time.frame_indices.tolist() == by_time.frames[:, 3, 5, 1].tolist() == [0, 10, 11, 12, 13]


def test_at_a_constant_rate_both_spacings_agree():
    for count in (1, 2, 3, 14, 15, 16, 100, 599):
        for num_frames in (1, 2, 15, 30):
            expected = sampling.even_indices(count, num_frames).tolist()
            assert sampling.even_times([7 + 1001 * i for i in range(count)], num_frames).tolist() == expected


def test_times_that_go_back_or_stand_still_are_survived():
    picked = sampling.even_times([0, 10, 5, 20, 20, 2**62, 30], 4)
    assert (np.diff(picked) >= 0).all() and picked[0] == 0 and picked[-1] <= 6


@pytest.mark.parametrize("codec, options", [("libx264", {"g": "12", "bf": "2"}), ("mpeg4", {})])
def test_edit_lists_are_honoured(tmp_path, codec, options):
    """The first seven frames are there for those after them only, and are not shown."""
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        packets = []
        for number in range(50):
            packets += stream.encode(
                av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 + 4 * number, np.uint8), format="rgb24")
            )
        for packet in packets + stream.encode(None):
            shift = round(7 / 25 / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            container.mux(packet)
    for spacing in ("index", "time"):
        [clip] = decode.decode_file(path, ClipFormat(num_frames=2, height=16, width=24, spacing=spacing))
        assert clip.frame_indices.tolist() == [0, 42]
        assert np.abs(clip.frames.mean((1, 2, 3)) - (20 + 4 * 7, 20 + 4 * 49)).max() < 4


def test_several_clips_of_a_video_are_shifted_against_each_other(tmp_path):
    for name in ("a", "b"):
        write_numbered_video(tmp_path / "videos" / name / "v.mkv", 60)
    built = build(tmp_path / "videos", tmp_path / "data", clips_per_video=3)
    assert (built.num_videos, built.num_clips) == (2, 6)
    clips = {}
    for shard in built.shards:
        report = manifest.load_report(built.data_dir, shard.filename)
        for clip_id, (_, payload) in zip(
            report.clip_ids, tfrecord.read_file(tmp_path / "data" / shard.filename)
        ):
            features = record.decode(payload)
            assert features["clip/media_id"] == [clip_id.encode()]
            assert features["frame_index"] == features["video"][:, 3, 5, 1].tolist()
            clips[clip_id] = features["frame_index"]
    assert sorted(clips) == [f"{name}/v#{k}" for name in ("a", "b") for k in range(3)]
    # 15 evenly spaced frames of 60, dealt out in turn.
    assert sorted(sum((clips[f"a/v#{k}"] for k in range(3)), [])) == sampling.even_indices(60, 15).tolist()
    assert clips["a/v#0"] == [0, 13, 25, 38, 51] and clips["a/v#2"][-1] == 59
    assert build(tmp_path / "videos", tmp_path / "data", clips_per_video=3) == built


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_encodings_hold_the_same_frames(tmp_path):
    """Bit for bit, or above 35 dB for real pictures if lossy; and TensorFlow reads what is written."""
    import tensorflow as tf

    path = sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))[0]
    videos = tmp_path / "videos"
    for name in ("a", "b"):
        (videos / name).mkdir(parents=True)
        (videos / name / "v.avi").symlink_to(path)
    sizes = {"height": 64, "width": 96}
    read = {}
    for encoding in Encoding:
        data = tmp_path / encoding
        built = build(videos, data, encoding=encoding, **sizes)
        [(_, payload)] = tfrecord.read_file(data / built.shards[0].filename)
        read[encoding] = record.decode(payload)["video"]
        report = manifest.load_report(str(data), built.shards[0].filename)
        with open(data / built.shards[0].filename, "rb") as file:
            place = file.fileno(), Place("x", 0), (report.clip_ids[0], report.labels[0])
            if record.stores_raw(built.format):
                found = np.empty(built.format.num_bytes, np.uint8)
                record.read_raw(*place, stored=built.format, out=found)
            else:
                images = record.read_images(*place, clip_format=built.format)
                found = record.decode_images(tf.constant(images), built.format).numpy()
        np.testing.assert_array_equal(found.reshape(built.format.shape), read[encoding])
        if record.is_lossy(built.format):
            assert psnr(read[encoding], read["raw"]) > 35
        else:
            np.testing.assert_array_equal(read[encoding], read["raw"])
    low = build(videos, tmp_path / "low", encoding="jpeg", jpeg_quality=30, **sizes)
    assert low.shards[0].num_bytes < manifest.load(str(tmp_path / "jpeg")).shards[0].num_bytes / 2
