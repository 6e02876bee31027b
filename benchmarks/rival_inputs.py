"""Input pipelines written as other projects write theirs, which read this project's shards.

Each returns an endless iterator of batches, (clips, labels).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage

_SHUFFLE_BUFFER = 256  # clips


def plain(data: str, batch_size: int) -> Iterator[Any]:
    """Returns shuffled batches of the clips in raw shards, read as TensorFlow's guides recommend.

    The records are interleaved, shuffled, parsed and batched; pixels stay uint8.
    """
    import tensorflow as tf

    shape = manifest_lib.load(data).format.shape
    features = {"video": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(serialized: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(serialized, features)
        return tf.reshape(tf.io.decode_raw(example["video"], tf.uint8), shape), example["label"]

    return _batches(data, parse, batch_size)


def model_garden_style(data: str, batch_size: int) -> Iterator[Any]:
    """Returns shuffled batches of the clips in JPEG shards, read as TF Model Garden's video pipeline does.

    It decodes the frames with tf.map_fn and converts the pixels to float32 on the host.
    """
    import tensorflow as tf

    shape = manifest_lib.load(data).format.shape
    context = {"label": tf.io.FixedLenFeature([], tf.int64)}
    sequence = {"image/encoded": tf.io.FixedLenSequenceFeature([], tf.string)}

    def parse(serialized: Any) -> tuple[Any, Any]:
        example, lists = tf.io.parse_single_sequence_example(serialized, context, sequence)
        decode = functools.partial(tf.io.decode_jpeg, channels=3)
        video = tf.map_fn(decode, lists["image/encoded"], fn_output_signature=tf.uint8)
        video = tf.image.convert_image_dtype(tf.ensure_shape(video, shape), tf.float32)
        return video, example["label"]

    return _batches(data, parse, batch_size)


def shard_paths(data: str) -> list[str]:
    """Returns the paths or URLs of the shards in the folder or at the URL `data`."""
    return [storage.join(data, shard.filename) for shard in manifest_lib.load(data).shards]


def _batches(data: str, parse: Callable[[Any], Any], batch_size: int) -> Iterator[Any]:
    """Returns endless batches of a dataset's shuffled records, each parsed into a clip and its label."""
    import tensorflow as tf

    paths = shard_paths(data)
    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    records = files.interleave(
        tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    records = records.shuffle(_SHUFFLE_BUFFER).map(parse, tf.data.AUTOTUNE)
    return iter(records.batch(batch_size).prefetch(2))
