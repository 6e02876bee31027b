"""Input pipelines as people write them today over the shards that ours reads; benchmarks measure both."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage

_SHUFFLE_BUFFER = 256  # clips


def plain(data: str, batch_size: int) -> Iterator[Any]:
    """Interleave, shuffle, parse, batch: the pipeline of TensorFlow's guides, over raw shards."""
    import tensorflow as tf

    clip_format = manifest_lib.load(data).format
    features = {"video": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(serialized: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(serialized, features)
        return tf.reshape(tf.io.decode_raw(example["video"], tf.uint8), clip_format.shape), example["label"]

    return iter(_shuffled_records(data).map(parse, tf.data.AUTOTUNE).batch(batch_size).prefetch(2))


def model_garden_style(data: str, batch_size: int) -> Iterator[Any]:
    """As TF Model Garden's video pipeline reads clips: JPEGs decoded in map_fn, float32 on the host."""
    import tensorflow as tf

    clip_format = manifest_lib.load(data).format
    context = {"label": tf.io.FixedLenFeature([], tf.int64)}
    sequence = {"image/encoded": tf.io.FixedLenSequenceFeature([], tf.string)}

    def parse(serialized: Any) -> tuple[Any, Any]:
        example, lists = tf.io.parse_single_sequence_example(serialized, context, sequence)
        decode = functools.partial(tf.io.decode_jpeg, channels=3)
        video = tf.map_fn(decode, lists["image/encoded"], fn_output_signature=tf.uint8)
        video = tf.image.convert_image_dtype(tf.ensure_shape(video, clip_format.shape), tf.float32)
        return video, example["label"]

    return iter(_shuffled_records(data).map(parse, tf.data.AUTOTUNE).batch(batch_size).prefetch(2))


def shard_paths(data: str) -> list[str]:
    """Returns the shards of a set, which may lie behind a URL."""
    return [storage.join(data, shard.filename) for shard in manifest_lib.load(data).shards]


def _shuffled_records(data: str) -> Any:
    import tensorflow as tf

    paths = shard_paths(data)
    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    records = files.interleave(
        tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    return records.shuffle(_SHUFFLE_BUFFER)
