"""False alarms on videos that have not drifted, and alarms on planted drift."""

import collections

import numpy as np
import pytest

from tests.monitoring.made_up import CLASSES, make_videos
from ucf50_tfrecord.choices import Finding, Measure
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.monitoring import drift
from ucf50_tfrecord.monitoring.drift import Checker
from ucf50_tfrecord.monitoring.videos import Videos

DRAWS = 60


def check_streams(num_videos, *, darker=0.0, likeness=0.7):
    """Checks streams against new references; returns the counts of alarms by measure, and of any."""
    rng, counts = np.random.default_rng(5), collections.Counter()
    for _ in range(DRAWS):
        reference, recordings = make_videos(rng, 40, likeness=likeness)
        stream, _ = make_videos(rng, num_videos, darker=darker, likeness=likeness)
        alarms = Checker(reference, recordings, CLASSES).check(stream.select(np.arange(num_videos))).alarms
        counts.update([*alarms, *(["any"] if alarms else [])])
    return counts


@pytest.mark.parametrize("num_videos", [8, 60])
def test_false_alarms_stay_below_the_level_although_recordings_look_alike(num_videos):
    # 6 or fewer of 60 draws have a probability of 0.97 at 5%.
    assert check_streams(num_videos, likeness=0.95)["any"] <= 6


def test_videos_that_count_as_independent_would_raise_false_alarms():
    """What the recordings are for: without them, videos of one recording look like drift."""
    rng, found = np.random.default_rng(5), 0
    for _ in range(DRAWS):
        reference, _ = make_videos(rng, 40, likeness=0.95, mean_size=6)
        stream, _ = make_videos(rng, 100, likeness=0.95, mean_size=6)
        checker = Checker(reference, np.arange(len(reference)), CLASSES)
        found += bool(checker.check(stream.select(np.arange(100))).alarms)
    assert found > 20


def test_planted_drift_is_found_by_its_measure():
    counts = check_streams(60, darker=2.0)
    assert counts[Measure.BRIGHTNESS] >= 0.9 * DRAWS
    assert sum(counts[measure] for measure in Measure if measure != Measure.BRIGHTNESS) <= 6


@pytest.fixture(scope="module")
def reference():
    return make_videos(np.random.default_rng(0), 60)


def test_each_measure_finds_its_own_drift(reference):
    videos, recordings = reference
    stream, _ = make_videos(np.random.default_rng(1), 60)
    size = len(stream)
    checker = Checker(videos, recordings, CLASSES)
    assert checker.check(stream).alarms == ()

    def alarms(**changes):
        fields = {name: stream.numbers(name) for name in ("brightness", "motion_energy", "frame_rate")}
        return checker.check(Videos(**{"probabilities": stream.probabilities} | fields | changes)).alarms

    assert alarms(motion_energy=np.zeros(size)) == (Measure.MOTION_ENERGY,)
    assert alarms(brightness=np.full(size, 0.999)) == (Measure.BRIGHTNESS,)
    assert alarms(frame_rate=np.full(size, 12.0)) == (Measure.FRAME_RATE,)
    assert alarms(frame_rate=np.where(stream.frame_rate == 25, 25.0, 30.0)) == ()  # as 29.97
    one = np.tile([0.9, 0.05, 0.03, 0.02], (size, 1))
    assert set(alarms(probabilities=one)) == {Measure.SOFTMAX, Measure.CLASSES, Measure.CONFIDENCE}
    unsure = np.tile([0.26, 0.25, 0.25, 0.24], (size, 1))
    assert Measure.CONFIDENCE in alarms(probabilities=unsure)


def test_single_new_videos_are_no_drift(reference):
    """Also where the reference holds one value, or lacks a class."""
    videos, recordings = reference
    probabilities = videos.probabilities.copy()
    probabilities[videos.predicted == 3] = [0.7, 0.1, 0.1, 0.1]
    same = np.full(len(videos), 25.0)
    checker = Checker(Videos(probabilities=probabilities, frame_rate=same), recordings, CLASSES)
    stream = probabilities[:60].copy()
    stream[0] = [0.0, 0.1, 0.1, 0.8]
    rates = same[:60].copy()
    rates[0] = 30
    assert checker.check(Videos(probabilities=stream, frame_rate=rates)).alarms == ()
    rates[:30] = 30
    assert checker.check(Videos(probabilities=stream, frame_rate=rates)).alarms == (Measure.FRAME_RATE,)


def test_the_level_is_divided_among_measures_and_checks(reference):
    videos, recordings = reference
    check = Checker(videos, recordings, CLASSES).check(videos)
    assert {test.level for test in check.tests} == {0.05 / 6}
    assert [test.measure for test in check.tests] == list(Measure)
    assert all(test.p == pytest.approx(1, abs=1e-6) for test in check.tests)
    fewer = videos.without(Measure.BRIGHTNESS)
    for checker, stream in (
        (Checker(fewer, recordings, CLASSES, level=0.1, num_checks=4), videos),
        (Checker(videos, recordings, CLASSES, level=0.1, num_checks=4), fewer),
    ):
        check = checker.check(stream)
        assert {test.level for test in check.tests} == {0.1 / 4 / 5}
        assert Measure.BRIGHTNESS not in [test.measure for test in check.tests]


def test_a_threshold_is_where_alarms_begin(reference):
    videos, recordings = reference
    checker = Checker(videos, recordings, CLASSES)
    stream, _ = make_videos(np.random.default_rng(2), 30)
    for test in checker.check(stream).tests:
        if test.measure != Measure.SOFTMAX:
            drawn = checker._drawn(len(stream))[test.measure]
            assert (drawn > test.threshold).mean() <= test.level <= (drawn >= test.threshold).mean() + 1e-3


def test_a_negative_finding_needs_enough_videos(reference):
    videos, recordings = reference
    checker = Checker(videos, recordings, CLASSES)
    needed = checker.check(videos).videos_needed
    stream, _ = make_videos(np.random.default_rng(1), needed)
    few = checker.check(stream.select(np.arange(needed - 1)))
    assert few.finding == Finding.TOO_FEW and few.findable > drift.FINDABLE
    assert few.describe() == f"too few videos to tell: {needed - 1} of the {needed} that are needed"
    enough = checker.check(stream.select(np.arange(needed)))
    assert enough.finding == Finding.NO_DRIFT and enough.findable <= drift.FINDABLE
    # Clear drift needs fewer.
    dark = Videos(probabilities=stream.probabilities[:12], brightness=np.zeros(12))
    assert checker.check(dark).describe() == "drift: brightness"


def test_small_references_are_not_tested():
    videos, recordings = make_videos(np.random.default_rng(0), drift.MIN_RECORDINGS - 1)
    check = Checker(videos, recordings, CLASSES).check(videos)
    assert check.tests == () and check.finding == Finding.TOO_FEW and check.videos_needed is None
    assert "too small for any number of videos" in check.describe()


def test_an_empty_batch_is_no_drift(reference):
    videos, recordings = reference
    check = Checker(videos, recordings, CLASSES).check(videos.select(np.arange(0)))
    assert check.tests == () and check.finding == Finding.TOO_FEW and check.findable == float("inf")


def test_equal_checks_give_equal_results(reference):
    videos, recordings = reference
    stream, _ = make_videos(np.random.default_rng(4), 30)
    one, other = (Checker(videos, recordings, CLASSES).check(stream) for _ in range(2))
    assert one == other


def test_wrong_levels_are_refused(reference):
    with pytest.raises(UserError, match="an alarm level between 0 and 1. Received: level=0"):
        Checker(*reference, CLASSES, level=0)


def test_bins_hold_equal_parts_and_repeated_values_their_own():
    values = np.arange(100.0)
    edges = drift.bin_edges(values)
    assert np.bincount(drift.bin_of(values, edges)).tolist() == [0, *[10] * 10]
    assert drift.bin_of(np.array([-0.1, 0, 9, 9.5, 99, 99.1]), edges).tolist() == [0, 1, 1, 2, 10, 11]
    edges = drift.bin_edges(np.array([25.0] * 6 + [30.0] * 4))
    assert drift.bin_of(np.array([24.0, 25, 28, 30, 31]), edges).tolist() == [0, 1, 2, 2, 3]
    edges = drift.bin_edges(np.full(5, 25.0))
    assert drift.bin_of(np.array([24.0, 25, 26]), edges).tolist() == [0, 1, 2]
