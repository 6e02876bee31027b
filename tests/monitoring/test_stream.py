import datetime
import json

import numpy as np
import pytest

from tests.conftest import raises_with_remedies
from ucf50_tfrecord.choices import BatchBy
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.monitoring import stream
from ucf50_tfrecord.monitoring.spec import MonitorSpec
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, WindowSpec, to_json
from ucf50_tfrecord.training.run import RunConfig

WINDOWS = WindowSpec(whole_secs=2.0, window_secs=1.0, stride_secs=0.5)
CONFIG = RunConfig(
    data_dir="data/x",
    fingerprint="0" * 64,
    classes=("Left", "Right"),
    train_folds=(2,),
    val_folds=(1,),
    test_folds=(),
    model=ModelSpec(name="seed_pool", num_classes=2, num_frames=5, height=16, width=24),
    train=TrainSpec(),
)


def video(**changes):
    full = {
        "path": "a.avi",
        "probabilities": [0.25, 0.75],
        "brightness": 0.5,
        "motion_energy": 0.1,
        "frame_rate": 25.0,
        "modified": "2026-11-27T23:30:00+00:00",
        "windows": [{"logits": [[1, 2]]}],  # not read
    }
    return {name: value for name, value in (full | changes).items() if value is not ...}


FAILED = {"path": "b.avi", "error": "no frame decodes", "cause": "contents"}


def document(*videos, **changes):
    return {
        "run": {
            "fingerprint": "0" * 64,
            "model": "seed_pool",
            "seed": 0,
            "weights": "last",
            "path": "runs/x",
        },
        "classes": ["Left", "Right"],
        "windows": to_json(WINDOWS),
        "calibration": {"temperature": 1.5, "num_clips": 40},
        "videos": list(videos),
    } | changes


def read(tmp_path, value):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(value))
    return stream.read(path, CONFIG, "last", WINDOWS)


def test_predictions_are_read_with_and_without_measures(tmp_path):
    old = {"brightness": ..., "motion_energy": ..., "frame_rate": ..., "modified": ...}
    found = read(tmp_path, document(video(), FAILED, video(path="\udcff.avi", **old)))
    assert found.calibration.temperature == 1.5
    first, failed, last = found.videos
    assert first.modified == datetime.datetime(2026, 11, 27, 23, 30, tzinfo=datetime.UTC)
    assert failed.error and failed.probabilities is None and last.brightness is None
    videos = stream.gather(found.videos, 2)
    assert videos.probabilities.tolist() == [[0.25, 0.75]] * 2
    assert videos.brightness is videos.motion_energy is videos.frame_rate is None
    videos = stream.gather(found.videos[:2], 2)
    assert videos.brightness.tolist() == [0.5] and videos.frame_rate.tolist() == [25.0]
    assert videos.predicted.tolist() == [1] and videos.confidence.tolist() == [0.75]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"probabilities": [0.5, 0.7]}, "probabilities whose sum is 1"),
        ({"probabilities": [1.5, -0.5]}, "probabilities"),
        ({"probabilities": [1.0]}, "2 probabilities per video"),
        ({"probabilities": []}, "probabilities"),
        ({"probabilities": ...}, "either probabilities or an error"),
        ({"error": "x"}, "either probabilities or an error"),
        ({"brightness": 1.5}, "brightness"),
        ({"motion_energy": -1}, "motion_energy"),
        ({"frame_rate": 1e300}, "frame_rate"),
        ({"modified": "yesterday"}, "modified"),
        ({"modified": "2026-11-27T23:30:00"}, "modified"),
        ({"path": ""}, "path"),
    ],
)
def test_videos_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, document(video(**changes)))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"run": {"fingerprint": "1" * 64, "model": "seed_pool", "seed": 0, "weights": "last"}},
            "predictions by",
        ),
        (
            {"run": {"fingerprint": "0" * 64, "model": "seed_pool", "seed": 0, "weights": "best"}},
            "predictions by",
        ),
        ({"classes": ["Left", "Up"]}, "classes"),
        (
            {"windows": to_json(WindowSpec(whole_secs=0, window_secs=1, stride_secs=1))},
            "predictions of Window",
        ),
        ({"calibration": {"temperature": 0}}, "temperature"),
        ({"videos": 3}, "videos"),
    ],
)
def test_predictions_of_another_model_or_of_other_windows_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, document(video(), **changes))


def entries(*values):
    return stream.convert(list(values), 2)


def test_a_stream_is_divided_by_day_by_number_or_not_at_all():
    late, early = "2026-11-27T01:00:00+02:00", "2026-11-26T01:00:00+00:00"
    found = entries(video(modified=late), FAILED | {"modified": early}, video(), video(modified=early))

    def divided(by, size=2):
        batches = stream.divide(found, 2, MonitorSpec(by=by, batch_videos=size))
        return [(batch.name, len(batch.videos), batch.num_failed) for batch in batches]

    assert divided(BatchBy.ALL) == [("all", 3, 1)]
    assert divided(BatchBy.BATCH) == [("batch 1", 1, 1), ("batch 2", 2, 0)]
    assert divided(BatchBy.BATCH, 3) == [("batch 1", 2, 1), ("batch 2", 1, 0)]
    # In UTC, the late one is of the early day.
    assert divided(BatchBy.DAY) == [("2026-11-26", 2, 1), ("2026-11-27", 1, 0)]


def test_unknown_days_and_too_many_batches_are_refused():
    with raises_with_remedies(
        "Received: a.avi, whose day is unknown.*To divide the stream by number: --by=batch"
    ):
        stream.divide(entries(video(modified=...)), 2, MonitorSpec(by=BatchBy.DAY))
    many = entries(*[video()] * (stream.MAX_BATCHES + 1))
    with raises_with_remedies("at most 100 batches.*batches=101.*--by=all.*a larger --batch_videos"):
        stream.divide(many, 2, MonitorSpec(by=BatchBy.BATCH, batch_videos=1))


def test_a_batch_of_failed_videos_has_no_videos():
    [batch] = stream.divide(entries(FAILED), 2, MonitorSpec())
    assert len(batch.videos) == 0 and batch.videos.probabilities.shape == (0, 2) and batch.num_failed == 1
    assert isinstance(batch.videos.predicted, np.ndarray)
