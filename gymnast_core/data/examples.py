"""`tf.train.Example` without TensorFlow: named lists of bytes, floats or whole numbers, in protobuf's wire format.

    message Example  { Features features = 1; }
    message Features { map<string, Feature> feature = 1; }
    message Feature  { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }

Each list has one field, `repeated value = 1`. The classes are made here from that description, so that no generated
code has to fit the installed version of protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from gymnast_core.errors import DataError

Values = list[bytes] | np.ndarray
"""Of one feature: bytes, or (n,) float32, or (n,) int64."""
PACKAGE = "gymnast.example"
LISTS = (("BytesList", "bytes_list"), ("FloatList", "float_list"), ("Int64List", "int64_list"))


@cache
def _example_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="gymnast/example.proto", package=PACKAGE, syntax="proto3")

    def add(message: Any, name: str, number: int, kind: Any, type_name: str = "", **more: Any) -> None:
        label = more.pop("label", field.LABEL_OPTIONAL)
        named = {"type_name": f".{PACKAGE}.{type_name}"} if type_name else {}
        message.field.add(name=name, number=number, type=kind, label=label, **named, **more)

    for (name, _), kind in zip(LISTS, (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64)):
        add(file.message_type.add(name=name), "value", 1, kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, part) in enumerate(LISTS, start=1):
        add(feature, part, number, field.TYPE_MESSAGE, name, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, "Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, "Features.FeatureEntry", label=field.LABEL_REPEATED)
    add(file.message_type.add(name="Example"), "features", 1, field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Example"))


def parse_example(content: bytes, name: str) -> dict[str, Values]:
    """The features of a serialised Example. name: for errors. Raises: DataError where it is none."""
    from google.protobuf.message import DecodeError

    example = _example_class()()
    try:
        example.ParseFromString(content)
    except DecodeError as error:
        raise DataError(f"{name}: not a tf.train.Example ({error})") from error
    found: dict[str, Values] = {}
    for key, feature in example.features.feature.items():
        part = feature.WhichOneof("kind")
        if part == "bytes_list":
            found[key] = list(feature.bytes_list.value)
        elif part is not None:
            dtype = np.float32 if part == "float_list" else np.int64
            values = getattr(feature, part).value
            found[key] = np.fromiter(values, dtype=dtype, count=len(values))
    return found


def pack_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """A serialised Example: bytes as they are, arrays flattened: floats as float32, whole numbers and truths as int64.

    The same features give the same bytes.
    """
    example = _example_class()()
    for key in sorted(features):
        values, feature = features[key], example.features.feature[key]
        if not isinstance(values, np.ndarray):
            feature.bytes_list.value.extend(values)
        elif values.dtype.kind == "f":
            feature.float_list.value.extend(values.astype(np.float32).ravel().tolist())
        else:
            feature.int64_list.value.extend(values.astype(np.int64).ravel().tolist())
    return example.SerializeToString(deterministic=True)
