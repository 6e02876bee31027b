"""What runs in a step on a GPU has kernels there: TensorFlow moves what has none to the host, silently."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import kernels

from tests.dataset.helpers import EVERY_AUGMENTATION
from ucf50_tfrecord.dataset import mixing, segments
from ucf50_tfrecord.dataset.augment import augment, take_frames
from ucf50_tfrecord.dataset.pipeline import take_view
from ucf50_tfrecord.specs import TrainSpec

SHAPE = (4, 6, 16, 20, 3)
VIDEO = tf.TensorSpec(SHAPE, tf.uint8)
INDEX = tf.TensorSpec([4], tf.int64)
# Of no weight, or on the host by design (shapes, seeds).
ANYWHERE = {"Placeholder", "Const", "Identity", "NoOp", "Shape", "Pack", "Range", "StatelessRandomGetAlg"}


def has_gpu_kernel(operation):
    """Whether a kernel for GPUs, or for every kind of device, takes the operation's types."""
    found = [kernel for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel]
    for kernel in found:
        if kernel.device_type not in ("GPU", "DEFAULT"):
            continue
        if all(
            operation.get_attr(constraint.name).as_datatype_enum in constraint.allowed_values.list.type
            for constraint in kernel.constraint
        ):
            return True
    return False


def missing(function, *arguments):
    graph = function.get_concrete_function(*arguments).graph
    operations = [op for op in graph.get_operations() if op.type not in ANYWHERE]
    for name in ("PartitionedCall", "StatefulPartitionedCall", "While", "If"):
        assert name not in {op.type for op in operations}
    assert operations
    return {
        (op.type, *(types_pb2.DataType.Name(t.dtype.as_datatype_enum) for t in op.inputs))
        for op in operations
        if not has_gpu_kernel(op)
    }


@pytest.fixture(autouse=True)
def needs_a_build_with_gpus():
    if not tf.test.is_built_with_cuda():
        pytest.skip("this TensorFlow knows no GPU")


def test_a_missing_kernel_is_found():
    assert missing(tf.function(lambda video, index: tf.gather(video, index)), VIDEO, INDEX) == {
        ("GatherV2", "DT_UINT8", "DT_INT64", "DT_INT32")
    }


@pytest.mark.parametrize("channels", [3, 9])
def test_augmentation_runs_on_gpus(channels):
    @tf.function
    def step(video, position, number):
        return augment(video, position, spec=EVERY_AUGMENTATION, batch_size=4, seed=0, step=number)

    video = tf.TensorSpec((*SHAPE[:-1], channels), tf.uint8)
    assert missing(step, video, INDEX, tf.TensorSpec([], tf.int64)) == set()


def test_clips_are_mixed_on_gpus():
    spec = TrainSpec(batch_size=4, mixup=0.2, cutmix=1.0)

    @tf.function
    def step(video, counts, position, label, number):
        mixed = mixing.mix(video, counts, position, spec=spec, seed=0, step=number)
        return mixed, mixing.of_donors(label)

    tensors = VIDEO, tf.TensorSpec([4], tf.float32), INDEX, tf.TensorSpec([4], tf.int32)
    assert missing(step, *tensors, tf.TensorSpec([], tf.int64)) == set()


def test_frames_are_reordered_on_gpus():
    order = tf.TensorSpec([4, 6], tf.int64)
    assert missing(tf.function(take_frames), VIDEO, order) == set()


def test_frames_of_segments_are_taken_on_gpus():
    def draw(video, position, number):
        return segments.draw_frames(video, 4, position=position, batch_size=4, seed=0, step=number)

    assert missing(tf.function(draw), VIDEO, INDEX, tf.TensorSpec([], tf.int64)) == set()
    assert missing(tf.function(lambda video: segments.take_middles(video, 4)), VIDEO) == set()


def test_resident_clips_are_gathered_on_gpus(data_dir):
    from ucf50_tfrecord import manifest
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.dataset.feed import Feed
    from ucf50_tfrecord.training.strategy import make_strategy

    clips = load_clips(manifest.load(str(data_dir)), [1])
    feed = Feed(clips, strategy=make_strategy("one"), cache="device")
    gather = tf.function(lambda index: feed.frames({"row": index}))
    assert missing(gather, INDEX) == set()
    np.testing.assert_array_equal(gather(tf.constant([3, 1], tf.int64)).shape, (2, 5, 16, 24, 3))

    @tf.function
    def keep(video, index):
        feed._residents.write(video, index)

    assert missing(keep, tf.TensorSpec((4, 5, 16, 24, 3), tf.uint8), INDEX) == set()


def test_views_of_features_are_taken_on_gpus():
    features = tf.TensorSpec([4, 3, 6, 8], tf.float16)  # [B, K, T, F]
    taken = tf.function(lambda video, view: take_view({"video": video, "view": view}))
    assert not missing(taken, features, INDEX)
    resident = tf.Variable(tf.zeros(features.shape, features.dtype))
    gathered = tf.function(lambda index: tf.gather_nd(resident, tf.stack([index, index], axis=1)))
    assert not missing(gathered, INDEX)
