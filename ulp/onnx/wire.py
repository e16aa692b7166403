"""Checking a protobuf before it is parsed: an empty message takes two bytes in a file, and a hundred times that as an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from .limits import Limits
from .model import OnnxError

# The depth at which protobuf's own parser stops.
_DEEPEST = 100

# The contents of a field of bytes; for another message its descriptor is used.
_TEXT, _RAW, _NUMBERS = "text", "raw", "numbers"
_Schema: TypeAlias = dict[int, Any]
_Schemas: TypeAlias = dict[str, _Schema]

# The messages of ONNX by name: their fields that are no numbers, text, raw bytes, or a message. For saved islands, which are checked
# without the package onnx.
_STRINGS = {1: _TEXT, 2: _TEXT}
_ONNX: dict[str, dict[int, str]] = {
    "Model": {2: _TEXT, 3: _TEXT, 4: _TEXT, 6: _TEXT, 7: "Graph", 8: "Opset", 14: "Entry", 20: "Training", 25: "Function", 26: "Device"},
    "Device": {1: _TEXT, 3: _TEXT},
    "Function": {
        **dict.fromkeys((1, 4, 5, 6, 8, 10, 13), _TEXT),
        7: "Node",
        9: "Opset",
        11: "Attribute",
        12: "Value",
        14: "Entry",
    },
    "Entry": _STRINGS,
    "Value": {1: _TEXT, 2: "Type", 3: _TEXT, 4: "Entry"},
    "Type": {1: "Array", 4: "Inner", 5: "Map", 6: _TEXT, 7: "Entry", 8: "Array", 9: "Inner"},
    "Array": {2: "Shape"},
    "Inner": {1: "Type"},
    "Map": {2: "Type"},
    "Shape": {1: "Side"},
    "Side": {2: _TEXT, 3: _TEXT},
    "Opset": {1: _TEXT},
    "Node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8), _TEXT), 5: "Attribute", 9: "Entry", 10: "Placement"},
    "Placement": {1: _TEXT, 2: "Sharding"},
    "Sharding": {1: _TEXT, 3: "Numbers", 4: "Sharded"},
    "Numbers": {},
    "Sharded": {2: "Simple"},
    "Simple": {2: _TEXT},
    "Attribute": {
        1: _TEXT,
        4: _RAW,
        5: "Tensor",
        6: "Graph",
        9: _RAW,
        10: "Tensor",
        11: "Graph",
        13: _TEXT,
        14: "Type",
        15: "Type",
        21: _TEXT,
        22: "Sparse",
        23: "Sparse",
    },
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {3: "Numbers", 6: _RAW, 8: _TEXT, 9: _RAW, 12: _TEXT, 13: "External", 16: "Entry"},
    "External": _STRINGS,
    "Graph": {
        1: "Node",
        2: _TEXT,
        5: "Tensor",
        10: _TEXT,
        11: "Value",
        12: "Value",
        13: "Value",
        14: "Annotation",
        15: "Sparse",
        16: "Entry",
    },
    "Annotation": {1: _TEXT, 2: "Entry"},
    "Training": {1: "Graph", 2: "Graph", 3: "Entry", 4: "Entry"},
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_wire(data: bytes, descriptor: Any, limits: Limits) -> None:
    """OnnxError unless `data` is a message of `descriptor` that is complete and within limits.fields and limits.constant_bytes.

    descriptor: protobuf's own; or "Model" or "Node" for what onnxruntime is to get as it is: without functions, and without data in other
    files.
    """
    schemas: _Schemas = {}
    fields = unpacked = position = 0
    other = _NUMBERS if isinstance(descriptor, str) else None
    open_messages = [(_schema(descriptor, schemas), len(data))]
    while open_messages:
        schema, end = open_messages[-1]
        if position == end:
            open_messages.pop()
            continue
        fields += 1
        if fields > limits.fields:
            raise OnnxError(f"the file has more fields than the limit fields={limits.fields}")
        # Nearly all tags and lengths take one byte, for which a call of _varint would cost more than all else here.
        tag = data[position]
        tag, position = (tag, position + 1) if tag < 0x80 else _varint(data, position, end)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind == _BYTES:
            length = data[position] if position < end else 0x80
            length, position = (length, position + 1) if length < 0x80 else _varint(data, position, end)
            content = schema.get(tag >> 3, other)
            if length > end - position:
                raise OnnxError(f"the file is damaged or cut off: byte {position} begins {length} bytes, but {end - position} follow")
            if content == _TEXT:
                _check_text(data[position : position + length], position)
            elif content == _NUMBERS:
                unpacked += 8 * length  # numbers of one byte and more, which become up to eight
                if unpacked > limits.constant_bytes:
                    raise OnnxError(f"the file's lists of numbers take more than the limit constant_bytes={limits.constant_bytes}")
            elif content is not None and content != _RAW:
                if len(open_messages) >= _DEEPEST:
                    raise OnnxError(f"messages lie in each other more than {_DEEPEST} deep")
                if content in ("External", "Function"):
                    raise OnnxError("what onnxruntime is to run has functions, or data in another file")
                open_messages.append((_schema(content, schemas), position + length))
                continue
            position += length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise OnnxError(f"this is no ONNX file: byte {position} belongs to no field that protobuf knows")
        if position > end:
            raise OnnxError(f"the file is damaged or cut off at byte {end}")


def field_spans(message: memoryview, limit: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each field of bytes in a message its number, and where its tag, and its bytes, begin, and where they end.

    OnnxError where the last field does not end with the message, or there are more than `limit`.
    """
    position, end = 0, len(message)
    for _ in range(limit):
        if position >= end:
            break
        start = position
        tag, position = _varint(message, position, end)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(message, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, position = _varint(message, position, end)
            if length > end - position:
                break
            yield tag >> 3, start, position, position + length
            position += length
        else:
            break
    if position != end:
        raise OnnxError(f"the file is damaged near byte {position}")


def _schema(descriptor: Any, known: _Schemas) -> _Schema:
    """What lies in the fields of a message, by their numbers; lookups in protobuf's own tables take ten times as long."""
    if isinstance(descriptor, str):
        return _ONNX[descriptor]
    if descriptor.full_name not in known:
        known[descriptor.full_name] = {field.number: _content(field) for field in descriptor.fields}
    return known[descriptor.full_name]


def _content(field: Any) -> Any:
    if field.message_type is not None:
        return field.message_type
    return {field.TYPE_STRING: _TEXT, field.TYPE_BYTES: _RAW}.get(field.type, _NUMBERS)


def _check_text(text: bytes, position: int) -> None:
    # For text that is not UTF-8 protobuf returns bytes, which no code behind it expects.
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise OnnxError(f"the file is damaged: the text at byte {position} is no UTF-8") from error


def _varint(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    """A varint, 7 bits per byte, and the position behind it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise OnnxError(f"the file is damaged or cut off at byte {position}")
