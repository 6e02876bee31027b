import pytest
import tensorflow as tf

from ucf50_tfrecord import tfrecord
from ucf50_tfrecord.errors import UserError


def test_framing_is_tfrecord(tmp_path):
    payloads = [b"", b"a", bytes(range(256)) * 40]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
    assert [item.numpy() for item in tf.data.TFRecordDataset(str(path))] == payloads
    with tf.io.TFRecordWriter(str(tmp_path / "tf")) as writer:
        for payload in payloads:
            writer.write(payload)
    assert path.read_bytes() == (tmp_path / "tf").read_bytes()
    assert list(tfrecord.read_file(path)) == [(0, b""), (16, b"a"), (33, payloads[2])]


def test_damage_is_found_and_named(tmp_path):
    whole = tfrecord.frame(b"first") + tfrecord.frame(b"second")
    path = tmp_path / "x.tfrecord"
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(
            UserError, match=f"x.tfrecord: the record at byte {0 if position < 21 else 21} is damaged"
        ):
            list(tfrecord.read_file(path))
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        if length != 21:
            with pytest.raises(UserError, match="cut short"):
                list(tfrecord.read_file(path))
