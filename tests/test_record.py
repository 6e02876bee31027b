import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord import record, tfrecord
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.specs import ClipFormat

FORMAT = ClipFormat(num_frames=3, height=8, width=10)


def make_clip(**changes) -> record.Clip:
    values = dict(
        clip_id="Jump/v_Jump_g02_c01",
        frames=np.random.default_rng(0).integers(0, 256, FORMAT.shape, dtype=np.uint8),
        label=4,
        class_name="Jump",
        group=2,
        fold=2,
        data_path="Jump/v_Jump_g02_c01.avi",
        frame_rate=29.97,
        frame_indices=np.array([0, 5, 9]),
        timestamps_us=np.array([0, 200_000, 360_000]),
        end_us=400_000,
    )
    return record.Clip(**values | changes)


def test_a_record_is_tensorflows_sequence_example_and_also_its_example():
    clip = make_clip()
    serialized = record.encode(clip, FORMAT)
    sequence = tf.train.SequenceExample.FromString(serialized)
    context = sequence.context.feature
    assert context["clip/media_id"].bytes_list.value[:] == [b"Jump/v_Jump_g02_c01"]
    assert context["clip/data_path"].bytes_list.value[:] == [b"Jump/v_Jump_g02_c01.avi"]
    assert context["clip/label/index"].int64_list.value[:] == [4]
    assert (
        context["clip/label/string"].bytes_list.value[:]
        == context["clip/label/text"].bytes_list.value[:]
        == [b"Jump"]
    )
    assert context["clip/start/timestamp"].int64_list.value[:] == [0]
    assert context["clip/end/timestamp"].int64_list.value[:] == [400_000]
    assert [context[f"image/{key}"].int64_list.value[0] for key in ("height", "width", "channels")] == [
        8,
        10,
        3,
    ]
    assert context["image/format"].bytes_list.value[:] == [b"RAW"]
    assert context["image/frame_rate"].float_list.value[0] == pytest.approx(29.97)
    assert context["frame_index"].int64_list.value[:] == [0, 5, 9]
    assert context["frame_timestamp"].int64_list.value[:] == [0, 200_000, 360_000]
    timestamps = sequence.feature_lists.feature_list["image/timestamp"].feature
    assert [step.int64_list.value[0] for step in timestamps] == [0, 200_000, 360_000]
    assert context["video"].bytes_list.value[0] == clip.frames.tobytes()
    example = tf.train.Example.FromString(serialized)
    assert dict(example.features.feature) == dict(context)


@pytest.mark.parametrize("encoding", Encoding)
def test_all_readers_see_the_frames_that_prediction_sees(tmp_path, encoding):
    clip, clip_format = make_clip(group=None), dataclasses.replace(FORMAT, encoding=encoding)
    expected = np.stack([record.as_read(frame, clip_format) for frame in clip.frames])
    assert (expected != clip.frames).any() == record.is_lossy(clip_format)
    payload = record.encode(clip, clip_format)
    decoded = record.decode(payload)
    np.testing.assert_array_equal(decoded["video"], expected)
    assert decoded["group"] == [record.UNKNOWN_GROUP] and decoded["label"] == [4]
    path = tmp_path / "shard"
    path.write_bytes(tfrecord.frame(b"another") + tfrecord.frame(payload))
    clip_of = clip.clip_id, clip.label
    place = tfrecord.Place(str(path), 23)
    with open(path, "rb") as file:
        assert record.read_end_us(file.fileno(), 23) == clip.end_us
        if record.stores_raw(clip_format):
            pixels = np.zeros(clip.frames.size, np.uint8)
            assert record._read_in_place(file.fileno(), 23, clip_of, clip_format, pixels)
            np.testing.assert_array_equal(pixels.reshape(clip.frames.shape), clip.frames)
            pixels[:] = 0
            record.read_raw(file.fileno(), place, clip_of, stored=clip_format, out=pixels)
            np.testing.assert_array_equal(pixels.reshape(clip.frames.shape), clip.frames)
        else:
            images = record.read_images(file.fileno(), place, clip_of, clip_format=clip_format)
            frames = record.decode_images(tf.constant(images), clip_format)
            np.testing.assert_array_equal(frames, expected)


def test_equal_clips_give_equal_bytes():
    assert record.encode(make_clip(), FORMAT) == record.encode(make_clip(), FORMAT)
    assert record.encode(make_clip(), FORMAT) != record.encode(make_clip(label=5), FORMAT)


def test_names_that_are_not_utf8_keep_their_bytes():
    name = b"Jump/\xff.avi".decode("utf-8", "surrogateescape")
    assert record.decode(record.encode(make_clip(data_path=name), FORMAT))["clip/data_path"] == [
        b"Jump/\xff.avi"
    ]
