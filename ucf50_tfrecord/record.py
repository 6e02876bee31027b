"""The record contract: how one clip is stored. The only file that knows feature keys.

A record is a serialized `tf.train.SequenceExample`. Its context holds everything,
and since SequenceExample.context and Example.features are both field 1, the same
bytes also parse as a plain `tf.train.Example`.

Writing needs no TensorFlow (importing it costs 600 MB in every worker, Keras
included), so `encode` uses the same protocol buffers from a pool of their own.
Only `parse` imports TensorFlow, when it is called.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import PIL.features
import PIL.Image
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ucf50_tfrecord.specs import ClipFormat, UserError

if TYPE_CHECKING:
    import tensorflow as tf

# Raise it whenever the bytes written for the same video change, or the manifest's or sidecars' fields.
SCHEMA_VERSION = 2

VIDEO = "video"
LABEL = "label"
GROUP = "group"
FOLD = "fold"
FRAME_INDEX = "frame_index"
FRAME_TIMESTAMP = "frame_timestamp"
# MediaSequence's keys (DMVR reads clip/label/text where MediaSequence has …/string).
MEDIA_ID = "clip/media_id"
DATA_PATH = "clip/data_path"
LABEL_INDEX = "clip/label/index"
LABEL_STRING = "clip/label/string"
LABEL_TEXT = "clip/label/text"
START_TIMESTAMP = "clip/start/timestamp"
END_TIMESTAMP = "clip/end/timestamp"
IMAGE_FORMAT = "image/format"
IMAGE_HEIGHT = "image/height"
IMAGE_WIDTH = "image/width"
IMAGE_CHANNELS = "image/channels"
IMAGE_FRAME_RATE = "image/frame_rate"
# Feature lists, one entry a frame, where MediaSequence looks for them.
IMAGE_TIMESTAMP = "image/timestamp"
IMAGE_ENCODED = "image/encoded"

UNKNOWN_GROUP = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip, as stored.

    frames: uint8 [T, H, W, 3], RGB.
    frame_indices: int64 [T], which of the video's decodable frames these are.
    timestamps_us: int64 [T], when each is shown, in microseconds from the first frame.
    end_us: when the video's last frame ends, in microseconds from the first frame.
    frame_rate: the video's mean frames per second (0.0 if the container gives none).
    group: the recording group, or None.
    """

    clip_id: str
    frames: np.ndarray
    label: int
    class_name: str
    group: int | None
    fold: int
    data_path: str
    frame_rate: float
    frame_indices: np.ndarray
    timestamps_us: np.ndarray
    end_us: int


def encode(clip: Clip, clip_format: ClipFormat) -> bytes:
    """Serializes a clip; equal clips give equal bytes (map entries are sorted)."""
    num_frames, height, width, channels = clip.frames.shape
    stored_raw, image_format = _encoding(clip_format)
    frames = np.ascontiguousarray(clip.frames, np.uint8)
    context: dict[str, Any] = {
        LABEL: [clip.label],
        GROUP: [UNKNOWN_GROUP if clip.group is None else clip.group],
        FOLD: [clip.fold],
        FRAME_INDEX: [int(i) for i in clip.frame_indices],
        FRAME_TIMESTAMP: [int(t) for t in clip.timestamps_us],
        MEDIA_ID: [_utf8(clip.clip_id)],
        DATA_PATH: [_utf8(clip.data_path)],
        LABEL_INDEX: [clip.label],
        LABEL_STRING: [_utf8(clip.class_name)],
        LABEL_TEXT: [_utf8(clip.class_name)],
        START_TIMESTAMP: [0],
        END_TIMESTAMP: [int(clip.end_us)],
        IMAGE_FORMAT: [(image_format or "RAW").encode()],
        IMAGE_HEIGHT: [height],
        IMAGE_WIDTH: [width],
        IMAGE_CHANNELS: [channels],
        IMAGE_FRAME_RATE: [float(clip.frame_rate)],
    }
    feature_lists: dict[str, list[Any]] = {IMAGE_TIMESTAMP: context[FRAME_TIMESTAMP]}
    if stored_raw:
        context[VIDEO] = [frames.tobytes()]
    if image_format:
        feature_lists[IMAGE_ENCODED] = [_compress(frame, image_format, clip_format) for frame in frames]
    message = _MESSAGES["SequenceExample"]()
    for key, values in context.items():
        _fill(message.context.feature[key], values)
    for key, values in feature_lists.items():
        steps = message.feature_lists.feature_list[key]
        for value in values:
            _fill(steps.feature.add(), [value])
    return message.SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor, clip_format: ClipFormat) -> dict[str, tf.Tensor]:
    """Reads what training needs out of one record, inside a TensorFlow graph.

    Args:
      serialized: string [], one record.
      clip_format: the format that the manifest states.

    Returns:
      video: uint8 [T, H, W, 3]; label: int32 [].
    """
    import tensorflow as tf

    label = {LABEL: tf.io.FixedLenFeature([], tf.int64)}
    stored_raw, image_format = _encoding(clip_format)
    if stored_raw:
        features = tf.io.parse_single_example(
            serialized, {VIDEO: tf.io.FixedLenFeature([], tf.string), **label}
        )
        video = tf.io.decode_raw(features[VIDEO], tf.uint8)
    else:
        # TensorFlow's own default for JPEG is a faster, coarser transform than every other reader's.
        decode_image = {
            "JPEG": functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE"),
            "PNG": tf.io.decode_png,
        }[image_format]
        features, lists = tf.io.parse_single_sequence_example(
            serialized, label, {IMAGE_ENCODED: tf.io.FixedLenSequenceFeature([], tf.string)}
        )
        video = tf.map_fn(
            lambda image: decode_image(image, channels=3), lists[IMAGE_ENCODED], fn_output_signature=tf.uint8
        )
    return {
        "video": tf.reshape(video, clip_format.shape),
        "label": tf.cast(features[LABEL], tf.int32),
    }


def decode(serialized: bytes) -> dict[str, Any]:
    """Reads every feature of one record without TensorFlow.

    Returns:
      The context's features by key, each a list of bytes, int or float, but for
      VIDEO, which is the uint8 array [T, H, W, 3] whatever the encoding.
    """
    message = _MESSAGES["SequenceExample"].FromString(serialized)
    features = {key: _values(feature) for key, feature in message.context.feature.items()}
    if VIDEO in features:
        pixels = np.frombuffer(features[VIDEO][0], np.uint8)
        height, width = features[IMAGE_HEIGHT][0], features[IMAGE_WIDTH][0]
        features[VIDEO] = pixels.reshape(-1, height, width, features[IMAGE_CHANNELS][0])
    else:
        steps = message.feature_lists.feature_list[IMAGE_ENCODED].feature
        features[VIDEO] = np.stack(
            [np.asarray(PIL.Image.open(io.BytesIO(step.bytes_list.value[0]))) for step in steps]
        )
    return features


def encoder_version(clip_format: ClipFormat) -> str:
    """Names what decides the bytes of compressed frames; empty where there are none."""
    _, image_format = _encoding(clip_format)
    if not image_format:
        return ""
    library = {"JPEG": "libjpeg_turbo", "PNG": "zlib"}[image_format]
    return f"Pillow {PIL.__version__}, {library} {PIL.features.version(library)}"


def clip_id(serialized: bytes) -> str:
    """Reads a record's id, the clip's `clip/media_id`.

    Raises:
      UserError: if it is not a clip's record.
    """
    try:
        context = _MESSAGES["SequenceExample"].FromString(serialized).context
        return context.feature[MEDIA_ID].bytes_list.value[0].decode("utf-8", "surrogateescape")
    except (DecodeError, IndexError) as error:
        raise UserError(f"A record of {len(serialized)} bytes is not a clip's") from error


def frame_record(payload: bytes) -> bytes:
    """Wraps a payload as TFRecord does: length, its masked CRC-32C, payload, its masked CRC.

    Source: the format comment in TensorFlow's core/lib/io/record_writer.h.
    """
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _masked_crc(length), payload, _masked_crc(payload)))


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields (offset in bytes, payload) for each record of a TFRecord file, checking its CRCs.

    Raises:
      UserError: naming the file and the offset, if a record is damaged or cut short.
    """
    with open(path, "rb") as file:
        offset = 0
        while header := file.read(12):
            intact = len(header) == 12 and header[8:] == _masked_crc(header[:8])
            payload, checksum = b"", b""
            if intact:
                (num_bytes,) = struct.unpack("<Q", header[:8])
                payload, checksum = file.read(num_bytes), file.read(4)
                intact = len(payload) == num_bytes and checksum == _masked_crc(payload)
            if not intact:
                raise UserError(f"{path}: the record at byte {offset} is damaged or cut short")
            yield offset, payload
            offset += 12 + len(payload) + 4


def tfds_features(clip_format: ClipFormat, classes: tuple[str, ...]) -> dict[str, Any]:
    """Describes a record to TensorFlow Datasets: its features.json, as a JSON value.

    TFDS parses records as `tf.train.Example`, so it sees the context: scalar `label`, `group`,
    `fold` and `clip/media_id`, and `video` uint8 [T, H, W, 3] where the encoding stores it raw.
    """
    package = "tensorflow_datasets.core.features"

    def tensor(shape: tuple[int, ...], dtype: str, encoding: str) -> dict[str, Any]:
        return {
            "pythonClassName": f"{package}.tensor_feature.Tensor",
            "tensor": {
                "shape": {"dimensions": [str(size) for size in shape]},
                "dtype": dtype,
                "encoding": encoding,
            },
        }

    features = {
        LABEL: {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(classes))},
        },
        GROUP: tensor((), "int64", "none"),
        FOLD: tensor((), "int64", "none"),
        MEDIA_ID: {"pythonClassName": f"{package}.text_feature.Text", "text": {}},
    }
    if _encoding(clip_format)[0]:
        features[VIDEO] = tensor(clip_format.shape, "uint8", "bytes")
    return {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def _encoding(clip_format: ClipFormat) -> tuple[bool, str]:
    """Tells whether pixels are stored raw, and as what kind of image they are besides, or ""."""
    parts = set(clip_format.encoding.split("+"))
    return "raw" in parts, "".join(parts - {"raw"}).upper()


def _compress(frame: np.ndarray, image_format: str, clip_format: ClipFormat) -> bytes:
    """Encodes uint8 [H, W, 3] as JPEG or PNG."""
    options = {"quality": clip_format.jpeg_quality} if image_format == "JPEG" else {}
    buffer = io.BytesIO()
    PIL.Image.fromarray(frame).save(buffer, image_format, **options)
    return buffer.getvalue()


def _utf8(text: str) -> bytes:
    # File names may hold bytes that are not UTF-8; Python carries them as surrogates.
    return text.encode("utf-8", "surrogateescape")


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _fill(feature: Any, values: list[Any]) -> None:
    kinds = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}
    kinds[type(values[0])].value.extend(values)


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _build_messages() -> dict[str, type]:
    """Builds SequenceExample's message classes in a pool of their own.

    TensorFlow registers the same names in protobuf's default pool; a private pool
    lets both live in one process. Source of names and field numbers: TensorFlow's
    core/example/feature.proto and example.proto.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="ucf50_tfrecord/example.proto", package="tensorflow", syntax="proto3"
    )

    def message(name: str, **fields: tuple[int, Any, bool]) -> Any:
        proto = file.message_type.add(name=name)
        for field_name, (number, kind, repeated) in fields.items():
            field = proto.field.add(name=field_name, number=number)
            field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".tensorflow.{kind}"
            else:
                field.type = kind
        return proto

    def string_map(name: str, field_name: str, value_type: str) -> None:
        proto = message(name, **{field_name: (1, f"{name}.Entry", True)})
        proto.field[0].type_name = f".tensorflow.{name}.{field_name.title().replace('_', '')}Entry"
        entry = proto.nested_type.add(name=proto.field[0].type_name.rsplit(".", 1)[1])
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        entry.field.add(
            name="value",
            number=2,
            type=kinds.TYPE_MESSAGE,
            label=kinds.LABEL_OPTIONAL,
            type_name=f".tensorflow.{value_type}",
        )

    message("BytesList", value=(1, kinds.TYPE_BYTES, True))
    message("FloatList", value=(1, kinds.TYPE_FLOAT, True))
    message("Int64List", value=(1, kinds.TYPE_INT64, True))
    feature = message(
        "Feature",
        bytes_list=(1, "BytesList", False),
        float_list=(2, "FloatList", False),
        int64_list=(3, "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    message("FeatureList", feature=(1, "Feature", True))
    string_map("Features", "feature", "Feature")
    string_map("FeatureLists", "feature_list", "FeatureList")
    message("SequenceExample", context=(1, "Features", False), feature_lists=(2, "FeatureLists", False))

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [proto.name for proto in file.message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
        for name in names
    }


_MESSAGES = _build_messages()
