import pathlib

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training.profiling import Profiler


def run_steps(profiler, numbers):
    work = tf.function(lambda x: tf.reduce_sum(x @ x))
    for number in numbers:
        profiler.step(number)
        work(tf.ones([8, 8]))


def profiles(run_dir):
    """The steps that each profile holds."""
    folder = pathlib.Path(run_dir, "tensorboard", "train", "plugins", "profile")
    return [steps_of(xplane_pb2.XSpace.FromString(path.read_bytes())) for path in folder.rglob("*.xplane.pb")]


def steps_of(profile):
    [host] = [plane for plane in profile.planes if plane.name == "/host:CPU"]
    marks = {key for key, event in host.event_metadata.items() if event.name == "train"}
    numbers = {key for key, stat in host.stat_metadata.items() if stat.name == "step_num"}
    found = [event for line in host.lines for event in line.events if event.metadata_id in marks]
    return sorted(stat.int64_value for event in found for stat in event.stats if stat.metadata_id in numbers)


def test_the_requested_steps_are_profiled(tmp_path):
    with Profiler(str(tmp_path), (4, 6)) as profiler:
        run_steps(profiler, range(1, 4))
        assert not profiles(tmp_path)
        run_steps(profiler, range(4, 10))
        assert profiles(tmp_path) == [[4, 5, 6]]  # written as soon as the last step is done
    assert profiles(tmp_path) == [[4, 5, 6]]


@pytest.mark.parametrize(
    "steps, numbers, expected",
    [
        ((4, 6), range(1, 6), [[4, 5]]),  # training ends within
        ((4, 6), range(5, 10), [[5, 6]]),  # goes on within
        ((4, 6), range(1, 4), []),  # ends before
        ((4, 6), range(7, 10), []),  # goes on after
        (None, range(1, 10), []),
    ],
)
def test_training_may_stop_and_resume_anywhere(tmp_path, steps, numbers, expected):
    with Profiler(str(tmp_path), steps) as profiler:
        run_steps(profiler, numbers)
    profiler.close()
    assert profiles(tmp_path) == expected


def test_a_profile_is_written_when_training_fails(tmp_path):
    with pytest.raises(KeyError):
        with Profiler(str(tmp_path), (1, 9)) as profiler:
            run_steps(profiler, range(1, 3))
            raise KeyError
    assert profiles(tmp_path) == [[1, 2]]


def test_a_profiler_that_cannot_start_does_not_stop_training(tmp_path):
    warnings = []
    tf.profiler.experimental.start(str(tmp_path / "other"))
    try:
        with Profiler(str(tmp_path), (1, 2), warn=warnings.append) as profiler:
            run_steps(profiler, range(1, 5))
    finally:
        tf.profiler.experimental.stop(save=False)
    assert len(warnings) == 1 and "there will be no profile" in warnings[0]
    assert not profiles(tmp_path)


def test_a_profile_that_cannot_be_written_does_not_stop_training(tmp_path):
    warnings = []
    tmp_path.joinpath("tensorboard").write_text("a file where a folder belongs")
    with Profiler(str(tmp_path), (1, 2), warn=warnings.append) as profiler:
        run_steps(profiler, range(1, 5))
    assert len(warnings) == 1 and "profile" in warnings[0]


@pytest.mark.parametrize("steps", [(0, 3), (5, 4), (1,), (1, 2, 3)])
def test_steps_must_be_two_in_order(tmp_path, steps):
    with pytest.raises(UserError, match="steps a,b with 1 <= a <= b"):
        Profiler(str(tmp_path), steps)
