"""Tests MediaPipe's MediaSequence: its getters on this project's records, and its parsers in TensorFlow."""

import importlib
import importlib.util
import io
import sys
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.readers import checks, document
from ucf50_tfrecord import tfrecord
from ucf50_tfrecord.choices import Encoding


@pytest.fixture(scope="module")
def media_sequence():
    """Imports the module without mediapipe's __init__, which loads calculators, OpenCV and JAX that it does not use."""
    found = importlib.util.find_spec("mediapipe")
    if found is None:
        pytest.skip("mediapipe is not installed: make test-readers")
    package = types.ModuleType("mediapipe")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["mediapipe"] = package
    return importlib.import_module("mediapipe.util.sequence.media_sequence")


@pytest.mark.parametrize("encoding", Encoding)
def test_its_getters_find_everything(media_sequence, data_dirs, expected, encoding):
    ms = media_sequence
    for shard in checks.shards(data_dirs[encoding]):
        for _, payload in tfrecord.read_file(shard):
            sequence = tf.train.SequenceExample.FromString(payload)
            clip_id = ms.get_clip_media_id(sequence).decode()
            frames, label = expected[clip_id]
            assert ms.get_clip_data_path(sequence).decode() == f"{clip_id}.avi"
            assert list(ms.get_clip_label_index(sequence)) == [label]
            assert list(ms.get_clip_label_string(sequence)) == [clip_id.split("/")[0].encode()]
            assert ms.get_clip_start_timestamp(sequence) == 0
            # Microseconds: 20 frames at 25 frames/s.
            assert ms.get_clip_end_timestamp(sequence) == 20 * 40_000
            assert [ms.get_image_height(sequence), ms.get_image_width(sequence)] == [64, 64]
            assert ms.get_image_channels(sequence) == 3 and ms.get_image_frame_rate(sequence) == 25
            assert ms.get_image_timestamp_size(sequence) == len(frames)
            assert ms.get_image_timestamp_at(len(frames) - 1, sequence) == 19 * 40_000
            if document.sees("MediaSequence")[encoding] == "none":
                assert not ms.has_image_encoded(sequence) and ms.get_image_format(sequence) == b"RAW"
                continue
            assert ms.get_image_format(sequence) == encoding.removeprefix("raw+").upper().encode()
            images = [
                ms.get_image_encoded_at(k, sequence) for k in range(ms.get_image_encoded_size(sequence))
            ]
            read = np.stack([PIL.Image.open(io.BytesIO(image)) for image in images])
            assert checks.fidelity(read, frames) == document.sees("MediaSequence")[encoding]


def test_its_parsers_read_in_tensorflow(media_sequence, data_dirs, expected):
    ms = media_sequence
    context = {
        ms.get_clip_label_index_key(): ms.get_clip_label_index_default_parser(),
        ms.get_clip_label_string_key(): ms.get_clip_label_string_default_parser(),
        ms.get_clip_media_id_key(): ms.get_clip_media_id_default_parser(),
    }
    lists = {
        ms.get_image_encoded_key(): ms.get_image_encoded_default_parser(),
        ms.get_image_timestamp_key(): ms.get_image_timestamp_default_parser(),
    }
    for shard in checks.shards(data_dirs["png"]):
        for payload in tf.data.TFRecordDataset(shard):
            clip, steps = tf.io.parse_single_sequence_example(payload, context, lists)
            frames, label = expected[clip["clip/media_id"].numpy().decode()]
            assert tf.sparse.to_dense(clip["clip/label/index"]).numpy().tolist() == [label]
            assert steps["image/timestamp"].shape == (len(frames),)
            np.testing.assert_array_equal(
                np.stack([tf.io.decode_png(x) for x in steps["image/encoded"]]), frames
            )
