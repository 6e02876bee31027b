"""The warning of clips that look alike: planted recordings that are divided, and recordings that are not."""

import contextlib
import dataclasses

import numpy as np
import pytest

from tests.conftest import build, raises_with_remedies, real_folder, write_video
from tests.evaluation.test_compare import spec
from ucf50_tfrecord import job, manifest, recipes, record
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import compare, lookalikes
from ucf50_tfrecord.training.folds import AskedFolds, choose_folds
from ucf50_tfrecord.training.strategy import make_strategy

NUM_RECORDINGS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two noisy clips of each of 12 recordings, whose names hold no group."""
    folder, random = tmp_path_factory.mktemp("lookalikes"), np.random.default_rng(0)
    for recording in range(NUM_RECORDINGS):
        scene = random.integers(0, 200, (4, 6, 3)).repeat(8, axis=0).repeat(8, axis=1)
        for take in (1, 2):
            frames = np.clip(scene + random.normal(0, 8, (5, 32, 48, 3)), 0, 255).astype(np.uint8)
            path = folder / "videos" / f"Class{recording % 2}" / f"recording{recording:02d}-{take}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames)
    build(folder / "videos", folder / "data", height=32, width=48)
    return folder / "data"


@pytest.fixture
def clips(folder):
    loaded = manifest.load(str(folder))
    return load_clips(loaded, loaded.folds)


def takes(clips):
    return np.array([clip_id[-1] == "1" for clip_id in clips.ids])


def recordings(clips):
    return np.array([int(clip_id[-4:-2]) for clip_id in clips.ids])


def test_divided_recordings_are_a_warning_with_a_remedy(clips):
    is_test = takes(clips)
    warning = lookalikes.find(clips.select(~is_test), clips.select(is_test))
    assert warning.startswith(
        "12 of 12 test clips without a known recording group look like one of 12 training"
    )
    with raises_with_remedies(
        r"such as Class\d/recording(\d\d)-1 like Class\d/recording\1-2.*--group_pattern=…"
    ):
        raise UserError(str(warning), *warning.remedies)


def test_whole_recordings_on_each_side_are_none(clips):
    is_test = recordings(clips) < 6
    assert lookalikes.find(clips.select(~is_test), clips.select(is_test)) is None


def test_few_look_alikes_are_none(clips):
    is_test = (recordings(clips) < 6) & ((recordings(clips) > 0) | takes(clips))
    assert lookalikes.find(clips.select(~is_test), clips.select(is_test)) is None


def test_nothing_is_read_if_groups_are_known_or_frames_are_far_away(clips, monkeypatch):
    is_test = takes(clips)

    def fail(frames):
        raise AssertionError("clips are read")

    monkeypatch.setattr(lookalikes, "read_in_batches", fail)
    grouped = dataclasses.replace(clips, groups=recordings(clips))
    assert lookalikes.find(grouped.select(~is_test), grouped.select(is_test)) is None
    far = dataclasses.replace(clips.manifest, data_dir="s3://bucket/set")
    far = dataclasses.replace(clips, manifest=far)
    assert lookalikes.find(far.select(~is_test), far.select(is_test)) is None
    with pytest.raises(AssertionError, match="clips are read"):
        lookalikes.find(clips.select(~is_test), clips.select(is_test))


def test_unreadable_clips_look_like_no_other(clips, monkeypatch):
    black = np.zeros((1, *clips.manifest.format.shape), np.uint8)
    monkeypatch.setattr(lookalikes, "read_in_batches", lambda frames: [black] * len(frames))
    is_test = takes(clips)
    assert lookalikes.find(clips.select(~is_test), clips.select(is_test)) is None


def test_a_limited_number_of_clips_is_compared(clips, monkeypatch):
    monkeypatch.setattr(lookalikes, "_MAX_BYTES", 14 * clips.manifest.format.num_bytes)
    is_test = takes(clips)
    warning = lookalikes.find(clips.select(~is_test), clips.select(is_test))
    assert " of 7 test clips" in warning and "one of 7 training clips" in warning


def test_trainings_and_comparisons_warn(folder, clips, tmp_path):
    warned = []
    settings = {"model": "seed_pool", "precision": "float32", "batch_size": 4}
    with contextlib.ExitStack() as stack:
        job.prepare(
            clips.manifest,
            choose_folds(clips.manifest, AskedFolds(), warned.append),
            model=recipes.model_spec(settings, clips.manifest),
            train=recipes.train_spec(settings),
            inputs=InputSpec(),
            strategy=make_strategy("one", environment={}),
            run_dir=str(tmp_path / "run"),
            stack=stack,
            listener=job.JobListener(warn=warned.append),
        )
    assert any("test clips without a known recording group look like" in text for text in warned)
    comparison = compare.Comparison(folder=str(tmp_path), spec=spec("seed_pool"), clips=clips)
    assert "test clips without a known recording group look like" in comparison.find_lookalikes()


def test_real_recordings_look_alike_and_others_do_not(tmp_path):
    """Clips of UCF50 as if their groups were unknown: divided in half by video, and by recording."""
    folder = tmp_path / "videos"
    for path in sorted(real_folder("UCF50_VIDEOS").rglob("*.avi")):
        if path.parent.name in ("Drumming", "Mixing", "VolleyballSpiking"):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / path.name).symlink_to(path)
    found = build(folder, tmp_path / "data", height=64, width=64, num_frames=3)
    clips = load_clips(found, found.folds)
    unknown = dataclasses.replace(clips, groups=np.full(len(clips), record.UNKNOWN_GROUP))
    by_video = np.arange(len(clips)) % 2 == 0
    by_recording = clips.groups % 2 == 0
    assert lookalikes.find(unknown.select(~by_video), unknown.select(by_video)) is not None
    assert lookalikes.find(unknown.select(~by_recording), unknown.select(by_recording)) is None
