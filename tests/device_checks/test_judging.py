import numpy as np
import pytest

from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.device_checks import made_clips, numerics, sharing
from ucf50_tfrecord.device_checks.outcomes import Clock, Status
from ucf50_tfrecord.device_checks.speed import Speed, judge_speed
from ucf50_tfrecord.specs import ClipFormat

FALLING = np.linspace(2.0, 1.0, 40)


@pytest.mark.parametrize(
    "losses, num_skipped, status, reason",
    [
        (FALLING + 0.05, 0, Status.OK, ""),
        (FALLING, 3, Status.OK, ""),
        (FALLING + 0.3, 0, Status.FAILED, "the losses differ from float32's"),
        (np.where(np.arange(40) == 5, np.nan, FALLING), 0, Status.FAILED, "a loss is not finite"),
        (np.full(40, np.inf), 0, Status.FAILED, "a loss is not finite"),
        (FALLING, 40, Status.FAILED, "the loss scale skips too many steps"),
    ],
)
def test_losses_in_16_bits_are_judged_by_float32s(losses, num_skipped, status, reason):
    result = numerics.compare_losses("lstm", losses, FALLING, num_skipped=num_skipped)
    assert (result.status, result.reason) == (status, reason)


@pytest.mark.parametrize(
    "losses, status",
    [(FALLING, Status.OK), (np.full(40, 2.0), Status.FAILED), (np.full(40, np.nan), Status.FAILED)],
)
def test_float32_itself_must_learn(losses, status):
    assert numerics.compare_losses("lstm", losses, losses, num_skipped=None).status == status


def figures(**changes):
    return {"fraction_of_peak": 0.123, "card": "Card", "peak_bytes": 2 * 10**9, "grown_bytes": 0} | changes


@pytest.mark.parametrize(
    "wait, changes, judges_wait, status, shown",
    [
        (0.004, {}, True, Status.OK, "1,234 clips/s, 12.3% of the peak, waits 0.4%, 2.00 GB"),
        (0.02, {}, True, Status.FAILED, "waits 2.0%"),
        (0.02, {}, False, Status.OK, "waits 2.0%"),  # streamed
        (0.0, {"grown_bytes": 6 * 10**6}, True, Status.FAILED, "grown by 6.0 MB"),
        (0.0, {"grown_bytes": 3 * 10**6}, True, Status.OK, "2.00 GB"),  # batches on their way
        (0.0, {"fraction_of_peak": None}, True, Status.OK, "the peak of Card is unknown"),
    ],
)
def test_speed_is_judged_by_the_waiting_and_the_memory(wait, changes, judges_wait, status, shown):
    result = judge_speed(
        "lstm", Speed(1234.0, wait, 100), figures(**changes), batch_bytes=10**6, judges_wait=judges_wait
    )
    assert result.status == status and shown in result.found


def test_as_many_trainings_share_a_gpu_as_its_memory_holds():
    alone = {"on_gpu": True, "peak_bytes": 3 << 30, "free_bytes": 15 << 30}
    assert sharing._obstacle(2, alone, Clock(10.0)) == ""
    assert sharing._obstacle(4, alone, Clock(10.0)) == "they would take 17.18 GB of 16.11 GB"
    assert sharing._obstacle(4, alone | {"on_gpu": False}, Clock(10.0)) == ""
    assert "time" in sharing._obstacle(2, alone, Clock(-1.0))


@pytest.mark.parametrize("rates, status", [((60, 50), Status.OK), ((40, 40), Status.FAILED)])
def test_trainings_that_share_a_gpu_must_not_be_slower_than_one(rates, status):
    alone = {"on_gpu": True, "total": 100.0}
    found = [{"clips_per_sec": rate} for rate in rates]
    assert sharing._judge("two", float(sum(rates)), found, alone).status == status


def test_made_clips_are_a_dataset_whose_classes_differ_by_a_stripe(tmp_path):
    clip_format = ClipFormat(num_frames=3, height=16, width=24)
    made = made_clips.write(str(tmp_path), clip_format, num_clips=40)
    assert made == manifest.load(str(tmp_path)) and made.num_clips == 40
    assert not [problem for shard in made.shards for problem in manifest.verify_shard(made, shard)]
    clips = load_clips(made, made.folds)
    assert made.folds == (1, 2, 3, 4) and sorted(set(clips.labels)) == list(range(8))
    columns = read_clips(clips).mean(axis=(1, 2, 4)).reshape(40, 8, 3).mean(axis=-1)  # by stripe
    np.testing.assert_array_equal(columns.argmax(axis=1), clips.labels)
