import numpy as np
import pytest

from tests.conftest import real_folder, write_numbered_video, write_video
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.convert.sampling import even_indices
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=15, height=16, width=24)


@pytest.mark.parametrize("num_frames", [1, 2, 14, 15, 16, 40, 113])
def test_frames_that_carry_their_number_prove_the_sampling(tmp_path, num_frames):
    path = tmp_path / "numbered.mkv"
    write_numbered_video(path, num_frames)
    clip = decode.decode_file(path, FORMAT)[0]
    assert clip.frames.shape == FORMAT.shape and clip.frames.dtype == np.uint8
    expected = even_indices(num_frames, 15)
    assert (clip.frames == expected[:, np.newaxis, np.newaxis, np.newaxis]).all()
    assert clip.frame_indices.tolist() == expected.tolist()


def test_times_are_those_of_the_frames(tmp_path):
    path = tmp_path / "numbered.mkv"
    write_numbered_video(path, 50)
    clip = decode.decode_file(path, FORMAT)[0]
    assert clip.frame_rate == 25.0
    assert clip.timestamps_us.tolist() == [40_000 * i for i in clip.frame_indices.tolist()]
    assert clip.end_us == 50 * 40_000


def test_height_and_width_are_not_swapped_and_colours_are_rgb(tmp_path):
    path = tmp_path / "quarters.avi"
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:32, 48:] = (250, 20, 20)  # red at the top right
    frame[32:, :48] = (20, 20, 250)  # blue at the bottom left
    write_video(path, np.stack([frame] * 20))
    frames = decode.decode_file(path, FORMAT)[0].frames
    assert frames.shape == (15, 16, 24, 3)
    assert np.abs(frames[7, 4, 18].astype(int) - (250, 20, 20)).max() < 12
    assert np.abs(frames[7, 12, 6].astype(int) - (20, 20, 250)).max() < 12
    assert frames[7, 4, 6].max() < 12


def test_scaling_averages_areas(tmp_path):
    path = tmp_path / "checks.mkv"
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[::2, ::2] = frame[1::2, 1::2] = 200
    write_video(path, np.stack([frame] * 2), codec="ffv1", pix_fmt="bgr0")
    frames = decode.decode_file(path, FORMAT)[0].frames
    assert np.abs(frames.astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "InvalidDataError"),
        (b"no video at all" * 100, "InvalidDataError"),
    ],
)
def test_a_file_that_is_no_video_gives_a_reason(tmp_path, content, reason):
    path = tmp_path / "broken.avi"
    path.write_bytes(content)
    with pytest.raises(decode.VideoError, match=reason) as raised:
        decode.decode_file(path, FORMAT)[0]
    assert raised.value.cause == "contents"


def test_an_unknown_codec_gives_a_reason(tmp_path):
    path = tmp_path / "unknown.avi"
    write_video(path, np.zeros((3, 32, 48, 3), np.uint8))
    content = path.read_bytes()
    assert b"FMP4" in content
    path.write_bytes(content.replace(b"FMP4", b"ZZQ9"))
    with pytest.raises(decode.VideoError, match="no decoder for its codec"):
        decode.decode_file(path, FORMAT)[0]


def test_a_missing_file_and_a_file_without_video_give_reasons(tmp_path):
    with pytest.raises(decode.VideoError, match="FileNotFoundError") as raised:
        decode.decode_file(tmp_path / "nowhere.avi", FORMAT)[0]
    assert raised.value.cause == "unreadable"
    import av

    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(decode.VideoError, match="no video stream"):
        decode.decode_file(tmp_path / "sound.mkv", FORMAT)[0]


def test_a_video_cut_short_gives_the_frames_that_are_left(tmp_path):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    write_video(whole, np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clip = decode.decode_file(cut, FORMAT)[0]
    assert 10 < clip.frame_indices[-1] < 50


def test_real_odd_videos_decode_or_say_why():
    failures = {}
    files = sorted(path for path in real_folder("ODD_VIDEOS").iterdir() if path.is_file())
    for path in files:
        try:
            clip = decode.decode_file(path, FORMAT)[0]
            assert clip.frames.shape == FORMAT.shape
            assert (np.diff(clip.frame_indices) >= 0).all()
        except decode.VideoError as error:
            failures[path.name] = str(error)
    assert len(files) > 50
    assert list(failures) == ["pixeltable__pixeltable--bad_video.mp4"]
