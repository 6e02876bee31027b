"""The record contract: how a clip is stored as a record of a shard. Only this file knows the feature keys.

A record is a serialized `tf.train.SequenceExample`. Its context holds everything except compressed frames.
Since SequenceExample.context and Example.features are both field 1, the same bytes also parse as a
`tf.train.Example`.

Importing TensorFlow costs 600 MB in every process, so only `decode_images` does it, when it is called.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
from typing import TYPE_CHECKING, Any

import crc32c
import numpy as np
import PIL.features
import PIL.Image
from google.protobuf.message import DecodeError

from ucf50_tfrecord import example, tfrecord
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.labels import ClassName, Label, as_tuple
from ucf50_tfrecord.specs import ClipFormat, FeatureFormat, StoredFormat
from ucf50_tfrecord.tfrecord import FOOTER_BYTES, HEADER_BYTES, Place

if TYPE_CHECKING:
    import tensorflow as tf

# Raise this version whenever the bytes written for a video change, or manifests or sidecars of earlier versions
# can no longer be read with the same meaning. Datasets of other versions are refused. A new field with a default
# does not need it: files without the field are read as if they held the default.
SCHEMA_VERSION = 2

VIDEO = "video"
# The frames' features, in records that hold them in place of frames. Of all keys in a context VIDEO, or this
# one, is the last in sorted order.
FEATURES = "video/features"
FEATURE_SHAPE = "feature/shape"
LABEL = "label"
GROUP = "group"
FOLD = "fold"
FRAME_INDEX = "frame_index"
FRAME_TIMESTAMP = "frame_timestamp"
# Keys of the MediaSequence format. Its reader DMVR expects clip/label/text instead of clip/label/string.
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
# Feature lists with one entry per frame, under the keys of the MediaSequence format.
IMAGE_TIMESTAMP = "image/timestamp"
IMAGE_ENCODED = "image/encoded"

UNKNOWN_GROUP = -1

_CONTEXT_TAG = 0x0A  # SequenceExample's field 1
_MAX_FEATURE_BYTES = 1 << 24  # limit on all features except the pixels
_MAX_IMAGE_HEADER = 1 << 12
# This many bytes at a record's start hold the entry END_TIMESTAMP: entries are sorted by key, and only
# DATA_PATH comes before it.
_START_BYTES = 1 << 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip with its frames and labels, as it is stored in a record.

    frames: the clip's frames, uint8 [T, H, W, C], RGB; C is 3, or more with the neighbours of ClipFormat.
    label, class_name: number and name of the clip's class; tuples in a data set with several labels per clip.
    group: number of the video's recording group, or None.
    data_path: the video's path relative to the videos' folder.
    frame_rate: the video's mean frames per second (0.0 if its container states none).
    frame_indices: int64 [T], positions of the clip's frames among the video's decodable frames.
    timestamps_us: int64 [T], presentation times of the clip's frames, in microseconds from the video's first
      frame; those of a segment of a video, from the segment's start.
    end_us: when the last frame of the video or segment ends, in microseconds from the same time.
    """

    clip_id: str
    frames: np.ndarray
    label: Label
    class_name: ClassName
    group: int | None
    fold: int
    data_path: str
    frame_rate: float
    frame_indices: np.ndarray
    timestamps_us: np.ndarray
    end_us: int


def stack_neighbours(pictures: np.ndarray, clip_format: ClipFormat) -> np.ndarray:
    """Moves the neighbours of clips' frames into the channels of their frames, as ClipFormat describes.

    Args:
      pictures: the frames, each followed by its neighbours, uint8 [..., T * (1 + motion_frames), H, W, 3].
      clip_format: the format of the clips.

    Returns:
      The clips, uint8 [..., T, H, W, 3 * (1 + motion_frames)].
    """
    *clips, _, height, width, _ = pictures.shape
    grouped = pictures.reshape(*clips, clip_format.num_frames, -1, height, width, 3)
    return np.moveaxis(grouped, -4, -2).reshape(*clips, *clip_format.shape)


def encode(clip: Clip, clip_format: ClipFormat) -> bytes:
    """Serializes a clip to its record's payload. Equal clips give equal bytes: map entries are sorted."""
    num_frames, height, width, channels = clip.frames.shape
    stored_raw, image_format = _encoding(clip_format)
    frames = np.ascontiguousarray(clip.frames, np.uint8)
    class_names = [_utf8(name) for name in as_tuple(clip.class_name)]
    context: dict[str, Any] = {
        LABEL: [*as_tuple(clip.label)],
        GROUP: [UNKNOWN_GROUP if clip.group is None else clip.group],
        FOLD: [clip.fold],
        FRAME_INDEX: [int(i) for i in clip.frame_indices],
        FRAME_TIMESTAMP: [int(t) for t in clip.timestamps_us],
        MEDIA_ID: [_utf8(clip.clip_id)],
        DATA_PATH: [_utf8(clip.data_path)],
        LABEL_INDEX: [*as_tuple(clip.label)],
        LABEL_STRING: class_names,
        LABEL_TEXT: class_names,
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
    message = example.SequenceExample()
    for key, values in context.items():
        example.fill(message.context.feature[key], values)
    for key, values in feature_lists.items():
        steps = message.feature_lists.feature_list[key]
        for value in values:
            example.fill(steps.feature.add(), [value])
    return message.SerializeToString(deterministic=True)


def decode_images(encoded: tf.Tensor, clip_format: ClipFormat) -> tf.Tensor:
    """Decodes a clip's compressed frames inside a TensorFlow graph, all in parallel.

    Args:
      encoded: string [T], the encoded frames of one clip, as read_images returns them.
      clip_format: the clip format that the dataset's manifest states.

    Returns:
      The decoded frames, uint8 [T, H, W, 3].
    """
    import tensorflow as tf

    # TensorFlow's own default for JPEG is a faster, coarser transform than every other reader's.
    decode_image = {
        "JPEG": functools.partial(tf.io.decode_jpeg, dct_method="INTEGER_ACCURATE"),
        "PNG": tf.io.decode_png,
    }[_encoding(clip_format)[1]]
    # One node per frame is a fifth faster than a loop over the frames.
    frames = [decode_image(encoded[i], channels=3) for i in range(clip_format.num_frames)]
    return tf.ensure_shape(tf.stack(frames), clip_format.shape)


def encode_features(payload: bytes, features: np.ndarray, place: Place | str) -> bytes:
    """Serializes the record of a clip's features: the frames' record with features in place of its frames.

    Args:
      payload: the payload of the record of frames.
      features: the features, float16 [T, ...], or [K, T, ...] of K views of the clip.
      place: the position of the record of frames, or a name of it, for error messages.

    Raises:
      UserError: if the payload is not that of a clip.
    """
    message = _parse(payload, place)
    context = message.context.feature
    for key in (VIDEO, IMAGE_FORMAT, IMAGE_CHANNELS):
        context.pop(key, None)
    example.fill(context[IMAGE_CHANNELS], [3])  # of the frames that were encoded, which is without neighbours
    message.feature_lists.feature_list.pop(IMAGE_ENCODED, None)
    example.fill(context[FEATURES], [np.ascontiguousarray(features, "<f2").tobytes()])
    example.fill(context[FEATURE_SHAPE], [*features.shape])
    return message.SerializeToString(deterministic=True)


def stores_raw(stored: StoredFormat) -> bool:
    """Tells whether a format stores features or raw pixels. If so, read_raw reads them, else read_images."""
    return isinstance(stored, FeatureFormat) or _encoding(stored)[0]


def read_raw(
    file: int, place: Place, clip: tuple[str, Label], *, stored: StoredFormat, out: np.ndarray
) -> None:
    """Reads a clip's raw pixels or features from its shard, checking checksums, format, id and label.

    They go from the file to `out` without a copy in between.

    Args:
      file: file descriptor of the open shard.
      place: the position where the clip's record starts; the path in it is used in messages only.
      clip: tuple of the id and the label that the clip must have.
      stored: the format of the records, as the dataset's manifest states it.
      out: array that receives the pixels or features as bytes, uint8 [stored.num_bytes].

    Raises:
      UserError: if the record is damaged or belongs to another clip; the contents of `out` are then
        undefined.
    """
    if not _read_in_place(file, place.offset, clip, stored, out):
        # The record is damaged or has another layout. The slow way reads it or reports the damage.
        parse_raw(tfrecord.read(file, place), place, clip, stored=stored, out=out)


def parse_raw(
    payload: bytes, place: Place, clip: tuple[str, Label], *, stored: StoredFormat, out: np.ndarray
) -> None:
    """Copies a clip's raw pixels or features from its record's payload, checking format, id and label.

    Args:
      payload: the record's bytes without its length and checksums.
      place, clip, stored, out: as in read_raw.

    Raises:
      UserError: if the payload is not that of the expected clip.
    """
    message = _parse_expected(payload, place, clip, stored)
    content = b"".join(message.context.feature[_content_key(stored)].bytes_list.value)
    if len(content) != out.size:
        raise UserError(f"{place} holds no clip of {stored}")
    out[:] = np.frombuffer(content, np.uint8)


def read_images(file: int, place: Place, clip: tuple[str, Label], *, clip_format: ClipFormat) -> list[bytes]:
    """Reads the encoded frames of a clip from its shard.

    Args:
      file, place, clip: as in read_raw.
      clip_format: the clip format that the dataset's manifest states.

    Returns:
      A list of T compressed images.

    Raises:
      UserError: if the record is damaged or belongs to another clip.
    """
    return parse_images(tfrecord.read(file, place), place, clip, clip_format=clip_format)


def parse_images(
    payload: bytes, place: Place, clip: tuple[str, Label], *, clip_format: ClipFormat
) -> list[bytes]:
    """Returns the encoded frames of a clip, a list of T compressed images, from its record's payload.

    Args:
      payload: the record's bytes without its length and checksums.
      place, clip, clip_format: as in read_images.

    Raises:
      UserError: if the payload is not that of the expected clip.
    """
    message = _parse_expected(payload, place, clip, clip_format)
    steps = message.feature_lists.feature_list[IMAGE_ENCODED].feature
    images = [image for step in steps for image in step.bytes_list.value]
    stored_as = message.context.feature[IMAGE_FORMAT].bytes_list.value
    if len(images) != clip_format.num_frames or stored_as[:] != [_encoding(clip_format)[1].encode()]:
        raise UserError(f"{place} holds no clip of {clip_format}")
    return images


def read_end_us(file: int, offset: int) -> int | None:
    """Reads the time at which a clip's video ends from the clip's record; verifies no checksum.

    Args:
      file: file descriptor of the open shard.
      offset: first byte of the record.

    Returns:
      The time in microseconds from the video's first frame, or None if the record's first bytes do not hold
      it.
    """
    start = os.pread(file, _START_BYTES, offset)
    match = _end_entry().search(start)
    return example.read_varint(start, match.end())[0] if match and len(start) >= match.end() + 10 else None


def is_lossy(clip_format: ClipFormat) -> bool:
    """Tells whether readers of this project see other frames than those that were stored, as after JPEG."""
    stored_raw, image_format = _encoding(clip_format)
    return not stored_raw and image_format == "JPEG"


def as_read(frame: np.ndarray, clip_format: ClipFormat) -> np.ndarray:
    """Returns a frame, uint8 [H, W, 3], as readers see it after it was stored in a format.

    Only lossy encodings change a frame. This function decodes with Pillow, which gives the same pixels as
    decode_images.
    """
    if not is_lossy(clip_format):
        return frame
    image_format = _encoding(clip_format)[1]
    return np.asarray(PIL.Image.open(io.BytesIO(_compress(frame, image_format, clip_format))))


def decode(payload: bytes, place: Place | str = "The record") -> dict[str, Any]:
    """Parses all features of one record, without TensorFlow.

    Args:
      payload: the record's bytes without its length and checksums.
      place: the record's position, or a name of the record, for error messages.

    Returns:
      A dictionary from feature key to value: a list of bytes, int or float. Only the frames, under the key
      VIDEO, are an array, uint8 [T, H, W, C], whatever their encoding; or the features, under the key
      FEATURES, float16 [T, ...] or, of K views, [K, T, ...].

    Raises:
      UserError: if the payload is not that of a clip, or a frame cannot be decoded.
    """
    message = _parse(payload, place)
    features: dict[str, Any] = {
        key: example.values_of(feature) for key, feature in message.context.feature.items()
    }
    if FEATURES in features:
        try:
            values = np.frombuffer(features[FEATURES][0], "<f2")
            features[FEATURES] = values.reshape(features[FEATURE_SHAPE])
        except (KeyError, ValueError) as error:
            raise UserError(f"{place} holds features of an unknown shape: {error}") from error
    elif VIDEO in features:
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
            raise UserError(f"{place} holds a frame that cannot be decoded: {error}") from error
    return features


def encoder_version(clip_format: ClipFormat) -> str:
    """Returns the versions of the libraries that compress frames; "" for a format with only raw frames."""
    _, image_format = _encoding(clip_format)
    if not image_format:
        return ""
    library = {"JPEG": "libjpeg_turbo", "PNG": "zlib"}[image_format]
    return f"Pillow {PIL.__version__}, {library} {PIL.features.version(library)}"


def clip_id_and_labels(payload: bytes, place: Place | str = "The record") -> tuple[str, tuple[int, ...]]:
    """Returns the clip id (feature `clip/media_id`) and the labels in a record's payload, as a tuple.

    Args:
      payload: the record's bytes without its length and checksums.
      place: the record's position, or a name of the record, for error messages.

    Raises:
      UserError: if the payload is not that of a clip.
    """
    message = _parse(payload, place)
    return _clip_id(message), _labels(message)


def size_bounds(stored: StoredFormat) -> tuple[int, int]:
    """Returns bounds on the size of a record of a format, as a tuple of the smallest and the largest size.

    Sizes are in bytes and include the record's length and checksums.
    """
    if isinstance(stored, FeatureFormat):
        return stored.num_bytes, stored.num_bytes + _MAX_FEATURE_BYTES
    clip_format = stored
    stored_raw, image_format = _encoding(clip_format)
    least = clip_format.num_bytes if stored_raw else clip_format.num_frames
    # A compressed image of noise may take more bytes than its pixels, and every image has a header.
    images = 2 * clip_format.num_bytes + clip_format.num_frames * _MAX_IMAGE_HEADER if image_format else 0
    return least, images + stored_raw * clip_format.num_bytes + _MAX_FEATURE_BYTES


def _encoding(clip_format: ClipFormat) -> tuple[bool, str]:
    """Returns a tuple of whether a format stores raw pixels, and its image format, such as "JPEG", or ""."""
    parts = set(clip_format.encoding.split("+"))
    return "raw" in parts, "".join(parts - {"raw"}).upper()


def _compress(frame: np.ndarray, image_format: str, clip_format: ClipFormat) -> bytes:
    """Encodes a frame, uint8 [H, W, 3], as an image file."""
    options = {"quality": clip_format.jpeg_quality} if image_format == "JPEG" else {}
    buffer = io.BytesIO()
    PIL.Image.fromarray(frame).save(buffer, image_format, **options)
    return buffer.getvalue()


def _utf8(text: str) -> bytes:
    # File names may hold bytes that are not UTF-8; Python carries them as surrogates.
    return text.encode("utf-8", "surrogateescape")


def _read_in_place(
    file: int, offset: int, clip: tuple[str, Label], stored: StoredFormat, out: np.ndarray
) -> bool:
    """Reads a clip's raw pixels or features as read_raw does, if its record has the layout of `encode`.

    They are the context's last entry (map entries are sorted), so they end where the context ends. The
    context's length is at the payload's start. A wrong length of the record makes its payload's checksum
    wrong, so the length's own checksum is not checked. Keep this function short: while it runs Python code,
    no other thread reads.

    Returns:
      True if the record is undamaged and has that layout; otherwise False, and the contents of `out` are
      undefined.
    """
    start = os.pread(file, 24, offset)
    if len(start) < 24 or start[HEADER_BYTES] != _CONTEXT_TAG:
        return False
    context_bytes, position = example.read_varint(start, HEADER_BYTES + 1)
    num_bytes = HEADER_BYTES + int.from_bytes(start[:8], "little") + FOOTER_BYTES
    num_before = position + context_bytes - out.size
    num_after = num_bytes - num_before - out.size
    if not (24 <= num_before <= _MAX_FEATURE_BYTES and FOOTER_BYTES <= num_after <= _MAX_FEATURE_BYTES):
        return False
    before, after = bytearray(num_before), bytearray(num_after)
    if os.preadv(file, (before, out, after), offset) != num_bytes:
        return False
    crc = crc32c.crc32c(out, crc32c.crc32c(memoryview(before)[HEADER_BYTES:]))
    crc = crc32c.crc32c(memoryview(after)[:-FOOTER_BYTES], crc)
    return (
        after.endswith(tfrecord.checksum(crc))
        and before.endswith(_content_prefix(_content_key(stored), out.size))
        and all(entry in before for entry in _shape_entries(stored))
        and _label_entry(clip[1]) in before
        and example.bytes_entry(MEDIA_ID, _utf8(clip[0])) in before
    )


def _parse_expected(payload: bytes, place: Place, clip: tuple[str, Label], stored: StoredFormat) -> Any:
    """Parses a record's payload; checks that it is of the expected clip and has the format's shape."""
    message = _parse(payload, place)
    if _clip_id(message) != clip[0]:
        raise UserError(f"{place} is of clip {_clip_id(message)!r}, expected {clip[0]!r}")
    if _labels(message) != as_tuple(clip[1]):
        raise UserError(f"{place} has label {_shown(_labels(message))}, expected {_shown(as_tuple(clip[1]))}")
    expected = _shape_features(stored)
    found = {key: list(message.context.feature[key].int64_list.value) for key in expected}
    if found != expected:
        raise UserError(f"{place} holds no clip of {stored}")
    return message


def _parse(payload: bytes, place: Place | str) -> Any:
    """Parses a record's payload. Raises UserError unless it has a clip id and a label."""
    try:
        message = example.SequenceExample.FromString(payload)
        _clip_id(message)
        _labels(message)[0]
        return message
    except (DecodeError, IndexError) as error:
        raise UserError(f"{place} ({len(payload)} bytes) is not a clip's") from error


def _labels(message: Any) -> tuple[int, ...]:
    return tuple(message.context.feature[LABEL].int64_list.value)


def _shown(labels: tuple[int, ...]) -> str:
    return "+".join(map(str, labels))


def _clip_id(message: Any) -> str:
    return message.context.feature[MEDIA_ID].bytes_list.value[0].decode("utf-8", "surrogateescape")


def _content_key(stored: StoredFormat) -> str:
    return FEATURES if isinstance(stored, FeatureFormat) else VIDEO


@functools.cache
def _content_prefix(key: str, num_bytes: int) -> bytes:
    """Returns the bytes that precede pixels or features in a record: the tags, key and lengths of their entry."""
    return example.bytes_entry(key, bytes(num_bytes))[:-num_bytes]


def _shape_features(stored: StoredFormat) -> dict[str, list[int]]:
    """Returns the features of a record that state the shape of its content, by key."""
    if isinstance(stored, FeatureFormat):
        return {FEATURE_SHAPE: [*stored.shape]}
    return {
        IMAGE_HEIGHT: [stored.height],
        IMAGE_WIDTH: [stored.width],
        IMAGE_CHANNELS: [stored.channels],
    }


@functools.cache
def _shape_entries(stored: StoredFormat) -> list[bytes]:
    """Returns the serialized map entries of _shape_features."""
    return [example.ints_entry(key, values) for key, values in _shape_features(stored).items()]


@functools.cache
def _label_entry(label: Label) -> bytes:
    """Returns the serialized map entry of a clip's label or labels.

    Its tag and length are included, because without them the bytes could also be a part of another entry.
    """
    return example.field(1, example.ints_entry(LABEL, as_tuple(label)))


@functools.cache
def _end_entry() -> re.Pattern[bytes]:
    """Matches the part of the entry END_TIMESTAMP before its number: the key, tags and lengths."""
    return re.compile(re.escape(example.field(1, END_TIMESTAMP.encode())) + rb"\x12.\x1a.\x0a.", re.DOTALL)
