"""Both sides of a comparison must be measured alike: a run's held-out clips, and the same videos as a stream."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from tests.conftest import build
from tests.untrained import write_run
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.inference.session import Session
from ucf50_tfrecord.monitoring import reference, stream
from ucf50_tfrecord.monitoring.videos import PICTURES
from ucf50_tfrecord.training import run as run_lib


@pytest.fixture
def run_dir(pool_run, tmp_path):
    return shutil.copytree(pool_run, tmp_path / "pool")


def load(run_dir, **options):
    config = run_lib.load_config(str(run_dir))
    return reference.load(str(run_dir), config, "last", 1.0, **options)


def predict(run_dir, videos):
    """Predicts videos as a stream."""
    session = Session.load(str(run_dir), batch_size=5)
    found = session.predict(decoding.find_videos([str(videos)])[0], num_workers=1)
    values = [result.to_json(session.config.classes, 1) for _, result in found]
    return stream.convert(values, len(session.config.classes))


@pytest.mark.parametrize("options", [{}, {"encoding": "jpeg", "jpeg_quality": 50, "clips_per_video": 2}])
def test_a_held_out_video_measures_the_same_as_in_a_stream(tmp_path, videos_dir, pool_run, options):
    run_dir = shutil.copytree(pool_run, tmp_path / "run") if not options else tmp_path / "run"
    if options:
        build(videos_dir, tmp_path / "data", **options)
        write_run(run_dir, tmp_path / "data", weight_std=0.5)
    found = load(run_dir)
    assert len(found.ids) == 12 and not found.missing
    place = {name: number for number, name in enumerate(found.ids)}
    compared = 0
    for entry in predict(run_dir, videos_dir / "Left"):
        path = pathlib.Path(entry.path)
        number = place.get(path.relative_to(videos_dir).with_suffix("").as_posix())
        if number is None:
            continue
        np.testing.assert_allclose(found.videos.probabilities[number], entry.probabilities, atol=2e-5)
        for name in PICTURES:
            assert found.videos.numbers(name)[number] == pytest.approx(getattr(entry, name), abs=1e-6), name
        compared += 1
    assert compared == 4
    assert found.videos.brightness.min() > 0 and (found.videos.frame_rate == 25).all()


def test_recordings_are_the_groups_of_a_class(run_dir):
    found = load(run_dir)
    names = {}
    for name, recording in zip(found.ids, found.recordings):
        names.setdefault(recording, set()).add(name.rpartition("_c")[0])
    assert len(names) == 6 and all(len(group) == 1 for group in names.values())
    assert set(found.groups) == {1, 2}


def test_frames_are_measured_once(run_dir):
    told = []
    found = load(run_dir, on_clip=lambda done, total: told.append((done, total)))
    assert told == [(number, 12) for number in range(1, 13)]
    again = load(run_dir, on_clip=lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(again.videos.brightness, found.videos.brightness)
    # Even if the shards are gone.
    config = run_lib.load_config(str(run_dir))
    moved = dataclasses.replace(config, data_dir="/nowhere")
    kept = reference.load(str(run_dir), moved, "last", 1.0)
    assert not kept.missing and kept.videos.motion_energy is not None


def test_a_file_of_other_clips_is_replaced_and_a_damaged_one_is_refused(run_dir):
    path = run_dir / reference.FILENAME
    load(run_dir)
    content = storage.read_json(path)
    storage.write_json(path, content | {"key": "0" * 64, "clips": []})
    load(run_dir)
    assert storage.read_json(path) == content
    storage.write_json(path, content | {"clips": content["clips"][1:]})
    with pytest.raises(UserError, match=f"12 clips in .*{reference.FILENAME}. Received: clips=11"):
        load(run_dir)
    storage.write_json(path, content | {"clips": [[2, 0, 25]] * 12})
    with pytest.raises(UserError, match="reference for monitoring"):
        load(run_dir)


def test_without_shards_the_measures_of_frames_are_left_out(run_dir, data_dir):
    config = dataclasses.replace(run_lib.load_config(str(run_dir)), data_dir="/nowhere")
    found = reference.load(str(run_dir), config, "last", 1.0)
    assert "no set of shards in /nowhere" in found.missing
    assert all(found.videos.numbers(name) is None for name in PICTURES)
    assert not (run_dir / reference.FILENAME).exists()
    assert not reference.load(str(run_dir), config, "last", 1.0, data_dir=str(data_dir)).missing


def test_the_temperature_is_that_of_the_stream(run_dir):
    config = run_lib.load_config(str(run_dir))
    sharp, flat = (reference.load(str(run_dir), config, "last", t).videos for t in (1.0, 1e5))
    assert flat.confidence.mean() < sharp.confidence.mean() and (flat.predicted == sharp.predicted).all()
