"""Clips of videos coded again: exact if nothing changes, kept in files, made again if these are damaged."""

import shutil

import numpy as np
import pytest

from tests.conftest import build
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.choices import Recoding
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.robustness import videos
from ucf50_tfrecord.specs import DecodeLimits

SAME = ("same", Recoding.FRAME_RATE, (1e4,) * 5)  # leaves every video as it is
WORSE = ("worse", Recoding.QUALITY, (23.0, 30.0, 37.0, 44.0, 51.0))


def recoder(data_dir, cache_dir, **options):
    manifest = manifest_lib.load(str(data_dir))
    clips = load_clips(manifest, [1, 2])
    options = {"videos_dir": manifest.videos_dir, "limits": DecodeLimits()} | options
    return clips, videos.Recoder(clips, cache_dir=cache_dir, num_workers=2, **options)


def test_an_unchanged_video_gives_the_stored_clips(data_dir, tmp_path):
    clips, source = recoder(data_dir, tmp_path / "kept")
    with source:
        found = dict(source.clips(*SAME, seed=0))
    stored = read_clips(clips)
    assert sorted(found) == list(range(len(clips)))
    for place, versions in found.items():
        for version in versions:
            np.testing.assert_array_equal(version, stored[place])


def test_several_clips_of_a_video_are_told_apart(videos_dir, tmp_path):
    build(videos_dir, tmp_path / "two", clips_per_video=2)
    clips, source = recoder(tmp_path / "two", tmp_path / "kept")
    stored = read_clips(clips)
    with source:
        for place, versions in source.clips(*SAME, seed=0):
            np.testing.assert_array_equal(versions[0], stored[place])


def test_clips_are_kept_and_damaged_files_are_replaced(data_dir, tmp_path):
    _, source = recoder(data_dir, tmp_path / "kept")
    with source:
        first = dict(source.clips(*WORSE, seed=0))
    files = sorted((tmp_path / "kept" / "worse").iterdir())
    assert len(files) == len(first)
    files[0].write_bytes(b"damaged")
    files[1].write_bytes(files[1].read_bytes()[:-1])
    before = files[2].stat().st_mtime_ns
    _, source = recoder(data_dir, tmp_path / "kept")
    with source:
        again = dict(source.clips(*WORSE, seed=0))
        np.testing.assert_array_equal(source.clip(3, *WORSE, seed=0), first[3])
    for place, versions in first.items():
        np.testing.assert_array_equal(again[place], versions)
    assert files[2].stat().st_mtime_ns == before and files[0].stat().st_size == files[2].stat().st_size


def test_a_video_that_does_not_decode_has_no_clip(data_dir, videos_dir, tmp_path):
    copy = shutil.copytree(videos_dir, tmp_path / "videos")
    clips, source = recoder(data_dir, tmp_path / "kept", videos_dir=str(copy))
    broken = copy / f"{clips.ids[0]}.avi"
    broken.write_bytes(b"RIFF" + bytes(100))
    with source:
        found = dict(source.clips(*WORSE, seed=0))
    assert found[0] == [None] * 5 and all(version is not None for version in found[1])


def test_missing_videos_and_foreign_folders_are_refused(data_dir, videos_dir, tmp_path):
    copy = shutil.copytree(videos_dir, tmp_path / "videos")
    clips, _ = recoder(data_dir, tmp_path / "kept")
    (copy / f"{clips.ids[0]}.avi").unlink()
    with pytest.raises(UserError, match=f"the videos of all clips in .*{clips.ids[0]}"):
        recoder(data_dir, tmp_path / "kept", videos_dir=str(copy))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="other files, such as 'thesis.txt'"):
        recoder(data_dir, tmp_path / "mine")
