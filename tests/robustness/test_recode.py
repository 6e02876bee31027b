"""Videos that are coded again: each severity loses more, nothing else is lost, and broken videos are refused."""

import numpy as np
import pytest
from scipy import ndimage

from tests.conftest import real_folder, write_numbered_video, write_video
from ucf50_tfrecord.choices import CorruptionFamily, Recoding
from ucf50_tfrecord.convert import decode, recode
from ucf50_tfrecord.convert.container import NEW_SUFFIX, VideoError
from ucf50_tfrecord.convert.recode import Change
from ucf50_tfrecord.robustness import corruptions
from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS
from ucf50_tfrecord.robustness.levels import SEVERITIES
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=8, height=48, width=64)
OF_CODEC = corruptions.names([CorruptionFamily.CODEC])
# Changes that leave a video as it is.
NOTHING = (Change(Recoding.FRAME_RATE, 1e4), Change(Recoding.HEIGHT, 1e3))


def recoded(path, change, scratch, clip_format=FORMAT):
    """The frames of a video that is coded again, uint8 [T, H, W, 3]."""
    with open(path, "rb", buffering=0) as source, open(scratch, "w+b", buffering=0) as target:
        recode.recode(source, path.suffix, target, change, clip_format)
        [clip] = decode.decode_clips(target, NEW_SUFFIX, clip_format)
        return clip.frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of 60 frames in which a soft coloured pattern moves, coded as in UCF50."""
    folder, paths = tmp_path_factory.mktemp("videos"), []
    for number in range(3):
        rng = np.random.default_rng(number)
        pattern = ndimage.gaussian_filter(rng.standard_normal((96, 128 + 240, 3)), (2, 2, 0), mode="wrap")
        pattern = np.round(255 * (pattern - pattern.min()) / np.ptp(pattern)).astype(np.uint8)
        frames = np.stack([pattern[:, 4 * t : 4 * t + 128] for t in range(60)])
        paths.append(folder / f"{number}.avi")
        write_video(paths[-1], frames, rate=30)
    return paths


@pytest.mark.parametrize("name", OF_CODEC)
def test_each_severity_loses_more_than_the_one_before(name, videos, tmp_path):
    entry, damages = CORRUPTIONS[name], []
    plain = [decode.decode_file(path, FORMAT)[0].frames.astype(float) for path in videos]
    for severity in SEVERITIES:
        change = Change(entry.recoding, entry.strength(severity, FORMAT))
        found = [recoded(path, change, tmp_path / "scratch") for path in videos]
        damages.append(np.mean([np.abs(one - other).mean() for one, other in zip(found, plain)]))
    if name == "frame_rate":  # between few frames, the nearest one may be nearer by chance
        damages = [damages[0], damages[2], damages[4]]
    assert (np.diff([0, *damages]) > 0).all(), damages


@pytest.mark.parametrize("name", OF_CODEC)
def test_a_video_is_coded_alike_each_time(name, videos, tmp_path):
    change = Change(CORRUPTIONS[name].recoding, CORRUPTIONS[name].strength(4, FORMAT))
    first, *others = (recoded(videos[0], change, tmp_path / "scratch") for _ in range(8))
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("change", NOTHING)
def test_nothing_is_lost_but_what_the_change_says(change, videos, tmp_path):
    [plain] = decode.decode_file(videos[0], FORMAT)
    np.testing.assert_array_equal(recoded(videos[0], change, tmp_path / "scratch"), plain.frames)


def test_a_lower_frame_rate_keeps_the_first_frame_of_each_period(tmp_path):
    write_numbered_video(tmp_path / "numbered.mkv", 50)  # at 25 per second
    every = ClipFormat(num_frames=10, height=32, width=48)
    found = recoded(tmp_path / "numbered.mkv", Change(Recoding.FRAME_RATE, 5.0), tmp_path / "scratch", every)
    # RGB is stored as YUV, which rounds.
    np.testing.assert_allclose(found[:, 0, 0, 0].astype(int), range(0, 50, 5), atol=1)


def test_lost_slices_depend_on_the_seed_and_the_first_frame_arrives(videos, tmp_path):
    found = [recoded(videos[0], Change(Recoding.LOSS, 0.2, seed), tmp_path / "scratch") for seed in (0, 1)]
    assert (found[0] != found[1]).any()
    assert np.abs(found[0][0].astype(int) - found[1][0]).max() == 0
    sent = recoded(videos[0], Change(Recoding.LOSS, 0.0), tmp_path / "scratch")
    assert np.abs(found[0].astype(int) - sent).mean() > 1


@pytest.mark.parametrize("recoding", Recoding)
def test_odd_sizes_are_coded(recoding, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 33, 47, 3), dtype=np.uint8)
    write_video(tmp_path / "odd.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    strength = {Recoding.QUALITY: 30, Recoding.BIT_RATE: 8, Recoding.LOSS: 0.1, Recoding.FRAME_RATE: 9}
    change = Change(recoding, strength.get(recoding, 0.3))
    assert recoded(tmp_path / "odd.mkv", change, tmp_path / "scratch").shape == FORMAT.shape


def test_a_broken_video_is_an_error_with_its_reason(tmp_path):
    (tmp_path / "broken.avi").write_bytes(b"RIFF" + bytes(1000))
    with pytest.raises(VideoError):
        recoded(tmp_path / "broken.avi", NOTHING[0], tmp_path / "scratch")


def test_a_full_disk_is_an_error_with_its_reason(videos):
    with open(videos[0], "rb", buffering=0) as source, open("/dev/full", "wb", buffering=0) as target:
        target.truncate = lambda: None
        with pytest.raises(VideoError, match="cannot be written"):
            recode.recode(source, ".avi", target, NOTHING[0], FORMAT)


def test_real_videos_lose_nothing_if_nothing_changes(tmp_path):
    """Rotated ones, other pixel aspects and containers, and broken ones, which are refused alike."""
    for path in sorted(p for p in real_folder("ODD_VIDEOS").rglob("*") if p.is_file()):
        try:
            [plain] = decode.decode_file(path, FORMAT)
        except VideoError:
            continue
        found = recoded(path, NOTHING[0], tmp_path / "scratch").astype(int)
        # RGB is converted, and deep colour loses bits, which rounds; a wrong turn or size would cost far more.
        assert np.abs(found - plain.frames).mean() < 8, path
