"""The record contract: how one clip is stored. The only file that knows feature keys.

A record is a serialized `tf.train.SequenceExample`. Its context holds everything,
and since SequenceExample.context and Example.features are both field 1, the same
bytes also parse as a plain `tf.train.Example`.

Writing needs no TensorFlow (importing it costs 600 MB in every worker, Keras
included), so records are made and read with the same protocol buffers from a pool
of their own. Only `decode_images` imports TensorFlow, when it is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import crc32c
import numpy as np
import PIL.features
import PIL.Image
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat

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

_CONTEXT_TAG = 0x0A  # SequenceExample's field 1
_BYTES = [bytes([value]) for value in range(128)]
_MAX_FEATURE_BYTES = 1 << 24  # all features but the pixels; more is no record of ours
_MAX_IMAGE_HEADER = 1 << 12
# Map entries are sorted, so before the end's stands only the path's.
_START_BYTES = 1 << 13


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


def decode_images(encoded: tf.Tensor, clip_format: ClipFormat) -> tf.Tensor:
    """Decodes a clip's JPEG or PNG frames inside a TensorFlow graph, all in parallel.

    Args:
      encoded: string [T], what read_images returns of one clip.
      clip_format: the format that the manifest states.

    Returns:
      uint8 [T, H, W, 3].
    """
    import tensorflow as tf

    # TensorFlow's own default for JPEG is a faster, coarser transform than every other reader's.
    decode_image = {
        "JPEG": functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE"),
        "PNG": tf.io.decode_png,
    }[_encoding(clip_format)[1]]
    # One node a frame, not a loop over them: a fifth faster.
    frames = [decode_image(encoded[i], channels=3) for i in range(clip_format.num_frames)]
    return tf.ensure_shape(tf.stack(frames), clip_format.shape)


def stores_raw(clip_format: ClipFormat) -> bool:
    """Tells whether read_pixels can read a clip, else read_images."""
    return _encoding(clip_format)[0]


def read_pixels(
    file: int, offset: int, clip: tuple[str, int], *, clip_format: ClipFormat, out: np.ndarray
) -> None:
    """Reads a raw clip's pixels from its shard into a batch, checking CRCs, format, id and label.

    The pixels go from the file to `out` without a copy in between.

    Args:
      file: descriptor of the open shard.
      offset: where the record starts, in bytes.
      clip: the id and the label of the clip that should be there.
      clip_format: the format that the manifest states.
      out: uint8 [T * H * W * 3], receives the pixels.

    Raises:
      UserError: saying what is wrong with the record; `out` may then hold anything.
    """
    if _read_pixels_in_place(file, offset, clip, clip_format, out):
        return
    # Not as `encode` lays it out, or damaged: the slow way, which tells.
    with naming(offset):
        parse_pixels(read_payload(file, offset), clip, clip_format=clip_format, out=out)


def parse_pixels(payload: bytes, clip: tuple[str, int], *, clip_format: ClipFormat, out: np.ndarray) -> None:
    """Takes a raw clip's pixels out of its record, checking format, id and label.

    Args:
      payload: the record, without its frame of length and checksums.
      clip, clip_format, out: see read_pixels.

    Raises:
      UserError: if it is not the clip's; the caller knows which record it is.
    """
    message = _checked_message(payload, clip, clip_format)
    pixels = b"".join(message.context.feature[VIDEO].bytes_list.value)
    if len(pixels) != out.size:
        raise UserError(f"holds no clip of {clip_format}")
    out[:] = np.frombuffer(pixels, np.uint8)


def read_images(file: int, offset: int, clip: tuple[str, int], *, clip_format: ClipFormat) -> list[bytes]:
    """Reads a clip's encoded frames, T JPEGs or PNGs, from its shard, checking CRC, format, id and label.

    Arguments and errors are those of read_pixels.
    """
    with naming(offset):
        return parse_images(read_payload(file, offset), clip, clip_format=clip_format)


def parse_images(payload: bytes, clip: tuple[str, int], *, clip_format: ClipFormat) -> list[bytes]:
    """Takes a clip's encoded frames out of its record; see parse_pixels and read_images."""
    message = _checked_message(payload, clip, clip_format)
    steps = message.feature_lists.feature_list[IMAGE_ENCODED].feature
    images = [image for step in steps for image in step.bytes_list.value]
    stored_as = message.context.feature[IMAGE_FORMAT].bytes_list.value
    if len(images) != clip_format.num_frames or stored_as[:] != [_encoding(clip_format)[1].encode()]:
        raise UserError(f"holds no clip of {clip_format}")
    return images


@contextlib.contextmanager
def naming(offset: int, before: str = "") -> Iterator[None]:
    """Has what is found wrong with a record while the block runs say which record it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{before}the record at byte {offset} {error}") from None


def read_end_us(file: int, offset: int) -> int | None:
    """Reads when a clip's video ends, in microseconds, from its record's first bytes alone.

    The arguments are those of read_pixels. None where it is not found; no checksum is looked at.
    """
    start = os.pread(file, _START_BYTES, offset)
    match = _end_entry().search(start)
    return _read_varint(start, match.end())[0] if match and len(start) >= match.end() + 10 else None


def as_read(frame: np.ndarray, clip_format: ClipFormat) -> np.ndarray:
    """Returns a frame as a reader gets it once it has been stored: uint8 [H, W, 3] to the same.

    Of all encodings JPEG alone changes it. Pillow decodes it bit for bit as decode_images does.
    """
    stored_raw, image_format = _encoding(clip_format)
    if stored_raw or image_format != "JPEG":
        return frame
    return np.asarray(PIL.Image.open(io.BytesIO(_compress(frame, image_format, clip_format))))


def decode(serialized: bytes) -> dict[str, Any]:
    """Reads every feature of one record without TensorFlow.

    Returns:
      The context's features by key, each a list of bytes, int or float, but for
      VIDEO, which is the uint8 array [T, H, W, 3] whatever the encoding.

    Raises:
      UserError: if a frame cannot be decoded; the caller knows which record it is.
    """
    message = _MESSAGES["SequenceExample"].FromString(serialized)
    features: dict[str, Any] = {key: _values(feature) for key, feature in message.context.feature.items()}
    if VIDEO in features:
        pixels = np.frombuffer(features[VIDEO][0], np.uint8)
        height, width = features[IMAGE_HEIGHT][0], features[IMAGE_WIDTH][0]
        features[VIDEO] = pixels.reshape(-1, height, width, features[IMAGE_CHANNELS][0])
    else:
        steps = message.feature_lists.feature_list[IMAGE_ENCODED].feature
        try:
            features[VIDEO] = np.stack(
                [np.asarray(PIL.Image.open(io.BytesIO(step.bytes_list.value[0]))) for step in steps]
            )
        except OSError as error:
            raise UserError(f"holds a frame that cannot be decoded: {error}") from error
    return features


def encoder_version(clip_format: ClipFormat) -> str:
    """Names what decides the bytes of compressed frames; empty where there are none."""
    _, image_format = _encoding(clip_format)
    if not image_format:
        return ""
    library = {"JPEG": "libjpeg_turbo", "PNG": "zlib"}[image_format]
    return f"Pillow {PIL.__version__}, {library} {PIL.features.version(library)}"


def clip_id_and_label(serialized: bytes) -> tuple[str, int]:
    """Reads a record's id, the clip's `clip/media_id`, and its label.

    Raises:
      UserError: if it is not a clip's record.
    """
    try:
        message = _parse_clip(serialized)
        return _clip_id(message), _label(message)
    except UserError as error:
        raise UserError(f"a record {error}") from None


def clip_id(serialized: bytes) -> str:
    """Reads a record's id. Errors are those of clip_id_and_label."""
    return clip_id_and_label(serialized)[0]


def size_bounds(clip_format: ClipFormat) -> tuple[int, int]:
    """Returns the least and the most bytes that a clip's record takes, its frame of length and checksums included."""
    stored_raw, image_format = _encoding(clip_format)
    least = clip_format.num_bytes if stored_raw else clip_format.num_frames
    # An image of noise may take more than its pixels, and has a header.
    images = 2 * clip_format.num_bytes + clip_format.num_frames * _MAX_IMAGE_HEADER if image_format else 0
    return least, images + stored_raw * clip_format.num_bytes + _MAX_FEATURE_BYTES


def frame_record(payload: bytes) -> bytes:
    """Wraps a payload as TFRecord does: length, its masked CRC-32C, payload, its masked CRC.

    Source: the format comment in TensorFlow's core/lib/io/record_writer.h.
    """
    length = struct.pack("<Q", len(payload))
    crcs = (_masked_crc(crc32c.crc32c(data)) for data in (length, payload))
    return b"".join((length, next(crcs), payload, next(crcs)))


def read_payload(file: int, offset: int) -> bytes:
    """Reads the record at a byte offset of an open TFRecord file, checking its CRCs.

    Raises:
      UserError: if the record is damaged or cut short; the caller knows which it is.
    """
    header = _read(file, 12, offset)
    num_bytes = _framed_bytes(header)
    if num_bytes > os.fstat(file).st_size - offset:
        raise UserError("is cut short")
    return unframe(header + _read(file, num_bytes - len(header), offset + len(header)))


def unframe(framed: bytes) -> bytes:
    """Returns the payload of a record as frame_record makes it, checking its CRCs.

    Raises:
      UserError: if it is damaged or cut short; the caller knows which it is.
    """
    if len(framed) < _framed_bytes(framed[:12]):
        raise UserError("is cut short")
    payload = framed[12:-4]
    if framed[-4:] != _masked_crc(crc32c.crc32c(payload)):
        raise UserError("is damaged: it has another checksum than it says")
    return payload


def _framed_bytes(header: bytes) -> int:
    """Returns how many bytes a record takes, by its first 12."""
    if len(header) < 12:
        raise UserError("is cut short")
    if header[8:] != _masked_crc(crc32c.crc32c(header[:8])):
        raise UserError("is damaged: its length has another checksum than it says")
    return 12 + struct.unpack("<Q", header[:8])[0] + 4


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """Yields (offset in bytes, payload) for each record of a TFRecord file, checking its CRCs.

    Raises:
      UserError: naming the file and the offset, if a record is damaged or cut short.
    """
    with open(path, "rb", buffering=0) as file:
        offset = 0
        while offset < os.fstat(file.fileno()).st_size:
            with naming(offset, f"{path}: "):
                payload = read_payload(file.fileno(), offset)
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


def _read_pixels_in_place(
    file: int, offset: int, clip: tuple[str, int], clip_format: ClipFormat, out: np.ndarray
) -> bool:
    """Reads pixels as read_pixels does, where the record is sound and laid out as `encode` does it.

    The pixels are the context's last entry (map entries are sorted), so they end where the context
    ends, and the context's length stands at the payload's start. Lines here cost: while Python runs,
    no other thread reads. The length needs no check of its own, since with a wrong one the payload's
    checksum is wrong.
    """
    start = os.pread(file, 24, offset)
    if len(start) < 24 or start[12] != _CONTEXT_TAG:
        return False
    context_bytes, position = _read_varint(start, 13)
    num_bytes = 12 + int.from_bytes(start[:8], "little") + 4
    num_before = position + context_bytes - out.size
    num_after = num_bytes - num_before - out.size
    if not (24 <= num_before <= _MAX_FEATURE_BYTES and 4 <= num_after <= _MAX_FEATURE_BYTES):
        return False
    before, after = bytearray(num_before), bytearray(num_after)
    if os.preadv(file, (before, out, after), offset) != num_bytes:
        return False
    crc = crc32c.crc32c(out, crc32c.crc32c(memoryview(before)[12:]))
    crc = crc32c.crc32c(memoryview(after)[:-4], crc)
    return (
        after.endswith(_masked_crc(crc))
        and before.endswith(_pixels_prefix(out.size))
        and all(entry in before for entry in _size_entries(clip_format.height, clip_format.width))
        and _label_entry(clip[1]) in before
        and _feature_entry(MEDIA_ID, _bytes_feature(_utf8(clip[0]))) in before
    )


def _checked_message(payload: bytes, clip: tuple[str, int], clip_format: ClipFormat) -> Any:
    """Parses the record that should be a clip's."""
    message = _parse_clip(payload)
    if _clip_id(message) != clip[0]:
        raise UserError(f"is of clip {_clip_id(message)!r}, expected {clip[0]!r}")
    if _label(message) != clip[1]:
        raise UserError(f"has label {_label(message)}, expected {clip[1]}")
    size = [list(message.context.feature[key].int64_list.value) for key in (IMAGE_HEIGHT, IMAGE_WIDTH)]
    if size != [[clip_format.height], [clip_format.width]]:
        raise UserError(f"holds no clip of {clip_format}")
    return message


def _parse_clip(payload: bytes) -> Any:
    try:
        message = _MESSAGES["SequenceExample"].FromString(payload)
        _clip_id(message)
        _label(message)
        return message
    except (DecodeError, IndexError) as error:
        raise UserError(f"({len(payload)} bytes) is not a clip's") from error


def _label(message: Any) -> int:
    return message.context.feature[LABEL].int64_list.value[0]


def _clip_id(message: Any) -> str:
    return message.context.feature[MEDIA_ID].bytes_list.value[0].decode("utf-8", "surrogateescape")


def _read(file: int, num_bytes: int, offset: int) -> bytes:
    """Reads bytes at a place of a file, in as many calls as it takes; fewer only at the file's end."""
    parts, end = [], offset + num_bytes
    while offset < end and (part := os.pread(file, min(end - offset, 1 << 30), offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _feature_entry(key: str, feature: bytes) -> bytes:
    """Serializes an entry of a feature map, without the entry's own tag and length."""
    return _field(1, key.encode()) + _field(2, feature)


def _bytes_feature(value: bytes) -> bytes:
    return _field(1, _field(1, value))


@functools.cache
def _pixels_prefix(num_bytes: int) -> bytes:
    """Returns what stands before the pixels: their entry's tags, key and lengths."""
    return _feature_entry(VIDEO, _bytes_feature(bytes(num_bytes)))[:-num_bytes]


@functools.cache
def _size_entries(height: int, width: int) -> list[bytes]:
    """Returns the entries that say a frame's height and width."""
    return [_int_entry(IMAGE_HEIGHT, height), _int_entry(IMAGE_WIDTH, width)]


@functools.cache
def _label_entry(label: int) -> bytes:
    """Returns the map entry of a label, with its tag and length: it is short enough to be part of another."""
    return _field(1, _int_entry(LABEL, label))


def _int_entry(key: str, value: int) -> bytes:
    return _feature_entry(key, _field(3, _field(1, _varint(value))))


@functools.cache
def _end_entry() -> re.Pattern[bytes]:
    """Matches the video's end up to its number: key, then the tags and lengths of an int64 list."""
    return re.compile(re.escape(_field(1, END_TIMESTAMP.encode())) + rb"\x12.\x1a.\x0a.", re.DOTALL)


def _field(number: int, value: bytes) -> bytes:
    """Serializes a length-delimited protocol buffer field (number below 16)."""
    return _BYTES[number << 3 | 2] + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Encodes a protocol buffer varint: seven bits a byte, the lowest first."""
    if value < 128:
        return _BYTES[value]
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded) + _BYTES[value]


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Decodes the varint at a position, of at most 10 bytes; returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, position


def _masked_crc(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _fill(feature: Any, values: list[Any]) -> None:
    kinds = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}
    kinds[type(values[0])].value.extend(values)


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _build_messages() -> dict[str, Any]:
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
