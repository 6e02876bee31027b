"""The protocol buffers that a record consists of: `tf.train.SequenceExample` without TensorFlow.

Also serializes and parses single pieces of the wire format, to check records without parsing them as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_BYTES = [bytes([value]) for value in range(128)]


def fill(feature: Any, values: list[Any]) -> None:
    """Fills an empty Feature message with a list of bytes, float or int values."""
    kinds = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}
    kinds[type(values[0])].value.extend(values)


def values_of(feature: Any) -> list[Any]:
    """Returns the values of a Feature message: a list of bytes, float or int."""
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def field(number: int, value: bytes) -> bytes:
    """Serializes a length-delimited field of a message; its number must be below 16."""
    return _BYTES[number << 3 | 2] + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Serializes a non-negative integer as a varint: seven bits per byte, the lowest bits first."""
    if value < 128:
        return _BYTES[value]
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded) + _BYTES[value]


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Parses a varint of at most 10 bytes at a position in `data`.

    Returns:
      A tuple of the varint's value and the position after it.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, position


def bytes_entry(key: str, value: bytes) -> bytes:
    """Serializes a feature map's entry that holds one byte string, without the entry's tag and length."""
    return field(1, key.encode()) + field(2, field(1, field(1, value)))


def ints_entry(key: str, values: Iterable[int]) -> bytes:
    """Serializes a feature map's entry that holds int64s of 0 or more, without the entry's tag and length."""
    packed = b"".join(varint(value) for value in values)
    return field(1, key.encode()) + field(2, field(3, field(1, packed)))


def _build_sequence_example() -> Any:
    """Builds the message class SequenceExample in a private descriptor pool.

    TensorFlow registers messages of the same names in protobuf's default pool. Thanks to the private pool,
    both can be loaded in one process. The names and field numbers are those of TensorFlow's
    core/example/feature.proto and example.proto.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="ucf50_tfrecord/example.proto", package="tensorflow", syntax="proto3"
    )

    def add_field(proto: Any, name: str, number: int, kind: int | str, *, repeated: bool = False) -> None:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        added = proto.field.add(name=name, number=number, label=label)
        if isinstance(kind, str):
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".tensorflow.{kind}"
        else:
            added.type = kind

    def add_list(name: str, field_name: str, kind: int | str) -> None:
        add_field(file.message_type.add(name=name), field_name, 1, kind, repeated=True)

    def add_map(name: str, field_name: str, entry_name: str, value_kind: str) -> None:
        proto = file.message_type.add(name=name)
        entry = proto.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        add_field(entry, "key", 1, kinds.TYPE_STRING)
        add_field(entry, "value", 2, value_kind)
        add_field(proto, field_name, 1, f"{name}.{entry_name}", repeated=True)

    add_list("BytesList", "value", kinds.TYPE_BYTES)
    add_list("FloatList", "value", kinds.TYPE_FLOAT)
    add_list("Int64List", "value", kinds.TYPE_INT64)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(("bytes", "float", "int64"), start=1):
        add_field(feature, f"{kind}_list", number, f"{kind.title()}List")
        feature.field[-1].oneof_index = 0
    add_list("FeatureList", "feature", "Feature")
    add_map("Features", "feature", "FeatureEntry", "Feature")
    add_map("FeatureLists", "feature_list", "FeatureListEntry", "FeatureList")
    example = file.message_type.add(name="SequenceExample")
    add_field(example, "context", 1, "Features")
    add_field(example, "feature_lists", 2, "FeatureLists")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.SequenceExample"))


SequenceExample = _build_sequence_example()
