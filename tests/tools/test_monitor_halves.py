"""The tool that measures false alarms and power, on made-up videos."""

import dataclasses

import numpy as np
import pytest

from tests.monitoring.made_up import CLASSES, make_videos
from tools import monitor_halves
from ucf50_tfrecord.choices import Measure
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.monitoring.reference import Reference


def make_reference(num_recordings):
    videos, recordings = make_videos(np.random.default_rng(2), num_recordings)
    return Reference(videos=videos, ids=(), recordings=recordings, groups=recordings // 2)


def test_alarms_are_counted_on_the_other_half_of_the_groups():
    reference = make_reference(60)
    halves = monitor_halves.Halves(reference, CLASSES, size="all", draws=4)
    for checker, others in halves._halves:
        assert len(checker.reference) + len(others) == len(reference.videos)
        assert set(reference.groups[others]).isdisjoint(
            reference.groups[np.setdiff1d(np.arange(len(reference.videos)), others)]
        )
    assert halves.count_alarms(reference.videos)["any"] <= 1
    dark = dataclasses.replace(reference.videos, brightness=np.zeros(len(reference.videos)))
    counts = halves.count_alarms(dark)
    assert counts[Measure.BRIGHTNESS] == counts["any"] == 4
    lost = reference.videos.probabilities.copy()
    lost[:] = np.nan
    assert (
        halves.count_alarms(dataclasses.replace(dark, probabilities=lost))["any"] == 0
    )  # nothing is readable


def test_a_stream_is_whole_recordings_up_to_its_size():
    reference = make_reference(30)
    others = np.flatnonzero(reference.groups % 2)
    rng = np.random.default_rng(0)
    chosen = monitor_halves.choose_stream(reference, others, "10", rng)
    assert len(chosen) == 10 and set(chosen) <= set(others)
    recordings = reference.recordings[chosen]
    *whole, _ = dict.fromkeys(recordings)
    assert all((recordings == r).sum() == (reference.recordings == r).sum() for r in whole)
    assert set(monitor_halves.choose_stream(reference, others, "all", rng)) == set(others)


def test_few_groups_are_refused():
    with pytest.raises(UserError, match="at least 4 groups of held-out clips. Received: groups=3"):
        monitor_halves.Halves(make_reference(6), CLASSES, size="all", draws=1)
