"""A file from a stranger reaches no other file and no network: the real converter, the real decoder."""

import contextlib
import gc
import shutil
import types

import av.error
import numpy as np
import pytest

from tests.conftest import run_module, write_video
from tests.hostile import write_canary, write_hostile_files
from tools.fuzzing.watched import Listener, OpenedFiles
from ucf50_tfrecord import manifest
from ucf50_tfrecord.convert import container, decode
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec

FORMAT = ClipFormat(num_frames=5, height=16, width=24)


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_conversion_opens_nothing_that_a_video_names(tmp_path, videos_dir, sandbox):
    videos = shutil.copytree(videos_dir, tmp_path / "videos")
    canary = write_canary(tmp_path / "private" / "canary.ts")
    with contextlib.closing(Listener()) as listener, contextlib.closing(OpenedFiles()) as opened:
        hostile = write_hostile_files(videos / "Left", canary, listener.port)
        opened.watch(canary)
        data = tmp_path / "data"
        result = run_module(
            "pipelines.convert",
            *(f"--videos={videos}", f"--data={data}", "--size=16x24", "--frames=5"),
            *("--max_quarantined=0.5", f"--sandbox={sandbox}"),
        )
        assert result.returncode == 0, result.stderr
        assert not listener.count() and not opened.take()
    built = manifest.load(str(data))
    assert {item.relative_path for item in built.quarantined} == {f"Left/{path.name}" for path in hostile}
    assert {item.cause for item in built.quarantined} == {"contents"}
    assert "expected a video file, found the format concat" in result.stderr
    assert built.num_clips == 30


def test_prediction_opens_nothing_that_a_video_names(tmp_path, monkeypatch):
    canary = write_canary(tmp_path / "private" / "canary.ts")
    with contextlib.closing(Listener()) as listener, contextlib.closing(OpenedFiles()) as opened:
        # Paths that FFmpeg takes for addresses, as soon as they are relative.
        names = [
            f"http:/127.0.0.1:{listener.port}/a.ts",
            f"rtmp:/127.0.0.1:{listener.port}/a.ts",
            "file:a.ts",
            "subfile,,start,0,end,9,,:a.ts",
        ]
        videos = tmp_path / "videos"
        for name in names:
            write_canary(videos / name)
        hostile = write_hostile_files(videos / "hostile", canary, listener.port)
        opened.watch(canary)
        monkeypatch.chdir(videos)
        found, _ = decoding.find_videos(["."])
        found += decoding.find_videos(["hostile/playlist.m3u8"])[0]
        decoder = decoding.Decoder(
            clip_format=FORMAT,
            windows=WindowSpec(whole_secs=9, window_secs=9, stride_secs=9),
            limits=DecodeLimits(),
            num_workers=1,
        )
        results = {video.path: result for video, result in decoder(found)}
        assert not listener.count() and not opened.take()
    decoded = {path for path, result in results.items() if isinstance(result, decoding.DecodedVideo)}
    assert decoded == set(names)
    assert len(results) == len(names) + len(hostile) + 1


def test_every_format_of_the_allow_list_exists():
    import av.format

    for name in container.FORMATS.split():
        assert av.format.ContainerFormat(name.split(",")[0], "r").name


@pytest.mark.parametrize(
    "suffix", [".mp4", ".mkv", ".mov", ".mpg", ".ts", ".flv", ".asf", ".nut", ".gif", ".y4m", ".webm"]
)
def test_real_containers_are_opened(tmp_path, suffix):
    codec, pix_fmt = {
        ".mpg": ("mpeg1video", "yuv420p"),
        ".flv": ("flv1", "yuv420p"),
        ".gif": ("gif", "rgb8"),
        ".y4m": ("wrapped_avframe", "yuv420p"),
        ".webm": ("libvpx-vp9", "yuv420p"),
    }.get(suffix, ("mpeg4", "yuv420p"))
    path = tmp_path / f"video{suffix}"
    write_video(path, np.full((12, 32, 48, 3), 90, np.uint8), codec=codec, pix_fmt=pix_fmt)
    [clip] = decode.decode_file(path, FORMAT)
    assert np.abs(clip.frames.astype(int) - 90).max() < 25


def test_a_header_that_asks_for_absurd_memory_is_called_damaged(tmp_path):
    path = tmp_path / "huge.avi"
    write_video(path, np.zeros((5, 32, 48, 3), np.uint8), codec="rawvideo", pix_fmt="bgr24")
    content = path.read_bytes()
    strf = content.index(b"strf") + 8
    sizes = (30000).to_bytes(4, "little") + (30000).to_bytes(4, "little")
    path.write_bytes(content[: strf + 4] + sizes + content[strf + 12 :])
    with pytest.raises(decode.VideoError) as raised:
        decode.decode_file(path, FORMAT)
    assert raised.value.cause == "contents"


def test_a_header_that_points_past_the_end_of_all_files_prints_nothing(tmp_path, capfd):
    path = tmp_path / "far.asf"
    write_video(path, np.full((12, 32, 48, 3), 90, np.uint8), codec="mpeg4", pix_fmt="yuv420p")
    content = path.read_bytes()
    first_size = 30 + 16  # of the header's first object
    path.write_bytes(content[:first_size] + (1 << 62).to_bytes(8, "little") + content[first_size + 8 :])
    decode.decode_file(path, FORMAT)
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [av.error.InvalidDataError, av.error.ArgumentError])
def test_a_packet_that_the_decoder_refuses_is_skipped(tmp_path, error):
    path = tmp_path / "x.mp4"
    write_video(path, np.full((12, 32, 48, 3), 90, np.uint8), codec="mpeg4", pix_fmt="yuv420p")

    def refuse(packet):
        raise error(1, "refused")

    with open(path, "rb", buffering=0) as file, container.open_video(file, ".mp4") as video:
        video.codec = types.SimpleNamespace(decode=refuse)
        assert video.decode(None) == []


def test_a_sparse_file_gets_no_more_time_than_its_blocks(tmp_path):
    from ucf50_tfrecord import storage

    path = tmp_path / "sparse.avi"
    with open(path, "wb") as file:
        file.truncate(20 << 30)
    assert DecodeLimits().timeout_of(storage.allocated_bytes(path)) < 121
    assert DecodeLimits().timeout_of(1 << 50) == 120 + 3600
